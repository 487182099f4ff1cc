"""Two models on the folds of one cross-validation, and what every test shares: the word that it says, Holm's method."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95  # a word's probability is greater
WORDS = {
    "helps": "keep it",
    "hurts": "leave it out",
    "redundant": "leave it out, or leave it in: no difference that matters",
    "dispensable": "leave it out: no gain that matters",
    "harmless": "keep it if you like: no loss that matters",
    "undecided": "this table does not tell; keep what you have",
}  # and what to do, the stronger ones first
STRONG = ("helps", "hurts", "redundant")


class Judgement:
    """A result with the probabilities of three regions, and the word that follows from them.

    A test's result is a dataclass that inherits from this one and has at least these fields.

    Attributes
    ----------
    p_worse, p_equivalent, p_better : float
        Probability that the difference is below -rope, within it, above it.
    rope : float
        Half-width of the region of practical equivalence, in units of the score.
    """

    p_worse: float
    p_equivalent: float
    p_better: float
    rope: float

    @property
    def verdict(self) -> str:
        """The strongest of `WORDS` that has a probability over 0.95.

        "helps" or "hurts": beyond the rope on that side. "dispensable": not above it, no gain that matters.
        "harmless": not below it, no loss that matters. "redundant": both of these. "undecided": none of them.
        """
        return self.verdict_at(CONFIDENCE)

    def verdict_at(self, confidence: float) -> str:
        """Return the verdict that takes this probability."""
        dispensable, harmless = 1 - self.p_better > confidence, 1 - self.p_worse > confidence
        found = {
            "helps": self.p_better > confidence,
            "hurts": self.p_worse > confidence,
            "redundant": dispensable and harmless,
            "dispensable": dispensable,
            "harmless": harmless,
            "undecided": True,
        }
        return next(word for word in WORDS if found[word])

    @property
    def verb(self) -> str:
        """The verdict as the verb of a sentence: "helps", "is redundant" and so on."""
        return self.verdict if self.verdict in ("helps", "hurts") else f"is {self.verdict}"

    @property
    def advice(self) -> str:
        """What to do, by the verdict."""
        return WORDS[self.verdict]

    def probabilities(self) -> str:
        """Return the end of a sentence: the three probabilities, the rope and the verdict."""
        return (
            f"P(worse) {self.p_worse:.3f}, P(equivalent) {self.p_equivalent:.3f}, P(better) {self.p_better:.3f} "
            f"with rope {self.rope:g}: {self.verdict}"
        )


@dataclass(frozen=True)
class Contrast(Judgement):
    """The difference of two models' scores over folds.

    Attributes
    ----------
    mean : float
        Mean difference.
    low, high : float
        Corrected 95 % interval of the mean.
    p_value : float
        Two-sided corrected t-test of no difference.
    p_worse, p_equivalent, p_better : float
        Posterior probability that the difference is below -rope, within it, above it.
    rope : float
        Half-width of the region of practical equivalence, in units of the score.
    resolution : float
        The smallest rope for which this many folds, with this spread, could ever
        say "redundant".
    n_folds : int
        Differences that went in.
    sd : float
        Their standard deviation.
    test_ratio : float
        n_test / n_train of a fold.
    """

    mean: float
    low: float
    high: float
    p_value: float
    p_worse: float
    p_equivalent: float
    p_better: float
    rope: float
    resolution: float
    n_folds: int
    sd: float
    test_ratio: float

    @property
    def scale(self) -> float:
        """Scale of the posterior of the mean, a t distribution with ``n_folds - 1`` degrees of freedom."""
        return _scale(self.sd, self.n_folds, self.test_ratio)

    @property
    def figures(self) -> str:
        """The mean with its interval, in brackets."""
        return f"({self.mean:+z.4f}, 95 % interval {self.low:+z.4f} to {self.high:+z.4f})"

    @property
    def hint(self) -> str:
        """What a one-sided verdict leaves out: ", and probably helps by a little" if P(difference > 0) > 0.95."""
        # of a difference that lies surely on the other side of 0 the word would be "redundant"
        verb = {"harmless": "helps", "dispensable": "hurts"}.get(self.verdict)
        # half the two-sided p-value is the posterior probability of the other side of 0
        return f", and probably {verb} by a little" if verb and self.p_value / 2 < 1 - CONFIDENCE else ""

    def summary(self) -> str:
        """Return the result as one sentence."""
        sentence = f"Mean difference {self.mean:+z.4f} over {self.n_folds} folds, corrected 95 % interval "
        sentence += f"{self.low:+z.4f} to {self.high:+z.4f}; {self.probabilities()}"
        if self.verdict == "undecided":
            return f"{sentence}; with this spread {self.n_folds} folds can confirm {self.resolution:.4f}."
        return f"{sentence}."


def contrast(differences: Sequence[float] | np.ndarray, *, test_ratio: float, rope: float) -> Contrast:
    """Judge the differences of two models on the folds of one cross-validation.

    The folds share training rows, so their differences are correlated; the variance of
    the mean is var * (1 / n_folds + n_test / n_train) (Nadeau & Bengio 2003), with
    n_folds - 1 degrees of freedom. The posterior of the Bayesian correlated t-test
    (Benavoli et al. 2017) is the t distribution with the same mean and variance.

    Parameters
    ----------
    differences : array-like of shape (n_folds,)
        Score of the one minus score of the other on the same folds; with several seeds,
        the mean over seeds of each fold.
    test_ratio : float
        n_test / n_train of a fold.
    rope : float
        Differences smaller than this do not matter, in units of the score.

    Returns
    -------
    Contrast

    References
    ----------
    Nadeau & Bengio 2003, "Inference for the generalization error", Machine Learning 52.
    Benavoli, Corani, Demsar & Zaffalon 2017, "Time for a change", JMLR 18.

    Examples
    --------
    >>> from sk_bnreg.stats.folds import contrast
    >>> result = contrast([0.02, 0.03, 0.025, 0.028, 0.022], test_ratio=0.25, rope=0.01)
    >>> round(result.mean, 4), round(result.low, 4), round(result.high, 4), result.verdict
    (0.025, 0.0173, 0.0327, 'helps')
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        raise ValueError(f"differences must come from at least 2 folds, got {len(d)}.")
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    df = len(d) - 1  # folds that share rows are no fewer; the correlation is in the variance
    scale = _scale(sd, len(d), test_ratio)
    below, above = (float(stats.t.cdf(edge, df)) for edge in ((-rope - mean) / scale, (mean - rope) / scale))
    half = scale * float(stats.t.ppf(0.975, df))
    return Contrast(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p_value=float(2 * stats.t.sf(abs(mean) / scale, df)),
        p_worse=below,
        p_equivalent=max(0.0, 1 - below - above),
        p_better=above,
        rope=rope,
        resolution=sd * resolution(len(d), test_ratio),
        n_folds=len(d),
        sd=sd,
        test_ratio=test_ratio,
    )


