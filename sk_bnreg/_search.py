"""StackedGridSearchCV and StackedRandomizedSearchCV: scikit-learn's searches, with candidates and folds in stacks."""

import copy
import sys
import time
from collections import Counter
from collections.abc import Hashable
from numbers import Integral
from traceback import format_exc
from typing import Any, NamedTuple

import joblib
import numpy as np
from scipy.stats import rankdata
from sklearn.base import clone, is_classifier
from sklearn.callback import with_callbacks
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._validation import _fit_and_score, _score, _warn_or_raise_about_fit_failures
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils._param_validation import Interval
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params

from sk_bnreg._base import BaseBNMLP, noted_fits
from sk_bnreg._fit import DIVERGED, best_stack_size, make_task, train_tasks

ATTEMPTS = 3  # at a stack whose worker died

# what networks in one stack have in common, as far as their parameters tell
STRUCTURAL = (
    "hidden_layer_sizes",
    "activation",
    "batch_norm",
    "batch_norm_eps",
    "solver",
    "momentum",
    "beta_1",
    "beta_2",
    "epsilon",
    "batch_size",
    "early_stopping",
    "validation_fraction",
    "n_ensemble",
    "dtype",
    "device",
)

OWN_CONSTRAINTS = {"stack_size": [None, Interval(Integral, 1, None, closed="left")], "racing": ["boolean"]}


