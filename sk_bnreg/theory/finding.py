"""A figure of a published or derived result, run afresh, and how it is judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

# Within these a measured angle or norm is as predicted. The formulas are of first order, and have no bound of their
# own. 5 % is one rule for all: an angle goes with the root of lr * l2, so it shows a rate or a decay wrong by 10 %.
AS_PREDICTED = (0.95, 1.05)


@dataclass(frozen=True)
class Finding:
    """One figure of a published or derived result, run afresh.

    Attributes
    ----------
    key : str
        "R1" to "R8"; several figures may belong to one result.
    claim, source : str
        What is claimed, and by whom.
    quantity : str
        What was measured.
    predicted : float or None
        What the source gives; None where it gives no number.
    measured : tuple of float
        A value per seed.
    judged : {"median", "largest", "smallest", "mean"}
        The statistic of `measured` that has to lie within `low` and `high`.
    low, high : float or None
        Bounds; None for both where the figure is reported without being judged. Whatever is predicted is judged.
    interval : (float, float) or None
        A corrected 95 % interval of the mean, where the values are of folds.
    origin : {"run", "table", "formula"}
        Whether networks were trained for it on this package's engine, or it was computed from a table that others
        published, or from a formula alone.
    explains : str or None
        The quantity that this figure explains: the same ratio, with something measured in place of what the
        prediction takes for granted. If it is within its bounds, that is what a miss is due to.
    """

    key: str
    claim: str
    source: str
    quantity: str
    predicted: float | None
    measured: tuple[float, ...]
    judged: str = "median"
    low: float | None = None
    high: float | None = None
    interval: tuple[float, float] | None = None
    origin: Literal["run", "table", "formula"] = "run"
    explains: str | None = None

    @property
    def value(self) -> float:
        """The statistic that is judged."""
        statistics: dict[str, Any] = {"median": np.median, "largest": np.max, "smallest": np.min, "mean": np.mean}
        return float(statistics[self.judged](self.measured))

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return f"at least {self.low:g}" if self.high is None else f"at most {self.high:g}"

    @property
    def passed(self) -> bool | None:
        """Whether `value` is within the bounds; None where there are none."""
        if self.low is None and self.high is None:
            return None
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)


def unexplained(findings: Sequence[Finding]) -> list[Finding]:
    """Return those that missed their bounds and that none explains which is within its own."""
    explained = {(other.key, other.explains) for other in findings if other.passed}
    return [one for one in findings if one.passed is False and (one.key, one.quantity) not in explained]
