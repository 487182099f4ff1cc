"""compare_schemes: regularisation schemes compared on one data set by nested cross-validation."""

import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.base import clone, is_classifier

from sk_bnreg.borrowed import (
    HasMethods,
    Interval,
    StrOptions,
    check_sample_weight,
    num_samples,
)
from sk_bnreg.engine.roles import l2_by_role
from sk_bnreg.estimators.checks import check_arguments, check_one_kind, check_params, is_number
from sk_bnreg.estimators.pipelines import fit_parameter, network_in
from sk_bnreg.search.evaluation import Folds, attempt
from sk_bnreg.search.grid import StackedGridSearchCV
from sk_bnreg.search.predictions import classes_of
from sk_bnreg.study.comparison import SchemeComparison
from sk_bnreg.study.held_out import HeldOut, default_rope, metric_name
from sk_bnreg.study.nested import NestedStudy, n_folds_of
from sk_bnreg.study.plan import StudyPlan
from sk_bnreg.study.run import OuterFolds, StudyRun
from sk_bnreg.study.schemes import DEFAULT_SCHEMES, TUNED, TunedL2, checked_schemes
from sk_bnreg.study.spread import Spread
from sk_bnreg.study.store import Store, alone_in
from sk_bnreg.theory.diagnosis import diagnose

BUDGETS = (0, 0.03, 0.1, 0.3, 1, 3, 10)
_COUNT = Interval(Integral, 1, None, closed="left")
PARAMETERS = {
    "cv": ["cv_object"],
    "n_repeats": [_COUNT, StrOptions({"auto"})],
    "minutes": [Interval(Real, 0, None, closed="right")],
    "n_seeds": [_COUNT, StrOptions({"auto"})],
    "scoring": [None, str, callable, list, tuple],
    "groups": [None, "array-like"],
    "sample_weight": [None, "array-like"],
    "params": [None, Mapping],
    "n_candidates": [_COUNT],
    "inner_cv": [Interval(Integral, 2, None, closed="left"), HasMethods(["split", "get_n_splits"])],
    "budgets": ["array-like"],
    "learning_rate": [StrOptions({"tuned", "fixed"})],
    "error_score": [StrOptions({"raise"}), "nan"],  # a number would be the best of scores that are negative
    "rope": [None, Interval(Real, 0, None, closed="neither"), Mapping],
    "random_state": ["random_state"],
    "n_jobs": [None, Integral],
    "out": [None, str, PathLike],
    "on_plan": [None, callable],
    "on_progress": [None, callable],
    "on_look": [None, callable],
}


