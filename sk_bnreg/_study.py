"""compare_schemes: regularisation schemes compared on one data set by nested cross-validation."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from time import perf_counter
from typing import Any

import joblib
import numpy as np
import pandas as pd
from scipy.stats import qmc
from sklearn.base import clone, is_classifier
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import GroupKFold, RepeatedKFold, RepeatedStratifiedKFold, StratifiedGroupKFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.multiclass import type_of_target

from sk_bnreg._base import BaseBNMLP
from sk_bnreg._fit import fit_stack
from sk_bnreg._roles import l2_by_role
from sk_bnreg._stats import Contrast, contrast

SCHEMES: dict[str, dict[str, Any]] = {
    "plain": {"batch_norm": False, "l2_targets": "none"},
    "l2": {"batch_norm": False, "l2_targets": "weights"},
    "bn": {"batch_norm": True, "l2_targets": "none"},
    "bn+l2": {"batch_norm": True, "l2_targets": "weights"},
    "bn+l2+gamma+beta": {"batch_norm": True, "l2_targets": "weights+gamma+beta"},
}

# (what, given what, the scheme with both, the scheme without)
QUESTIONS = (
    ("L2 on the weights", "batch norm", "bn+l2", "bn"),
    ("batch norm", "L2", "bn+l2", "l2"),
    ("L2 on gamma and beta", "batch norm and L2 on the weights", "bn+l2+gamma+beta", "bn+l2"),
)

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

RATE_DECADES = (-1.0, 0.5)  # learning rates tried, in powers of ten times the estimator's own
BUDGET_DECADES = (-1.5, 1.0)  # decay budgets tried
LOSS_L2_DECADES = (-6.0, -1.0)  # l2 tried where no budget exists: Adam with l2_mode="loss"


_PREDICATES = {"redundant": "is redundant", "helps": "helps", "hurts": "hurts", "undecided": "is undecided"}


@dataclass(frozen=True)
class Answer:
    """What the contrast of two schemes says of `subject`, the thing in which they differ."""

    subject: str
    given: str
    scheme: str
    against: str
    contrast: Contrast

    def __str__(self) -> str:
        c = self.contrast
        sentence = f"{self.subject} {_PREDICATES[c.verdict]} given {self.given} (difference {c.mean:+.4f}, "
        sentence += f"95 % interval {c.low:+.4f} to {c.high:+.4f}"
        if c.verdict == "undecided":
            return f"{sentence}, rope {c.rope:g}; with this spread {c.n_folds} folds can confirm {c.resolution:.4f})"
        return f"{sentence}, rope {c.rope:g})"


@dataclass(frozen=True)
class SchemeComparison:
    """What `compare_schemes` found.

    Attributes
    ----------
    frame : DataFrame
        A row per scheme and outer fold: the tuned learning rate, decay budget and l2, the
        inner and the outer score, rows, seconds and network fits.
    schemes : dict
        The schemes by name.
    metric : str
        Name of the score; greater is better.
    rope : float
        Differences smaller than this do not matter.
    best_estimator_ : estimator
        The scheme with the best mean score, tuned and fitted on all rows.
    """

    frame: pd.DataFrame
    schemes: Mapping[str, Mapping[str, Any]]
    metric: str
    rope: float
    best_estimator_: Any

    @property
    def best_scheme(self) -> str:
        """Name of the scheme with the best mean score."""
        return str(self._scores().mean().idxmax())

    def table(self) -> pd.DataFrame:
        """Return each scheme's score, difference to the best with its corrected interval, and median settings."""
        scores, best = self._scores(), self.best_scheme
        tuned = self.frame.groupby("scheme")[["learning_rate_init", "budget"]].median()
        rows = []
        for scheme in self.schemes:
            against = self._contrast(scheme, best)
            rows.append(
                {
                    "scheme": scheme,
                    "score": scores[scheme].mean(),
                    "difference": against.mean,
                    "low": against.low,
                    "high": against.high,
                }
            )
        return pd.DataFrame(rows).set_index("scheme").join(tuned)

    def verdicts(self) -> list[Answer]:
        """Return an answer to each question whose schemes were compared; else the best scheme against each other."""
        asked = [question for question in QUESTIONS if {question[2], question[3]} <= set(self.schemes)]
        best = self.best_scheme
        asked = asked or [(f"scheme {best!r}", f"{name!r}", best, name) for name in self.schemes if name != best]
        return [Answer(*question, self._contrast(*question[2:])) for question in asked]

    def interaction(self) -> Contrast:
        """Return the contrast (bn+l2 - bn) - (l2 - plain): does L2 do more, or less, beside batch norm?"""
        scores = self._scores()
        return self._judge((scores["bn+l2"] - scores["bn"]) - (scores["l2"] - scores["plain"]))

    def sentence(self) -> str:
        """Return the verdicts as one sentence."""
        return "On this table " + "; ".join(map(str, self.verdicts())) + "."

    def _scores(self) -> pd.DataFrame:
        return self.frame.pivot(index="fold", columns="scheme", values="score")[list(self.schemes)]

    def _contrast(self, scheme: str, other: str) -> Contrast:
        scores = self._scores()
        return self._judge(scores[scheme] - scores[other])

    def _judge(self, differences: pd.Series) -> Contrast:
        ratio = float((self.frame["n_test"] / self.frame["n_train"]).mean())
        return contrast(differences.to_numpy(), test_ratio=ratio, rope=self.rope)


