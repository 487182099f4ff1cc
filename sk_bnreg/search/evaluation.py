"""evaluate: candidates on folds, their networks trained together and each estimator scored."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from numbers import Number
from traceback import format_exc
from typing import Any, NamedTuple

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed

from sk_bnreg.borrowed import check_method_params, fit_and_score, has_callbacks, safe_indexing, score
from sk_bnreg.engine.compiled import has_compiled_form, has_kernel
from sk_bnreg.engine.tasks import DIVERGED, Task, train_tasks
from sk_bnreg.engine.workers import threads_left_to_workers
from sk_bnreg.estimators.base import BaseBNMLP
from sk_bnreg.estimators.checks import check_params
from sk_bnreg.estimators.pipelines import Front, network_in, rows_at_network
from sk_bnreg.estimators.preparation import Tables, adopt, make_tasks, n_networks

ATTEMPTS = 3  # at a part whose worker died
AT_ONCE = 64  # networks, so that memory does not grow with the candidates

Place = tuple[int, int]  # a candidate on a fold, by their numbers
Result = dict[str, Any]


@dataclass
class Folds:
    """Rows and their division into folds.

    Attributes
    ----------
    X, y
        All rows.
    splits : list of (train, test)
    fit_params, score_params : dict
        For `fit` and the scorer, cut to a fold's rows where they have an entry per row.
    """

    X: Any
    y: Any
    splits: list[tuple[Any, ...]]
    fit_params: dict[str, Any] = field(default_factory=dict)
    score_params: dict[str, Any] = field(default_factory=dict)

    def scored(self, rows: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Return X, y and the scorer's parameters for some rows."""
        y = None if self.y is None else safe_indexing(self.y, rows)
        return safe_indexing(self.X, rows), y, check_method_params(self.X, self.score_params, rows)


@dataclass
class Scoring:
    """How estimators are scored, and what is wanted back.

    Attributes
    ----------
    scorer : callable or None
        None scores nothing.
    error_score : float or "raise"
        The score where a fit or a score fails.
    return_train_score, return_estimator : bool
    predict : callable or None
        ``predict(estimator, X)`` of the test rows becomes the result's `outputs`.
    caller : estimator or None
        The search that scikit-learn's callbacks are told of.
    """

    scorer: Any
    error_score: Any = np.nan
    return_train_score: bool = False
    return_estimator: bool = False
    predict: Callable[[Any, Any], Any] | None = None
    caller: Any = None

    def accept(self, failure: "Failure") -> "Failure":
        """Take a failed fit for a score, or raise what it raised."""
        if self.error_score == "raise":
            raise failure.raised
        return failure


class Failure(NamedTuple):
    """An error of one place, which is data for the others."""

    raised: Exception
    traceback: str


def evaluate(
    estimator: Any,
    candidates: Sequence[Mapping[str, Any]],
    folds: Folds,
    scoring: Scoring,
    places: Iterable[Place] | None = None,
    *,
    n_jobs: int | None = None,
    pre_dispatch: Any = "2*n_jobs",
    here: bool = False,
    contexts: Mapping[Place, Any] | None = None,
    fronts: dict[Any, Any] | None = None,
    on_results: Callable[[Mapping[Place, Result]], object] | None = None,
    on_epoch_end: Callable[[int, dict[Place, float]], Iterable[Place]] | None = None,
) -> dict[Place, Result]:
    """Fit and score candidates on folds: the one way to do so, under every search and the study.

    Networks are trained together, up to 64 at a time; the steps before them are fitted once per fold and distinct
    setting. Another kind of model, or a network with callbacks of scikit-learn's own, is fitted by itself.

    Parameters
    ----------
    estimator : estimator
    candidates : sequence of dict
        Parameters of the estimator, each.
    folds : Folds
    scoring : Scoring
    places : iterable of (candidate, split) or None
        What is wanted; None is every candidate on every fold.
    n_jobs, pre_dispatch
        As in scikit-learn's searches, through joblib, whatever its backend.
    here : bool
        Whether all is done in this process, each candidate on all of its folds at a time.
    contexts : mapping or None
        scikit-learn's callback context of each place.
    fronts : dict or None
        Fitted fronts of an earlier call with the same estimator and folds, which this call's replace.
    on_results : callable or None
        Called with the results of each part when it is finished.
    on_epoch_end : callable or None
        ``on_epoch_end(epoch, losses)`` after every epoch, only `here`; `losses` has the mean loss on the test rows at
        each place where a network is training. It returns places to stop, which are scored as they are.

    Returns
    -------
    dict of (candidate, split) to dict
        As scikit-learn's `_fit_and_score` has them (`test_scores`, `train_scores`, `fit_time`, `score_time` in seconds,
        `fit_error`), with `n_iter`, and `estimator` or `outputs` if they are wanted. Scores of a failed fit are None,
        or `error_score` where an estimator was fitted by itself.
    """
    if places is None:
        places = [(candidate, split) for candidate in range(len(candidates)) for split in range(len(folds.splits))]
    entries = _entries(estimator, candidates, list(places), contexts or {})
    work = _Work(folds, scoring, {} if fronts is None else fronts, fronts is not None, on_epoch_end, here)
    parts = _parts(entries, 1 if here else joblib.effective_n_jobs(n_jobs), by_candidate=here)
    found: dict[Place, Result] = {}
    failure = None
    for trial in range(1, ATTEMPTS + 1):
        jobs = work.jobs([part for part in parts if part[0].place not in found])
        try:
            if here:
                outcomes = (attempt(function, *arguments) for function, *arguments in jobs)
            else:
                parallel = Parallel(n_jobs, pre_dispatch=pre_dispatch, batch_size=1, return_as=as_they_come())
                outcomes = parallel(delayed(attempt)(*job) for job in jobs)
            for results, error in outcomes:
                if error is None:
                    found |= results
                    if on_results is not None:
                        _, error = attempt(on_results, results)
                if error is not None:
                    failure = error.raised
                    break
            break
        except Exception:
            # jobs and callbacks return their errors: what is raised here is the death of a worker, where there are any
            if here or trial == ATTEMPTS:
                raise
    if failure is not None:
        raise failure
    return found


