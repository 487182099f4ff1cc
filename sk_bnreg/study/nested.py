"""NestedStudy: schemes tuned on inner folds and scored on outer ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import qmc
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.multiclass import type_of_target

from sk_bnreg.borrowed import safe_indexing
from sk_bnreg.engine.roles import l2_by_role, lacking_roles
from sk_bnreg.engine.solvers import SOLVERS
from sk_bnreg.estimators.pipelines import network_in
from sk_bnreg.search.evaluation import Folds, Result, Scoring, evaluate
from sk_bnreg.study.schemes import TunedL2
from sk_bnreg.theory.rotation import NormRecorder

RATE_DECADES = (-1.0, 0.5)  # learning rates tried, in powers of ten times the estimator's own
LOSS_L2_DECADES = (-6.0, -1.0)  # l2 tried where no budget exists: Adam with l2_mode="loss"
N_CALIBRATED = 8  # networks of which the plan's time is told

Setting = Mapping[str, float]  # of a candidate: rate, budget, loss_l2
Split = tuple[np.ndarray, np.ndarray]


@dataclass
class NestedStudy:
    """Everything that an outer fold needs to know.

    Attributes
    ----------
    estimator : estimator
        Of all schemes.
    data : Folds
        All rows; its splits are not used.
    scoring : Scoring
    metric : str
        Its name.
    groups : ndarray or None
    weight : ndarray or None
        Of rows in training: those of weight 0 count for no budget.
    schemes : dict of str to mapping
    n_candidates, inner_cv, n_seeds, seed : int
    budgets : tuple of float
    """

    estimator: Any
    data: Folds
    scoring: Scoring
    metric: str
    groups: np.ndarray | None
    weight: np.ndarray | None
    schemes: dict[str, Mapping[str, Any]]
    n_candidates: int
    budgets: tuple[float, ...]
    inner_cv: int
    n_seeds: int
    seed: int

    def __post_init__(self) -> None:
        # a step that draws at random would make two schemes differ by its draws
        self.network, self.path = network_in(self.estimator)
        unseeded = {
            name: self.seed
            for name, value in self.estimator.get_params().items()
            if name.endswith("random_state") and value is None and name != self._named("random_state")
        }
        self.estimator = clone(self.estimator).set_params(**unseeded)

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
        n_free = len({self._signature(params) for params in self._free(len(self.data.y))})
        return (n_free + len(rates)) * self.inner_cv + len(self.schemes) * self.n_seeds

    def reference(self, scheme: str) -> str | None:
        """Return the scheme whose l2 this one follows, None if it follows none."""
        l2 = self.schemes[scheme].get("l2")
        return l2.scheme if isinstance(l2, TunedL2) else None

    def learning_rate(self, scheme: str, setting: Setting) -> float:
        """Return the learning rate of a scheme's candidate."""
        own = self.network.learning_rate_init * setting["rate"]
        return float(self.schemes[scheme].get("learning_rate_init", own))

    def candidates(self, seed: int) -> list[dict[str, float]]:
        """Pair evenly spaced learning rates with the budgets (or l2), spread out in an order that the seed determines.

        Every outer fold has an order of its own, so that no budget owes its score to the rate it was paired with.

        Parameters
        ----------
        seed : int

        Returns
        -------
        list of dict
            `rate`, a multiple of the estimator's own, `budget` and `loss_l2`.
        """
        points = _spread_points(self.n_candidates, seed)
        rates = 10 ** np.interp(points[:, 0], (0, 1), RATE_DECADES)
        levels = (points[:, 1] * len(self.budgets)).astype(int)
        loss_l2 = [0.0, *np.logspace(*LOSS_L2_DECADES, len(self.budgets) - 1)]
        return [
            {"rate": float(rate), "budget": self.budgets[level], "loss_l2": float(loss_l2[level])}
            for rate, level in zip(rates, levels, strict=True)
        ]

    def run_fold(
        self, repeat: int, fold: int, train: np.ndarray, test: np.ndarray, progress: Callable[[int], None] | None
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Tune every scheme inside the outer training rows and score it on the test rows.

        Parameters
        ----------
        repeat, fold : int
        train, test : ndarray of int
        progress : callable or None
            Called with the number of networks that have been fitted since the last call.

        Returns
        -------
        results : list of dict
            A row per scheme and seed, as in `SchemeComparison.frame`.
        tuning : list of dict
            A row per scheme and candidate, as in `SchemeComparison.tuning`.
        """
        start = perf_counter()
        place = {"repeat": repeat, "fold": fold}
        candidates = self.candidates(self.seed + 1000 * repeat + fold)
        chosen, tried, n_fits = self._tune(list(self.schemes), candidates, train, progress)
        wanted = [(name, seed) for seed in range(self.n_seeds) for name in self.schemes]
        n_rows = self._n_rows(train)
        params = [self.params(name, chosen[name], n_rows, chosen, self.seed + seed) for name, seed in wanted]
        # a number for what fails would stand in the results as a score; estimators of inner folds would fill the memory
        outer = replace(self.scoring, error_score=np.nan, return_estimator=True)
        results = self._evaluate(params, [(train, test)], progress, outer)
        n_fits += len({self._signature(each) for each in params})
        # of the chosen candidate, which is the best of its scheme
        inner_scores = pd.DataFrame(tried).groupby("scheme")["inner_score"].max()
        rows = []
        for (result,), (name, seed) in zip(results, wanted, strict=True):
            if result["fit_error"]:
                raise ValueError(
                    f"The tuned network of scheme {name!r} could not be fitted in fold {fold}; if it diverged, lower "
                    f"learning_rate_init. {_first_error([result])}"
                )
            network, _ = network_in(result["estimator"])
            report = [row for row in network.l2_report_ if row.n_parameters]
            rows.append(
                {
                    "scheme": name,
                    **place,
                    "seed": seed,
                    "learning_rate_init": network.learning_rate_init,
                    "l2": self._strength(network.get_params(), n_rows),
                    "budget": max(row.budget for row in report),
                    "inner_score": float(inner_scores[name]),
                    "score": float(result["test_scores"]),
                    "n_train": len(train),
                    "n_test": len(test),
                    "n_fits": n_fits,
                }
            )
        seconds = (perf_counter() - start) / len(rows)
        return [row | {"seconds": seconds} for row in rows], [place | row for row in tried]

    def best_estimator(self, scheme: str, progress: Callable[[int], None]) -> Any:
        """Tune one scheme on all rows and fit it.

        Parameters
        ----------
        scheme : str
        progress : callable
            As for `run_fold`.

        Returns
        -------
        estimator
            As the one of the study, with a `NormRecorder`'s record in its net.
        """
        rows = np.arange(len(self.data.y))
        names = [name for name in (self.reference(scheme), scheme) if name]
        chosen, _, _ = self._tune(names, self.candidates(self.seed), rows, progress)
        n_rows = self._n_rows(rows)
        params = self.params(scheme, chosen[scheme], n_rows, chosen)
        if params["l2_budget"] is not None:  # a strength says more to who reads the parameters
            params |= {"l2": self._strength(self.network.get_params() | params, n_rows), "l2_budget": None}
        params["callbacks"] = [*(self.network.callbacks or ()), NormRecorder()]  # for the report
        best = clone(self.estimator).set_params(**self._all_named(params))
        best.fit(self.data.X, self.data.y, **self.data.fit_params)
        network, _ = network_in(best)
        network.set_params(callbacks=self.network.callbacks)
        return best

    def params(
        self, scheme: str, setting: Setting, n_rows: int, chosen: Mapping[str, Setting], seed: int | None = None
    ) -> dict[str, Any]:
        """Return the network's parameters of a scheme's candidate.

        Parameters
        ----------
        scheme : str
        setting : dict
            One of `candidates`.
        n_rows : int
            Rows to train on, on which the strength of an l2 that follows another's depends.
        chosen : mapping of str to dict
            The settings that tuning chose for the schemes that this one may follow.
        seed : int or None
            Of the network; None is the study's.
        """
        params = {
            "l2_budget": None,
            **self.schemes[scheme],
            "learning_rate_init": self.learning_rate(scheme, setting),
            "random_state": self.seed if seed is None else seed,
        }
        network = clone(self.network).set_params(**{name: value for name, value in params.items() if name != "l2"})
        # the strength, not the budget, is what follows: at another learning rate the same budget is another strength
        if (reference := self.reference(scheme)) is not None:
            followed = self.network.get_params() | self.params(reference, chosen[reference], n_rows, chosen)
            params["l2"] = params["l2"].factor * self._strength(followed, n_rows)
        if "l2" in params or params["l2_budget"] is not None:
            return params
        if not any(l2_by_role(1.0, network.l2_targets).values()):
            return params | {"l2": 0.0}
        if SOLVERS[network.solver].has_budget(network.l2_mode):
            return params | {"l2_budget": setting["budget"]}
        return params | {"l2": setting["loss_l2"]}

    def expected_seconds(self, train: np.ndarray) -> float:
        """Return the time of one outer fold in seconds, from a few epochs of some candidates on one inner fold."""
        split = self.inner_splits(train)[0]
        seconds: list[float] = []
        fronts: dict[Any, Any] = {}
        for epochs in (1, 1, 3):  # the first warms up
            params = [each | {"max_iter": epochs} for each in self._free(self._n_rows(split[0]))]
            params = params[:: max(1, len(params) // N_CALIBRATED)]  # of every scheme some
            start = perf_counter()
            self._evaluate(params, [split], None, self.scoring, fronts)
            seconds.append((perf_counter() - start) / len({self._signature(each) for each in params}))
        front = sum(fitted.seconds for fitted in fronts.values())
        epoch = max(seconds[2] - seconds[1], 0) / 2
        one = seconds[1] + (self.network.max_iter - 1) * epoch
        n_last = len(self.schemes) * self.n_seeds
        n_inner = self.n_fits - n_last
        return (self.inner_cv + 1) * front + one * (n_inner + n_last * self.inner_cv / (self.inner_cv - 1))

    def inner_splits(self, rows: np.ndarray) -> list[Split]:
        """Divide rows into the training and the check rows of each inner fold."""
        groups = None if self.groups is None else self.groups[rows]
        y = safe_indexing(self.data.y, rows)
        inner = shuffled_folds(self.inner_cv, self.estimator, y, groups, self.seed)
        return [(rows[fit], rows[check]) for fit, check in inner.split(np.empty(len(rows)), y, groups)]

    def _free(self, n_rows: int) -> list[dict[str, Any]]:
        """Return the parameters of all candidates of the schemes that follow no other."""
        names = [name for name in self.schemes if not self.reference(name)]
        return [self.params(name, setting, n_rows, {}) for name in names for setting in self.candidates(self.seed)]

    def _tune(
        self,
        names: Sequence[str],
        candidates: Sequence[Setting],
        rows: np.ndarray,
        progress: Callable[[int], None] | None,
    ) -> tuple[dict[str, Setting], list[dict[str, Any]], int]:
        """Try every candidate on inner folds of `rows`; schemes that follow others wait for what those chose.

        Returns
        -------
        chosen : dict of str to dict
            Each scheme's best setting.
        tried : list of dict
            A row per scheme and candidate.
        n_fits : int
            Different networks that were trained.
        """
        splits = self.inner_splits(rows)
        n_rows = self._n_rows(splits[-1][0])  # of which the strengths in `tuning` are told; other folds differ by one
        chosen: dict[str, Setting] = {}
        tried: list[dict[str, Any]] = []
        n_fits = 0
        free = [name for name in names if not self.reference(name)]
        for group in (free, [name for name in names if name not in free]):
            wanted = [(name, setting) for name in group for setting in candidates]
            params = [self.params(name, setting, n_rows, chosen) for name, setting in wanted]
            results = self._evaluate(params, splits, progress, self.scoring)
            n_fits += len({self._signature(each) for each in params}) * len(splits)
            # one failure in an inner fold fails the candidate: its other folds would be a mean over fewer rows
            scores = [
                np.mean([_score(result, self.scoring.error_score) for result in of_candidate])
                for of_candidate in results
            ]
            for i, ((name, setting), own, score) in enumerate(zip(wanted, params, scores, strict=True)):
                network = self.network.get_params() | own
                tried.append(
                    {
                        "scheme": name,
                        "candidate": i % len(candidates),
                        "learning_rate_init": network["learning_rate_init"],
                        "l2": self._strength(network, n_rows),
                        "budget": self._budget(name, network, setting),
                        "inner_score": float(score),
                    }
                )
            of_scheme = np.reshape(scores, (len(group), len(candidates)))
            for place, name in enumerate(group):
                if np.isnan(of_scheme[place]).all():
                    raise ValueError(
                        f"Every candidate of scheme {name!r} failed in an inner fold; if they diverged, lower "
                        f"learning_rate_init or scale X. {_first_error(results[place * len(candidates)])}"
                    )
            chosen |= {name: candidates[int(np.nanargmax(row))] for name, row in zip(group, of_scheme, strict=True)}
        return chosen, tried, n_fits

    def _evaluate(
        self,
        params: Sequence[Mapping[str, Any]],
        splits: list[Split],
        progress: Callable[[int], None] | None,
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
        signatures = [self._signature(each) for each in params]
        different = dict(zip(signatures, params, strict=True))
        numbers = {signature: number for number, signature in enumerate(different)}
        data = self.data
        folds = Folds(data.X, data.y, splits, data.fit_params, data.score_params)
        found = evaluate(
            self.estimator,
            [self._all_named(each) for each in different.values()],
            folds,
            scoring,
            here=True,
            fronts=fronts,
            on_results=None if progress is None else lambda results: progress(len(results)),
        )
        for (_, split), result in found.items():
            if not result["fit_error"] and np.isnan(result["test_scores"]):
                raise ValueError(
                    f"The score {self.metric} is not defined on {len(splits[split][1])} rows of a fold: take fewer "
                    "folds or another score."
                )
        return [[found[numbers[signature], split] for split in range(len(splits))] for signature in signatures]

    def _named(self, name: str) -> str:
        return f"{self.path}__{name}" if self.path else name

    def _all_named(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {self._named(name): value for name, value in params.items()}

    def _n_rows(self, rows: np.ndarray) -> int:
        return len(rows) if self.weight is None else int(np.count_nonzero(self.weight[rows]))

    def _strength(self, params: Mapping[str, Any], n_rows: int) -> float:
        """Return the l2 of a network of these parameters; nan for one strength per role."""
        if params["l2_budget"] is not None:
            return clone(self.network).set_params(**params).l2_for_budget(params["l2_budget"], n_rows)
        return float("nan") if isinstance(params["l2"], Mapping) else float(params["l2"])

    def _budget(self, scheme: str, params: Mapping[str, Any], setting: Setting) -> float:
        """Return the decay budget that a candidate was meant to have; nan where the scheme names l2 or none exists."""
        has_budget = SOLVERS[params["solver"]].has_budget(params["l2_mode"])
        if self.schemes[scheme].keys() & {"l2", "l2_budget"} or (not has_budget and params["l2"]):
            return float("nan")
        return setting["budget"] if any(l2_by_role(1.0, params["l2_targets"]).values()) else 0.0

    def _signature(self, params: Mapping[str, Any]) -> str:
        """Return what the training of a network depends on, as text: equal for networks that mean the same."""
        known = self.network.get_params() | dict(params)
        budget, l2 = known.pop("l2_budget"), known.pop("l2")
        strengths = l2_by_role(l2 if budget is None else budget, known.pop("l2_targets"))
        strengths |= dict.fromkeys(lacking_roles(batch_norm=known["batch_norm"]), 0.0)
        if not any(strengths.values()):
            del known["l2_mode"]
            budget = None
        return repr((sorted(known.items()), strengths, budget is None))


def shuffled_folds(n_splits: int, estimator: Any, y: Any, groups: Any, seed: int) -> Any:
    """Return shuffled folds: stratified for classes, grouped where there are groups."""
    stratified = is_classifier(estimator) and type_of_target(y) in ("binary", "multiclass")
    plain, grouped = (StratifiedKFold, StratifiedGroupKFold) if stratified else (KFold, GroupKFold)
    return (plain if groups is None else grouped)(n_splits=n_splits, shuffle=True, random_state=seed)


@cache
def _spread_points(n: int, seed: int) -> np.ndarray:
    """Return n points in the unit square, evenly spaced on either axis; kept, as scipy may take a second for them."""
    return qmc.LatinHypercube(2, scramble=False, optimization="random-cd", rng=seed).random(n)


def _score(result: Result, error_score: float) -> float:
    return error_score if result["fit_error"] else float(result["test_scores"])


def _first_error(results: Sequence[Result]) -> str:
    return next(result["fit_error"] for result in results if result["fit_error"]).strip().splitlines()[-1]
