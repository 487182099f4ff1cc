"""compare_schemes: regularisation schemes compared on one data set by nested cross-validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from scipy.stats import qmc
from sklearn.base import clone, is_classifier
from sklearn.metrics import check_scoring
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.multiclass import type_of_target

from sk_bnreg.engine.roles import l2_by_role
from sk_bnreg.engine.tasks import fit_stack
from sk_bnreg.estimators.base import BaseBNMLP
from sk_bnreg.stats.folds import resolution
from sk_bnreg.study.comparison import DEFAULT_SCHEMES, SCHEMES, SchemeComparison, StudyPlan, default_rope, metric_name
from sk_bnreg.study.store import Store
from sk_bnreg.theory.diagnosis import diagnose
from sk_bnreg.theory.rotation import NormRecorder

BUDGETS = (0, 0.03, 0.1, 0.3, 1, 3, 10)
RATE_DECADES = (-1.0, 0.5)  # learning rates tried, in powers of ten times the estimator's own
N_CALIBRATED = 8  # networks of which the plan's time is told
LOSS_L2_DECADES = (-6.0, -1.0)  # l2 tried where no budget exists: Adam with l2_mode="loss"

_Setting = Mapping[str, float]  # of a candidate: rate, budget, loss_l2


class TunedL2(NamedTuple):
    """An `l2` that follows another scheme's: what that scheme's tuning chose, times a factor."""

    scheme: str
    factor: float


def compare_schemes(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    schemes: Mapping[str, Mapping[str, Any]] | Sequence[str] = DEFAULT_SCHEMES,
    cv: Any = 5,
    n_repeats: int = 2,
    n_seeds: int = 1,
    scoring: Any = None,
    groups: Any = None,
    sample_weight: Any = None,
    n_candidates: int = 8,
    inner_cv: int = 3,
    budgets: Sequence[float] = BUDGETS,
    learning_rate: str = "tuned",
    rope: float | None = None,
    random_state: Any = None,
    n_jobs: int | None = None,
    out: str | Path | None = None,
    on_plan: Callable[[StudyPlan], Any] | None = print,
    on_progress: Callable[[int, int], None] | None = None,
) -> SchemeComparison:
    """Compare regularisation schemes on one data set, each tuned with the same effort.

    In every outer fold each scheme tries the same learning rates, with the same decay
    budgets where it has L2, on inner folds of the outer training rows; its best candidate
    is fitted on all of them and scored on the outer test rows, which nothing saw before.
    All candidates of all schemes and inner folds are trained together, and candidates that
    mean the same network (a budget of 0 in several schemes) once.

    Parameters
    ----------
    estimator : BNMLPClassifier, BNMLPRegressor or Pipeline that ends in one
        Its parameters hold for all schemes; transformers are fitted inside each fold.
    X : array-like or DataFrame of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
    schemes : mapping of str to mapping, or sequence of str
        Parameters of the network by name of the scheme, or names of built-in `SCHEMES`. An
        `l2` or `learning_rate_init` that a scheme names is kept, not tuned; the `l2` may be
        a `TunedL2`, a multiple of what another scheme's tuning chose.
    cv : int, splitter or iterable, default=5
        Outer folds. A number means shuffled folds, stratified for classes, grouped where
        there are `groups`.
    n_repeats : int, default=2
        How often a number of folds is drawn afresh; a splitter repeats by itself.
    n_seeds : int, default=1
        Networks fitted for each tuned scheme and fold, from different seeds; a fold's score
        is their mean.
    scoring : str or scorer, default=None
        A scikit-learn score, by name or from `make_scorer`; None is accuracy or R2.
    groups : array-like of shape (n_samples,), default=None
        Rows of one group are never on both sides of a split.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights in training and in scoring.
    n_candidates : int, default=8
        Settings tried by each scheme.
    inner_cv : int, default=3
        Inner folds.
    budgets : sequence of float
        Decay budgets D tried, in turn over the candidates; with Adam and
        ``l2_mode="loss"``, where no budget exists, as many values of l2 stand in their place.
    learning_rate : {"tuned", "fixed"}, default="tuned"
        "fixed" keeps the estimator's own in every scheme. With batch norm, L2 on the hidden
        weights raises their effective learning rate, so at a fixed rate it may help or hurt
        by that alone; tuned, each scheme has the rate that suits it.
    rope : float, default=None
        Differences smaller than this do not matter. None is 0.01 for scores whose best
        value is 1; any other score asks for it.
    random_state : int, RandomState instance or None, default=None
        Determines folds, candidates and networks.
    n_jobs : int or None, default=None
        Outer folds in parallel, through joblib.
    out : path, default=None
        A folder for ``results.parquet`` and ``tuning.parquet``, written after every outer
        fold, and ``best_estimator.joblib``. A study that was interrupted goes on from there
        when it is started again with the same data and settings.
    on_plan : callable or None, default=print
        Called with the `StudyPlan` before the first fit. None also spares the calibration
        from which the plan tells the time.
    on_progress : callable, default=None
        ``on_progress(done, total)``, in network fits.

    Returns
    -------
    SchemeComparison

    Raises
    ------
    ValueError
        If `rope` is needed, or `out` holds the results of another study.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_bnreg import BNMLPClassifier, compare_schemes
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> net = make_pipeline(StandardScaler(), BNMLPClassifier((16,), max_iter=10))
    >>> study = compare_schemes(net, X, y, cv=2, n_candidates=2, inner_cv=2, random_state=0, on_plan=None)
    >>> list(study.table().index)
    ['plain', 'l2', 'bn', 'bn+l2', 'bn+l2+gamma+beta']
    """
    network = _last_step(estimator)
    if not isinstance(network, BaseBNMLP):
        raise ValueError(f"estimator must be or end in a BNMLPClassifier or BNMLPRegressor, got {estimator!r}.")
    schemes = _checked_schemes(schemes)
    at_least = {
        "schemes": (len(schemes), 2),
        "n_candidates": (n_candidates, 1),
        "inner_cv": (inner_cv, 2),
        "n_repeats": (n_repeats, 1),
        "n_seeds": (n_seeds, 1),
        "budgets": (len(budgets), 1),
    }
    for name, (value, least) in at_least.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    if not all(0 <= budget < np.inf for budget in budgets):
        raise ValueError(f"budgets must be finite and not negative, got {budgets}.")
    if learning_rate not in ("tuned", "fixed"):
        raise ValueError(f"learning_rate must be 'tuned' or 'fixed', got {learning_rate!r}.")
    if learning_rate == "fixed":
        schemes = {name: {"learning_rate_init": network.learning_rate_init, **own} for name, own in schemes.items()}
    rope = default_rope(scoring) if rope is None else rope
    if rope <= 0:
        raise ValueError(f"rope must be greater than 0, got {rope}.")
    if len(np.unique(np.asarray(y), axis=0)) < 2:
        raise ValueError("y must have at least 2 different values for schemes to be compared.")
    store = Store(out, random_state)
    y = y if hasattr(y, "iloc") else np.asarray(y)
    groups = None if groups is None else np.asarray(groups)
    if cv is None or isinstance(cv, Integral):
        cv = 5 if cv is None else int(cv)
        drawn = [_folds(cv, estimator, y, groups, store.seed + repeat) for repeat in range(n_repeats)]
    else:
        drawn = [check_cv(cv, y)]
    splits = {
        (repeat, fold): split
        for repeat, folds in enumerate(drawn)
        for fold, split in enumerate(folds.split(np.empty(len(y)), y, groups))
    }
    study = _Study(
        estimator=estimator,
        X=X,
        y=y,
        groups=groups,
        sample_weight=None if sample_weight is None else np.asarray(sample_weight),
        schemes=schemes,
        n_candidates=n_candidates,
        budgets=tuple(map(float, budgets)),
        inner_cv=inner_cv,
        n_seeds=n_seeds,
        scoring=scoring,
        seed=store.seed,
    )
    finished = store.open(_fingerprint(study, splits), list(schemes))
    waiting = {place: split for place, split in splits.items() if place not in finished}
    test_ratio = float(np.mean([len(test) / len(train) for train, test in splits.values()]))
    candidates = study.candidates(store.seed)
    rates = {study.learning_rate(name, setting) for name in schemes for setting in candidates}
    plan = StudyPlan(
        n_rows=len(y),
        n_features=np.shape(X)[1],
        schemes=tuple(schemes),
        n_candidates=n_candidates,
        inner_cv=inner_cv,
        n_folds=len(splits) // len(drawn),
        n_repeats=len(drawn),
        n_seeds=n_seeds,
        learning_rate=learning_rate,
        learning_rates=tuple(sorted(rates)),
        budgets=tuple(sorted({setting["budget"] for setting in candidates})),
        metric=metric_name(estimator, scoring),
        rope=rope,
        resolution=resolution(len(splits), test_ratio),
        n_fits=len(splits) * study.n_fits,
        seconds=_expected_seconds(study, waiting, n_jobs) if on_plan and waiting else float("nan"),
        random_state=store.seed,
        versions=store.versions,
    )
    if on_plan is not None:
        on_plan(plan)
    total, done = plan.n_fits + n_candidates * inner_cv + 1, len(finished) * study.n_fits

    def progress(n_fits: int) -> None:
        nonlocal done
        done += n_fits
        if on_progress is not None:
            on_progress(done, total)

    progress(0)
    alone = joblib.effective_n_jobs(n_jobs) == 1
    jobs = (
        joblib.delayed(study.run_fold)(*place, *split, progress if alone else None) for place, split in waiting.items()
    )
    for rows in joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(jobs):
        store.add(*rows)
        if not alone:
            progress(study.n_fits)
    frame, tuning = store.frames()
    found = SchemeComparison(frame, schemes, plan.metric, rope, test_ratio, tuning, plan=plan)
    best = store.best_estimator(lambda: study.best_estimator(found.best_scheme, progress))
    if on_progress is not None:
        on_progress(total, total)
    return replace(found, best_estimator_=best, diagnosis=diagnose(best, X))


@dataclass
class _Study:
    """Everything that an outer fold needs to know."""

    estimator: Any
    X: Any
    y: Any
    groups: np.ndarray | None
    sample_weight: np.ndarray | None
    schemes: dict[str, Mapping[str, Any]]
    n_candidates: int
    budgets: tuple[float, ...]
    inner_cv: int
    n_seeds: int
    scoring: Any
    seed: int

    @property
    def n_fits(self) -> int:
        """Different networks of one outer fold, at most."""
        candidates = self.candidates(self.seed)
        rates = {
            (name, self.learning_rate(name, setting))
            for name in self.schemes
            if self.reference(name)
            for setting in candidates
        }
        return (self._n_free() + len(rates)) * self.inner_cv + len(self.schemes) * self.n_seeds

    def reference(self, scheme: str) -> str | None:
        """Return the scheme whose l2 this one follows, if it follows one."""
        l2 = self.schemes[scheme].get("l2")
        return l2.scheme if isinstance(l2, TunedL2) else None

    def learning_rate(self, scheme: str, setting: _Setting) -> float:
        """Return the learning rate of a scheme's candidate."""
        own = _last_step(self.estimator).learning_rate_init * setting["rate"]
        return float(self.schemes[scheme].get("learning_rate_init", own))

    def candidates(self, seed: int) -> list[dict[str, float]]:
        """Pair evenly spaced learning rates with the budgets (or l2), spread out in an order that the seed determines.

        Every outer fold has an order of its own, so that no budget owes its score to the rate it was paired with.
        """
        points = _spread_points(self.n_candidates, seed)
        rates = 10 ** np.interp(points[:, 0], (0, 1), RATE_DECADES)
        levels = (points[:, 1] * len(self.budgets)).astype(int)
        loss_l2 = [0.0, *np.logspace(*LOSS_L2_DECADES, len(self.budgets) - 1)]
        return [
            {"rate": float(rate), "budget": self.budgets[level], "loss_l2": float(loss_l2[level])}
            for rate, level in zip(rates, levels, strict=True)
        ]

    def free_networks(self, n_rows: int, **params: Any) -> list[Any]:
        """Return the networks of all candidates of the schemes that follow no other."""
        names = [name for name in self.schemes if not self.reference(name)]
        candidates = self.candidates(self.seed)
        networks = [self.network(name, setting, n_rows, {}) for name in names for setting in candidates]
        return [network.set_params(**params) for network in networks]

    def run_fold(
        self, repeat: int, fold: int, train: np.ndarray, test: np.ndarray, progress: Callable[[int], None] | None
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Tune every scheme inside the outer training rows and score it on the test rows; return results and tuning."""
        start = perf_counter()
        place = {"repeat": repeat, "fold": fold}
        candidates = self.candidates(self.seed + 1000 * repeat + fold)
        chosen, tried, n_inner = self._tune(list(self.schemes), candidates, train, progress)
        part = _Part(self, train, test)
        wanted = [(name, seed) for seed in range(self.n_seeds) for name in self.schemes]
        networks = [self.network(name, chosen[name], part.n_rows, chosen, self.seed + seed) for name, seed in wanted]
        networks = part.fit(networks)
        if progress is not None:
            progress(len(wanted))
        rows = []
        inner_scores = pd.DataFrame(tried).groupby("scheme")["inner_score"].max()
        for network, (name, seed) in zip(networks, wanted, strict=True):
            if not hasattr(network, "net_"):
                raise ValueError(
                    f"The tuned network of scheme {name!r} diverged in fold {fold}: lower learning_rate_init."
                )
            rows.append(
                {
                    "scheme": name,
                    **place,
                    "seed": seed,
                    "learning_rate_init": network.learning_rate_init,
                    "l2": _strength(network),
                    "budget": max(row.budget for row in network.l2_report_ if row.n_parameters),
                    "inner_score": float(inner_scores[name]),
                    "score": part.score(network),
                    "n_train": len(train),
                    "n_test": len(test),
                    "n_fits": n_inner + len(set(map(id, networks))),
                }
            )
        seconds = (perf_counter() - start) / len(rows)
        return [row | {"seconds": seconds} for row in rows], [place | row for row in tried]

    def best_estimator(self, scheme: str, progress: Callable[[int], None]) -> Any:
        """Tune one scheme on all rows and fit it."""
        rows = np.arange(len(self.y))
        names = [name for name in (self.reference(scheme), scheme) if name]
        chosen, _, _ = self._tune(names, self.candidates(self.seed), rows, progress)
        part = _Part(self, rows, rows[:0])
        network = self.network(scheme, chosen[scheme], part.n_rows, chosen)
        own = network.callbacks
        part.fit([network.set_params(callbacks=[*(own or ()), NormRecorder()])])  # for the report
        network.set_params(callbacks=own)
        if not isinstance(self.estimator, Pipeline):
            return network
        if part.steps is None:
            return Pipeline([(self.estimator.steps[0][0], network)])
        return Pipeline([*part.steps.steps, (self.estimator.steps[-1][0], network)])

    def network(
        self, scheme: str, setting: _Setting, n_rows: int, chosen: Mapping[str, _Setting], seed: int | None = None
    ) -> Any:
        """Return the unfitted network of a scheme's candidate for so many training rows.

        `chosen` are the settings that tuning chose for the schemes that this one may follow.
        """
        params = dict(self.schemes[scheme])
        if (reference := self.reference(scheme)) is not None:
            params["l2"] = params["l2"].factor * self.network(reference, chosen[reference], n_rows, chosen).l2
        params["learning_rate_init"] = self.learning_rate(scheme, setting)
        params["random_state"] = self.seed if seed is None else seed
        network = clone(_last_step(self.estimator)).set_params(**params)
        if "l2" in params:
            return network
        if not any(l2_by_role(1.0, network.l2_targets).values()):
            return network.set_params(l2=0.0)
        if network.l2_mode == "loss" and network.solver == "adam":
            return network.set_params(l2=setting["loss_l2"])
        return network.set_params(l2=network.l2_for_budget(setting["budget"], n_rows))

    def expected_seconds(self, train: np.ndarray) -> float:
        """Return the time of one outer fold, from a few epochs of some candidates on one inner fold."""
        fit, check = self.inner_splits(train)[0]
        start = perf_counter()
        part = _Part(self, fit, check)
        front = perf_counter() - start
        seconds = []
        for epochs in (1, 1, 3):  # the first warms up
            networks = self.free_networks(part.n_rows, max_iter=epochs)
            networks = networks[:: max(1, len(networks) // N_CALIBRATED)]  # of every scheme some
            start = perf_counter()
            for network in part.fit(networks):
                part.score(network)
            seconds.append((perf_counter() - start) / len({_signature(network) for network in networks}))
        epoch = max(seconds[2] - seconds[1], 0) / 2
        one = seconds[1] + (_last_step(self.estimator).max_iter - 1) * epoch
        n_last = len(self.schemes) * self.n_seeds
        n_inner = self.n_fits - n_last
        return (self.inner_cv + 1) * front + one * (n_inner + n_last * self.inner_cv / (self.inner_cv - 1))

    def _n_free(self) -> int:
        return len({_signature(network) for network in self.free_networks(len(self.y))})

    def _tune(
        self,
        names: Sequence[str],
        candidates: Sequence[_Setting],
        rows: np.ndarray,
        progress: Callable[[int], None] | None,
    ) -> tuple[dict[str, _Setting], list[dict[str, Any]], int]:
        """Try every candidate on inner folds of `rows`.

        Return each scheme's best setting, a row per scheme and candidate, and the number of
        different networks.
        """
        chosen: dict[str, _Setting] = {}
        tried: list[dict[str, Any]] = []
        n_fits = 0
        free = [name for name in names if not self.reference(name)]
        for group in (free, [name for name in names if name not in free]):
            if not group:
                continue
            wanted = [(name, setting) for name in group for setting in candidates]
            scores = []
            for fit, check in self.inner_splits(rows):
                part = _Part(self, fit, check)
                asked = [self.network(*pair, part.n_rows, chosen) for pair in wanted]
                networks = part.fit(asked)
                scores.append([part.score(network) for network in networks])
                n_fitted = len(set(map(id, networks)))
                n_fits += n_fitted
                if progress is not None:
                    progress(n_fitted)
            means = np.mean(scores, axis=0)
            for i, ((name, setting), network) in enumerate(zip(wanted, asked, strict=True)):
                tried.append(
                    {
                        "scheme": name,
                        "candidate": i % len(candidates),
                        "learning_rate_init": network.learning_rate_init,
                        "l2": _strength(network),
                        "budget": self._budget(name, network, setting),
                        "inner_score": float(means[i]),
                    }
                )
            of_scheme = means.reshape(len(group), -1)
            if np.isnan(of_scheme).all(axis=1).any():
                raise ValueError(
                    "Every candidate of a scheme diverged in an inner fold: lower learning_rate_init or scale X."
                )
            best = np.nanargmax(of_scheme, axis=1)
            chosen |= {name: candidates[i] for name, i in zip(group, best, strict=True)}
        return chosen, tried, n_fits

    def inner_splits(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Divide rows into the training and the check rows of each inner fold."""
        groups = None if self.groups is None else self.groups[rows]
        y = _safe_indexing(self.y, rows)
        inner = _folds(self.inner_cv, self.estimator, y, groups, self.seed)
        return [(rows[fit], rows[check]) for fit, check in inner.split(np.empty(len(rows)), y, groups)]

    def _budget(self, scheme: str, network: Any, setting: _Setting) -> float:
        """Return the decay budget that a candidate was meant to have; nan where the scheme names l2 or none exists."""
        if "l2" in self.schemes[scheme] or (network.l2_mode == "loss" and network.solver == "adam" and network.l2):
            return float("nan")
        return setting["budget"] if any(l2_by_role(1.0, network.l2_targets).values()) else 0.0


class _Part:
    """Training and test rows with the transformers fitted on the former, once for all networks."""

    def __init__(self, study: _Study, train: np.ndarray, test: np.ndarray):
        self.study = study
        self.steps = None
        X, self.test_X = _safe_indexing(study.X, train), _safe_indexing(study.X, test)
        self.y, self.test_y = _safe_indexing(study.y, train), _safe_indexing(study.y, test)
        self.weight, self.test_weight = (
            None if study.sample_weight is None else study.sample_weight[rows] for rows in (train, test)
        )
        self.n_rows = len(self.y) if self.weight is None else int(np.count_nonzero(self.weight))
        self.X = X
        if isinstance(study.estimator, Pipeline) and len(study.estimator) > 1:
            self.steps = clone(study.estimator[:-1])
            unseeded = [k for k, v in self.steps.get_params().items() if k.endswith("random_state") and v is None]
            self.steps.set_params(**dict.fromkeys(unseeded, study.seed))
            self.X = self.steps.fit_transform(X, self.y)
            self.test_X = self.steps.transform(self.test_X) if len(test) else None

    def fit(self, networks: Sequence[Any]) -> list[Any]:
        """Fit networks together, and return them; one stands for all that mean the same."""
        signatures = [_signature(network) for network in networks]
        different = dict(zip(signatures, networks, strict=True))
        fit_stack(list(different.values()), self.X, self.y, sample_weight=self.weight)
        return [different[signature] for signature in signatures]

    def score(self, network: Any) -> float:
        """Score a network on the test rows; nan if its training diverged."""
        if not hasattr(network, "net_"):
            return float("nan")
        scorer = check_scoring(network, scoring=self.study.scoring)
        weight = {} if self.test_weight is None else {"sample_weight": self.test_weight}
        try:
            score, reason = float(scorer(network, self.test_X, self.test_y, **weight)), "it is nan"
        except ValueError as error:
            score, reason = float("nan"), str(error)
        if np.isnan(score):
            raise ValueError(
                f"The score {self.study.scoring or 'of the estimator'} is not defined on {len(self.test_y)} rows of a "
                f"fold ({reason}): take fewer folds or another score."
            )
        return score


def _checked_schemes(schemes: Mapping[str, Mapping[str, Any]] | Sequence[str]) -> dict[str, Mapping[str, Any]]:
    if not isinstance(schemes, Mapping):
        if not set(schemes) <= set(SCHEMES):
            raise ValueError(
                f"schemes must be a mapping of names to parameters, or names from {list(SCHEMES)}, got {schemes!r}."
            )
        schemes = {name: SCHEMES[name] for name in schemes}
    for name, params in schemes.items():
        l2 = params.get("l2")
        if isinstance(l2, TunedL2) and (l2.scheme not in schemes or "l2" in schemes[l2.scheme]):
            raise ValueError(
                f"The l2 of scheme {name!r} must follow a scheme of this study whose l2 is tuned, got {l2.scheme!r}."
            )
    return dict(schemes)


def _expected_seconds(study: _Study, waiting: Mapping[Any, tuple[np.ndarray, np.ndarray]], n_jobs: int | None) -> float:
    """Return the expected time of the waiting folds, from as many calibrations at a time as there will be folds."""
    n_workers = min(joblib.effective_n_jobs(n_jobs), len(waiting))
    trains = [train for train, _ in list(waiting.values())[:n_workers]]
    for measure in (study.inner_splits, study.expected_seconds):  # at first workers start, while others would measure
        jobs = [joblib.delayed(measure)(train) for train in trains]
        one = joblib.Parallel(n_jobs=n_jobs)(jobs)
    return float(np.mean(one)) * -(-len(waiting) // n_workers)


def _fingerprint(study: _Study, splits: Any) -> str:
    frame = isinstance(study.X, pd.DataFrame)
    content = np.asarray(pd.util.hash_pandas_object(study.X)) if frame else np.asarray(study.X)
    settings = (
        study.schemes, study.n_candidates, study.budgets, study.inner_cv, study.n_seeds, study.scoring, study.seed
    )  # fmt: skip
    return joblib.hash(
        (content, np.asarray(study.y), study.groups, study.sample_weight, study.estimator, settings, splits)
    )


def _folds(n_splits: int, estimator: Any, y: Any, groups: Any, seed: int) -> Any:
    """Return shuffled folds: stratified for classes, grouped where there are groups."""
    stratified = is_classifier(estimator) and type_of_target(y) in ("binary", "multiclass")
    plain, grouped = (StratifiedKFold, StratifiedGroupKFold) if stratified else (KFold, GroupKFold)
    return (plain if groups is None else grouped)(n_splits=n_splits, shuffle=True, random_state=seed)


@cache
def _spread_points(n: int, seed: int) -> np.ndarray:
    """Return n points in the unit square, evenly spaced on either axis; kept, as scipy may take a second for them."""
    return qmc.LatinHypercube(2, scramble=False, optimization="random-cd", rng=seed).random(n)


def _signature(network: Any) -> str:
    """Return what the training of a network depends on, as text: equal for networks that mean the same."""
    params = network.get_params()
    strengths = l2_by_role(params.pop("l2"), params.pop("l2_targets"))
    if not params["batch_norm"]:
        strengths |= {"gamma": 0.0, "beta": 0.0}
    if not any(strengths.values()):
        del params["l2_mode"]
    return repr((sorted(params.items()), strengths))


def _strength(network: Any) -> float:
    return float(network.l2) if isinstance(network.l2, Real) else float("nan")


def _last_step(estimator: Any) -> Any:
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator
