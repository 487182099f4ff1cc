"""When a study ends and what it would take: against simulated folds, loops and numbers by hand."""

import numpy as np
import pytest
from scipy import stats

from sk_bnreg.stats.folds import STRONG, contrast
from sk_bnreg.stats.looks import MOST_SEEDS, chance, outlook, rows_needed, seed_deviation, seeds_needed, settled

RATIO = 0.25  # five folds
MANY = {"most_folds": 100}


def folds(mean, sd, n_folds=10):
    """Return folds with exactly this mean and standard deviation."""
    noise = np.random.default_rng(0).normal(size=n_folds)
    return mean + sd * (noise - noise.mean()) / noise.std(ddof=1)


def result(mean, sd, n_folds=10, rope=1.0):
    """Return the contrast of such folds."""
    return contrast(folds(mean, sd, n_folds), test_ratio=RATIO, rope=rope)


@pytest.mark.parametrize(
    ("mean", "sd"), [(0.0, 0.9), (0.3, 0.8), (1.7, 0.8), (-1.9, 1.0), (1.0, 0.4), (0.0, 1.15), (0.0, 3.0), (0.0, 0.2)]
)
@pytest.mark.parametrize("n_folds", [15, 100])
def test_chance_equals_the_share_of_simulated_means(mean, sd, n_folds):
    """The training rows that all folds share move them together, so only what each has by itself is still to come."""
    rng, n_draws = np.random.default_rng(0), 40_000
    together = rng.normal(mean, sd / np.sqrt(10), size=n_draws)  # what ten folds leave open
    rest = together + sd * rng.normal(size=(n_folds - 10, n_draws)).mean(axis=0)
    means = (10 * mean + (n_folds - 10) * rest) / n_folds
    reach = stats.t.ppf(0.95, n_folds - 1) * sd * np.sqrt(1 / n_folds + RATIO)
    strong = (np.abs(means) > 1 + reach) | (np.abs(means) < 1 - reach)
    found = chance(result(mean, sd), n_folds)
    assert abs(found - strong.mean()) <= 4 * np.sqrt(found * (1 - found) / n_draws) + 1 / n_draws


def test_chance_is_the_frequency_of_strong_words_among_studies():
    """Folds with a common part, whose variance is n_test / n_train of their own; any mean is as likely as another."""
    rng, n_studies = np.random.default_rng(0), 600
    found, came = [], []
    for mean in rng.uniform(-3, 3, n_studies):
        d = mean + 0.7 * (np.sqrt(RATIO) * rng.normal() + rng.normal(size=100))
        found.append(chance(contrast(d[:50], test_ratio=RATIO, rope=1.0), 100))
        came.append(contrast(d, test_ratio=RATIO, rope=1.0).verdict in STRONG)
    found, came = np.array(found), np.array(came)
    for these in (found < 0.5, found >= 0.5):
        p = found[these]
        # each study comes out by itself, with its own probability
        assert abs(came[these].mean() - p.mean()) <= 4 * np.sqrt((p * (1 - p)).sum()) / len(p)
    assert np.mean((found > 0.02) & (found < 0.98)) > 0.1


def test_without_more_folds_chance_is_the_word():
    assert chance(result(3.0, 0.5), 10) == 1.0
    assert chance(result(0.0, 3.0), 10) == 0.0
    equal = contrast(np.zeros(10), test_ratio=RATIO, rope=1.0)
    assert chance(equal, 100) == 1.0


def test_a_strong_word_at_an_early_look_takes_999_in_1000():
    """A difference beyond the edge by the t quantile of either probability."""
    scale = 0.5 * np.sqrt(1 / 10 + RATIO)
    at_95, at_999 = (1 + scale * stats.t.ppf(p, 9) for p in (0.95, 0.999))
    for mean in (at_95 + 0.001, at_999 - 0.001):
        assert result(mean, 0.5).verdict == "helps"
        assert not settled(result(mean, 0.5), **MANY)
        assert not settled(result(-mean, 0.5), **MANY)
    assert settled(result(at_999 + 0.001, 0.5), **MANY)
    assert settled(result(-at_999 - 0.001, 0.5), **MANY)
    # 0.999 on either side: the rope is wide enough from t(.999, 9) = 4.2968 scales on
    assert settled(result(0.0, 0.999 / 4.2968 / np.sqrt(0.35)), **MANY)
    assert not settled(result(0.0, 1.001 / 4.2968 / np.sqrt(0.35)), **MANY)


