"""StudyRun: a study's work, repeat by repeat, until its questions are settled."""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sk_bnreg.search.splits import checked_splits
from sk_bnreg.stats.looks import PILOT_SEEDS, seeds_needed, settled
from sk_bnreg.study.comparison import SchemeComparison
from sk_bnreg.study.held_out import Place, scored
from sk_bnreg.study.nested import FoldResult, NestedStudy, Split, shuffled_folds
from sk_bnreg.study.plan import Course, StudyPlan
from sk_bnreg.study.spread import Spread
from sk_bnreg.study.store import Store
from sk_bnreg.study.warned import recorded


@dataclass
class OuterFolds:
    """The outer folds of any repeat.

    Attributes
    ----------
    study : NestedStudy
    cv : int, splitter or iterable
        As in `compare_schemes`.
    """

    study: NestedStudy
    cv: Any

    def __post_init__(self) -> None:
        self.can_repeat = self.cv is None or isinstance(self.cv, Integral)  # a splitter repeats by itself
        self.drawn: dict[int, list[Split]] = {}

    def repeat(self, repeat: int) -> list[Split]:
        """Return the rows of every fold."""
        if repeat not in self.drawn:
            y, groups = self.study.data.y, self.study.groups
            if self.can_repeat:
                n_folds = 5 if self.cv is None else int(self.cv)
                # another seed for every repeat: the same folds again would count their differences twice
                cv = shuffled_folds(n_folds, self.study.estimator, y, groups, (self.study.seed + repeat) % 2**32)
            else:
                cv = self.cv
            self.drawn[repeat] = checked_splits(cv, np.empty(len(y)), y, groups=groups)
        return self.drawn[repeat]


class Fold(NamedTuple):
    """What is to be done in an outer fold: its place, its rows, and the seeds of the networks."""

    place: Place
    split: Split
    seeds: range