def compare_schemes(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    schemes: Mapping[str, Mapping[str, Any]] | Sequence[str] = DEFAULT_SCHEMES,
    cv: Any = 5,
    n_repeats: int | str = "auto",
    minutes: float = 3.0,
    n_seeds: int | str = "auto",
    scoring: Any = None,
    groups: Any = None,
    sample_weight: Any = None,
    params: Mapping[str, Any] | None = None,
    n_candidates: int = 8,
    inner_cv: Any = 3,
    budgets: Sequence[float] = BUDGETS,
    learning_rate: str = "tuned",
    error_score: Any = np.nan,
    rope: float | Mapping[str, float] | None = None,
    random_state: Any = None,
    n_jobs: int | None = None,
    out: str | Path | None = None,
    on_plan: Callable[[StudyPlan], Any] | None = print,
    on_progress: Callable[[int, int], None] | None = None,
    on_look: Callable[[int, int, int], None] | None = None,
) -> SchemeComparison:
    """Compare regularisation schemes on one data set, each tuned with the same effort.

    In every outer fold each scheme tries the same learning rates, with the same decay
    budgets where it has L2, on inner folds of the outer training rows, by the log loss or R2
    of single networks; its best candidate is fitted on all of them with several seeds, and these
    predict the outer test rows, which nothing saw before. All candidates of all schemes and
    inner folds are trained together, and candidates that mean the same network (a budget of 0
    in several schemes) once.

    The folds are drawn afresh until every question has its word, more of them can't help, or the
    time is up. A look that may end the study takes a probability of 0.999, the last one 0.95, so
    that looking costs next to nothing of the 5 % (Haybittle 1971, Peto et al. 1976).

    Parameters
    ----------
    estimator : estimator
        A BNMLPClassifier or BNMLPRegressor, or a Pipeline or TransformedTargetRegressor that ends in one. Its
        parameters hold for all schemes; steps before the network are fitted inside each fold. Schemes are compared as
        the mean of its `n_ensemble` networks; `SchemeComparison.single` has what the same fits say of one.
    X : array-like or DataFrame of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
    schemes : mapping of str to mapping, or sequence of str
        Parameters of the network by name of the scheme, or names of built-in `SCHEMES`. An
        `l2` or `learning_rate_init` that a scheme names is kept, not tuned; the `l2` may be
        a `TunedL2`, a multiple of what another scheme's tuning chose; a `dropout` of "tuned" is tuned as L2 is. A
        `random_state` (a number) gives a scheme seeds and candidates that no other has.
    cv : int, splitter or iterable, default=5
        Outer folds. A number means shuffled folds, stratified for classes, grouped where
        there are `groups`.
    n_repeats : int or "auto", default="auto"
        How often a number of folds is drawn afresh; a splitter repeats by itself. "auto" looks at the answers after
        each repeat from the second on, and makes at most 20.
    minutes : float, default=3
        With ``n_repeats="auto"``, the time after which no more repeats begin. What earlier runs into the same `out`
        took counts.
    n_seeds : int or "auto", default="auto"
        Networks fitted for each tuned scheme and fold, from different seeds; a fold's score is their mean. "auto" takes
        as many as leave seeds less than a tenth of the variance of a mean difference, told by the first four of the
        first repeat, and at most 32.
    scoring : str, scorer or list of str, default=None
        A scikit-learn score, by name or from `make_scorer`; None is accuracy or R2. The first of several is what the
        looks and the best scheme go by. A scorer sees predictions, and not the network.
    groups : array-like of shape (n_samples,), default=None
        Rows of one group are never on both sides of a split.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights in training the network and in scoring.
    params : dict, default=None
        More for `fit`, cut to the rows of a fold where it has an entry per row. With metadata routing these and the
        weights go where the estimator's steps and the scorer ask for them.
    n_candidates : int, default=8
        Settings tried by each scheme.
    inner_cv : int or splitter, default=3
        Inner folds: so many shuffled ones (stratified for classes, grouped where there are groups), or those of a
        splitter such as `TimeSeriesSplit`, for rows whose order matters. Early stopping sets random rows aside.
    budgets : sequence of float
        Decay budgets D tried, in turn over the candidates; with Adam and
        ``l2_mode="loss"``, where no budget exists, as many values of l2 stand in their place.
    learning_rate : {"tuned", "fixed"}, default="tuned"
        "fixed" keeps the estimator's own in every scheme. With batch norm, L2 on the hidden
        weights raises their effective learning rate, so at a fixed rate it may help or hurt
        by that alone; tuned, each scheme has the rate that suits it.
    error_score : "raise" or nan, default=nan
        nan leaves out a candidate whose fit fails, by diverging for instance. A scheme of which all candidates, or the
        chosen one, fail is an error.
    rope : float or dict of str to float, default=None
        Differences smaller than this do not matter, by score where there are several. None is 0.01 for scores whose
        best value is 1; any other score asks for it.
    random_state : int, RandomState instance or None, default=None
        Determines folds, candidates and networks.
    n_jobs : int or None, default=None
        Outer folds in parallel, through joblib or on the workers of its Dask backend. By themselves they take turns,
        and the networks of each fill the cores.
    out : path, default=None
        A folder for what is found, written after every outer fold, and ``best_estimator.joblib``. A study that was
        interrupted goes on from there when it is started again with the same data and settings; so does one that is
        to have more repeats, seeds or scores.
    on_plan : callable or None, default=print
        Called with the `StudyPlan` before the first fit. None also spares the calibration
        from which the plan tells the time.
    on_progress : callable, default=None
        ``on_progress(done, total)``, in network fits; `total` is told by how long repeats take.
    on_look : callable, default=None
        ``on_look(n_repeats, n_settled, n_questions)`` after every look.

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
    >>> net = make_pipeline(StandardScaler(), BNMLPClassifier((16,), max_iter=10, n_ensemble=1))
    >>> study = compare_schemes(net, X, y, cv=2, n_repeats=1, n_candidates=2, inner_cv=2, random_state=0, on_plan=None)
    >>> list(study.table().index)
    ['plain', 'l2', 'bn', 'bn+l2', 'bn+l2+gamma+beta']
    """
    started = time.monotonic()
    check_arguments(PARAMETERS, locals(), "compare_schemes")
    sample_weight = _checked_rows(X, y, groups, sample_weight)
    schemes, ropes = _checked(estimator, schemes, learning_rate, scoring, rope)
    _check_folds_and_budgets(inner_cv, budgets)
    store = Store(out, random_state)
    y = y if hasattr(y, "iloc") else np.asarray(y)
    if is_classifier(estimator) and np.ndim(y) == 2 and np.shape(y)[1] == 1:
        y = np.asarray(y)[:, 0]  # one column is classes, several are labels
    scorings = _listed(scoring)
    study = NestedStudy(
        estimator=estimator,
        data=_data(estimator, X, y, scorings[0], sample_weight, params or {}),
        classes=classes_of(y, is_classifier(estimator)),
        error_score=error_score,
        groups=None if groups is None else np.asarray(groups),
        weight=sample_weight,
        schemes=schemes,
        n_candidates=n_candidates,
        budgets=tuple(map(float, budgets)),
        inner_cv=inner_cv,
        seed=store.seed,
    )
    of_scores = [_data(estimator, X, y, one, sample_weight, params or {}).score_params for one in scorings]
    asked = dict(ChainMap(*of_scores))
    if not all(asked[name] is value for own in of_scores for name, value in own.items()):
        raise ValueError("All scores of scoring that ask for an argument must ask for the same, and these do not.")
    held_out = HeldOut(X, y, study.classes, is_classifier(estimator), list(schemes), asked)
    scorers = {name: held_out.checked_scorer(scoring) for name, scoring in zip(ropes, scorings, strict=True)}
    outer = OuterFolds(study, cv)
    _check_study(study, outer, n_seeds)
    with alone_in(out):
        store.open(_fingerprint(study, outer, params) if out is not None else "", held_out)
        run = StudyRun(
            study=study,
            outer=outer,
            store=store,
            scorers=scorers,
            plan=_plan(
                study, outer, n_repeats if outer.can_repeat else 1, n_seeds, minutes, learning_rate, ropes, store
            ),
            spread=Spread(study, n_jobs),
            started=started - store.elapsed(),
            on_progress=on_progress or (lambda done, total: None),
        )
        if on_plan is not None:
            run.plan = replace(run.plan, seconds=run.seconds_per_repeat())
            on_plan(run.plan)
        found = run.until_decided(on_look)
        store.finish(found)
        with run.spread.at_home():
            best = run.best_estimator(found.best_scheme)
            diagnosis = diagnose(best, X)
        run.on_progress(run.done, run.done)
        return replace(found, best_estimator_=best, diagnosis=diagnosis)