def test_a_question_that_more_folds_cannot_help_is_settled():
    assert result(0.0, 3.0).verdict == "undecided"
    assert settled(result(0.0, 3.0), **MANY)
    # 0.999 for a one-sided word is no reason to stop where a stronger one may come
    harmless = result(0.7, 0.35)
    assert harmless.verdict == harmless.verdict_at(0.999) == "harmless"
    assert not settled(harmless, **MANY)
    assert settled(result(1.0, 0.35), **MANY)  # on the edge there is none to come


@pytest.mark.parametrize(("mean", "seed_sd"), [(0.0, 0.0), (0.004, 0.005), (0.03, 0.002), (-0.02, 0.0), (-0.004, 0.0)])
def test_with_the_rows_needed_the_word_is_strong_and_with_fewer_it_is_not(mean, seed_sd):
    """More rows shrink what is not due to seeds, by the square root of their number."""
    now, n_rows = result(mean, 0.05, rope=0.01), 2_000
    needed = rows_needed(now, 100, n_rows, seed_sd)
    assert needed > n_rows

    def word(n):
        return result(mean, np.sqrt(seed_sd**2 + (0.05**2 - seed_sd**2) * n_rows / n), 100, rope=0.01).verdict

    assert word(1.01 * needed) in STRONG
    assert word(0.99 * needed) not in STRONG


def test_rows_needed_by_hand():
    """sd 0.02 against 0.01 / (t(.95, 99) = 1.6604 times sqrt(1/100 + 1/4) = 0.50990)."""
    assert rows_needed(result(0.0, 0.02, rope=0.01), 100, 1_000) == pytest.approx(
        1_000 * (2 * 1.6604 * 0.5099) ** 2, 1e-4
    )
    # seeds are 1e-4 of the variance of 4e-4, and of the 1e-4 / (1.6604 * 0.5099)^2 that are allowed
    assert rows_needed(result(0.0, 0.02, rope=0.01), 100, 1_000, seed_sd=0.01) == pytest.approx(
        1_000 * 3 / ((1.6604 * 0.5099) ** -2 - 1), 1e-3
    )
    with np.errstate(divide="raise"):
        assert rows_needed(result(0.01, 0.02, rope=0.01), 100, 1_000) == np.inf
    # seeds alone are more than the 0.0118 that are allowed
    assert rows_needed(result(0.0, 0.02, rope=0.01), 100, 1_000, seed_sd=0.012) == np.inf


@pytest.mark.parametrize(
    ("mean", "sd", "seed_sd", "sentence"),
    [
        (0.05, 0.01, 0.0, ""),
        (-0.05, 0.01, 0.0, ""),
        (0.0, 0.004, 0.001, ""),
        # 1,000 * (2 * 1.6604 * 0.5099) ** 2 = 2,867 and, without the seeds' part, (4e-4 - 25e-6) / (1.3952e-4 - 25e-6)
        (0.0, 0.02, 0.0, "sd 0.02: no number of folds decides it; about 3,000 rows would, if its mean stays"),
        (
            0.0,
            0.02,
            0.005,
            "sd 0.02, of which seeds 0.005: no number of folds decides it; about 3,000 rows would, if its mean stays",
        ),
        (
            0.01,
            0.02,
            0.0,
            "sd 0.02, and its mean lies at the rope's edge: no number of folds decides it, and hardly any of rows",
        ),
    ],
)
def test_the_outlook_in_words(mean, sd, seed_sd, sentence):
    found = outlook(result(mean, sd, rope=0.01), 100, 1_000, seed_sd)
    assert found == (sentence and f"the difference varies between folds with {sentence}")


