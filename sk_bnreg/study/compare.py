"""compare_schemes: regularisation schemes compared on one data set by nested cross-validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv

from sk_bnreg.estimators.pipelines import fit_parameter, network_in
from sk_bnreg.search.evaluation import Folds, Scoring
from sk_bnreg.search.grid import StackedGridSearchCV
from sk_bnreg.stats.folds import resolution
from sk_bnreg.study.comparison import SchemeComparison, default_rope, metric_name
from sk_bnreg.study.nested import NestedStudy, Split, shuffled_folds
from sk_bnreg.study.plan import StudyPlan
from sk_bnreg.study.schemes import DEFAULT_SCHEMES, checked_schemes
from sk_bnreg.study.store import Store
from sk_bnreg.theory.diagnosis import diagnose

BUDGETS = (0, 0.03, 0.1, 0.3, 1, 3, 10)
Progress = Callable[[int], None]


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
    params: Mapping[str, Any] | None = None,
    n_candidates: int = 8,
    inner_cv: int = 3,
    budgets: Sequence[float] = BUDGETS,
    learning_rate: str = "tuned",
    error_score: Any = np.nan,
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
    estimator : estimator
        A BNMLPClassifier or BNMLPRegressor, or a Pipeline or TransformedTargetRegressor that ends in one. Its
        parameters hold for all schemes; steps before the network are fitted inside each fold.
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
        Weights in training the network and in scoring.
    params : dict, default=None
        More for `fit`, cut to the rows of a fold where it has an entry per row. With metadata routing these and the
        weights go where the estimator's steps and the scorer ask for them.
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
    error_score : "raise" or float, default=nan
        Inner score of a candidate whose fit fails, by diverging for instance. A scheme of which all candidates, or
        the chosen one, fail is an error.
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
    network, _ = network_in(estimator)
    if network is None:
        raise ValueError(f"estimator must be or end in a BNMLPClassifier or BNMLPRegressor, got {estimator!r}.")
    schemes = checked_schemes(schemes)
    _check_counts(len(schemes), n_candidates, inner_cv, n_repeats, n_seeds, budgets)
    if learning_rate not in ("tuned", "fixed"):
        raise ValueError(f"learning_rate must be 'tuned' or 'fixed', got {learning_rate!r}.")
    if learning_rate == "fixed":
        schemes = {name: {"learning_rate_init": network.learning_rate_init, **own} for name, own in schemes.items()}
    rope = default_rope(scoring) if rope is None else rope
    if rope <= 0:
        raise ValueError(f"rope must be greater than 0, got {rope}.")
    # with one class every scheme is perfect, and every difference 0
    if len(np.unique(np.asarray(y), axis=0)) < 2:
        raise ValueError("y must have at least 2 different values for schemes to be compared.")
    store = Store(out, random_state)
    y = y if hasattr(y, "iloc") else np.asarray(y)
    groups = None if groups is None else np.asarray(groups)
    weight = None if sample_weight is None else np.asarray(sample_weight)
    study = NestedStudy(
        estimator=estimator,
        data=_data(estimator, X, y, scoring, weight, params or {}),
        scoring=Scoring(check_scoring(estimator, scoring), error_score),
        metric=metric_name(estimator, scoring),
        groups=groups,
        weight=weight,
        schemes=schemes,
        n_candidates=n_candidates,
        budgets=tuple(map(float, budgets)),
        inner_cv=inner_cv,
        n_seeds=n_seeds,
        seed=store.seed,
    )
    splits = _outer_splits(study, cv, n_repeats)
    finished = store.open(_fingerprint(study, splits, scoring, params), list(schemes))
    waiting = {place: split for place, split in splits.items() if place not in finished}
    plan = _plan(study, splits, learning_rate, rope, store)
    if on_plan is not None:
        if waiting:
            plan = replace(plan, seconds=_expected_seconds(study, waiting, n_jobs))
        on_plan(plan)
    # beside the folds, the best scheme is tuned once more on all rows, and fitted
    total, done = plan.n_fits + n_candidates * inner_cv + 1, len(finished) * study.n_fits

    def progress(n_fits: int) -> None:
        nonlocal done
        done += n_fits
        if on_progress is not None:
            on_progress(done, total)

    progress(0)
    _run(study, waiting, store, progress, n_jobs)
    frame, tuning = store.frames()
    found = SchemeComparison(frame, schemes, plan.metric, rope, _test_ratio(splits), tuning, plan=plan)
    best = store.best_estimator(lambda: study.best_estimator(found.best_scheme, progress))
    if on_progress is not None:
        on_progress(total, total)
    return replace(found, best_estimator_=best, diagnosis=diagnose(best, X))


def _check_counts(
    n_schemes: int, n_candidates: int, inner_cv: int, n_repeats: int, n_seeds: int, budgets: Sequence[float]
) -> None:
    at_least = {
        "schemes": (n_schemes, 2),
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


def _data(estimator: Any, X: Any, y: Any, scoring: Any, weight: Any, params: Mapping[str, Any]) -> Folds:
    """Return all rows, with what `fit` and the scorer are given beside them.

    Without metadata routing, scikit-learn's names say where an argument goes, and weights go to the network and the
    scorer; with it, the estimator's steps and the scorer have said what they ask for. Groups are the splitters' alone.
    """
    if get_config()["enable_metadata_routing"]:
        given = dict(params) if weight is None else {"sample_weight": weight, **params}
        routed = StackedGridSearchCV(estimator, {}, scoring=scoring).route(given)
        return Folds(X, y, [], routed.estimator.fit, routed.scorer.score)
    if weight is None:
        return Folds(X, y, [], dict(params))
    return Folds(X, y, [], {fit_parameter(estimator, "sample_weight"): weight, **params}, {"sample_weight": weight})


def _outer_splits(study: NestedStudy, cv: Any, n_repeats: int) -> dict[tuple[int, int], Split]:
    """Return the rows of every outer fold by repeat and fold."""
    y, groups = study.data.y, study.groups
    if cv is None or isinstance(cv, Integral):
        cv = 5 if cv is None else int(cv)
        # another seed for every repeat: the same folds again would count their differences twice
        drawn = [shuffled_folds(cv, study.estimator, y, groups, study.seed + repeat) for repeat in range(n_repeats)]
    else:
        drawn = [check_cv(cv, y)]
    return {
        (repeat, fold): split
        for repeat, folds in enumerate(drawn)
        for fold, split in enumerate(folds.split(np.empty(len(y)), y, groups))
    }


def _plan(study: NestedStudy, splits: Mapping[Any, Split], learning_rate: str, rope: float, store: Store) -> StudyPlan:
    candidates = study.candidates(store.seed)
    rates = {study.learning_rate(name, setting) for name in study.schemes for setting in candidates}
    n_repeats = 1 + max(repeat for repeat, _ in splits)
    return StudyPlan(
        n_rows=len(study.data.y),
        n_features=np.shape(study.data.X)[1],
        schemes=tuple(study.schemes),
        n_candidates=study.n_candidates,
        inner_cv=study.inner_cv,
        n_folds=len(splits) // n_repeats,
        n_repeats=n_repeats,
        n_seeds=study.n_seeds,
        learning_rate=learning_rate,
        learning_rates=tuple(sorted(rates)),
        budgets=tuple(sorted({setting["budget"] for setting in candidates})),
        metric=study.metric,
        rope=rope,
        resolution=resolution(len(splits), _test_ratio(splits)),
        n_fits=len(splits) * study.n_fits,
        seconds=float("nan"),
        random_state=store.seed,
        versions=store.versions,
    )


def _test_ratio(splits: Mapping[Any, Split]) -> float:
    return float(np.mean([len(test) / len(train) for train, test in splits.values()]))


def _expected_seconds(study: NestedStudy, waiting: Mapping[Any, Split], n_jobs: int | None) -> float:
    """Return the expected time of the waiting folds, from as many calibrations at a time as there will be folds."""
    n_workers = min(joblib.effective_n_jobs(n_jobs), len(waiting))
    trains = [train for train, _ in list(waiting.values())[:n_workers]]
    for measure in (study.inner_splits, study.expected_seconds):  # at first workers start, while others would measure
        jobs = [joblib.delayed(measure)(train) for train in trains]
        one = joblib.Parallel(n_jobs=n_jobs)(jobs)
    return float(np.mean(one)) * -(-len(waiting) // n_workers)


def _run(
    study: NestedStudy, waiting: Mapping[tuple[int, int], Split], store: Store, progress: Progress, n_jobs: int | None
) -> None:
    """Run the waiting folds and keep each in the store when it is finished."""
    # a fold in another process can't tell of its fits one by one
    alone = joblib.effective_n_jobs(n_jobs) == 1
    jobs = (
        joblib.delayed(study.run_fold)(*place, *split, progress if alone else None) for place, split in waiting.items()
    )
    for rows in joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(jobs):
        store.add(*rows)
        if not alone:
            progress(study.n_fits)


def _fingerprint(study: NestedStudy, splits: Any, scoring: Any, params: Any) -> str:
    """Return a hash of the study's data and settings: results of another study must not be taken for its own."""
    X = study.data.X
    # pandas hashes words and dates by their values; joblib would pickle them, in a way that changes with versions
    content = np.asarray(pd.util.hash_pandas_object(X)) if isinstance(X, pd.DataFrame) else np.asarray(X)
    settings = (
        study.schemes, study.n_candidates, study.budgets, study.inner_cv, study.n_seeds, scoring, study.seed, params,
        study.scoring.error_score,
    )  # fmt: skip
    return joblib.hash(
        (content, np.asarray(study.data.y), study.groups, study.weight, study.estimator, settings, splits)
    )