def _checked_rows(X: Any, y: Any, groups: Any, sample_weight: Any) -> Any:
    """Return the weights of the rows; refuse rows that no study can be made of."""
    n_axes, _ = attempt(np.ndim, X)
    if n_axes != 2:
        raise ValueError("X must be a table of rows and columns, such as a DataFrame or an array of two dimensions.")
    values, _ = attempt(np.asarray, y)
    if values is None or values.ndim == 0 or len(values) != num_samples(X):
        raise ValueError(f"y must have a value for each of the {num_samples(X)} rows of X.")
    if pd.isna(values).any():
        raise ValueError("y must not have missing values: leave their rows out of X and y.")
    check_one_kind(values)
    # with one class every scheme is perfect, and every difference 0
    if (values == values[:1]).all():
        raise ValueError("y must have at least 2 different values for schemes to be compared.")
    if groups is not None and (np.shape(groups) != values.shape[:1] or pd.isna(groups).any()):
        raise ValueError(f"groups must have a value for each of the {len(values)} rows of X, none missing.")
    if sample_weight is None:
        return None
    return check_sample_weight(sample_weight, X, ensure_non_negative=True)


def _checked(
    estimator: Any, schemes: Any, learning_rate: str, scoring: Any, rope: Any
) -> tuple[dict[str, Mapping[str, Any]], dict[str, float]]:
    """Return the schemes, and the rope of each score; refuse what no study can be made of."""
    network, _ = network_in(estimator)
    if network is None:
        raise ValueError(f"estimator must be or end in a BNMLPClassifier or BNMLPRegressor, got {estimator!r}.")
    if network.members is not None:
        raise ValueError("estimator must have members=None: members that differ would keep their own regularization.")
    check_params(network)
    found = checked_schemes(schemes)
    if learning_rate == "fixed":
        found = {name: {"learning_rate_init": network.learning_rate_init, **own} for name, own in found.items()}
    for name, params in found.items():
        _, failure = attempt(_check_scheme, network, params)
        if failure is not None:
            reason = str(failure.raised).rstrip(".")
            raise ValueError(f"No network can have the parameters of scheme {name!r} in schemes: {reason}.")
    names = [metric_name(estimator, score) for score in _listed(scoring)]
    if isinstance(rope, Mapping) and not rope.keys() <= set(names):
        raise ValueError(f"rope must have names of the scores {names} as keys, got {list(rope)}.")
    ropes: dict[str, float] = {}
    for score in _listed(scoring):
        name = metric_name(estimator, score)
        own = rope.get(name) if isinstance(rope, Mapping) else rope
        ropes[name] = default_rope(score) if own is None else own
        if not is_number(ropes[name]) or not 0 < ropes[name] < np.inf:
            raise ValueError(f"rope must be greater than 0, got {ropes[name]!r}.")
    if not ropes or len(ropes) < len(_listed(scoring)):
        raise ValueError(f"scoring must name at least one score, and each once, got {scoring!r}.")
    return found, ropes