@pytest.mark.parametrize(("moves", "percent"), [(0.0, 50), (0.7, 76)])
def test_the_outlook_tells_the_chance_of_more_folds(moves, percent):
    """Beyond the edge of what 100 folds can tell by so many standard deviations of what 90 of them may change."""
    reach = stats.t.ppf(0.95, 99) * 0.02 * np.sqrt(1 / 100 + RATIO)
    mean = 0.01 + reach + moves * 0.02 * np.sqrt(1 / 10 - 1 / 100)
    found = outlook(result(mean, 0.02, rope=0.01), 100, 1_000)
    expected = f"sd 0.02: 100 folds would decide it with a probability of {percent} %"
    assert found == f"the difference varies between folds with {expected}"


@pytest.mark.parametrize(
    ("alone", "with_seeds", "end"),
    [
        (99, 99.5, "no number of folds decides it; about 100,000 rows would, if its mean stays"),
        (99, 100.5, "no number of folds decides it while seeds vary so much; more seeds might"),
        (50, np.inf, "no number of folds decides it while seeds vary so much; more seeds might"),
        (100.5, 102, "no number of folds decides it, and hardly any of rows"),
    ],
)
def test_a_hundred_times_the_rows_are_out_of_reach(alone, with_seeds, end):
    """The rows needed are sd^2 / allowed^2 times those there are, and (sd^2 - seeds^2) / (allowed^2 - seeds^2)."""
    allowed = 0.02 / np.sqrt(alone)
    seed_sd = np.sqrt((with_seeds * allowed**2 - 0.02**2) / (with_seeds - 1)) if with_seeds < np.inf else allowed
    to_edge = allowed * stats.t.ppf(0.95, 99) * np.sqrt(1 / 100 + RATIO)
    assert outlook(result(0.01 - to_edge, 0.02, rope=0.01), 100, 1_000, 1.0001 * seed_sd).endswith(end)


@pytest.mark.filterwarnings("error")
def test_seed_deviation_by_hand():
    """Variances 2 and 8 of two folds, whose mean is halved by two seeds."""
    assert seed_deviation(np.array([[1.0, 3.0], [2.0, 6.0]])) == pytest.approx(np.sqrt(2.5))
    assert np.isnan(seed_deviation(np.array([[1.0], [2.0]])))


def test_seed_deviation_is_the_deviation_of_means_over_new_seeds():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(2_000, 1))
    one, other = (true + rng.normal(0, 3, size=(2_000, 4)) for _ in range(2))
    moved = one.mean(axis=1) - other.mean(axis=1)
    # relative standard errors: 1 / sqrt(2 * 6000) of the one, 1 / sqrt(2 * 2000) of the other
    assert seed_deviation(one) == pytest.approx(moved.std() / np.sqrt(2), rel=4 * np.sqrt(1 / 12_000 + 1 / 4_000))


@pytest.mark.parametrize("seed_sd", [0.1, 0.5, 0.9, 3.0])
@pytest.mark.parametrize("step", [1, 3, 8])
def test_seeds_needed_equal_a_loop_over_their_number(seed_sd, step):
    """A one-way analysis of variance by hand; the first multiple of `step` with a share of at most a tenth."""
    rng = np.random.default_rng(0)
    pilot = rng.normal(size=(5, 1)) + rng.normal(0, seed_sd, size=(5, 4))
    within = sum(((row - row.mean()) ** 2).sum() for row in pilot) / (5 * 3)
    between = ((pilot.mean(axis=1) - pilot.mean()) ** 2).sum() / 4 - within / 4
    allowed = [n for n in range(step, MOST_SEEDS + 1, step) if n >= 4]
    enough = [n for n in allowed if within / n <= 0.1 * (between + within / n)]
    assert seeds_needed(pilot, step=step) == (enough or allowed[-1:])[0]


def test_seeds_needed_at_the_ends():
    same = np.random.default_rng(0).normal(size=(5, 1)) * np.ones((5, 4))
    assert seeds_needed(same) == 4  # seeds change nothing
    assert seeds_needed(same, step=3) == 6
    assert seeds_needed(np.zeros((5, 3))) == 3
    only_seeds = np.tile([[1.0, -1.0, 2.0, -2.0]], (5, 1))
    assert seeds_needed(only_seeds) == MOST_SEEDS
    assert seeds_needed(only_seeds, step=3) == MOST_SEEDS // 3 * 3
    assert seeds_needed(only_seeds, step=MOST_SEEDS + 4) == MOST_SEEDS + 4
    assert seeds_needed(only_seeds, most=6) == 6