class _StackedSearch(BaseSearchCV):
    """`fit` for both searches: as scikit-learn's, but for who is trained with whom."""

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
        self._validate_params()
        scorer, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        params = _check_method_params(X, params)
        routed = self._get_routed_params_for_fit(params)
        weight = params.get("sample_weight")
        about = {"X": X, "y": y, "metadata": None if weight is None else {"sample_weight": weight}, "estimator": self}
        context = self._init_callback_context(max_subtasks=1 + (self.refit is not False))
        context.call_on_fit_task_begin(**about)

        cv = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        self.n_splits_ = cv.get_n_splits(X, y, **routed.splitter.split)
        splits = list(cv.split(X, y, **routed.splitter.split))
        if len(splits) != self.n_splits_:
            raise ValueError(f"cv announced {self.n_splits_} splits and made {len(splits)}.")
        evaluation = _Evaluation(self, X, y, splits, scorer, routed.estimator.fit, routed.scorer.score)
        tried, scores, more, results = [], [], {}, {}

        def evaluate_candidates(candidates, more_results=None, callback_ctx=None):
            nonlocal results
            candidates = list(candidates)
            if self.verbose > 0:
                n_fits = len(candidates) * len(splits)
                print(f"Fitting {len(splits)} folds for each of {len(candidates)} candidates, totalling {n_fits} fits")
            found, n_splits = evaluation.run(candidates, callback_ctx)
            scores.extend(found)
            tried.extend(candidates)
            raced = {"n_splits_scored": n_splits} if self.racing else {}
            for name, values in {**(more_results or {}), **raced}.items():
                more.setdefault(name, []).extend(values)
            results = self._format_results(tried, len(splits), scores, more)
            return results

        self._run_search(evaluate_candidates, callback_ctx=context)
        self.multimetric_ = isinstance(scores[0]["test_scores"], dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(scores[0]["test_scores"])
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]
        if self.refit:
            self._refit(about, routed.estimator.fit, context)
        self.scorer_ = getattr(scorer, "_scorers", scorer)
        self.cv_results_ = results
        context.call_on_fit_task_end(**about)
        return self

    def _format_results(self, candidate_params, n_splits, out, more_results=None):
        """Format as scikit-learn does; then blank the folds that racing spared and rank who ran fewer behind."""
        results = super()._format_results(candidate_params, n_splits, out, more_results)
        if not self.racing:
            return results
        n_scored = results["n_splits_scored"]
        for mean in [name for name in results if name.startswith(("mean_test", "mean_train"))]:
            name = mean.removeprefix("mean_")
            columns = [f"split{split}_{name}" for split in range(n_splits)]
            scores = np.column_stack([results[column] for column in columns])
            results[f"std_{name}"] = np.array([row[:n].std() for row, n in zip(scores, n_scored, strict=True)])
            results.update(
                zip(columns, np.where(np.arange(n_splits)[:, None] < n_scored, scores.T, np.nan), strict=True)
            )
            if f"rank_{name}" in results:
                keys = np.column_stack([-n_scored, -np.nan_to_num(results[mean], nan=-np.inf)])
                _, places = np.unique(keys, axis=0, return_inverse=True)
                results[f"rank_{name}"] = rankdata(places, method="min").astype(np.int32)
        return results

    def _refit(self, about, fit_params, context):
        self.best_estimator_ = _candidate(self.estimator, self.best_params_)
        subcontext = context.subcontext(task_name="refit-with-best-params")
        with subcontext.propagate_callback_context(self.best_estimator_):
            subcontext.call_on_fit_task_begin(**about)
            start = time.time()
            self.best_estimator_.fit(about["X"], about["y"], **fit_params)
            self.refit_time_ = time.time() - start
        if hasattr(self.best_estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.best_estimator_.feature_names_in_
        subcontext.call_on_fit_task_end(**about)


class _Unit(NamedTuple):
    """One candidate on one fold."""

    candidate: int
    split: int
    params: dict
    estimator: Any
    network: Any  # the network in it, or None if the estimator has to be fitted by itself
    front: tuple  # the fold and the parameters of the steps before the network
    context: Any


class _Front:
    """A fold with the steps before the network fitted, for all units that share them.

    Attributes
    ----------
    estimator : estimator
        Fitted up to its network.
    fit : Fit
        What the network is to be fitted to.
    train, test : tuple
        X, y and the scorer's parameters; `train` is () where no training score is wanted.
    seconds : float
        Of fitting, for each unit.
    error : tuple of Exception and str, or None
        Why a step could not be fitted, and the traceback.
    """

    def __init__(self, evaluation, unit, n_units):
        train, test = evaluation.splits[unit.split]
        X_train, y_train, _ = train_rows = evaluation.scored_rows(train)
        self.test = evaluation.scored_rows(test)
        self.train = train_rows if evaluation.search.return_train_score else ()
        self.estimator, self.fit, self.error = clone(unit.estimator), None, None
        start = time.perf_counter()
        try:
            with noted_fits() as fits:
                params = _check_method_params(evaluation.X, evaluation.fit_params, train)
                self.estimator.fit(X_train, y_train, **params)
            (self.fit,) = fits
        except Exception as error:
            self.error = error, format_exc()
        self.seconds = (time.perf_counter() - start) / n_units

    def __sizeof__(self):
        """Return the size with the data's, by which joblib's Dask backend decides to send it once per worker."""
        return sum(sys.getsizeof(part) for part in (*(self.fit or ()), *self.train, *self.test))


class _Evaluation:
    """Runs the candidates of a search on its folds."""

    def __init__(self, search, X, y, splits, scorer, fit_params, score_params):
        self.search, self.X, self.y, self.splits, self.scorer = search, X, y, splits, scorer
        self.fit_params, self.score_params = fit_params, score_params

    def run(self, candidates, context):
        """Return a result for each candidate and fold, as scikit-learn has them, and each candidate's number of folds.

        Where racing spared a fold, the result is the mean of the candidate's others.
        """
        units = self._units(candidates, context)
        n_splits = len(self.splits)
        if not self.search.racing:
            found = self._run_units(units, range(len(units)))
        else:
            found = self._race(units, len(candidates))
        run = sorted(found)
        done = dict(zip(run, _with_error_scores([found[u] for u in run], self.search.error_score), strict=True))
        results, n_scored = [], []
        for candidate in range(len(candidates)):
            own = [done[u] for u in range(candidate * n_splits, (candidate + 1) * n_splits) if u in done]
            results += own + [_mean(own)] * (n_splits - len(own))
            n_scored.append(len(own))
        return results, n_scored

    def _race(self, units, n_candidates):
        """Run all candidates on the first fold, the best third on the second, the best ninth on the others."""
        metric, n_splits = self.search.refit, len(self.splits)
        totals = np.zeros(n_candidates)
        order, found = np.arange(n_candidates), {}
        for share, splits in ((1, range(1)), (3, range(1, min(2, n_splits))), (9, range(2, n_splits))):
            order = np.sort(order[: max(1, round(n_candidates / share))])
            heat = self._run_units(units, [c * n_splits + split for c in order.tolist() for split in splits])
            for u, result in heat.items():
                score = result["test_scores"]
                if isinstance(score, dict):
                    if metric not in score:
                        raise ValueError(
                            f"racing needs refit to be the name of the score that decides, one of {list(score)}, "
                            f"got {metric!r}."
                        )
                    score = score[metric]
                totals[u // n_splits] += -np.inf if score is None else np.nan_to_num(score, nan=-np.inf)
            found |= heat
            order = order[np.argsort(-totals[order], kind="stable")]
        for u, unit in enumerate(units):
            if u not in found and unit.context is not None:
                unit.context.call_on_fit_task_begin(estimator=self.search).call_on_fit_task_end(estimator=self.search)
        return found

    def _run_units(self, units, wanted):
        """Return the results of the units wanted, in the order in which they finish."""
        search = self.search
        parts = self._plan(units, wanted, joblib.effective_n_jobs(search.n_jobs))
        parallel = Parallel(
            search.n_jobs, pre_dispatch=search.pre_dispatch, batch_size=1, return_as="generator_unordered"
        )
        found, failure = {}, None
        for attempt in range(1, ATTEMPTS + 1):
            waiting = [part for part in parts if part[0] not in found]
            try:
                for part, results in parallel(self._jobs(units, waiting)):
                    if isinstance(results, Exception):
                        failure = results
                        break
                    found.update(zip(part, results, strict=True))
                    self._print([units[u] for u in part], results)
                break
            except Exception:
                # jobs return their own errors: what is raised here is the death of a worker
                if attempt == ATTEMPTS:
                    raise
        if failure is not None:
            raise failure
        return found

    def scored_rows(self, rows):
        """Return X, y and the scorer's parameters for some rows."""
        y = None if self.y is None else _safe_indexing(self.y, rows)
        return _safe_indexing(self.X, rows), y, _check_method_params(self.X, self.score_params, rows)

    def _units(self, candidates, context):
        units = []
        for candidate, params in enumerate(candidates):
            estimator = _candidate(self.search.estimator, params)
            network, path = _network(estimator)
            stacked = _can_stack(estimator, network)
            before = tuple(
                (name, value if isinstance(value, Hashable) else id(value))
                for name, value in sorted(params.items())
                if path and not f"{name}__".startswith(f"{path}__")
            )
            for split in range(len(self.splits)):
                task = context and context.subcontext(task_name="candidate-split-evaluation", task_id=len(units))
                own = clone(network) if stacked else None
                units.append(_Unit(candidate, split, params, estimator, own, (split, before), task))
        return units

    def _plan(self, units, wanted, n_jobs):
        """Divide the units into parts, a job each: of equal structure, fold by fold."""
        groups = {}
        for u in wanted:
            unit = units[u]
            key = u if unit.network is None else tuple(str(getattr(unit.network, name)) for name in STRUCTURAL)
            groups.setdefault(key, []).append(u)
        parts = []
        for group in groups.values():
            group.sort(key=lambda u: units[u].split)
            size = self._units_at_once(units[group[0]].network)
            if self.search.stack_size is None:
                rounds = -(-len(group) // (size * n_jobs))  # equal parts, as many for each worker
                parts += [part.tolist() for part in np.array_split(group, min(len(group), rounds * n_jobs))]
            else:
                parts += [group[start : start + size] for start in range(0, len(group), size)]
        return parts

    def _units_at_once(self, network):
        if network is None:
            return 1
        n_features = (*getattr(self.X, "shape", ()), 1, 1)[1]  # before the steps that may add to them
        batch_size = network._batch_size(len(self.splits[0][0]))
        n_members = self.search.stack_size or best_stack_size(network._hidden_sizes(), n_features, batch_size)
        return max(1, n_members // network.n_ensemble)

    def _jobs(self, units, parts):
        """Yield a job for every part, whose fronts are fitted here when the first part asks for them."""
        sharing = Counter(units[u].front for part in parts for u in part)
        left, fronts = sharing.copy(), {}
        for part in parts:
            if units[part[0]].network is None:
                yield delayed(_run)(part, _fit_and_score, **self._arguments(units[part[0]]))
                continue
            wanted = {units[u].front: units[u] for u in reversed(part)}
            for key, unit in wanted.items():
                if key not in fronts:
                    fronts[key] = _Front(self, unit, sharing[key])
            members = [(units[u].network, list(wanted).index(units[u].front), units[u].context) for u in part]
            yield delayed(_run)(
                part, _fit_and_score_stack, members, self.search, self.scorer, *(fronts[key] for key in wanted)
            )
            left.subtract(units[u].front for u in part)
            fronts = {key: front for key, front in fronts.items() if left[key]}

    def _arguments(self, unit):
        """Return what scikit-learn needs to fit and score an estimator that no stack can take."""
        train, test = self.splits[unit.split]
        return {
            "estimator": clone(unit.estimator),
            "X": self.X,
            "y": self.y,
            "scorer": self.scorer,
            "train": train,
            "test": test,
            "verbose": 0,
            "parameters": None,
            "fit_params": self.fit_params,
            "score_params": self.score_params,
            "return_train_score": self.search.return_train_score,
            "return_n_test_samples": False,
            "return_times": True,
            "error_score": self.search.error_score,
            "caller": self.search,
            "callback_ctx": unit.context,
        }

    def _print(self, units, results):
        if self.search.verbose > 1:
            for unit, result in zip(units, results, strict=True):
                params = ", ".join(f"{name}={value}" for name, value in sorted(unit.params.items()))
                seconds = result["fit_time"] + result["score_time"]
                print(
                    f"[CV {unit.split + 1}/{len(self.splits)}] END {params}; "
                    f"score={result['test_scores']}, total time={seconds:.1f}s"
                )


def _run(part, function, *args, **kwargs):
    """Return a job's results, or the error that is to be raised: what a job raises counts as a worker's death."""
    try:
        results = function(*args, **kwargs)
    except Exception as error:
        return part, error
    return part, results if isinstance(results, list) else [results]


def _fit_and_score_stack(members, search, scorer, *fronts):
    """Train the networks of a part together, then complete and score each estimator."""
    start = time.perf_counter()
    tasks, errors, tables = {}, {}, {}
    for i, (network, f, context) in enumerate(members):
        if context is not None:
            context.call_on_fit_task_begin(estimator=search)
        try:
            if fronts[f].error:
                raise fronts[f].error[0]
            tasks[i] = make_task(network, *fronts[f].fit, tables)
        except Exception:
            if search.error_score == "raise":
                raise
            errors[i] = fronts[f].error[1] if fronts[f].error else format_exc()
    for t in train_tasks(list(tasks.values()), search.stack_size):
        if search.error_score == "raise":
            raise ValueError(DIVERGED)
        errors[list(tasks)[t]] = f"ValueError: {DIVERGED}"
    seconds = (time.perf_counter() - start) / len(members)
    for front in fronts:
        _transform_once(front.estimator)

    results = []
    for i, (network, f, context) in enumerate(members):
        start, front = time.perf_counter(), fronts[f]
        result = {"fit_error": errors.get(i), "fit_time": seconds + front.seconds, "score_time": 0.0}
        rows = {"test_scores": front.test} | ({"train_scores": front.train} if front.train else {})
        if i in errors:
            result |= dict.fromkeys(rows)
        else:
            estimator = _with_network(front.estimator, network)
            for name, (X, y, params) in rows.items():
                result[name] = _score(estimator, X, y, scorer, params, search.error_score)
            result["score_time"] = time.perf_counter() - start
        if context is not None:
            context.call_on_fit_task_end(estimator=search)
        results.append(result)
    return results


def _with_error_scores(results, error_score):
    """Give the failed fits their scores, or raise if all failed."""
    _warn_or_raise_about_fit_failures(results, error_score)
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


def _candidate(estimator, params):
    """Return the estimator with a candidate's parameters, which may be estimators themselves."""
    return clone(estimator).set_params(**clone(params, safe=False))


def _network(estimator):
    """Return the network at the end of an estimator, or None, and the name of the parameter that it is."""
    if isinstance(estimator, Pipeline):
        name, inner = estimator.steps[-1]
    elif isinstance(estimator, TransformedTargetRegressor):
        name, inner = "regressor", estimator.regressor
    else:
        return (estimator if isinstance(estimator, BaseBNMLP) else None), ""
    network, path = _network(inner)
    return network, f"{name}__{path}" if path else name


def _can_stack(estimator, network):
    """Tell whether the network at the end of an estimator, and no other in it, can share a stack.

    One with invalid parameters is left to its own fit, to complain.
    """
    networks = [value for value in estimator.get_params().values() if isinstance(value, BaseBNMLP)]
    if network is None or len(networks) > 1 or type(network).fit is not BaseBNMLP.fit:
        return False
    try:
        network._check_params()
    except ValueError:
        return False
    return not hasattr(network, "_skl_callbacks")


def _with_network(estimator, network):
    """Return a fitted estimator with another network, fitted to the same data, at its end."""
    if isinstance(estimator, Pipeline):
        estimator = copy.copy(estimator)
        name, last = estimator.steps[-1]
        estimator.steps = [*estimator.steps[:-1], (name, _with_network(last, network))]
        return estimator
    if isinstance(estimator, TransformedTargetRegressor):
        estimator = copy.copy(estimator)
        estimator.regressor_ = _with_network(estimator.regressor_, network)
        return estimator
    return network


def _transform_once(estimator):
    """Let each step before the network keep its output for a table, which every candidate asks for again."""
    if isinstance(estimator, TransformedTargetRegressor):
        _transform_once(estimator.regressor_)
    elif isinstance(estimator, Pipeline):
        for _, step in estimator.steps[:-1]:
            if hasattr(step, "transform") and not isinstance(vars(step).get("transform"), _Remembered):
                step.transform = _Remembered(step.transform)
        _transform_once(estimator.steps[-1][1])


class _Remembered:
    """A transform that computes the output for a table object once."""

    def __init__(self, transform):
        self.transform = transform
        self.outputs = {}

    def __call__(self, X, **params):
        if params:
            return self.transform(X, **params)
        if id(X) not in self.outputs:
            self.outputs[id(X)] = X, self.transform(X)  # with X itself, whose id must not be given away
        return self.outputs[id(X)][1]


class StackedGridSearchCV(GridSearchCV, _StackedSearch):
    """`GridSearchCV` that trains candidates and folds together.

    The result is scikit-learn's: the same parameters, `cv_results_` and scores, to rounding
    (in float32, sums in another order differ in the seventh digit). Candidates that differ in
    layer sizes, activation, batch_norm, batch size, solver or early stopping go to stacks of
    their own. Steps before the network are fitted once per fold and distinct setting. A
    candidate that no stack can take (another kind of model, callbacks of its own) is fitted
    by itself. Callbacks such as `ProgressBar` see candidates and folds, not epochs.

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
        Stacks trained in parallel, through joblib; one per core is fastest.
    pre_dispatch : int or str, default="2*n_jobs"
        Stacks sent out ahead of their turn.
    stack_size : int or None, default=None
        The most networks in a stack. None takes what is fastest on a CPU, divided evenly over
        the jobs.
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
        its stacks' time, in seconds.

    See Also
    --------
    fit_stack : Trains any list of networks together.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, StackedGridSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> grid = {"batch_norm": [False, True], "l2": [0.1, 1.0]}
    >>> search = StackedGridSearchCV(BNMLPClassifier((16,), random_state=0), grid).fit(X, y)
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
        stack_size=None,
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
        self.stack_size = stack_size
        self.racing = racing


class StackedRandomizedSearchCV(RandomizedSearchCV, _StackedSearch):
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
    scoring, n_jobs, refit, cv, verbose, pre_dispatch, error_score, return_train_score, stack_size, racing
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
        stack_size=None,
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
        self.stack_size = stack_size
        self.racing = racing
