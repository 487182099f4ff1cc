"""StudyRun: a study's work, repeat by repeat, until its questions are settled."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from joblib.parallel import get_active_backend
from sklearn.model_selection import check_cv

from sk_bnreg.stats.looks import PILOT_SEEDS, seeds_needed, settled
from sk_bnreg.study.comparison import SchemeComparison
from sk_bnreg.study.held_out import Place, scored
from sk_bnreg.study.nested import FoldResult, NestedStudy, Split, shuffled_folds
from sk_bnreg.study.plan import Course, StudyPlan
from sk_bnreg.study.store import Store


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
                cv = shuffled_folds(n_folds, self.study.estimator, y, groups, self.study.seed + repeat)
            else:
                cv = check_cv(self.cv, y)
            self.drawn[repeat] = list(cv.split(np.empty(len(y)), y, groups))
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
    n_jobs : int or None
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
    n_jobs: int | None
    started: float
    on_progress: Callable[[int, int], None]
    done: int = 0
    total: int = 0
    warned: Counter[str] = field(default_factory=Counter)
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
        # with many workers several repeats are made at a time; the looks are the same
        at_once = max(1, joblib.effective_n_jobs(self.n_jobs) // plan.n_folds)
        for n_repeats in range(1, plan.most_repeats + 1):
            self._fill(range(n_repeats - 1, min(plan.most_repeats, n_repeats + at_once - 1)), n_seeds)
            elapsed = time.monotonic() - self.started
            in_time = min(plan.most_repeats, np.ceil(60 * plan.minutes * n_repeats / elapsed))
            self.total = int(self.done / n_repeats * in_time)
            if n_repeats > 1:
                answers = [answer.contrast for answer in self.comparison(n_repeats, n_seeds).verdicts()]
                n_settled = sum(settled(c, plan.most_repeats * plan.n_folds) for c in answers)
                if on_look is not None:
                    on_look(n_repeats, n_settled, len(answers))
                if n_settled == len(answers):
                    return self._told(n_repeats, n_seeds, "settled")
            if elapsed >= 60 * plan.minutes:
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
                self.scores[known] = scored(of_fold, self.store.held_out, self.scorers, size)
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

    def count(self, n_fits: int) -> None:
        """Count finished network fits, and tell of them."""
        self.done += n_fits
        self.on_progress(self.done, max(self.done, self.total))

    def seconds_per_repeat(self) -> float:
        """Return the expected time of one repeat: what it took, or from a calibration for each fold at a time."""
        if finished := self.store.finished():
            return self.store.elapsed * self.plan.n_folds / len(finished)
        splits = self.outer.repeat(0)
        n_workers = min(joblib.effective_n_jobs(self.n_jobs), len(splits))
        one: list[float] = []
        for _ in range(1 + (n_workers > 1)):  # at first workers start, while others would measure
            jobs = (
                joblib.delayed(self.study.expected_seconds)(train, self.plan.least_seeds)
                for train, _ in splits[:n_workers]
            )
            one = joblib.Parallel(n_jobs=self.n_jobs)(jobs)
        return float(np.mean(one)) * -(-len(splits) // n_workers)

    def _first_repeat(self) -> int:
        """Return how many seeds the study takes, by the first four of the first repeat if it is to decide that."""
        if self.plan.n_seeds != "auto":
            return int(self.plan.n_seeds)
        self._fill(range(1), PILOT_SEEDS)
        pilot = self.comparison(1, PILOT_SEEDS, n_networks=1)
        rows = pilot.frame[pilot.frame["metric"] == pilot.metric]
        scores = rows.pivot_table(index="fold", columns=["scheme", "seed"], values="score")
        pairs = {(answer.question.scheme, answer.question.against) for answer in pilot.verdicts()}
        step = self.study.n_networks
        return max(seeds_needed((scores[one] - scores[other]).to_numpy(), step=step) for one, other in pairs)

    def _fill(self, repeats: range, n_seeds: int) -> None:
        """Make what is missing of some repeats, and keep each fold when it is finished."""
        finished = self.store.finished()
        folds = [
            Fold((repeat, fold), split, range(finished.get((repeat, fold), 0), n_seeds))
            for repeat in repeats
            for fold, split in enumerate(self.outer.repeat(repeat))
            if finished.get((repeat, fold), 0) < n_seeds
        ]
        # a fold in another process can't tell of its fits one by one
        alone = joblib.effective_n_jobs(self.n_jobs) == 1
        jobs = [(self.study, fold, self.store.tried(fold.place), self.count if alone else None) for fold in folds]
        for fold, result in _in_parallel(jobs, self.n_jobs):
            self.store.add(fold.place, fold.split[1], result, time.monotonic() - self.started)
            self.warned.update(set(result.warned))
            if not alone:
                self.count(result.networks[0]["n_fits"])

    def _told(self, n_repeats: int, n_seeds: int, ended: str) -> SchemeComparison:
        """Return the comparison, and tell once of what was warned of in many folds."""
        for message, n_folds in self.warned.items():
            warnings.warn(f"{message} (in {n_folds} outer folds)", stacklevel=4)
        return replace(self.comparison(n_repeats, n_seeds), course=Course(n_repeats, n_seeds, ended))


def _in_parallel(jobs: Sequence[tuple[Any, ...]], n_jobs: int | None) -> Iterator[tuple[Fold, FoldResult]]:
    """Run folds as they come: in this process, by joblib, or on Dask workers, of which any may die."""
    client = getattr(get_active_backend()[0], "client", None)
    if client is None:
        parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")
        yield from parallel(joblib.delayed(_run_fold)(*job) for job in jobs)
        return
    from distributed import as_completed

    # the study is a task's result, which Dask makes again when the worker that has it dies: joblib would scatter it
    shared = client.submit(_same, jobs[0][0], pure=False) if jobs else None
    futures = [client.submit(_run_fold, shared, *job[1:], pure=False) for job in jobs]
    for future in as_completed(futures):
        yield future.result()


def _run_fold(study: NestedStudy, fold: Fold, tried: Any, progress: Any) -> tuple[Fold, FoldResult]:
    return fold, study.run_fold(*fold, tried, progress)


def _same(value: Any) -> Any:
    return value
