"""StudyPlan: what a study is going to do, told before its first fit."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


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
    n_folds, n_repeats, n_seeds : int
        Outer folds, how often they are drawn afresh, and networks per tuned scheme and fold.
    learning_rate : str
        "tuned" or "fixed".
    learning_rates, budgets : tuple of float
        The values tried.
    metric : str
    rope : float
    resolution : float
        The smallest rope, in standard deviations of the difference between folds, at which
        so many folds can ever call two schemes equivalent.
    n_fits : int
        Different networks to be trained, at most.
    seconds : float
        Expected time, from a short calibration; nan without one.
    random_state : int
    versions : mapping of str to str
    """

    n_rows: int
    n_features: int
    schemes: tuple[str, ...]
    n_candidates: int
    inner_cv: int
    n_folds: int
    n_repeats: int
    n_seeds: int
    learning_rate: str
    learning_rates: tuple[float, ...]
    budgets: tuple[float, ...]
    metric: str
    rope: float
    resolution: float
    n_fits: int
    seconds: float
    random_state: int
    versions: Mapping[str, str]

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """Return the plan in four lines."""
        outer = f"{self.n_folds} outer folds" + (f" x {self.n_repeats} repeats" if self.n_repeats > 1 else "")
        seeds = f" x {self.n_seeds} seeds" if self.n_seeds > 1 else ""
        time = "" if np.isnan(self.seconds) else f", about {_duration(self.seconds)}"
        low, high = min(self.learning_rates), max(self.learning_rates)
        rates = f"{len(self.learning_rates)} learning rates from {low:.2g} to {high:.2g}"
        if self.learning_rate == "fixed":
            rates = f"learning rate {low:.2g} in every scheme, not tuned"
        return (
            f"{len(self.schemes)} schemes x {self.n_candidates} candidates x {self.inner_cv} inner folds in "
            f"{outer}{seeds}: at most {self.n_fits:,} network fits{time}.\n"
            f"Candidates: {rates}; decay budgets D {', '.join(f'{D:g}' for D in self.budgets)}.\n"
            f"Differences in {self.metric} within {self.rope:g} (the rope) count as none.\n"
            f"So many folds can confirm that only if the difference between two schemes varies over folds with a "
            f"standard deviation below {self.rope / self.resolution:.2g}."
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