def compare_schemes(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    schemes: Mapping[str, Mapping[str, Any]] | None = None,
    cv: Any = None,
    scoring: Any = None,
    groups: Any = None,
    sample_weight: Any = None,
    n_candidates: int = 12,
    inner_cv: int = 3,
    rope: float | None = None,
    random_state: Any = None,
    n_jobs: int | None = None,
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SchemeComparison:
    """Compare regularisation schemes on one data set, each tuned with the same effort.

    In every outer fold each scheme tries the same learning rates, with the same decay
    budgets where it has L2, on inner folds of the outer training rows; its best candidate
    is fitted on all of them and scored on the outer test rows, which nothing saw before.
    All candidates of all schemes and inner folds are trained in stacks.

    Parameters
    ----------
    estimator : BNMLPClassifier, BNMLPRegressor or Pipeline that ends in one
        Its parameters hold for all schemes; transformers are fitted inside each fold.
    X : array-like or DataFrame of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
    schemes : mapping of str to mapping, default=None
        Parameters of the network by name of the scheme; None compares `SCHEMES`. An `l2`
        or `learning_rate_init` that a scheme names is kept, not tuned.
    cv : int, splitter or iterable, default=None
        Outer folds; None is 5 folds twice (5 grouped folds with `groups`).
    scoring : str or scorer, default=None
        A scikit-learn score, by name or from `make_scorer`; None is accuracy or R2.
    groups : array-like of shape (n_samples,), default=None
        Rows of one group are never on both sides of a split.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights in training and in scoring.
    n_candidates : int, default=12
        Settings tried by each scheme.
    inner_cv : int, default=3
        Inner folds.
    rope : float, default=None
        Differences smaller than this do not matter. None is 0.01 for scores whose best
        value is 1; any other score asks for it.
    random_state : int, RandomState instance or None, default=None
        Determines folds, candidates and networks.
    n_jobs : int or None, default=None
        Outer folds in parallel, through joblib.
    out : path, default=None
        A folder for ``results.parquet``, written after every outer fold, and
        ``best_estimator.joblib``. A study that was interrupted goes on from there when it
        is started again with the same data and settings.
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
    >>> study = compare_schemes(net, X, y, cv=2, n_candidates=2, inner_cv=2, random_state=0)
    >>> list(study.table().index)
    ['plain', 'l2', 'bn', 'bn+l2', 'bn+l2+gamma+beta']
    """
    schemes = dict(SCHEMES if schemes is None else schemes)
    at_least = {"schemes": (len(schemes), 2), "n_candidates": (n_candidates, 1), "inner_cv": (inner_cv, 2)}
    for name, (value, least) in at_least.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    rope = _default_rope(scoring) if rope is None else rope
    if rope <= 0:
        raise ValueError(f"rope must be greater than 0, got {rope}.")
    if not isinstance(_last_step(estimator), BaseBNMLP):
        raise ValueError(f"estimator must be or end in a BNMLPClassifier or BNMLPRegressor, got {estimator!r}.")
    if len(np.unique(np.asarray(y), axis=0)) < 2:
        raise ValueError("y must have at least 2 different values for schemes to be compared.")
    store = _Store(out, random_state)
    y = y if hasattr(y, "iloc") else np.asarray(y)
    if cv is None or isinstance(cv, Integral):
        n_repeats = 2 if cv is None else 1
        cv = _folds(5 if cv is None else int(cv), n_repeats, estimator, y, groups, store.seed)
    splits = list(check_cv(cv, y).split(X, y, groups))
    study = _Study(
        estimator=estimator,
        X=X,
        y=y,
        groups=None if groups is None else np.asarray(groups),
        sample_weight=None if sample_weight is None else np.asarray(sample_weight),
        schemes=schemes,
        candidates=_candidates(n_candidates, store.seed),
        inner_cv=inner_cv,
        scoring=scoring,
        seed=store.seed,
    )
    finished = store.open(study, splits)
    total = len(splits) * study.n_fits + study.n_fits // len(schemes)
    done = len(finished) * study.n_fits

    def progress(n_fits: int) -> None:
        nonlocal done
        done += n_fits
        if on_progress is not None:
            on_progress(done, total)

    progress(0)
    alone = joblib.effective_n_jobs(n_jobs) == 1
    waiting = [fold for fold in range(len(splits)) if fold not in finished]
    jobs = (joblib.delayed(study.run_fold)(fold, *splits[fold], progress if alone else None) for fold in waiting)
    for rows in joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(jobs):
        store.add(rows)
        if not alone:
            progress(study.n_fits)
    metric = ("accuracy" if is_classifier(estimator) else "r2") if scoring is None else str(scoring)
    found = SchemeComparison(store.frame(list(schemes)), schemes, metric, rope, None)
    best = study.best_estimator(found.best_scheme, progress)
    store.save_best(best)
    return replace(found, best_estimator_=best)


@dataclass
class _Study:
    """Everything that an outer fold needs to know."""

    estimator: Any
    X: Any
    y: Any
    groups: np.ndarray | None
    sample_weight: np.ndarray | None
    schemes: dict[str, Mapping[str, Any]]
    candidates: list[dict[str, float]]
    inner_cv: int
    scoring: Any
    seed: int

    @property
    def n_fits(self) -> int:
        """Network fits of one outer fold."""
        return len(self.schemes) * (len(self.candidates) * self.inner_cv + 1)

    def run_fold(
        self, fold: int, train: np.ndarray, test: np.ndarray, progress: Callable[[int], None] | None
    ) -> list[dict[str, Any]]:
        """Tune every scheme inside the outer training rows and score it once on the test rows."""
        start = perf_counter()
        chosen = self._tune(list(self.schemes), train, progress)
        part = _Part(self, train, test)
        networks = part.fit([(name, candidate) for name, (candidate, _) in chosen.items()], progress)
        rows = []
        for network, (name, (_, inner_score)) in zip(networks, chosen.items(), strict=True):
            if not hasattr(network, "net_"):
                raise ValueError(
                    f"The tuned network of scheme {name!r} diverged in fold {fold}: lower learning_rate_init."
                )
            rows.append(
                {
                    "scheme": name,
                    "fold": fold,
                    "learning_rate_init": network.learning_rate_init,
                    "budget": max(row.budget for row in network.l2_report_ if row.n_parameters),
                    "l2": network.l2 if isinstance(network.l2, Real) else float("nan"),
                    "inner_score": inner_score,
                    "score": part.score(network),
                    "n_train": len(train),
                    "n_test": len(test),
                    "n_fits": self.n_fits // len(self.schemes),
                    "seconds": (perf_counter() - start) / len(self.schemes),
                }
            )
        return rows

    def best_estimator(self, scheme: str, progress: Callable[[int], None]) -> Any:
        """Tune one scheme on all rows and fit it."""
        rows = np.arange(len(self.y))
        candidate, _ = self._tune([scheme], rows, progress)[scheme]
        part = _Part(self, rows, rows[:0])
        (network,) = part.fit([(scheme, candidate)], progress)
        if not isinstance(self.estimator, Pipeline):
            return network
        if part.steps is None:
            return Pipeline([(self.estimator.steps[0][0], network)])
        return Pipeline([*part.steps.steps, (self.estimator.steps[-1][0], network)])

    def network(self, scheme: str, candidate: int, n_rows: int) -> Any:
        """Return the unfitted network of a scheme's candidate for so many training rows."""
        scheme_params, setting = self.schemes[scheme], self.candidates[candidate]
        network = clone(_last_step(self.estimator)).set_params(random_state=self.seed, **scheme_params)
        if "learning_rate_init" not in scheme_params:
            network.set_params(learning_rate_init=network.learning_rate_init * setting["rate"])
        if "l2" in scheme_params:
            return network
        if not any(l2_by_role(1.0, network.l2_targets).values()):
            return network.set_params(l2=0.0)
        if network.l2_mode == "loss" and network.solver == "adam":
            return network.set_params(l2=setting["loss_l2"])
        return network.set_params(l2=network.l2_for_budget(setting["budget"], n_rows))

    def _tune(
        self, names: Sequence[str], rows: np.ndarray, progress: Callable[[int], None] | None
    ) -> dict[str, tuple[int, float]]:
        """Return each scheme's best candidate and its mean score over inner folds of `rows`."""
        groups = None if self.groups is None else self.groups[rows]
        y = _safe_indexing(self.y, rows)
        inner = _folds(self.inner_cv, 1, self.estimator, y, groups, self.seed)
        wanted = [(name, candidate) for name in names for candidate in range(len(self.candidates))]
        scores = []
        for fit, check in inner.split(np.empty(len(rows)), y, groups):
            part = _Part(self, rows[fit], rows[check])
            scores.append([part.score(network) for network in part.fit(wanted, progress)])
        means = np.mean(scores, axis=0).reshape(len(names), -1)
        if np.isnan(means).all(axis=1).any():
            raise ValueError(
                "Every candidate of a scheme diverged in an inner fold: lower learning_rate_init or scale X."
            )
        return {name: (int(np.nanargmax(row)), float(np.nanmax(row))) for name, row in zip(names, means, strict=True)}


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

    def fit(self, wanted: Sequence[tuple[str, int]], progress: Callable[[int], None] | None) -> list[Any]:
        """Fit the networks of these (scheme, candidate) pairs, in stacks."""
        networks = [self.study.network(scheme, candidate, self.n_rows) for scheme, candidate in wanted]
        fit_stack(networks, self.X, self.y, sample_weight=self.weight)
        if progress is not None:
            progress(len(networks))
        return networks

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


class _Store:
    """Where a study keeps its finished folds: in memory, and in a folder if there is one."""

    def __init__(self, out: str | Path | None, random_state: Any):
        self.folder = None if out is None else Path(out)
        self.rows: list[dict[str, Any]] = []
        stored = self._stored()
        if random_state is None and stored:
            self.seed = stored["random_state"]
        else:
            self.seed = int(
                np.random.RandomState().randint(2**31 - 1)
                if random_state is None
                else check_random_state(random_state).randint(2**31 - 1)
            )

    def _stored(self) -> dict[str, Any]:
        if self.folder is None or not (self.folder / "study.json").exists():
            return {}
        return json.loads((self.folder / "study.json").read_text())

    def open(self, study: _Study, splits: Sequence[tuple[np.ndarray, np.ndarray]]) -> set[int]:
        """Return the folds that an earlier run of the same study finished."""
        if self.folder is None:
            return set()
        fingerprint = _fingerprint(study, splits)
        stored = self._stored()
        results = self.folder / "results.parquet"
        if (stored or results.exists()) and stored.get("fingerprint") != fingerprint:
            raise ValueError(
                f"out={str(self.folder)!r} holds another study (other data, estimator or settings); "
                "name another folder or delete this one."
            )
        if not stored:
            self.folder.mkdir(parents=True, exist_ok=True)
            versions = {name: version(name) for name in ("sk_bnreg", "torch", "scikit-learn", "skorch")}
            stored = {"fingerprint": fingerprint, "random_state": self.seed, "versions": versions}
            self._replace("study.json", lambda path: path.write_text(json.dumps(stored, indent=1)))
        if results.exists():
            frame = pd.read_parquet(results)
            self.rows = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
        return {row["fold"] for row in self.rows}

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a finished fold."""
        self.rows += rows
        if self.folder is not None:
            self._replace("results.parquet", lambda path: pd.DataFrame(self.rows).to_parquet(path))

    def save_best(self, estimator: Any) -> None:
        """Write the best estimator."""
        if self.folder is not None:
            self._replace("best_estimator.joblib", lambda path: joblib.dump(estimator, path))

    def frame(self, schemes: Sequence[str]) -> pd.DataFrame:
        """Return all rows, by fold and scheme."""
        place = {(row["fold"], schemes.index(row["scheme"])): row for row in self.rows}
        return pd.DataFrame([place[key] for key in sorted(place)])

    def _replace(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file beside its place and move it there, so that a kill leaves the old one whole."""
        assert self.folder is not None
        part = self.folder / f"{name}.part"
        write(part)
        os.replace(part, self.folder / name)


def _fingerprint(study: _Study, splits: Any) -> str:
    frame = isinstance(study.X, pd.DataFrame)
    content = np.asarray(pd.util.hash_pandas_object(study.X)) if frame else np.asarray(study.X)
    settings = (study.schemes, study.candidates, study.inner_cv, study.scoring, study.seed)
    return joblib.hash(
        (content, np.asarray(study.y), study.groups, study.sample_weight, study.estimator, settings, splits)
    )


def _folds(n_splits: int, n_repeats: int, estimator: Any, y: Any, groups: Any, seed: int) -> Any:
    """Return shuffled folds: stratified for classes, grouped where there are groups."""
    stratified = is_classifier(estimator) and type_of_target(y) in ("binary", "multiclass")
    if groups is not None:
        cls = StratifiedGroupKFold if stratified else GroupKFold
        return cls(n_splits=n_splits, shuffle=True, random_state=seed)
    repeated = RepeatedStratifiedKFold if stratified else RepeatedKFold
    return repeated(n_splits=n_splits, n_repeats=n_repeats, random_state=seed)


def _candidates(n_candidates: int, seed: int) -> list[dict[str, float]]:
    """Spread candidates over learning rate and budget (or l2), evenly on logarithmic scales."""
    points = qmc.Halton(2, rng=seed).random(n_candidates)
    decades = {"rate": (RATE_DECADES, 0), "budget": (BUDGET_DECADES, 1), "loss_l2": (LOSS_L2_DECADES, 1)}
    return [
        {name: float(10 ** np.interp(point[axis], (0, 1), ends)) for name, (ends, axis) in decades.items()}
        for point in points
    ]


def _last_step(estimator: Any) -> Any:
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def _default_rope(scoring: Any) -> float:
    if isinstance(scoring, str) and scoring not in get_scorer_names():
        raise ValueError(f"scoring must be a score in sklearn.metrics.get_scorer_names(), got {scoring!r}.")
    if scoring is None or (isinstance(scoring, str) and scoring.startswith(BOUNDED_SCORES)):
        return 0.01
    raise ValueError(f"rope must be given for scoring={scoring!r}: the largest difference that does not matter to you.")