def as_they_come() -> str:
    """Return `return_as` of a `joblib.Parallel` for results as they come, or all in the end from multiprocessing.

    Examples
    --------
    >>> from joblib import parallel_config
    >>> from sk_bnreg.search.evaluation import as_they_come
    >>> with parallel_config("multiprocessing"):
    ...     as_they_come()
    'list'
    """
    return "generator_unordered" if get_active_backend()[0].supports_return_generator else "list"


def attempt(function: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[Any, Failure | None]:
    """Return a call's result and None, or None and its failure: a candidate that fails must not end the others.

    Examples
    --------
    >>> from sk_bnreg.search.evaluation import attempt
    >>> attempt(int, "12"), type(attempt(int, "a dozen")[1].raised).__name__
    ((12, None), 'ValueError')
    """
    # what a user's scorer, transformer or splitter raises can be anything
    try:
        return function(*arguments, **named), None
    except MemoryError:  # no candidate's fault: with more memory it would have a score
        raise
    except Exception as error:
        return None, Failure(error, format_exc())


def message_of(traceback: str) -> str:
    """Return the error of a traceback: what follows the lines of its last frame."""
    lines = traceback.strip().splitlines()
    last_frame = max((i for i, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    start = next(i for i, line in enumerate(lines) if i > last_frame and not line.startswith(" "))
    return "\n".join(lines[start:])


def candidate_of(estimator: Any, params: Mapping[str, Any]) -> Any:
    """Return the estimator with a candidate's parameters, which may be estimators themselves."""
    return clone(estimator).set_params(**clone(params, safe=False))


class _Entry(NamedTuple):
    """One candidate on one fold: a row of the table of who is who.

    Attributes
    ----------
    place : (candidate, split)
    estimator : estimator
        Unfitted, with the candidate's parameters.
    network : BNMLPClassifier, BNMLPRegressor or None
        The one at its end; None if the estimator has to be fitted by itself.
    front : tuple
        The fold and the parameters of the steps before the network: entries with the same front share it.
    context : callback context or None
    """

    place: Place
    estimator: Any
    network: Any
    front: tuple[Any, ...]
    context: Any


def _entries(
    estimator: Any, candidates: Sequence[Mapping[str, Any]], places: Sequence[Place], contexts: Mapping[Place, Any]
) -> list[_Entry]:
    """Return the table of who is who, a row per place; a candidate's estimator is made once for all of its folds."""
    made = {}
    for number in dict.fromkeys(candidate for candidate, _ in places):
        candidate = candidate_of(estimator, candidates[number])
        network, path = network_in(candidate)
        # a class with a `fit` of its own knows why, and scikit-learn's callbacks are told of epochs by `fit`; it also
        # refuses what no network can have
        alone = (
            network is None
            or type(network).fit is not BaseBNMLP.fit
            or has_callbacks(network)
            or attempt(check_params, network)[1] is not None
        )
        # objects are the same by identity alone: to compare two transformers would take their whole state
        before = tuple(
            (name, value if isinstance(value, Number | str) else (id(value),))
            for name, value in sorted(candidates[number].items())
            if path and not f"{name}__".startswith(f"{path}__")
        )
        made[number] = candidate, None if alone else network, before
    return [
        _Entry(place, made[place[0]][0], made[place[0]][1], (place[1], made[place[0]][2]), contexts.get(place))
        for place in places
    ]


def _parts(entries: Sequence[_Entry], n_jobs: int, by_candidate: bool) -> list[list[_Entry]]:
    """Divide entries into parts, a job each: about `AT_ONCE` networks, and as many parts for every worker.

    By fold, so that few fronts are needed at a time; or by candidate, each with all of its folds.
    """
    together = [entry for entry in entries if entry.network is not None]
    together.sort(key=lambda entry: entry.place[0 if by_candidate else 1])
    alone = [[entry] for entry in entries if entry.network is None]
    if not together:
        return alone
    bundles = [[entry] for entry in together]
    if by_candidate:
        bundles = [list(own) for _, own in groupby(together, key=lambda entry: entry.place[0])]
    # memory goes with networks, and an ensemble has several
    n_trained = sum(n_networks(entry.network) for entry in together)
    at_once = max(1, AT_ONCE * len(bundles) // n_trained) * n_jobs
    n_parts = min(len(bundles), -(-len(bundles) // at_once) * n_jobs)
    ends = np.linspace(0, len(bundles), n_parts + 1).astype(int)
    return [[entry for bundle in bundles[i:j] for entry in bundle] for i, j in pairwise(ends)] + alone


class _FittedFront:
    """A fold with the steps before the network fitted, for all entries that share them.

    Attributes
    ----------
    front : Front or None
    failure : Failure or None
        Why a step could not be fitted.
    train, test : tuple
        X, y and the scorer's parameters; `train` is () where no training score is wanted.
    seconds : float
        Of fitting.
    n_sharing : int
        Those that share it, each of which is told a part of these seconds.
    """

    def __init__(self, entry: _Entry, folds: Folds, scoring: Scoring, n_sharing: int):
        train, test = folds.splits[entry.place[1]]
        X, y, _ = train_rows = folds.scored(train)
        self.test = folds.scored(test)
        self.train = train_rows if scoring.return_train_score else ()
        start = time.perf_counter()
        params = check_method_params(folds.X, folds.fit_params, train)
        self.front, self.failure = attempt(Front, entry.estimator, X, y, params)
        self.seconds, self.n_sharing = time.perf_counter() - start, n_sharing


class _Work:
    """Makes jobs of parts. Fronts are fitted here, when the first part asks for them.

    A Dask client gets each front as a task's result, which it sends to a worker once and makes again
    when its worker dies. (What joblib scatters is lost then, and joblib can wait for ever.)

    Parameters
    ----------
    folds, scoring, on_epoch_end, here
        As for `evaluate`.
    fronts : dict
        Those that are fitted already, by the entries' `front`.
    keep : bool
        Whether fronts stay when the last part that shares them has had them.
    """

    def __init__(
        self, folds: Folds, scoring: Scoring, fronts: dict[Any, Any], keep: bool, on_epoch_end: Any, here: bool
    ):
        self.folds, self.scoring, self.fronts, self.keep, self.on_epoch_end = folds, scoring, fronts, keep, on_epoch_end
        self.dask = None if here else getattr(get_active_backend()[0], "client", None)

    def jobs(self, parts: Sequence[Sequence[_Entry]]) -> Iterator[tuple[Any, ...]]:
        """Yield the function and the arguments of every part's job, which returns results by place."""
        sharing = Counter(entry.front for part in parts for entry in part)
        left = sharing.copy()
        for key in set(self.fronts) - set(sharing):  # an earlier call's that nobody wants now hold a copy of the rows
            del self.fronts[key]
        for part in parts:
            if part[0].network is None:
                yield _fit_and_score_alone, part[0], self.folds, self.scoring
                continue
            wanted = {entry.front: entry for entry in reversed(part)}
            for key, entry in wanted.items():
                if key not in self.fronts:
                    front = _FittedFront(entry, self.folds, self.scoring, sharing[key])
                    self.fronts[key] = front if self.dask is None else self.dask.submit(_same, front, pure=False)
            # fronts are arguments of their own, not in a list: Dask puts a task's result in the place of those alone
            fits = [(entry.place, entry.network, list(wanted).index(entry.front), entry.context) for entry in part]
            yield (
                _fit_and_score_together,
                fits,
                self.scoring,
                self.on_epoch_end,
                *(self.fronts[key] for key in wanted),
            )
            left.subtract(entry.front for entry in part)
            for key in [] if self.keep else [key for key in self.fronts if not left[key]]:
                del self.fronts[key]


def _same(value: Any) -> Any:
    return value


def _fit_and_score_alone(entry: _Entry, folds: Folds, scoring: Scoring) -> dict[Place, Result]:
    """Fit and score an estimator by itself, as scikit-learn does."""
    train, test = folds.splits[entry.place[1]]
    result = fit_and_score(
        clone(entry.estimator), folds.X, folds.y, scorer=scoring.scorer or _no_score, train=train, test=test,
        verbose=0, parameters=None, fit_params=folds.fit_params, score_params=folds.score_params,
        return_train_score=scoring.return_train_score, return_times=True, return_estimator=True,
        error_score=scoring.error_score, caller=scoring.caller, callback_ctx=entry.context,
    )  # fmt: skip
    estimator = result.pop("estimator")
    if scoring.predict is not None and not result["fit_error"]:
        result["outputs"] = scoring.predict(estimator, folds.scored(test)[0])
    if scoring.return_estimator:
        result["estimator"] = estimator
    return {entry.place: result | {"n_iter": 0}}


def _no_score(*_: Any, **__: Any) -> float:
    return 0.0


def _fit_and_score_together(
    fits: Sequence[tuple[Place, Any, int, Any]], scoring: Scoring, on_epoch_end: Any, *fronts: _FittedFront
) -> dict[Place, Result]:
    """Train the networks of a part together, then complete and score each estimator.

    Parameters
    ----------
    fits : sequence of (place, network, number of its front, callback context)
    scoring : Scoring
    on_epoch_end : callable or None
        As for `evaluate`.
    *fronts : _FittedFront

    Returns
    -------
    dict of (candidate, split) to dict
    """
    compiled = all(net.device == "cpu" and has_compiled_form(net.solver, net.batch_norm) for _, net, *_ in fits)
    with threads_left_to_workers() if compiled and has_kernel() else nullcontext():
        return _in_threads(fits, scoring, on_epoch_end, fronts)


def _in_threads(
    fits: Sequence[tuple[Place, Any, int, Any]], scoring: Scoring, on_epoch_end: Any, fronts: Sequence[_FittedFront]
) -> dict[Place, Result]:
    start = time.perf_counter()
    monitors: dict[int, Any] = {}
    for f, fitted in enumerate(fronts):
        if fitted.front is not None:
            fitted.front.transform_once()
            if on_epoch_end is not None:
                monitors[f] = rows_at_network(fitted.front.estimator, *fitted.test[:2])
    networks: dict[Place, Any] = {}
    tasks: dict[Place, list[Task]] = {}
    failures: dict[Place, Failure] = {}
    tables: Tables = {}
    for place, network, f, context in fits:
        if context is not None:
            context.call_on_fit_task_begin(estimator=scoring.caller)
        networks[place] = clone(network)
        failure = fronts[f].failure
        if failure is None:
            own, failure = attempt(
                make_tasks, networks[place], *fronts[f].front.fit, monitor=monitors.get(f), tables=tables
            )
        if failure is None:
            tasks[place] = own
        else:
            failures[place] = scoring.accept(failure)
    for place, nets in train_tasks(tasks, on_epoch_end).items():
        if nets is None:
            failures[place] = scoring.accept(Failure(ValueError(DIVERGED), f"ValueError: {DIVERGED}"))
        else:
            adopt(networks[place], nets, tasks[place])
    seconds = (time.perf_counter() - start) / len(fits)
    results = {}
    for place, _, f, context in fits:
        fitted, failure = fronts[f], failures.get(place)
        results[place] = {
            "fit_error": failure and failure.traceback,
            "fit_time": seconds + fitted.seconds / fitted.n_sharing,
        }
        results[place] |= _scores(networks[place], fitted, scoring, failed=failure is not None)
        if context is not None:
            context.call_on_fit_task_end(estimator=scoring.caller)
    return results


def _scores(network: Any, fitted: _FittedFront, scoring: Scoring, failed: bool) -> Result:
    """Return what a fitted network scores at the end of its estimator; Nones if its fit failed."""
    rows = {"test_scores": fitted.test} | ({"train_scores": fitted.train} if fitted.train else {})
    if failed:
        return {**dict.fromkeys(rows), "score_time": 0.0, "n_iter": 0}
    start = time.perf_counter()
    estimator = fitted.front.join(network)
    result: Result = {
        name: score(estimator, X, y, scoring.scorer, params, scoring.error_score)
        for name, (X, y, params) in rows.items()
        if scoring.scorer is not None
    }
    if scoring.predict is not None:
        result["outputs"] = scoring.predict(estimator, fitted.test[0])
    if scoring.return_estimator:
        result["estimator"] = estimator
    return {**result, "score_time": time.perf_counter() - start, "n_iter": network.n_iter_}
