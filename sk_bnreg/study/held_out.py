"""HeldOut: what the networks of a study predicted for rows that they had not seen, and any score of it."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from sklearn import get_config
from sklearn.base import is_classifier
from sklearn.metrics import (
    brier_score_loss,
    check_scoring,
    d2_brier_score,
    d2_log_loss_score,
    get_scorer_names,
    log_loss,
    make_scorer,
    r2_score,
)
from sklearn.utils.metadata_routing import get_routing_for_object

from sk_bnreg.borrowed import check_method_params, safe_indexing
from sk_bnreg.search.evaluation import attempt
from sk_bnreg.search.predictions import after_mean, before_mean, classes_of, predicted
from sk_bnreg.study.warned import recorded

Found = TypeVar("Found")
Place = tuple[int, int]  # an outer fold: its repeat, its number
WEIGHTS = "score "  # begins the names of columns in target.parquet that scorers are given
PROPER = {
    "d2_brier_score": (d2_brier_score, True),
    "d2_log_loss_score": (d2_log_loss_score, True),
    "neg_brier_score": (brier_score_loss, False),
    "neg_log_loss": (log_loss, False),
}  # scores that must be told of the classes that a fold may lack, and whether greater is better
# beginnings of the names of scores whose best value is 1, for which a difference of 0.01 is the default rope
BOUNDED_SCORES = (
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "d2_",
    "explained_variance",
    "f1",
    "jaccard",
    "matthews",
    "precision",
    "r2",
    "recall",
    "roc_auc",
    "top_k_accuracy",
)


def default_rope(scoring: Any) -> float:
    """Return the largest difference that does not matter, for scores bounded by 1; others must be asked for it."""
    _check_name(scoring)
    if scoring is None or (isinstance(scoring, str) and scoring.startswith(BOUNDED_SCORES)):
        return 0.01
    raise ValueError(f"rope must be given for scoring={scoring!r}: the largest difference that does not matter to you.")


def metric_name(estimator: Any, scoring: Any) -> str:
    """Return the name of the score that `scoring` means for an estimator."""
    _check_name(scoring)
    return ("accuracy" if is_classifier(estimator) else "r2") if scoring is None else str(scoring)


def _check_name(scoring: Any) -> None:
    if isinstance(scoring, str) and scoring not in get_scorer_names():
        raise ValueError(f"scoring must be a score in sklearn.metrics.get_scorer_names(), got {scoring!r}.")


def proper_score(estimator: Any, X: Any, y: Any, sample_weight: Any = None, **_: Any) -> float:
    """Score an estimator by what tuning compares: the mean log probability of what happened, or R2.

    Whatever is reported, a proper score tells two candidates apart by all rows, accuracy by those near a border.
    """
    if not is_classifier(estimator):
        return float(r2_score(y, estimator.predict(X), sample_weight=sample_weight))
    probability = estimator.predict_proba(X)
    y = np.asarray(y)
    if y.ndim > 1:  # labels
        happened = np.where(y > 0, probability, 1 - probability)
    else:
        # a class that training had no row of has no column, and no probability
        columns = np.searchsorted(estimator.classes_, y).clip(max=len(estimator.classes_) - 1)
        happened = np.where(estimator.classes_[columns] == y, probability[np.arange(len(y)), columns], 0.0)
    logs = np.log(np.clip(happened, np.finfo(np.float32).tiny, 1)).reshape(len(y), -1).sum(axis=1)
    return float(np.average(logs, weights=sample_weight))


class FoldOutputs(NamedTuple):
    """Predictions in one outer fold.

    Attributes
    ----------
    rows : ndarray of int
        Its test rows.
    outputs : ndarray of shape (n_schemes, n_seeds, n_test, n_columns)
    """

    rows: np.ndarray
    outputs: np.ndarray


@dataclass
class HeldOut:
    """The predictions of a study.

    Attributes
    ----------
    X : array-like or None
        All rows, for scorers that look at them.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
    classes : ndarray or None
        All classes; None for several labels, and for numbers.
    classifier : bool
    schemes : list of str
    score_params : dict
        For scorers, cut to a fold's rows where they have an entry per row.
    folds : dict of (repeat, fold) to FoldOutputs
    """

    X: Any
    y: Any
    classes: np.ndarray | None
    classifier: bool
    schemes: list[str]
    score_params: Mapping[str, Any] = field(default_factory=dict)
    folds: dict[Place, FoldOutputs] = field(default_factory=dict)

    @property
    def proper(self) -> str:
        """Name of what `proper_score` computes: greater is better."""
        return "minus log loss" if self.classifier else "R2"

    def scorer(self, scoring: Any) -> Any:
        """Return the scorer that `scoring` means; one of probabilities knows all classes, whatever a fold lacks."""
        if self.classes is not None and isinstance(scoring, str) and scoring in PROPER:
            score, greater_is_better = PROPER[scoring]
            return make_scorer(
                score, greater_is_better=greater_is_better, response_method="predict_proba", labels=self.classes
            )
        return check_scoring(self._predicted(np.zeros((1, 1))), scoring)

    def checked_scorer(self, scoring: Any) -> Any:
        """Return the scorer that `scoring` means, if it can score this target: a fold would tell that late."""
        scorer = self.scorer(scoring)
        scoring = ("accuracy" if self.classifier else "r2") if scoring is None else scoring
        y = np.asarray(self.y)
        # the truth itself, for numbers what is not whole: a score of classes would take whole ones for its own
        outputs = y[:, None] == self.classes if self.classes is not None else y if self.classifier else y + 0.5
        predicted = self._predicted(outputs.astype(float).reshape(len(y), -1))
        with recorded():  # folds will warn of the same
            value, failure = attempt(lambda: float(scorer(predicted, self.X, self.y, **self._params_of(scorer))))
        if failure is not None and "pos_label" in str(failure.raised):
            raise ValueError(
                f"The score {scoring!r} must know which of {list(self.classes)} is the positive class: code them 0 and "  # type: ignore[arg-type]
                "1, take a score without one, such as f1_macro or roc_auc, or give make_scorer(..., pos_label=...)."
            )
        if failure is not None:
            why = str(failure.raised).removesuffix(".")
            raise ValueError(f"The score {scoring!r} is not defined for this target: {why}.")
        if not np.isfinite(value):
            raise ValueError(f"The score {scoring!r} must be a finite number, and is {value} for the truth itself.")
        return scorer

    def scores(self, place: Place, scorer: Any, n_networks: int, n_seeds: int) -> Iterator[tuple[str, int, float]]:
        """Score the predictions of one outer fold.

        Parameters
        ----------
        place : (repeat, fold)
        scorer : callable
        n_networks : int
            Networks of which each score is of the mean prediction; those left over count for none.
        n_seeds : int
            Networks of each scheme that count.

        Yields
        ------
        (scheme, seed, score)
            `seed` is the number of the network, or of the first of several.
        """
        rows, networks = self.folds[place]
        y = safe_indexing(self.y, rows)
        X = None if self.X is None else safe_indexing(self.X, rows)
        params = check_method_params(np.empty(len(self.y)), self._params_of(scorer), rows)
        for name, of_scheme in zip(self.schemes, networks, strict=True):
            for seed in range(0, n_seeds - n_networks + 1, n_networks):
                mean = before_mean(of_scheme[seed : seed + n_networks], self.classes, self.classifier).mean(axis=0)
                outputs = after_mean(mean, self.classes, self.classifier)
                yield name, seed, float(scorer(self._predicted(outputs), X, y, **params))

    def save_target(self, path: Path) -> None:
        """Write what scores need beside the predictions: the target, and weights of rows."""
        y = pd.DataFrame(np.asarray(self.y)) if np.ndim(self.y) > 1 else pd.DataFrame({"y": np.asarray(self.y)})
        params = {f"{WEIGHTS}{name}": np.asarray(value) for name, value in self.score_params.items()}
        y.rename(columns=str).assign(**params).to_parquet(path, index=False)

    @classmethod
    def load(cls, folder: Path, schemes: list[str], classifier: bool) -> "HeldOut":
        """Read what a study left in its folder.

        Parameters
        ----------
        folder : path
        schemes : list of str
        classifier : bool

        Returns
        -------
        HeldOut
            Without the rows themselves.
        """
        target = undamaged(folder / "target.parquet", pd.read_parquet)
        weights = [str(name) for name in target if str(name).startswith(WEIGHTS)]
        params = {name.removeprefix(WEIGHTS): target.pop(name).to_numpy() for name in weights}
        y = target["y"].to_numpy() if list(target) == ["y"] else target.to_numpy()
        found = cls(None, y, classes_of(y, classifier), classifier, schemes, params)
        for path in (folder / "held_out").glob("*.npz"):
            repeat, _, fold = path.stem.partition("-")
            found.folds[int(repeat), int(fold)] = load_outputs(path)
        return found

    def _params_of(self, scorer: Any) -> Mapping[str, Any]:
        """Return what a scorer is given: with metadata routing what it asks for."""
        if not get_config()["enable_metadata_routing"]:
            return self.score_params
        asked = get_routing_for_object(scorer).score.requests
        return {name: value for name, value in self.score_params.items() if asked.get(name)}

    def _predicted(self, outputs: np.ndarray) -> Any:
        return predicted(outputs, self.classes, self.classifier, flat=np.ndim(self.y) == 1)


def as_path(given: Any, name: str) -> Path:
    """Return the path that an argument gives."""
    if not isinstance(given, str | PathLike):
        raise TypeError(f"{name} must be a path, got {given!r}.")
    return Path(given)


def stored_comparison(folder: Path) -> dict[str, Any]:
    """Return what a finished study left in its folder: the attributes of its `SchemeComparison`."""
    about = undamaged(folder / "study.json", lambda path: json.loads(path.read_text()))
    frame, tuning = (undamaged(folder / f"{name}.parquet", pd.read_parquet) for name in ("results", "tuning"))
    names = ("schemes", "classifier", "metric", "rope", "test_ratio", "n_networks", "ropes")
    if not isinstance(about, dict) or not set(names) <= set(about):
        raise ValueError(f"{str(folder)!r} holds no finished comparison: study.json does not tell of one.")
    held_out = HeldOut.load(folder, about["schemes"], about["classifier"])
    lacking = set(zip(frame["repeat"], frame["fold"], strict=True)) - set(held_out.folds)
    if held_out.folds and lacking:  # a folder without any has scores to read, and none to take anew
        raise ValueError(f"{str(folder)!r} lacks the predictions of repeat and fold {sorted(lacking)} in held_out.")
    return {
        "frame": frame,
        "schemes": {name: {} for name in about["schemes"]},
        "held_out": held_out,
        "tuning": tuning,
        **{name: about[name] for name in names[2:]},
    }


def load_outputs(path: Path) -> FoldOutputs:
    """Read the predictions of a fold from its file."""

    def load(path: Path) -> FoldOutputs:
        with np.load(path, allow_pickle=False) as file:
            return FoldOutputs(file["rows"], file["outputs"])

    return undamaged(path, load)


def undamaged(path: Path, read: Callable[[Path], Found]) -> Found:
    """Return what a file of a study's folder holds, or say that it is damaged and what to do.

    Parameters
    ----------
    path : Path
    read : callable
        Called with it.

    Raises
    ------
    ValueError
        If it cannot be read.
    PermissionError
    """
    found, failure = attempt(read, path)
    if failure is not None and isinstance(failure.raised, PermissionError):  # nothing to be deleted
        raise failure.raised
    if failure is not None:
        raise ValueError(
            f"{path} is damaged: put a copy in its place or delete it, and the command that wrote it makes it again, "
            f"with what else that takes ({str(failure.raised).removesuffix('.')})."
        )
    return found


def scored(networks: pd.DataFrame, held_out: HeldOut, scorers: Mapping[str, Any], n_networks: int) -> pd.DataFrame:
    """Score the predictions of single networks, and of means of several.

    Parameters
    ----------
    networks : DataFrame
        A row per scheme, repeat, fold and seed; its folds and seeds are those that count.
    held_out : HeldOut
    scorers : dict of str to callable
        By the name of the metric.
    n_networks : int

    Returns
    -------
    DataFrame
        The rows of `networks`, for each `metric` and number of networks (`n_networks`) with a `score`. Means of several
        networks have the settings of the first.
    """
    networks = networks.drop(columns=["metric", "n_networks", "score"], errors="ignore")
    of_place: dict[Any, pd.DataFrame] = {
        place: rows.set_index(["scheme", "seed"]) for place, rows in networks.groupby(["repeat", "fold"])
    }
    found = []
    for metric, scorer in scorers.items():
        for size in sorted({1, n_networks}):
            for place, rows in of_place.items():
                n_seeds = 1 + rows.index.get_level_values("seed").max()
                scores = {(name, seed): score for name, seed, score in held_out.scores(place, scorer, size, n_seeds)}
                if np.isnan(list(scores.values())).any():
                    raise ValueError(
                        f"The score {metric} is not defined on {len(held_out.folds[place].rows)} rows of a fold: take "
                        "fewer folds or another score."
                    )
                found.append(rows.loc[list(scores)].assign(metric=metric, n_networks=size, score=list(scores.values())))
    return pd.concat(found).reset_index()
