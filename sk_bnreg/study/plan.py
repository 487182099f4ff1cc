"""StudyPlan, what a study is going to do, told before its first fit; Course, how it went."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sk_bnreg.stats.folds import resolution
from sk_bnreg.stats.looks import MOST_REPEATS, MOST_SEEDS


@dataclass(frozen=True)
class StudyPlan:
    """What a study is going to do.

    Attributes
    ----------
    n_rows, n_features : int
        Of the table.
    schemes : tuple of str
    n_candidates, inner_cv : int
        Settings that each scheme tries, and the inner folds on which it does.
    n_folds : int
        Outer folds.
    n_repeats, n_seeds : int or "auto"
        How often they are drawn afresh, and networks per tuned scheme and fold.
    minutes : float
        After which no more repeats are begun, where their number is "auto".
    n_networks : int
        Networks of which the schemes are compared as the mean.
    learning_rate : str
        "tuned" or "fixed".
    learning_rates, budgets : tuple of float
        The values tried.
    metrics : mapping of str to float
        The scores, and their ropes.
    test_ratio : float
        n_test / n_train of a fold.
    n_tuning_fits : int
        Different networks that tuning trains in an outer fold, at most.
    seconds : float
        Expected time of one repeat, from a short calibration; nan without one.
    random_state : int
    versions : mapping of str to str
    """

    n_rows: int
    n_features: int
    schemes: tuple[str, ...]
    n_candidates: int
    inner_cv: int
    n_folds: int
    n_repeats: int | str
    n_seeds: int | str
    minutes: float
    n_networks: int
    learning_rate: str
    learning_rates: tuple[float, ...]
    budgets: tuple[float, ...]
    metrics: Mapping[str, float]
    test_ratio: float
    n_tuning_fits: int
    seconds: float
    random_state: int
    versions: Mapping[str, str]

    @property
    def least_seeds(self) -> int:
        """Networks per tuned scheme and fold, at least."""
        return self.n_networks if self.n_seeds == "auto" else int(self.n_seeds)

    @property
    def most_seeds(self) -> int:
        """Networks per tuned scheme and fold, at most."""
        return max(MOST_SEEDS, self.n_networks) if self.n_seeds == "auto" else int(self.n_seeds)

    @property
    def most_repeats(self) -> int:
        """Repeats, at most."""
        return MOST_REPEATS if self.n_repeats == "auto" else int(self.n_repeats)

    def n_fits(self, n_seeds: int) -> int:
        """Return the networks that are trained in one repeat, at most."""
        return self.n_folds * (self.n_tuning_fits + len(self.schemes) * n_seeds)

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """Return the plan in some lines."""
        seeds = f"{self.least_seeds}" if self.n_seeds != "auto" else f"{self.least_seeds} to {self.most_seeds}"
        fits = " to ".join(f"{self.n_fits(n):,}" for n in sorted({self.least_seeds, self.most_seeds}))
        time = "" if np.isnan(self.seconds) else f", about {_duration(self.seconds)}"
        repeats = f"{self.n_repeats} repeats" if self.n_repeats != 1 else "1 repeat"
        if self.n_repeats == "auto":
            repeats = (
                f"Repeats until every question has its word or more can't help, at most {self.most_repeats}; after "
                f"{_duration(60 * self.minutes)} no more begin"
            )
        low, high = min(self.learning_rates), max(self.learning_rates)
        rates = f"{len(self.learning_rates)} learning rates from {low:.2g} to {high:.2g}"
        if self.learning_rate == "fixed":
            rates = f"learning rate {low:.2g} in every scheme, not tuned"
        metric, rope = next(iter(self.metrics.items()))
        ropes = ", ".join(f"{name} within {rope:g}" for name, rope in self.metrics.items())
        spread = rope / resolution(self.most_repeats * self.n_folds, self.test_ratio)
        return (
            f"{len(self.schemes)} schemes x {self.n_candidates} candidates x {self.inner_cv} inner folds in "
            f"{self.n_folds} outer folds, then {seeds} seeds: {fits} network fits a repeat{time}.\n"
            f"{repeats}.\n"
            f"Candidates: {rates}; decay budgets D {', '.join(f'{D:g}' for D in self.budgets)}.\n"
            f"Differences in {ropes} (the rope) count as none.\n"
            f"{self.most_repeats * self.n_folds} folds can confirm that only if the difference in {metric} between two "
            f"schemes varies over folds with a standard deviation below {spread:.2g}."
        )


class Course(NamedTuple):
    """How a study went.

    Attributes
    ----------
    n_repeats : int
        Repeats that count, with a look after each from the second on.
    n_seeds : int
        Networks per tuned scheme and fold.
    ended : {"settled", "time", "most", "fixed"}
        Every question had its word, or more repeats could not help; the time was up; there were as many repeats as ever
        are made; or their number was given.
    """

    n_repeats: int
    n_seeds: int
    ended: str

    def summary(self) -> str:
        """Return how the study went as one sentence."""
        why = {
            "settled": "every question has its word, or more repeats can't help it",
            "time": "the time was up; with more --minutes and the same --out it goes on",
            "most": "more repeats would tell nothing new",
            "fixed": "as many as were asked for",
        }
        repeats = f"{self.n_repeats} repeat" + "s" * (self.n_repeats > 1)
        seeds = f"{self.n_seeds} seed" + "s" * (self.n_seeds > 1)
        return f"{repeats} of the folds, {seeds}: {why[self.ended]}."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
