"""StackedGridSearchCV and StackedRandomizedSearchCV: scikit-learn's searches that train candidates together."""

import time
from functools import partial

import numpy as np
from scipy.stats import rankdata
from sklearn.base import is_classifier
from sklearn.callback import with_callbacks
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.utils import indexable

from sk_bnreg.borrowed import (
    BaseSearchCV,
    Documented,
    check_method_params,
    scorers_of,
    warn_or_raise_about_fit_failures,
)
from sk_bnreg.estimators.checks import check_numbers, check_one_kind
from sk_bnreg.search.evaluation import Folds, Scoring, candidate_of, evaluate
from sk_bnreg.search.splits import checked_splits

OWN_CONSTRAINTS = {"racing": ["boolean"]}


class StackedSearch(Documented, BaseSearchCV):
    """`fit` for all searches: as scikit-learn's, but for who is trained with whom."""

    @with_callbacks
    def fit(self, X, y=None, **params):
        """Train and score every candidate on every fold, then fit the best one on all rows.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            The features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The target.
        **params : dict
            `groups` for the splitter; the rest goes to `fit` of the estimator, cut to the rows of
            the fold where it has one entry per row. With metadata routing, as routed.

        Returns
        -------
        self : object
            The search, fitted.
        """
        check_numbers(self.get_params(deep=False))
        self._validate_params()
        if self.error_score != "raise" and np.isinf(self.error_score):  # no mean of folds has a deviation then
            raise ValueError(f"error_score must be 'raise', nan or a finite number, got {self.error_score!r}.")
        scorer, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        if y is not None:
            check_one_kind(y)
        params = check_method_params(X, params)
        routed = self.route(params)
        weight = params.get("sample_weight")
        about = {"X": X, "y": y, "metadata": None if weight is None else {"sample_weight": weight}, "estimator": self}
        context = self._init_callback_context(max_subtasks=1 + (self.refit is not False))
        context.call_on_fit_task_begin(**about)

        splits = checked_splits(self.cv, X, y, classifier=is_classifier(self.estimator), **routed.splitter.split)
        self.n_splits_ = len(splits)
        folds = Folds(X, y, splits, routed.estimator.fit, routed.scorer.score)
        scoring = Scoring(scorer, self.error_score, self.return_train_score, caller=self)
        results, first_scores = self._evaluate(folds, scoring, refit_metric, context)
        self.multimetric_ = isinstance(first_scores, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(first_scores)
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]
        if self.refit:
            self._refit(about, routed.estimator.fit, context)
        self.scorer_ = scorers_of(scorer)
        self.cv_results_ = results
        context.call_on_fit_task_end(**about)
        return self

    def route(self, params):
        """Return what splitter, estimator and scorer are given of the arguments of `fit`.

        Parameters
        ----------
        params : dict

        Returns
        -------
        Bunch
            ``splitter.split``, ``estimator.fit`` and ``scorer.score``, a dict each.
        """
        return self._get_routed_params_for_fit(params)

    def _evaluate(self, folds, scoring, refit_metric, context):
        """Run all candidates; return `cv_results_` and one fold's test scores.

        A search that asks for its candidates in several goes, as scikit-learn's halving does, gets the results of
        all so far each time.
        """
        del refit_metric
        tried, scores, more, results, n_splits = [], [], {}, {}, len(folds.splits)

        def evaluate_candidates(candidates, more_results=None, callback_ctx=None):
            nonlocal results
            candidates = list(candidates)
            names = {name for params in candidates for name in params}
            if not all(isinstance(name, str) for name in names):
                raise TypeError(f"Parameters to be searched must have names of text, got {names}.")
            if self.verbose > 0:
                n_fits = len(candidates) * n_splits
                print(f"Fitting {n_splits} folds for each of {len(candidates)} candidates, totalling {n_fits} fits")
            found, n_scored = self._run(candidates, folds, scoring, callback_ctx)
            scores.extend(found)
            tried.extend(candidates)
            raced = {"n_splits_scored": n_scored} if self.racing else {}
            for name, values in {**(more_results or {}), **raced}.items():
                more.setdefault(name, []).extend(values)
            results = self._format_results(tried, n_splits, scores, more)
            return results

        self._run_search(evaluate_candidates, callback_ctx=context)
        return results, scores[0]["test_scores"]

    def _run(self, candidates, folds, scoring, context):
        """Return a result for each candidate and fold, as scikit-learn has them, and each candidate's number of folds.

        Where racing spared a fold, the result is the mean of the candidate's others.
        """
        n_splits = len(folds.splits)
        everything = [(candidate, split) for candidate in range(len(candidates)) for split in range(n_splits)]
        contexts = {}
        if context is not None:
            contexts = {
                place: context.subcontext(task_name="candidate-split-evaluation", task_id=number)
                for number, place in enumerate(everything)
            }
        found = {}
        for places in self._race(len(candidates), n_splits, found) if self.racing else [everything]:
            found |= evaluate(
                self.estimator,
                candidates,
                folds,
                scoring,
                places,
                n_jobs=self.n_jobs,
                pre_dispatch=self.pre_dispatch,
                contexts=contexts,
                on_results=partial(self._print, candidates, n_splits),
            )
        # a progress bar waits for the folds that racing spared, too
        for place in contexts.keys() - found.keys():
            contexts[place].call_on_fit_task_begin(estimator=self).call_on_fit_task_end(estimator=self)
        # scikit-learn's order, whichever worker was the first: failures are told in it
        run = sorted(found)
        done = dict(zip(run, _with_error_scores([found[place] for place in run], self.error_score), strict=True))
        results, n_scored = [], []
        for candidate in range(len(candidates)):
            own = [done[candidate, split] for split in range(n_splits) if (candidate, split) in done]
            results += own + [_mean(own)] * (n_splits - len(own))
            n_scored.append(len(own))
        return results, n_scored

    def _race(self, n_candidates, n_splits, found):
        """Yield all candidates on the first fold, the best third on the second, the best ninth on the others.

        Parameters
        ----------
        n_candidates, n_splits : int
        found : dict of (candidate, split) to dict
            The results of what was yielded before, which the caller adds to it.
        """
        order = np.arange(n_candidates)
        for share, splits in ((1, range(1)), (3, range(1, min(2, n_splits))), (9, range(2, n_splits))):
            totals = np.zeros(n_candidates)
            for (candidate, _), result in found.items():
                totals[candidate] += self._objective(result["test_scores"])
            order = order[np.argsort(-totals[order], kind="stable")]
            # in their own order again, so that a candidate's place never depends on the others' scores
            order = np.sort(order[: max(1, round(n_candidates / share))])
            yield [(candidate, split) for candidate in order.tolist() for split in splits]

    def _objective(self, scores):
        """Return the score that decides in a race, the least where there is none."""
        if isinstance(scores, dict):
            if self.refit not in scores:
                raise ValueError(
                    f"racing needs refit to be the name of the score that decides, one of {list(scores)}, "
                    f"got {self.refit!r}."
                )
            scores = scores[self.refit]
        return -np.inf if scores is None else np.nan_to_num(scores, nan=-np.inf)

    def _print(self, candidates, n_splits, results):
        if self.verbose > 1:
            for (candidate, split), result in results.items():
                params = ", ".join(f"{name}={value}" for name, value in sorted(candidates[candidate].items()))
                seconds = result["fit_time"] + result["score_time"]
                print(
                    f"[CV {split + 1}/{n_splits}] END {params}; "
                    f"score={result['test_scores']}, total time={seconds:.1f}s"
                )

    def _format_results(self, candidate_params, n_splits, out, more_results=None):
        """Format as scikit-learn does; then blank the folds that were spared and rank behind who was stopped."""
        results = super()._format_results(candidate_params, n_splits, out, more_results)
        if "n_splits_scored" not in results:
            return results
        n_scored = np.asarray(results["n_splits_scored"])
        behind = np.isfinite(results.get("stopped_epoch", np.full(len(n_scored), np.nan)))
        for mean in [name for name in results if name.startswith(("mean_test", "mean_train"))]:
            name = mean.removeprefix("mean_")
            columns = [f"split{split}_{name}" for split in range(n_splits)]
            scores = np.column_stack([results[column] for column in columns])
            results[f"std_{name}"] = np.array([row[:n].std() for row, n in zip(scores, n_scored, strict=True)])
            results.update(
                zip(columns, np.where(np.arange(n_splits)[:, None] < n_scored, scores.T, np.nan), strict=True)
            )
            if f"rank_{name}" in results:
                keys = np.column_stack([behind, -n_scored, -np.nan_to_num(results[mean], nan=-np.inf)])
                _, places = np.unique(keys, axis=0, return_inverse=True)
                results[f"rank_{name}"] = rankdata(places, method="min").astype(np.int32)
        return results

    def _winner(self):
        """Return what is to be fitted on all rows."""
        return candidate_of(self.estimator, self.best_params_)

    def _refit(self, about, fit_params, context):
        self.best_estimator_ = self._winner()
        subcontext = context.subcontext(task_name="refit-with-best-params")
        with subcontext.propagate_callback_context(self.best_estimator_):
            subcontext.call_on_fit_task_begin(**about)
            start = time.perf_counter()
            self.best_estimator_.fit(about["X"], about["y"], **fit_params)
            self.refit_time_ = time.perf_counter() - start
        if hasattr(self.best_estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.best_estimator_.feature_names_in_
        subcontext.call_on_fit_task_end(**about)


def _with_error_scores(results, error_score):
    """Give the failed fits their scores, or raise if all failed."""
    warn_or_raise_about_fit_failures(results, error_score)
    succeeded = next(result for result in results if result["fit_error"] is None)
    for result in results:
        if result["fit_error"] is not None:
            for name, scores in succeeded.items():
                if name.endswith("_scores"):
                    result[name] = dict.fromkeys(scores, error_score) if isinstance(scores, dict) else error_score
    return results


def _mean(results):
    """Return the mean of a candidate's results."""
    means = {}
    for name, value in results[0].items():
        values = [result[name] for result in results]
        if isinstance(value, dict):
            means[name] = {metric: np.mean([scores[metric] for scores in values]) for metric in value}
        else:
            means[name] = value if name == "fit_error" else np.mean(values)
    return means


class StackedGridSearchCV(StackedSearch, GridSearchCV):
    """`GridSearchCV` that trains candidates and folds together.

    The result is scikit-learn's: the same parameters, `cv_results_` and scores; on a CPU each network is the same
    to the bit, on a GPU to rounding. Steps before the network are fitted once per fold and distinct setting. Another
    kind of model, or a network with callbacks of its own, is fitted by itself. Callbacks such as `ProgressBar` see
    candidates and folds, not epochs.

    Parameters
    ----------
    estimator : estimator
        A BNMLPClassifier or BNMLPRegressor, or a Pipeline or TransformedTargetRegressor that
        ends in one.
    param_grid : dict or list of dict
        Values to try by name of the parameter. ``{}`` cross-validates the estimator as it is.
    scoring, refit, cv, verbose, error_score, return_train_score
        As in `sklearn.model_selection.GridSearchCV`.
    n_jobs : int or None, default=None
        Processes, through joblib, that also fit the steps before the network and score. Each trains up to 64 networks
        at a time, on as many threads as torch may use there.
    pre_dispatch : int or str, default="2*n_jobs"
        Such sets of networks sent out ahead of their turn.
    racing : bool, default=False
        Whether only the better candidates go through all folds: all run on the first, the best
        third of them on the second, the best ninth on the others, which is a third of the work
        with 5 folds. A candidate that left keeps the mean score of its folds, ranks behind all
        that went further, and has nan for the other folds; `n_splits_scored` in `cv_results_`
        has the number. With several scores the one that `refit` names decides.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, \
refit_time_, multimetric_, classes_, n_features_in_, feature_names_in_
        As in `sklearn.model_selection.GridSearchCV`. `mean_fit_time` is a candidate's share of
        the time of those trained with it, in seconds.

    See Also
    --------
    fit_stack : Trains any list of networks together.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, StackedGridSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> grid = {"batch_norm": [False, True], "l2": [0.1, 1.0]}
    >>> search = StackedGridSearchCV(BNMLPClassifier(random_state=0), grid).fit(X, y)
    >>> bool(search.best_score_ > 0.9), len(search.cv_results_["params"])
    (True, 4)
    """

    _parameter_constraints = {**GridSearchCV._parameter_constraints, **OWN_CONSTRAINTS}

    def __init__(
        self,
        estimator,
        param_grid,
        *,
        scoring=None,
        n_jobs=None,
        refit=True,
        cv=None,
        verbose=0,
        pre_dispatch="2*n_jobs",
        error_score=np.nan,
        return_train_score=False,
        racing=False,
    ):
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.racing = racing


class StackedRandomizedSearchCV(StackedSearch, RandomizedSearchCV):
    """`RandomizedSearchCV` that trains candidates and folds together.

    See `StackedGridSearchCV` for what is trained with what.

    Parameters
    ----------
    estimator : estimator
        A BNMLPClassifier or BNMLPRegressor, or a Pipeline or TransformedTargetRegressor that
        ends in one.
    param_distributions : dict or list of dict
        Distributions (with a method ``rvs``) or lists of values by name of the parameter.
    n_iter : int, default=10
        Candidates to draw.
    random_state : int, RandomState instance or None, default=None
        Determines the candidates.
    scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score, racing
        As in `StackedGridSearchCV`.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, \
refit_time_, multimetric_, classes_, n_features_in_, feature_names_in_
        As in `StackedGridSearchCV`.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, StackedRandomizedSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> space = {"learning_rate_init": loguniform(1e-3, 1e-1), "dropout": [0.0, 0.2]}
    >>> search = StackedRandomizedSearchCV(BNMLPClassifier((16,), random_state=0), space, random_state=0)
    >>> sorted(search.fit(X, y).best_params_)
    ['dropout', 'learning_rate_init']
    """

    _parameter_constraints = {**RandomizedSearchCV._parameter_constraints, **OWN_CONSTRAINTS}

    def __init__(
        self,
        estimator,
        param_distributions,
        *,
        n_iter=10,
        scoring=None,
        n_jobs=None,
        refit=True,
        cv=None,
        verbose=0,
        pre_dispatch="2*n_jobs",
        random_state=None,
        error_score=np.nan,
        return_train_score=False,
        racing=False,
    ):
        super().__init__(
            estimator,
            param_distributions,
            n_iter=n_iter,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            random_state=random_state,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.racing = racing
