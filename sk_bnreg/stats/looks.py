"""How long to go on: when a question is settled, how many seeds are worth their time, what an undecided one would take.

The folds of every further repeat share their rows with the earlier ones, so the corrected standard error has a floor
that no number of repeats gets below. That makes looks cheap: successive means hardly move.
"""

import numpy as np
from scipy import stats

from sk_bnreg.stats.folds import CONFIDENCE, STRONG, Contrast, standard_error

EARLY = 0.999  # a word's probability to stop for it: Haybittle and Peto's rule, which leaves the last look its 5 %
FUTILE = 0.1  # chance of a strong word below which more repeats can't help
MOST_REPEATS = 20  # with five folds they have 95 % of the information of infinitely many
PILOT_SEEDS = 4
MOST_SEEDS = 32
SEED_SHARE = 0.1  # of the variance of a mean difference that seeds may have


def settled(contrast: Contrast, most_folds: int) -> bool:
    """Tell whether a question has its word, or more folds can't help it to a strong one.

    A look that may end a study for a word takes a probability of 0.999, and only the last one takes 0.95: so looks
    cost next to nothing of the 5 % (Haybittle 1971, Peto et al. 1976). Stopping because it is futile costs nothing.

    Parameters
    ----------
    contrast : Contrast
    most_folds : int
        That there would ever be.

    Returns
    -------
    bool

    Examples
    --------
    >>> from sk_bnreg.stats.folds import contrast
    >>> clear, near_the_edge = [0.1, 0.11, 0.1, 0.09, 0.1], [0.01, 0.03, -0.01, 0.02, 0.0]
    >>> [settled(contrast(d, test_ratio=0.25, rope=0.01), most_folds=100) for d in (clear, near_the_edge)]
    [True, True]
    """
    return contrast.verdict_at(EARLY) in STRONG or chance(contrast, most_folds) < FUTILE


def chance(contrast: Contrast, n_folds: int) -> float:
    """Compute the probability that so many folds in all would say "helps", "hurts" or "redundant".

    The mean over all of them lies about the present one, with the variance that the folds to come take out of it;
    the spread stays as it is.

    Parameters
    ----------
    contrast : Contrast
    n_folds : int
        More than the contrast has.

    Returns
    -------
    float
    """
    c = contrast
    move = c.sd * np.sqrt(max(0.0, 1 / c.n_folds - 1 / n_folds))
    if not move:
        return float(c.verdict in STRONG)
    half = stats.t.ppf(CONFIDENCE, n_folds - 1) * c.sd * standard_error(n_folds, c.test_ratio)
    helps, hurts = stats.norm.cdf((np.array([c.mean, -c.mean]) - c.rope - half) / move)
    inside = stats.norm.cdf((np.array([1, -1]) * (c.rope - half) - c.mean) / move)
    return float(helps + hurts + max(0.0, inside[0] - inside[1]))


def outlook(contrast: Contrast, most_folds: int, n_rows: int, seed_sd: float = 0.0) -> str:
    """Return what keeps a question from a strong word, and what it would take, as a clause.

    Parameters
    ----------
    contrast : Contrast
    most_folds : int
        That there would ever be.
    n_rows : int
        Of the table.
    seed_sd : float
        The part of the folds' standard deviation that is due to seeds.

    Returns
    -------
    str
        "" where the question has a strong word.
    """
    c = contrast
    if c.verdict in STRONG:
        return ""
    seeds = f", of which seeds {seed_sd:.2g}" if seed_sd else ""
    spread = f"the difference varies between folds with sd {c.sd:.2g}{seeds}"
    if (probability := chance(c, most_folds)) >= FUTILE:
        return f"{spread}: {most_folds} folds would decide it with a probability of {100 * probability:.0f} %"
    out_of_reach = 100 * n_rows
    if rows_needed(c, most_folds, n_rows) > out_of_reach:
        return f"{spread}, and its mean lies at the rope's edge: no number of folds decides it, and hardly any of rows"
    if (needed := rows_needed(c, most_folds, n_rows, seed_sd)) > out_of_reach:
        return f"{spread}: no number of folds decides it while seeds vary so much; more seeds might"
    return f"{spread}: no number of folds decides it; about {float(f'{needed:.1g}'):,.0f} rows would, if its mean stays"


def rows_needed(contrast: Contrast, n_folds: int, n_rows: int, seed_sd: float = 0.0) -> float:
    """Compute how many rows so many folds would need for a strong word if the mean stayed as it is.

    The part of the spread that is not due to seeds falls with the square root of the rows.

    Parameters
    ----------
    contrast : Contrast
    n_folds : int
    n_rows : int
        Of the table that the contrast comes from.
    seed_sd : float
        As for `outlook`.

    Returns
    -------
    float
        inf where no number of rows is enough.
    """
    c = contrast
    to_edge = abs(abs(c.mean) - c.rope)
    allowed = to_edge / (stats.t.ppf(CONFIDENCE, n_folds - 1) * standard_error(n_folds, c.test_ratio))
    left = allowed**2 - seed_sd**2
    return n_rows * max(0.0, c.sd**2 - seed_sd**2) / left if left > 0 else float("inf")


def seed_deviation(differences: np.ndarray) -> float:
    """Compute the standard deviation that seeds give to a fold's mean difference.

    Parameters
    ----------
    differences : ndarray of shape (n_folds, n_seeds)

    Returns
    -------
    float
        nan with one seed.
    """
    n_seeds = differences.shape[1]
    return float(np.sqrt(differences.var(axis=1, ddof=1).mean() / n_seeds)) if n_seeds > 1 else float("nan")


def seeds_needed(pilot: np.ndarray, *, step: int = 1, most: int = MOST_SEEDS) -> int:
    """Compute for how many seeds their share in the variance of the mean difference is below a tenth.

    Parameters
    ----------
    pilot : ndarray of shape (n_folds, n_seeds)
        Differences of two schemes.
    step : int
        The number is a multiple of it, as networks whose predictions are averaged come in groups.
    most : int
        Not more than that, but for one step.

    Returns
    -------
    int
        At least as many as the pilot had.

    Examples
    --------
    >>> import numpy as np
    >>> folds, seeds = np.repeat([-1.0, 1.0], 25)[:, None], np.array([1.0, -1.0, 1.0, -1.0])
    >>> noisy = folds + seeds
    >>> seeds_needed(noisy), seeds_needed(noisy, step=8), seeds_needed(noisy, most=6)
    (18, 24, 6)
    """
    n_seeds = pilot.shape[1]
    one = seed_deviation(pilot) ** 2 * n_seeds
    # what folds themselves vary by: what is left when the pilot's seeds have been taken out
    folds = max(0.0, pilot.mean(axis=1).var(ddof=1) - one / n_seeds)
    most_steps = max(1, most // step)
    # one / n <= SEED_SHARE * (folds + one / n), solved for n
    wanted = one * (1 - SEED_SHARE) / (SEED_SHARE * folds) if folds else one and np.inf
    return step * int(min(most_steps, np.ceil(max(wanted, n_seeds) / step)))