def _check_scheme(network: Any, own: Mapping[str, Any]) -> None:
    """Refuse parameters that no network can have: the first fit would tell that late."""
    if "members" in own:
        raise ValueError("members that differ would keep their own regularization.")
    params = {
        name: value
        for name, value in own.items()
        if not (name == "l2" and isinstance(value, TunedL2)) and (name, value) != ("dropout", TUNED)
    }
    tried = clone(network).set_params(**params)
    check_params(tried)
    l2_by_role(tried.l2, tried.l2_targets)


def _listed(scoring: Any) -> list[Any]:
    return list(scoring) if isinstance(scoring, list | tuple) else [scoring]


def _check_folds_and_budgets(inner_cv: Any, budgets: Sequence[float]) -> None:
    n_folds, failure = attempt(n_folds_of, inner_cv)
    if failure is not None or n_folds < 2:
        raise ValueError(f"inner_cv must be a splitter with at least 2 folds on any rows, got {inner_cv!r}.")
    if (
        getattr(budgets, "ndim", 1) != 1
        or not len(budgets)
        or not all(is_number(budget) and 0 <= budget < np.inf for budget in budgets)
    ):
        raise ValueError(f"budgets must be one or more finite numbers, none negative, got {budgets}.")


def _check_study(study: NestedStudy, outer: OuterFolds, n_seeds: Any) -> None:
    if n_seeds != "auto" and n_seeds < study.n_networks:
        raise ValueError(f"n_seeds must be at least the estimator's n_ensemble, {study.n_networks}, got {n_seeds!r}.")
    # the spread of differences over folds is what everything is judged by
    if len(outer.repeat(0)) < 2:
        raise ValueError(f"cv must give at least 2 outer folds, got {len(outer.repeat(0))}.")


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


def _plan(
    study: NestedStudy, outer: OuterFolds, n_repeats: Any, n_seeds: Any, minutes: float, learning_rate: str,
    ropes: Mapping[str, float], store: Store,
) -> StudyPlan:  # fmt: skip
    settings = study.candidates.settings(store.seed)
    rates = {study.candidates.learning_rate(name, setting) for name in study.schemes for setting in settings}
    splits = outer.repeat(0)
    return StudyPlan(
        n_rows=len(study.data.y),
        n_features=np.shape(study.data.X)[1],
        schemes=tuple(study.schemes),
        n_candidates=study.n_candidates,
        inner_cv=n_folds_of(study.inner_cv),
        n_folds=len(splits),
        n_repeats=n_repeats,
        n_seeds=n_seeds,
        minutes=minutes,
        n_networks=study.n_networks,
        learning_rate=learning_rate,
        learning_rates=tuple(sorted(rates)),
        budgets=tuple(sorted({setting["budget"] for setting in settings})),
        metrics=ropes,
        test_ratio=float(np.mean([len(test) / len(train) for train, test in splits])),
        n_tuning_fits=study.n_tuning_fits,
        seconds=float("nan"),
        random_state=store.seed,
        versions=store.versions,
    )


def _fingerprint(study: NestedStudy, outer: OuterFolds, params: Any) -> str:
    """Return a hash of the study's data and settings: results of another study must not be taken for its own.

    Scores, ropes, and the numbers of seeds and repeats are not among them: they decide which results count.
    """
    X = study.data.X
    # pandas hashes words and dates by their values; joblib would pickle them, in a way that changes with versions
    content = np.asarray(pd.util.hash_pandas_object(X)) if isinstance(X, pd.DataFrame) else np.asarray(X)
    columns = list(map(str, X.columns)) if isinstance(X, pd.DataFrame) else None
    # predictions are stored in the order of the schemes; what scorers are given, tuning's score is given too
    settings = (
        list(study.schemes.items()), study.n_candidates, study.budgets, study.inner_cv, study.seed, params,
        study.error_score, columns, sorted(study.data.score_params),
    )  # fmt: skip
    parts = (content, np.asarray(study.data.y), study.groups, study.weight, study.estimator, settings, outer.repeat(0))
    # joblib pickles what it hashes, and wraps what any object may raise then
    found, failure = attempt(joblib.hash, parts)
    if failure is not None:
        raise ValueError(
            "A study with out must be able to pickle the estimator and params: give functions names in a module, not "
            f"lambdas. {failure.raised.args[0]}"
        )
    return str(found)