def _scale(sd: float, n_folds: int, test_ratio: float) -> float:
    # equal differences leave no spread; a tiny one keeps the distribution defined
    return max(sd * standard_error(n_folds, test_ratio), float(np.sqrt(np.finfo(float).tiny)))


def standard_error(n_folds: int, test_ratio: float) -> float:
    """Return the corrected standard error of a mean over folds, in standard deviations of one fold."""
    return float(np.sqrt(1 / n_folds + test_ratio))


def resolution(n_folds: int, test_ratio: float) -> float:
    """Compute the smallest rope for which `n_folds` could ever say "redundant", before any fit.

    Parameters
    ----------
    n_folds : int
        Folds times repeats.
    test_ratio : float
        n_test / n_train of a fold: 1 / (k - 1) with k folds.

    Returns
    -------
    float
        In standard deviations of the fold differences.

    Raises
    ------
    ValueError
        If there are fewer than two folds, which have no spread.

    Examples
    --------
    >>> from sk_bnreg.stats.folds import resolution
    >>> round(resolution(5, 1 / 4), 2), round(resolution(100, 1 / 9), 2)
    (1.43, 0.58)
    """
    if n_folds < 2:
        raise ValueError(f"differences must come from at least 2 folds, got {n_folds}.")
    # with a mean of 0, the posterior has 0.95 of its mass on the near side of either edge
    return float(stats.t.ppf(CONFIDENCE, n_folds - 1)) * standard_error(n_folds, test_ratio)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjust p-values for their number by Holm's step-down method.

    Parameters
    ----------
    p_values : array-like of shape (n_tests,)

    Returns
    -------
    ndarray of shape (n_tests,)
        In the order of `p_values`; rejecting those up to alpha has a family-wise error of at most alpha.
    """
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    # statsmodels' multipletests does as much, and collects garbage at every call for a quarter of a second
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1.0)
    return adjusted
