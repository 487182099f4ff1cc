"""What a search or an Optuna study has tried already, gathered into schemes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import BaseShuffleSplit, check_cv

from sk_bnreg.engine.roles import l2_by_role
from sk_bnreg.estimators.pipelines import network_in
from sk_bnreg.search.evaluation import candidate_of
from sk_bnreg.study.held_out import metric_name
from sk_bnreg.study.schemes import SCHEMES, scheme_name

LOSSES = ("log_loss", "brier_score", "rmse", "mae", "mape")  # skore's, of which less is better
Tried = tuple[Any, Mapping[str, Any], np.ndarray]


def best_of_schemes(candidates: Iterable[Tried]) -> tuple[pd.DataFrame, dict[str, Mapping[str, Any]], str]:
    """Gather candidates into schemes, each with the scores of its best one.

    Parameters
    ----------
    candidates : iterable of (network, params, scores)
        The network with all of its parameters, None for another kind of model; the parameters that were varied;
        the scores of its folds, nan for a fold that it did not run.

    Returns
    -------
    frame : DataFrame
        A row per scheme and fold, as in `SchemeComparison.frame`.
    schemes : dict of str to mapping
    caveat : str
        What such a choice biases.

    Raises
    ------
    ValueError
        If fewer than two schemes were tried.
    """
    found: dict[str, list[tuple[float, Mapping[str, Any], np.ndarray]]] = {}
    schemes = {}
    for network, params, scores in candidates:
        if network is None or not np.isfinite(scores).all():
            continue
        # by what is penalised with more than 0, so that l2=0 is the scheme without L2, whatever its targets
        strengths = l2_by_role(network.l2 if network.l2_budget is None else network.l2_budget, network.l2_targets)
        targets = tuple(role for role, strength in strengths.items() if strength)
        name = scheme_name(network.batch_norm, targets, network.l2_mode)
        schemes[name] = {"batch_norm": network.batch_norm, "l2_targets": targets, "l2_mode": network.l2_mode}
        found.setdefault(name, []).append((float(scores.mean()), params, scores))
    if len(found) < 2:
        raise ValueError(
            f"At least 2 schemes must have been tried to be compared, by batch_norm, l2_targets or l2; "
            f"found {list(found)}."
        )
    rows = []
    for name, tried in found.items():
        _, params, scores = max(tried, key=lambda candidate: candidate[0])
        settings = {f"param_{key.rpartition('__')[2]}": value for key, value in params.items()}
        rows += [
            {"scheme": name, "repeat": 0, "fold": fold, "seed": 0, "score": score, **settings}
            for fold, score in enumerate(scores)
        ]
    ordered = [name for name in (*SCHEMES, *(name for name in found if name not in SCHEMES)) if name in found]
    counts = ", ".join(f"{name} {len(found[name])}" for name in ordered)
    chosen = max(map(len, found.values())) > 1
    caveat = (
        "Each scheme's scores are those of its best candidate, chosen on the same folds: they are optimistic, and "
        f"more so for a scheme with more candidates ({counts}). compare_schemes chooses inside each fold instead."
    )
    return pd.DataFrame(rows), {name: schemes[name] for name in ordered}, caveat if chosen else ""


def candidates_of_search(search: Any) -> tuple[Iterator[Tried], Any, str]:
    """Return the candidates of a fitted search, its scoring, and the name of the score.

    Parameters
    ----------
    search : fitted GridSearchCV or RandomizedSearchCV, stacked or scikit-learn's

    Raises
    ------
    ValueError
        If it has several scores and `refit` names none, or only one fold.
    NotFittedError
    """
    if not hasattr(search, "cv_results_"):
        raise NotFittedError(f"search must be a fitted GridSearchCV or RandomizedSearchCV, got {search!r}.")
    if search.n_splits_ < 2:
        raise ValueError(f"search must have scores of at least 2 folds, got {search.n_splits_}.")
    results, scoring = search.cv_results_, search.scoring
    name, metric = "score", ""
    if search.multimetric_:
        name = metric = scoring = search.refit
        if f"mean_test_{name}" not in results:
            raise ValueError(f"refit must be the name of the score to compare by, got {search.refit!r}.")
    scores = np.array([results[f"split{i}_test_{name}"] for i in range(search.n_splits_)]).T
    if "n_splits_scored" in results:  # racing spared folds
        scores[np.less(results["n_splits_scored"], search.n_splits_)] = np.nan
    networks = [network_in(candidate_of(search.estimator, params))[0] for params in results["params"]]
    candidates = zip(networks, results["params"], scores, strict=True)
    return candidates, scoring, metric or metric_name(search.estimator, scoring)


def test_ratio_of(search: Any) -> float:
    """Return n_test / n_train of a fold of a fitted search.

    Raises
    ------
    ValueError
        If its splitter draws test rows, or made one fold.
    """
    splitter = check_cv(search.cv)
    # with repeats the splitter knows the folds of one
    n_folds = getattr(splitter, "cvargs", {}).get("n_splits", search.n_splits_)
    if isinstance(splitter, BaseShuffleSplit) or n_folds < 2:
        raise ValueError(f"test_ratio, n_test / n_train of a fold, must be given for cv={search.cv!r}.")
    return 1 / (n_folds - 1)


def candidates_of_skore(report: Any, metric: str | None) -> tuple[Iterator[Tried], str, float]:
    """Return the models of skore's comparison report as candidates, the name of the score, and n_test / n_train.

    Parameters
    ----------
    report : skore.ComparisonReport
    metric : str or None

    Raises
    ------
    ValueError
        If it is not of cross-validation reports over the same folds, or they have no such score.
    """
    reports = getattr(report, "reports_", None)
    if not isinstance(reports, Mapping) or not all(hasattr(own, "split_indices") for own in reports.values()):
        raise ValueError(f"report must be a skore.ComparisonReport of cross-validation reports, got {type(report)}.")
    parts = list(reports.values())
    folds = [list(own.split_indices) for own in parts]
    if any(len(own) != len(folds[0]) or not all(map(_same_fold, own, folds[0])) for own in folds):
        raise ValueError("The reports must be of the same folds: give all the same splitter, one that draws the same.")
    metric = metric or ("r2" if "regression" in parts[0].ml_task else "accuracy")
    methods: list[Any] = [getattr(own.metrics, metric, None) for own in parts]
    if not all(map(callable, methods)):
        raise ValueError(f"metric must be a score of the reports' metrics, got {metric!r}.")
    scores = np.array([np.asarray(method(aggregate=None), float) for method in methods])
    if scores.shape[1:] != (1, len(folds[0])):
        raise ValueError(f"metric must be a score with one value per fold, {metric!r} has {scores[0].size}.")
    test_ratio = float(np.mean([len(test) / len(train) for train, test in folds[0]]))
    networks = [network_in(own.estimator)[0] for own in parts]
    if metric in LOSSES:
        scores, metric = -scores, f"negative {metric}"
    return zip(networks, [{} for _ in parts], scores[:, 0], strict=True), metric, test_ratio


def _same_fold(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def candidates_of_study(study: Any, estimator: Any) -> tuple[Iterator[Tried], int]:
    """Return the complete trials of an Optuna study as candidates, and the number of their folds.

    Parameters
    ----------
    study : optuna.Study
        Its trials have fold scores as user attributes; where it minimised them, their negatives are taken.
    estimator : estimator
        For the parameters that the study did not vary.

    Raises
    ------
    ValueError
        If trials have no fold scores.
    """
    from optuna.study import Study

    if not isinstance(study, Study) or len(study.directions) > 1:
        raise TypeError(f"study must be an Optuna study of one value, got {study!r}.")
    network, _ = network_in(estimator)
    if network is None:
        raise TypeError(f"estimator must be or end in a BNMLPClassifier or BNMLPRegressor, got {estimator!r}.")
    trials = [t for t in study.trials if t.state.name == "COMPLETE" and "split1_test_score" in t.user_attrs]
    if not trials:
        raise ValueError(
            "The study's complete trials must hold their fold scores in the user attributes "
            "'split0_test_score', 'split1_test_score', ..., and there are none: set them in the objective."
        )
    n_folds = sum(name.startswith("split") and name.endswith("_test_score") for name in trials[0].user_attrs)
    # a trial knows what was varied; the rest of its network is the estimator's
    networks = [clone(network) for _ in trials]
    for network, trial in zip(networks, trials, strict=True):
        own = {name.rpartition("__")[2]: value for name, value in trial.params.items()}
        network.set_params(**{name: value for name, value in own.items() if name in network.get_params()})
    scores = np.array([[t.user_attrs[f"split{i}_test_score"] for i in range(n_folds)] for t in trials], float)
    scores = -scores if study.direction.name == "MINIMIZE" else scores
    return zip(networks, (trial.params for trial in trials), scores, strict=True), n_folds
