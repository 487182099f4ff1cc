"""Comparing two models on the folds of a cross-validation, with the correction for shared training rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Contrast:
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
        declare equivalence.
    n_folds : int
        Differences that went in.
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

    @property
    def verdict(self) -> str:
        """ "redundant", "helps", "hurts" (each with a probability over 0.95) or "undecided"."""
        words = {"redundant": self.p_equivalent, "helps": self.p_better, "hurts": self.p_worse}
        word = max(words, key=lambda name: words[name])
        return word if words[word] > 0.95 else "undecided"


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
    >>> from sk_bnreg._stats import contrast
    >>> result = contrast([0.02, 0.03, 0.025, 0.028, 0.022], test_ratio=0.25, rope=0.01)
    >>> round(result.mean, 4), round(result.low, 4), round(result.high, 4), result.verdict
    (0.025, 0.0173, 0.0327, 'helps')
    """
    d = np.asarray(differences, dtype=float)
    df = len(d) - 1
    if df < 1:
        raise ValueError(f"differences must come from at least 2 folds, got {len(d)}.")
    # equal differences leave no spread; a tiny one keeps the distribution defined
    scale = max(np.sqrt(d.var(ddof=1) * (1 / len(d) + test_ratio)), np.finfo(float).tiny)
    posterior = stats.t(df, loc=d.mean(), scale=scale)
    half = float(stats.t.ppf(0.975, df) * scale)
    return Contrast(
        mean=float(d.mean()),
        low=float(d.mean() - half),
        high=float(d.mean() + half),
        p_value=float(2 * stats.t.sf(abs(d.mean()) / scale, df)),
        p_worse=float(posterior.cdf(-rope)),
        p_equivalent=float(posterior.cdf(rope) - posterior.cdf(-rope)),
        p_better=float(posterior.sf(rope)),
        rope=rope,
        resolution=half,
        n_folds=len(d),
    )
