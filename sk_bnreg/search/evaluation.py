"""Evaluation: candidates on folds, their networks trained together and each estimator scored."""

import copy
import time
from collections import Counter
from functools import partial
from numbers import Number
from traceback import format_exc
from typing import Any, NamedTuple

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection._validation import _fit_and_score, _score, _warn_or_raise_about_fit_failures
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params

from sk_bnreg.engine.tasks import DIVERGED, make_task, train_tasks
from sk_bnreg.estimators.base import BaseBNMLP, noted_fits

ATTEMPTS = 3  # at a part whose worker died

AT_ONCE = 64  # networks, so that memory does not grow with the candidates


class Evaluation:
    """Runs the candidates of a search on its folds.

    Parameters
    ----------
    search : BaseSearchCV
        Its estimator, n_jobs, pre_dispatch, refit, error_score, return_train_score, verbose
        and racing are used.
    X, y
        All rows.
    splits : list of (train, test)
    scorer : callable
    fit_params, score_params : dict
        For `fit` and the scorer, cut to a fold's rows where they have an entry per row.
    """

    def __init__(self, search, X, y, splits, scorer, fit_params, score_params):
        self.search, self.X, self.y, self.splits, self.scorer = search, X, y, splits, scorer
        self.fit_params, self.score_params = fit_params, score_params
        self._fronts = {}  # of the last call of `run_here`

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

    def run_here(self, candidates, splits=None, on_epoch_end=None):
        """Train candidates in this process, each with all of its folds.

        Parameters
        ----------
        candidates : list of dict
        splits : list of int or None
            Folds to run, by number; None is all.
        on_epoch_end : callable or None
            ``on_epoch_end(epoch, scores)`` after every epoch; `scores` has, for each
            candidate that can be trained with others and that is training now, minus its mean loss on the
            test rows of each fold, nan for a fold that is not training now. It may return
            candidates to stop.

        Returns
        -------
        list of list of dict
            For each candidate the results of its folds. One that was stopped is scored as it was.
        """
        n_splits = len(self.splits)
        splits = range(n_splits) if splits is None else splits
        units = self._units(candidates, None)
        wanted = [u for u, unit in enumerate(units) if unit.split in splits]
        found, fronts = {}, {}
        for group in self._groups(units, wanted):
            network = units[group[0]].network
            if network is None:
                found[group[0]] = _fit_and_score(**self._arguments(units[group[0]])) | {"n_iter": 0}
                continue
            n_parts = -(-len(group) // max(len(splits), _units_at_once(units, group)))
            for part in np.array_split(np.reshape(group, (-1, len(splits))), n_parts):
                part = part.ravel().tolist()
                for u in part:
                    key = units[u].front
                    if key not in fronts:
                        fronts[key] = self._fronts.get(key) or _Front(self, units[u], len(candidates))
                keys = list(dict.fromkeys(units[u].front for u in part))
                members = [(units[u].network, keys.index(units[u].front), None) for u in part]
                hook = (
                    None if on_epoch_end is None else _of_candidates(on_epoch_end, [units[u] for u in part], n_splits)
                )
                results = _fit_and_score_together(
                    members, self.search, self.scorer, *(fronts[key] for key in keys), on_epoch_end=hook
                )
                found.update(zip(part, results, strict=True))
        self._fronts = fronts
        return [[found[c * n_splits + split] for split in splits] for c in range(len(candidates))]

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
        dask = getattr(get_active_backend()[0], "client", None)
        found, failure = {}, None
        for attempt in range(1, ATTEMPTS + 1):
            waiting = [part for part in parts if part[0] not in found]
            try:
                for part, results in parallel(self._jobs(units, waiting, dask)):
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
            estimator = candidate_of(self.search.estimator, params)
            network, path = network_in(estimator)
            network = network if _is_ours(estimator, network) else None
            before = tuple(
                (name, value if isinstance(value, Number | str) else (id(value),))
                for name, value in sorted(params.items())
                if path and not f"{name}__".startswith(f"{path}__")
            )
            for split in range(len(self.splits)):
                task = context and context.subcontext(task_name="candidate-split-evaluation", task_id=len(units))
                units.append(_Unit(candidate, split, params, estimator, network, (split, before), task))
        return units

    def _plan(self, units, wanted, n_jobs):
        """Divide the units into parts, a job each, fold by fold."""
        parts = []
        for group in self._groups(units, wanted):
            group.sort(key=lambda u: units[u].split)
            n_rounds = -(-len(group) // (_units_at_once(units, group) * n_jobs))  # equal parts, as many for each worker
            parts += [part.tolist() for part in np.array_split(group, min(len(group), n_rounds * n_jobs))]
        return parts

    def _groups(self, units, wanted):
        """Return the units whose networks are trained together, and each of the others by itself."""
        together = [u for u in wanted if units[u].network is not None]
        alone = [[u] for u in wanted if units[u].network is None]
        return [together, *alone] if together else alone

    def _jobs(self, units, parts, dask):
        """Yield a job for every part, whose fronts are fitted here when the first part asks for them.

        A Dask client gets each front as a task's result, which it sends to a worker once and makes again
        when its worker dies. (What joblib scatters is lost then, and joblib can wait for ever.)
        """
        sharing = Counter(units[u].front for part in parts for u in part)
        left, fronts = sharing.copy(), {}
        for part in parts:
            if units[part[0]].network is None:
                yield delayed(_run)(part, partial(_fit_and_score, **self._arguments(units[part[0]])))
                continue
            wanted = {units[u].front: units[u] for u in reversed(part)}
            for key, unit in wanted.items():
                if key not in fronts:
                    front = _Front(self, unit, sharing[key])
                    fronts[key] = front if dask is None else dask.submit(_same, front, pure=False)
            members = [(units[u].network, list(wanted).index(units[u].front), units[u].context) for u in part]
            yield delayed(_run)(
                part, _fit_and_score_together, members, self.search, self.scorer, *(fronts[key] for key in wanted)
            )
            left.subtract(units[u].front for u in part)
            fronts = {key: front for key, front in fronts.items() if left[key]}

    def _arguments(self, unit):
        """Return what scikit-learn needs to fit and score an estimator that is fitted by itself."""
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

    def monitor(self):
        """Return X and y of the test rows as the network is given them."""
        return _at_network(self.estimator, *self.test[:2])


def _units_at_once(units, group):
    """Return how many units have about `AT_ONCE` networks."""
    n_networks = sum(units[u].network.n_ensemble if units[u].network else 1 for u in group)
    return max(1, AT_ONCE * len(group) // n_networks)


def _same(value):
    return value


def _run(part, function, *args):
    """Return a job's results, or the error that is to be raised: what a job raises counts as a worker's death."""
    try:
        results = function(*args)
    except Exception as error:
        return part, error
    return part, results if isinstance(results, list) else [results | {"n_iter": 0}]


def _of_candidates(on_epoch_end, units, n_splits):
    """Return a hook of units that calls one of candidates."""

    def call(epoch, scores):
        by_candidate = {}
        for unit, score in zip(units, scores, strict=True):
            if not np.isnan(score):
                by_candidate.setdefault(unit.candidate, np.full(n_splits, np.nan))[unit.split] = score
        stopped = on_epoch_end(epoch, by_candidate) or ()
        return [m for m, unit in enumerate(units) if unit.candidate in stopped]

    return call


def _fit_and_score_together(members, search, scorer, *fronts, on_epoch_end=None):
    """Train the networks of a part together, then complete and score each estimator.

    `on_epoch_end` is given a score for each member.
    """
    start = time.perf_counter()
    for front in fronts:
        if not front.error:
            _transform_once(front.estimator)
    monitors = {} if on_epoch_end is None else {f: front.monitor() for f, front in enumerate(fronts) if not front.error}
    tasks, errors, tables = {}, {}, {}
    networks = [clone(network) for network, _, _ in members]
    for i, (network, (_, f, context)) in enumerate(zip(networks, members, strict=True)):
        if context is not None:
            context.call_on_fit_task_begin(estimator=search)
        try:
            if fronts[f].error:
                raise fronts[f].error[0]
            tasks[i] = make_task(network, *fronts[f].fit, tables, monitor=monitors.get(f))
        except Exception:
            if search.error_score == "raise":
                raise
            errors[i] = fronts[f].error[1] if fronts[f].error else format_exc()
    trained = list(tasks)

    def hook(epoch, scores):
        by_member = np.full(len(members), np.nan)
        by_member[trained] = scores
        return [trained.index(i) for i in on_epoch_end(epoch, by_member) if i in tasks]

    for t in train_tasks(list(tasks.values()), None if on_epoch_end is None else hook):
        if search.error_score == "raise":
            raise ValueError(DIVERGED)
        errors[trained[t]] = f"ValueError: {DIVERGED}"
    seconds = (time.perf_counter() - start) / len(members)

    results = []
    for i, (network, (_, f, context)) in enumerate(zip(networks, members, strict=True)):
        start, front = time.perf_counter(), fronts[f]
        result = {"fit_error": errors.get(i), "fit_time": seconds + front.seconds, "score_time": 0.0}
        result["n_iter"] = 0 if i in errors else network.n_iter_
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


def candidate_of(estimator, params):
    """Return the estimator with a candidate's parameters, which may be estimators themselves."""
    return clone(estimator).set_params(**clone(params, safe=False))


def network_in(estimator):
    """Return the network at the end of an estimator, or None, and the name of the parameter that it is."""
    if isinstance(estimator, Pipeline):
        name, inner = estimator.steps[-1]
    elif isinstance(estimator, TransformedTargetRegressor):
        name, inner = "regressor", estimator.regressor
    else:
        return (estimator if isinstance(estimator, BaseBNMLP) else None), ""
    network, path = network_in(inner)
    return network, f"{name}__{path}" if path else name


def _is_ours(estimator, network):
    """Tell whether the network at the end of an estimator, and no other in it, can be trained with others.

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


def _at_network(estimator, X, y):
    """Return rows as a fitted estimator gives them to the network at its end."""
    if isinstance(estimator, Pipeline):
        return _at_network(estimator.steps[-1][1], estimator[:-1].transform(X) if len(estimator) > 1 else X, y)
    if isinstance(estimator, TransformedTargetRegressor):
        columns = np.asarray(y).reshape(len(y), -1)
        y = estimator.transformer_.transform(columns)
        return _at_network(estimator.regressor_, X, y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y)
    return X, y


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
        for i, (name, step) in enumerate(estimator.steps[:-1]):
            if hasattr(step, "transform") and not isinstance(step.transform, _Remembered):
                step = copy.copy(step)  # a FrozenEstimator is the user's own object
                step.transform = _Remembered(step.transform)
                estimator.steps[i] = (name, step)
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
