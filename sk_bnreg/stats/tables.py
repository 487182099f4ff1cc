"""Models on many tables: two by signed ranks, three or more by their ranks on each table."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from sk_bnreg.stats.folds import Judgement, holm

if TYPE_CHECKING:
    import pandas as pd

N_DRAWS = 50_000  # of the posterior of the Bayesian signed-rank test


def counted(n: int, thing: str) -> str:
    """Return a number of things in words.

    Examples
    --------
    >>> from sk_bnreg.stats.tables import counted
    >>> counted(1, "table"), counted(1200, "table")
    ('1 table', '1,200 tables')
    """
    return f"{n:,} {thing}" + "s" * (n != 1)


@dataclass(frozen=True)
class SignedRank(Judgement):
    """The difference of two models' scores over data sets.

    Attributes
    ----------
    median : float
        Hodges-Lehmann estimate: median of the averages of two differences, of one with itself too.
    p_value : float
        Two-sided Wilcoxon signed-rank test; the ranks of zeros are split between the sides.
    p_worse, p_equivalent, p_better : float
        Probability by the Bayesian signed-rank test that most lies below -rope, within it, above it.
    rope : float
        Half-width of the region of practical equivalence, in units of the score.
    n_tables : int
        Differences that went in.
    """

    median: float
    p_value: float
    p_worse: float
    p_equivalent: float
    p_better: float
    rope: float
    n_tables: int

    def summary(self) -> str:
        """Return the result as one sentence."""
        sentence = f"Median difference {self.median:+z.4f} over {counted(self.n_tables, 'table')}, "
        sentence += f"Wilcoxon p = {self.p_value:.3g}"
        return f"{sentence}; {self.probabilities()}."


def signed_rank(differences: Sequence[float] | np.ndarray, *, rope: float, random_state: int | None = 0) -> SignedRank:
    """Judge the differences of two models over data sets.

    The Bayesian signed-rank test puts a Dirichlet process with a pseudo-observation of weight
    0.5 at zero on the differences; each of 50,000 draws from the posterior counts for the
    region in which the average of two differences is likeliest to fall (Benavoli et al. 2014,
    "A Bayesian Wilcoxon signed-rank test based on the Dirichlet process", ICML).

    Parameters
    ----------
    differences : array-like of shape (n_tables,)
        Score of the one minus score of the other, one mean per data set.
    rope : float
        Differences smaller than this do not matter, in units of the score.
    random_state : int or None, default=0
        Seed of the draws.

    Returns
    -------
    SignedRank

    Examples
    --------
    >>> from sk_bnreg.stats.tables import signed_rank
    >>> result = signed_rank([0.02, 0.03, 0.025, 0.04, -0.001, 0.05, 0.03, 0.02], rope=0.01)
    >>> round(result.median, 4), round(result.p_value, 4), result.verdict
    (0.0263, 0.0156, 'helps')
    """
    d = np.asarray(differences, dtype=float)
    if not len(d) or not np.isfinite(d).all():
        raise ValueError(f"differences must be finite numbers of at least 1 table, got {differences!r}.")
    pairs = np.triu_indices(len(d))  # each difference with itself too, as Hodges and Lehmann have it
    worse, equivalent, better = _bayesian_signed_rank(d, rope, random_state)
    median = float(np.median((d[pairs[0]] + d[pairs[1]]) / 2))
    return SignedRank(median, _wilcoxon(d), worse, equivalent, better, rope, len(d))


@dataclass(frozen=True)
class Ranking:
    """The ranks of three or more schemes over data sets.

    `mean_ranks` and `pairs` are what `scikit_posthocs.critical_difference_diagram` asks for.

    Attributes
    ----------
    mean_ranks : Series
        Mean rank of each scheme, 1 for the best; equal scores share the average of their ranks.
    statistic, p_value : float
        Friedman's chi-squared, corrected for ties, and its p-value.
    pairs : DataFrame
        p-value of each pair: Wilcoxon signed-rank test paired by table, adjusted by Holm's method.
    n_tables : int
        Data sets that went in.
    """

    mean_ranks: "pd.Series"
    statistic: float
    p_value: float
    pairs: "pd.DataFrame"
    n_tables: int

    def summary(self) -> str:
        """Return the result as one sentence, with the pairs that differ at 5 %."""
        ranks = ", ".join(f"{name} {rank:.2f}" for name, rank in self.mean_ranks.sort_values().items())
        names, p = list(self.pairs), self.pairs.to_numpy()
        pairs = [(i, j) for i, j in combinations(range(len(names)), 2) if p[i, j] < 0.05]
        differ = ", ".join(f"{names[i]} and {names[j]} (p = {p[i, j]:.3g})" for i, j in pairs)
        sentence = f"Mean ranks over {counted(self.n_tables, 'table')}: {ranks}; "
        sentence += f"Friedman chi-squared {self.statistic:.2f}, p = {self.p_value:.3g}; "
        return f"{sentence}schemes that differ at 5 % after Holm's adjustment: {differ or 'none'}."


def ranking(scores: "pd.DataFrame") -> Ranking:
    """Rank three or more schemes over data sets.

    Parameters
    ----------
    scores : DataFrame of shape (n_tables, n_schemes)
        A row per data set, a column per scheme; greater is better.

    Returns
    -------
    Ranking

    References
    ----------
    Demsar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7.
    Benavoli et al. 2016, "Should we really use post-hoc tests based on mean-ranks?", JMLR 17.

    Examples
    --------
    >>> import pandas as pd
    >>> from sk_bnreg.stats.tables import ranking
    >>> result = ranking(pd.DataFrame({"a": [3, 5, 2], "b": [2, 4, 1], "c": [1, 4, 0]}))
    >>> result.mean_ranks.round(2).to_dict()
    {'a': 1.0, 'b': 2.17, 'c': 2.83}
    """
    import pandas as pd

    n_tables, n_schemes = scores.shape
    if n_schemes < 3:
        raise ValueError(f"scores must have at least 3 schemes, got {n_schemes}; for two, use signed_rank.")
    if not all(pd.api.types.is_numeric_dtype(dtype) for dtype in scores.dtypes) or not scores.columns.is_unique:
        raise ValueError(f"scores must have columns of numbers, each with a name of its own, got {list(scores)}.")
    values = scores.to_numpy(dtype=float)
    if not n_tables or not np.isfinite(values).all():
        raise ValueError("scores must have at least 1 table and a finite number for every table and scheme.")
    # Friedman's correction for ties divides by zero where every table is one tie
    tied = (values == values[:, :1]).all()
    statistic, p_value = (0.0, 1.0) if tied else stats.friedmanchisquare(*values.T)
    # each pair by its own differences: with mean ranks a pair's answer would depend on the other schemes
    p_values = np.ones((n_schemes, n_schemes))
    p_values[np.triu_indices(n_schemes, 1)] = holm([_wilcoxon(i - j) for i, j in combinations(values.T, 2)])
    pairs = pd.DataFrame(np.minimum(p_values, p_values.T), index=scores.columns, columns=scores.columns)
    mean_ranks = scores.rank(axis=1, ascending=False).mean()
    return Ranking(mean_ranks, float(statistic), float(p_value), pairs, n_tables)


def _wilcoxon(differences: np.ndarray) -> float:
    """Return the two-sided p-value, 1 if no difference is left."""
    return float(stats.wilcoxon(differences, zero_method="zsplit").pvalue) if differences.any() else 1.0


def _bayesian_signed_rank(d: np.ndarray, rope: float, random_state: int | None) -> list[float]:
    """Return the probabilities of worse, equivalent and better."""
    rng = np.random.default_rng(random_state)
    # the prior, half an observation of no difference, keeps few tables from a certain answer
    points = np.append(d, 0.0)
    sums = points[:, None] + points
    # a sum on the rope's edge counts half on either side
    below, above = np.heaviside(-sums - 2 * rope, 0.5), np.heaviside(sums - 2 * rope, 0.5)
    wins = np.zeros(3)
    for _ in range(N_DRAWS // 1000):  # a thousand draws in memory at a time
        weights = rng.dirichlet(np.append(np.ones(len(d)), 0.5), 1000)
        worse, better = (((weights @ side) * weights).sum(axis=1) for side in (below, above))
        shares = np.stack([worse, 1 - worse - better, better])
        # a draw counts for its likeliest region, divided where two are equal
        largest = shares == shares.max(axis=0)
        wins += (largest / largest.sum(axis=0)).sum(axis=1)
    return list(wins / N_DRAWS)
