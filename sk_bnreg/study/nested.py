"""NestedStudy: schemes tuned on inner folds, whose networks then predict the outer ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.multiclass import type_of_target

from sk_bnreg.borrowed import safe_indexing
from sk_bnreg.engine.embedding import embeddings_in_turn
from sk_bnreg.estimators.pipelines import network_in
from sk_bnreg.search.evaluation import Folds, Result, Scoring, evaluate, message_of
from sk_bnreg.search.predictions import outputs_of
from sk_bnreg.search.splits import checked_splits
from sk_bnreg.study.candidates import Candidates, Setting
from sk_bnreg.study.held_out import Place, proper_score
from sk_bnreg.study.warned import recorded
from sk_bnreg.theory.rotation import NormRecorder

N_CALIBRATED = 8  # networks of which the plan's time is told
EVERYWHERE = (-1, 0)  # the place of what is fitted to all rows
TUNING, SETTINGS = -1, -2  # numbers of the network that scores candidates, and of the draw of these

Split = tuple[np.ndarray, ...]  # rows to train and to test on
Progress = Callable[[int], None]


class FoldResult(NamedTuple):
    """What an outer fold found.

    Attributes
    ----------
    networks : list of dict
        A row per scheme and seed: its settings, as in `SchemeComparison.frame`.
    tuning : list of dict
        A row per scheme and candidate, as in `SchemeComparison.tuning`; none where the schemes had been tuned before.
    outputs : ndarray of shape (n_schemes, n_seeds, n_test, n_columns)
        Predictions for the test rows.
    warned : set of (str, type)
        What transformers warned of, and the categories of these warnings.
    """

    networks: list[dict[str, Any]]
    tuning: list[dict[str, Any]]
    outputs: np.ndarray
    warned: set[tuple[str, type[Warning]]]


@dataclass
class NestedStudy:
    """Everything that an outer fold needs to know.

    Attributes
    ----------
    estimator : estimator
        Of all schemes.
    data : Folds
        All rows; its splits are not used.
    classes : ndarray or None
        All classes; None for several labels, and for numbers.
    error_score : "raise" or nan
        Inner score of a candidate whose fit fails.
    groups : ndarray or None
    weight : ndarray or None
        Of rows in training: those of weight 0 count for no budget.
    schemes : dict of str to mapping
    n_candidates, seed : int
    inner_cv : int or splitter
    budgets : tuple of float
    n_networks : int
        Networks of which the estimator is the mean. The study trains and predicts with them one by one.
    """

    estimator: Any
    data: Folds
    classes: np.ndarray | None
    error_score: Any
    groups: np.ndarray | None
    weight: np.ndarray | None
    schemes: dict[str, Mapping[str, Any]]
    n_candidates: int
    budgets: tuple[float, ...]
    inner_cv: Any
    seed: int

    def __post_init__(self) -> None:
        # a step that draws at random would make two schemes differ by its draws
        network, self.path = network_in(self.estimator)
        unseeded = {
            name: self.seed
            for name, value in self.estimator.get_params().items()
            if name.endswith("random_state") and value is None and name != self._named("random_state")
        }
        self.estimator = clone(self.estimator).set_params(**unseeded)
        # where schemes differ in the size of their ensembles, an ensemble is the network that is studied
        self.n_networks = 1 if any("n_ensemble" in own for own in self.schemes.values()) else network.n_ensemble
        self.single = clone(self.estimator)
        if self.n_networks > 1:
            self.single.set_params(**{self._named("n_ensemble"): 1})
        self.network, _ = network_in(self.single)
        self.candidates = Candidates(self.network, self.schemes, self.n_candidates, self.budgets)

    @property
    def n_tuning_fits(self) -> int:
        """Different networks that tuning trains in one outer fold, at most."""
        settings = self.candidates.settings(self.seed)
        rates = {
            (name, self.candidates.learning_rate(name, setting))
            for name in self.schemes
            if self.candidates.reference(name)
            for setting in settings
        }
        return (self.candidates.n_different(self._free(len(self.data.y))) + len(rates)) * n_folds_of(self.inner_cv)

    def random_state(self, scheme: str, place: Place, number: int) -> int:
        """Return the seed of a network: its own in every fold and for every number, the same for all schemes.

        A scheme that names a `random_state` has others than the rest.
        """
        # whole numbers of which any differs give unrelated seeds
        own = self.schemes[scheme].get("random_state", -1) + 1
        entropy = (self.seed, place[0] + 1, place[1], number + 2, own)
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)

    def tune(
        self, place: Place, rows: np.ndarray, names: Sequence[str], progress: Progress | None = None
    ) -> tuple[list[dict[str, Any]], int]:
        """Try every candidate on inner folds of some rows; schemes that follow others wait for what those chose.

        Parameters
        ----------
        place : (repeat, fold)
        rows : ndarray of int
            The outer training rows.
        names : sequence of str
            Of schemes.
        progress : callable or None
            Called with the number of networks that have been fitted since the last call.

        Returns
        -------
        tried : list of dict
            A row per scheme and candidate.
        n_fits : int
            Different networks that were trained.
        """
        splits = self.inner_splits(rows)
        n_rows = self._n_rows(splits[-1][0])  # of which the strengths in `tuning` are told; other folds differ by one
        tried: list[dict[str, Any]] = []
        n_fits = 0
        free = [name for name in names if not self.candidates.reference(name)]
        for group in (free, [name for name in names if name not in free]):
            chosen = self.chosen(tried)
            wanted = [
                (name, number, setting) for name in group for number, setting in enumerate(self._settings(name, place))
            ]
            params = [
                self.candidates.params(name, setting, n_rows, chosen, self.random_state(name, place, TUNING))
                for name, _, setting in wanted
            ]
            results = self._evaluate(params, splits, progress, Scoring(proper_score, self.error_score))
            n_fits += self.candidates.n_different(params) * len(splits)
            for (name, number, setting), own, of_candidate in zip(wanted, params, results, strict=True):
                # one failure in an inner fold fails the candidate: its other folds would be a mean over fewer rows
                scores = [self.error_score if r["fit_error"] else float(r["test_scores"]) for r in of_candidate]
                tried.append(
                    {
                        "repeat": place[0],
                        "fold": place[1],
                        "scheme": name,
                        "candidate": number,
                        "learning_rate_init": own["learning_rate_init"],
                        "l2": self.candidates.strength(own, n_rows),
                        "budget": self.candidates.budget(name, own, setting),
                        "dropout": own.get("dropout", self.network.dropout),
                        "inner_score": float(np.mean(scores)),
                    }
                )
            for name in group:
                if np.isnan([row["inner_score"] for row in tried if row["scheme"] == name]).all():
                    failed = next(r for (own, *_), r in zip(wanted, results, strict=True) if own == name)
                    raise ValueError(
                        f"Every candidate of scheme {name!r} failed in an inner fold; if they diverged, lower "
                        f"learning_rate_init or scale X. {_first_error(failed)}"
                    )
        return tried, n_fits

    def chosen(self, tried: Sequence[Mapping[str, Any]]) -> dict[str, Setting]:
        """Return the setting that each scheme takes, by what `tune` tried in one place."""
        best: dict[str, Mapping[str, Any]] = {}
        for row in tried:
            if not np.isnan(row["inner_score"]):
                best[row["scheme"]] = max(best.get(row["scheme"], row), row, key=lambda each: each["inner_score"])
        return {
            name: self._settings(name, (row["repeat"], row["fold"]))[row["candidate"]] for name, row in best.items()
        }

    def run_fold(
        self,
        place: Place,
        split: Split,
        seeds: range,
        tried: list[dict[str, Any]] | None = None,
        progress: Progress | None = None,
    ) -> FoldResult:
        """Tune every scheme inside the outer training rows, fit it, and predict the test rows.

        Parameters
        ----------
        place : (repeat, fold)
        split : (train, test)
        seeds : range
            Numbers of the networks to be fitted for each scheme.
        tried : list of dict or None
            What an earlier call returned as `tuning`; None tunes.
        progress : callable or None
            As for `tune`.

        Returns
        -------
        FoldResult
        """
        train, test = split
        # a transformer that warns does so for every front: the run tells of it once, when all is over
        with recorded() as warned:
            start = perf_counter()
            tuning, n_tuned = self.tune(place, train, list(self.schemes), progress) if tried is None else ([], 0)
            chosen = self.chosen(tuning if tried is None else tried)
            wanted = [(name, seed) for name in self.schemes for seed in seeds]
            n_rows = self._n_rows(train)
            params = [
                self.candidates.params(name, chosen[name], n_rows, chosen, self.random_state(name, place, seed))
                | self._embedding(name, seed)
                for name, seed in wanted
            ]
            # estimators of inner folds would fill the memory: those of outer ones alone are wanted back
            outer = Scoring(None, return_estimator=True, predict=partial(outputs_of, classes=self.classes))
            results = [result for (result,) in self._evaluate(params, [split], progress, outer)]
        for (name, _), result in zip(wanted, results, strict=True):
            if result["fit_error"]:
                raise ValueError(
                    f"The tuned network of scheme {name!r} could not be fitted in fold {place[1]}; if it diverged, "
                    f"lower learning_rate_init. {_first_error([result])}"
                )
        about = {
            "repeat": place[0],
            "fold": place[1],
            "n_train": len(train),
            "n_test": len(test),
            "n_fits": n_tuned + self.candidates.n_different(params),
            "seconds": (perf_counter() - start) / len(wanted),
        }
        outputs = np.array([result["outputs"] for result in results])
        return FoldResult(
            [
                {"scheme": name, "seed": seed, **self._settings_of(result["estimator"], n_rows), **about}
                for (name, seed), result in zip(wanted, results, strict=True)
            ],
            tuning,
            outputs.reshape(len(self.schemes), len(seeds), *outputs.shape[1:]),
            set(warned),
        )

    def best_estimator(self, scheme: str, progress: Progress) -> Any:
        """Tune one scheme on all rows and fit it, as the mean of as many networks as the study's estimator has.

        Parameters
        ----------
        scheme : str
        progress : callable
            As for `tune`.

        Returns
        -------
        estimator
            As the one of the study, with a `NormRecorder`'s record in its net.
        """
        rows = np.arange(len(self.data.y))
        names = [name for name in (self.candidates.reference(scheme), scheme) if name]
        tried, _ = self.tune(EVERYWHERE, rows, names, progress)
        chosen = self.chosen(tried)
        n_rows = self._n_rows(rows)
        params = self.candidates.params(scheme, chosen[scheme], n_rows, chosen, self.seed)
        if params["l2_budget"] is not None:  # a strength says more to who reads the parameters
            params |= {"l2": self.candidates.strength(params, n_rows), "l2_budget": None}
        params["callbacks"] = [*(self.network.callbacks or ()), NormRecorder()]  # for the report
        best = clone(self.estimator).set_params(**self._all_named(params))
        best.fit(self.data.X, self.data.y, **self.data.fit_params)
        network, _ = network_in(best)
        network.set_params(callbacks=self.network.callbacks)
        return best

    def expected_seconds(self, train: np.ndarray, n_seeds: int) -> float:
        """Return the time of one outer fold in seconds, from a few epochs of some candidates on one inner fold."""
        split = self.inner_splits(train)[0]
        seconds: list[float] = []
        fronts: dict[Any, Any] = {}
        for epochs in (1, 1, 3):  # the first warms up
            params = [each | {"max_iter": epochs} for each in self._free(self._n_rows(split[0]))]
            params = params[:: max(1, len(params) // N_CALIBRATED)]  # of every scheme some
            start = perf_counter()
            with recorded():  # the folds will warn of the same
                self._evaluate(params, [split], None, Scoring(proper_score, self.error_score), fronts)
            seconds.append((perf_counter() - start) / self.candidates.n_different(params))
        front = sum(fitted.seconds for fitted in fronts.values())
        epoch = max(seconds[2] - seconds[1], 0) / 2
        one = seconds[1] + (self.network.max_iter - 1) * epoch
        n_inner = n_folds_of(self.inner_cv)
        n_last = len(self.schemes) * n_seeds * n_inner / (n_inner - 1)  # these have more rows
        return (n_inner + 1) * front + one * (self.n_tuning_fits + n_last)

    def inner_splits(self, rows: np.ndarray) -> list[Split]:
        """Divide rows into the training and the check rows of each inner fold."""
        groups = None if self.groups is None else self.groups[rows]
        y = safe_indexing(self.data.y, rows)
        inner = self.inner_cv
        if not hasattr(inner, "split"):
            inner = shuffled_folds(inner, self.estimator, y, groups, self.seed)
        splits = checked_splits(inner, np.empty(len(rows)), y, name="inner_cv", groups=groups)
        return [(rows[fit], rows[check]) for fit, check in splits]

    def _embedding(self, scheme: str, number: int) -> dict[str, Any]:
        """Return what is a network's own in the estimator's ensemble, that the means be those of the estimator."""
        if self.n_networks == 1:
            return {}
        asked = {**vars(self.network), **self.schemes[scheme]}
        number %= self.n_networks
        return embeddings_in_turn(asked["numeric_embedding"], asked["frequency_init_scale"], number)

    def _settings(self, scheme: str, place: Place) -> list[dict[str, float]]:
        return self.candidates.settings(self.random_state(scheme, place, SETTINGS))

    def _settings_of(self, estimator: Any, n_rows: int) -> dict[str, Any]:
        """Return the settings of a fitted network, with the decay budget that it really spent."""
        network, _ = network_in(estimator)
        return {
            "random_state": network.random_state,
            "learning_rate_init": network.learning_rate_init,
            "l2": self.candidates.strength(network.get_params(), n_rows),
            "budget": max(row.budget for row in network.l2_report_ if row.n_parameters),
            "dropout": network.dropout,
        }

    def _free(self, n_rows: int) -> list[dict[str, Any]]:
        """Return the parameters of all candidates of the schemes that follow no other."""
        return [
            self.candidates.params(name, setting, n_rows, {}, self.seed)
            for name in self.schemes
            if not self.candidates.reference(name)
            for setting in self.candidates.settings(self.seed)
        ]

    def _evaluate(
        self,
        params: Sequence[Mapping[str, Any]],
        splits: list[Split],
        progress: Progress | None,
        scoring: Scoring,
        fronts: dict[Any, Any] | None = None,
    ) -> list[list[Result]]:
        """Evaluate networks, of which one stands for all that mean the same.

        Parameters
        ----------
        params : sequence of dict
            Of the network alone.
        splits : list of (train, test)
        progress : callable or None
        scoring : Scoring
        fronts : dict or None
            As for `evaluate`.

        Returns
        -------
        list of list of dict
            For each of `params` the result of every split.
        """
        signatures = [self.candidates.signature(each) for each in params]
        different = dict(zip(signatures, params, strict=True))
        numbers = {signature: number for number, signature in enumerate(different)}
        data = self.data
        found = evaluate(
            self.single,
            [self._all_named(each) for each in different.values()],
            Folds(data.X, data.y, splits, data.fit_params, data.score_params),
            scoring,
            here=True,
            fronts=fronts,
            on_results=None if progress is None else lambda results: progress(len(results)),
        )
        return [[found[numbers[signature], split] for split in range(len(splits))] for signature in signatures]

    def _named(self, name: str) -> str:
        return f"{self.path}__{name}" if self.path else name

    def _all_named(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {self._named(name): value for name, value in params.items()}

    def _n_rows(self, rows: np.ndarray) -> int:
        return len(rows) if self.weight is None else int(np.count_nonzero(self.weight[rows]))


def n_folds_of(cv: Any) -> Any:
    """Return how many folds a splitter makes, or the number that stands in its place."""
    return cv.get_n_splits() if hasattr(cv, "split") else cv


def shuffled_folds(n_splits: int, estimator: Any, y: Any, groups: Any, seed: int) -> Any:
    """Return shuffled folds: stratified for classes, grouped where there are groups."""
    stratified = is_classifier(estimator) and type_of_target(y) in ("binary", "multiclass")
    plain, grouped = (StratifiedKFold, StratifiedGroupKFold) if stratified else (KFold, GroupKFold)
    return (plain if groups is None else grouped)(n_splits=n_splits, shuffle=True, random_state=seed)


def _first_error(results: Sequence[Result]) -> str:
    errors = [result["fit_error"] for result in results if result["fit_error"]]
    if not errors:
        return "Its score is not defined on so few rows."
    return f"{message_of(errors[0]).splitlines()[0].removesuffix('.')}."
