"""What a search or an Optuna study has tried already, gathered into schemes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from sk_bnreg.engine.roles import l2_by_role
from sk_bnreg.estimators.pipelines import network_in
from sk_bnreg.study.schemes import SCHEMES, scheme_name

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
    caveat = (
        "Each scheme's scores are those of its best candidate, chosen on the same folds: they are optimistic, and "
        f"more so for a scheme with more candidates ({counts}). compare_schemes chooses inside each fold instead."
    )
    return pd.DataFrame(rows), {name: schemes[name] for name in ordered}, caveat


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
    trials = [t for t in study.trials if t.state.name == "COMPLETE" and "split1_test_score" in t.user_attrs]
    if not trials:
        raise ValueError(
            "The study's complete trials must hold their fold scores in the user attributes "
            "'split0_test_score', 'split1_test_score', ..., and there are none: set them in the objective."
        )
    n_folds = sum(name.startswith("split") and name.endswith("_test_score") for name in trials[0].user_attrs)
    # a trial knows what was varied; the rest of its network is the estimator's
    networks = [clone(network_in(estimator)[0]) for _ in trials]
    for network, trial in zip(networks, trials, strict=True):
        own = {name.rpartition("__")[2]: value for name, value in trial.params.items()}
        network.set_params(**{name: value for name, value in own.items() if name in network.get_params()})
    scores = np.array([[t.user_attrs[f"split{i}_test_score"] for i in range(n_folds)] for t in trials], float)
    scores = -scores if study.direction.name == "MINIMIZE" else scores
    return zip(networks, (trial.params for trial in trials), scores, strict=True), n_folds