@dataclass
class StudyRun:
    """One run of a study.

    Attributes
    ----------
    study : NestedStudy
    outer : OuterFolds
    store : Store
    scorers : dict of str to callable
        By the name of the metric; the first is what looks go by.
    plan : StudyPlan
    spread : Spread
    started : float
        The monotonic time at which the study would have begun, had it run without breaks.
    on_progress : callable
        ``on_progress(done, total)``, in network fits.
    """

    study: NestedStudy
    outer: OuterFolds
    store: Store
    scorers: Mapping[str, Any]
    plan: StudyPlan
    spread: Spread
    started: float
    on_progress: Callable[[int, int], None]
    done: int = 0
    total: int = 0
    warned: dict[tuple[str, type[Warning]], set[Any]] = field(default_factory=dict)
    scores: dict[tuple[Any, ...], pd.DataFrame] = field(default_factory=dict)

    def until_decided(self, on_look: Callable[[int, int, int], None] | None) -> SchemeComparison:
        """Add repeats until every question is settled, the time is up, or there are enough."""
        plan = self.plan
        auto = plan.n_repeats == "auto"
        self.total = plan.n_fits(plan.least_seeds) * (1 if auto else plan.most_repeats)
        self.count(self.store.n_fits)
        n_seeds = self._first_repeat()
        if not auto:
            self._fill(range(plan.most_repeats), n_seeds)
            return self._told(plan.most_repeats, n_seeds, "fixed")
        for n_repeats in range(1, plan.most_repeats + 1):
            n_made = min(plan.most_repeats, self.at_once * -(-n_repeats // self.at_once))
            self._fill(range(n_repeats - 1, n_made), n_seeds)
            # by what is stored, so that a study that is run again ends where it ended
            elapsed = self.store.elapsed(n_repeats, n_seeds)
            in_time = min(plan.most_repeats, np.ceil(60 * plan.minutes * n_made / elapsed))
            self.total = int(self.done / n_made * in_time)
            if n_repeats > 1:
                found = self.comparison(n_repeats, n_seeds)
                answers = [found.contrast(question.scheme, question.against) for question in found.questions()]
                n_settled = sum(settled(c, plan.most_repeats * plan.n_folds) for c in answers)
                if on_look is not None:
                    on_look(n_repeats, n_settled, len(answers))
                if n_settled == len(answers):
                    return self._told(n_repeats, n_seeds, "settled")
            if elapsed >= 60 * plan.minutes and n_repeats == n_made:  # what was made together is looked at
                return self._told(n_repeats, n_seeds, "time")
        return self._told(plan.most_repeats, n_seeds, "most")

    def comparison(self, n_repeats: int, n_seeds: int, n_networks: int | None = None) -> SchemeComparison:
        """Return what the first repeats say with so many seeds, whatever else is stored."""
        size = n_networks or self.study.n_networks
        networks, tuning = self.store.frames()
        rows = networks[(networks["repeat"] < n_repeats) & (networks["seed"] < n_seeds)]
        parts = []
        for place, of_fold in rows.groupby(["repeat", "fold"]):
            known = place, n_seeds, size
            if known not in self.scores:
                with recorded() as warned:
                    self.scores[known] = scored(of_fold, self.store.held_out, self.scorers, size)
                self._remember(warned, place)
            parts.append(self.scores[known])
        metric, rope = next(iter(self.plan.metrics.items()))
        return SchemeComparison(
            pd.concat(parts, ignore_index=True),
            self.study.schemes,
            metric,
            rope,
            self.plan.test_ratio,
            n_networks=size,
            ropes=self.plan.metrics,
            held_out=self.store.held_out,
            tuning=tuning[tuning["repeat"] < n_repeats],
            plan=self.plan,
        )

    def best_estimator(self, scheme: str) -> Any:
        """Return a scheme tuned and fitted on all rows, and tell of warnings that no fold had."""
        with recorded() as warned:
            best = self.store.best_estimator(scheme, lambda: self.study.best_estimator(scheme, self.count))
        for message, category in set(warned) - self.warned.keys():
            warnings.warn(message, category, stacklevel=3)
        return best

    @property
    def at_once(self) -> int:
        """Repeats that are made at a time, so that many workers have enough to do; the looks are the same."""
        return max(1, self.spread.n_workers // self.plan.n_folds)

    def count(self, n_fits: int) -> None:
        """Count finished network fits, and tell of them."""
        self.done += n_fits
        self.on_progress(self.done, max(self.done, self.total))

    def seconds_per_repeat(self) -> float:
        """Return the expected time of one repeat: what it took, or from a calibration for each fold at a time."""
        if finished := self.store.finished():
            return self.store.elapsed() * self.plan.n_folds / len(finished)
        splits = self.outer.repeat(0)
        n_workers = min(self.spread.n_workers, len(splits))
        jobs = [(train, self.plan.least_seeds) for train, _ in splits[:n_workers]]
        one: list[float] = []
        for _ in range(1 if self.spread.here else 2):  # at first workers start, while others would measure
            one = list(self.spread.run(NestedStudy.expected_seconds, jobs))
        return float(np.mean(one)) * -(-len(splits) // n_workers)

    def _first_repeat(self) -> int:
        """Return how many seeds the study takes, by the first four of the first repeat if it is to decide that."""
        if self.plan.n_seeds != "auto":
            return int(self.plan.n_seeds)
        self._fill(range(1), PILOT_SEEDS)
        pilot = self.comparison(1, PILOT_SEEDS, n_networks=1)
        rows = pilot.frame[pilot.frame["metric"] == pilot.metric]
        scores = rows.pivot_table(index="fold", columns=["scheme", "seed"], values="score")
        pairs = {(question.scheme, question.against) for question in pilot.questions()}
        step = self.study.n_networks
        return max(seeds_needed((scores[one] - scores[other]).to_numpy(), step=step) for one, other in pairs)

    def _fill(self, repeats: range, n_seeds: int) -> None:
        """Make what is missing of some repeats, and keep each fold when it is finished."""
        # a fold in another process can't tell of its fits one by one
        progress = self.count if self.spread.here else None
        jobs = [(fold, self.store.tried(fold.place), progress) for fold in self._missing(repeats, n_seeds)]
        for fold, result in self.spread.run(_run_fold, jobs):
            self.store.add(fold.place, fold.split[1], result, time.monotonic() - self.started)
            self._remember(result.warned, fold.place)
            if not self.spread.here:
                self.count(result.networks[0]["n_fits"])

    def _missing(self, repeats: range, n_seeds: int) -> list[Fold]:
        finished = self.store.finished()
        return [
            Fold((repeat, fold), split, range(finished.get((repeat, fold), 0), n_seeds))
            for repeat in repeats
            for fold, split in enumerate(self.outer.repeat(repeat))
            if finished.get((repeat, fold), 0) < n_seeds
        ]

    def _told(self, n_repeats: int, n_seeds: int, ended: str) -> SchemeComparison:
        """Return the comparison, and tell once of what was warned of in many folds."""
        found = self.comparison(n_repeats, n_seeds)
        for (message, category), places in self.warned.items():
            warnings.warn(f"{message} (in {len(places)} outer folds)", category, stacklevel=4)
        return replace(found, course=Course(n_repeats, n_seeds, ended))

    def _remember(self, warned: Iterable[tuple[str, type[Warning]]], place: Any) -> None:
        for kind in warned:
            self.warned.setdefault(kind, set()).add(place)


def _run_fold(study: NestedStudy, fold: Fold, tried: Any, progress: Any) -> tuple[Fold, FoldResult]:
    return fold, study.run_fold(*fold, tried, progress)
