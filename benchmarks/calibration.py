"""Do the corrected t-test and its posterior keep their word, and what would plain ones do?

normal: differences with the correlation that the correction assumes, n_test / (n_test + n_train) between any two
folds, 400,000 runs. "false" is the share of runs that find a difference (p < 0.05) where there is none; "redundant at
the edge" the share that say "redundant" where the true difference is the rope itself, for ropes of 0.5 to 4 standard
deviations of the fold differences. Both should be at most 5 %.

learners: two learners of the same kind on samples of 250 rows. One sees the first half of the columns, the other the
second; given the class, the halves are independent draws from one distribution, so the two are equally accurate in
expectation and every difference found is a false one. The correction is an approximation here, no bound holds.

looks: whole studies of the same normal differences, through the rule by which compare_schemes goes on: a pilot of
four seeds in the first repeat, as many seeds as it asks for, a look after each repeat from the second on, an end when
all questions are settled, when the time is up (after 1 to 20 repeats) or after 20 repeats, and the word that all folds
then say. A difference has noise of its own in every fold, of sd 1, the common part that the correction assumes, and
the noise of seeds, independent of all else; ropes are in the same unit. False words are "helps" and "hurts" where the
truth is 0, those that say there is no gain where the truth is the rope (or no loss where it is minus the rope), and
those that say the gain is beyond the rope where it is at it (or the loss). The first question's words are counted.

    python benchmarks/calibration.py [seed] [--only normal learners looks] [--studies 20000]
"""

import argparse
from itertools import product

import numpy as np
import sklearn
from scipy import special, stats
from sklearn.datasets import make_classification
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from sk_bnreg.stats.folds import CONFIDENCE, STRONG, WORDS, contrast, standard_error
from sk_bnreg.stats.looks import (
    EARLY,
    FUTILE,
    MOST_REPEATS,
    MOST_SEEDS,
    PILOT_SEEDS,
    SEED_SHARE,
    seeds_needed,
    settled,
)

ROPES = (0.5, 1.0, 2.0, 4.0)
N_COLUMNS = 5
NAMES = list(WORDS)
STUDY_FOLDS = (3, 5, 10)
STUDY_ROPES = (0.1, 0.3, 0.6, 1.0, 1.5, 3.0)
SEED_SDS = (0.0, 1.0, 3.0)  # of the difference of two networks; the most seeds leave 3 a share of .22
N_QUESTIONS = (1, 3)
LIMITS = (1, 2, 3, 5, 10, 20)  # repeats after which the time is up
USUAL = (1.0, 3)  # seed noise and questions of the tables; the last lines are of all
CLAIMS = {  # the truth in ropes, and the words that are false there
    "helps or hurts, truth 0": (0, ("helps", "hurts")),
    "redundant, dispensable or hurts, truth +rope": (1, ("redundant", "dispensable", "hurts")),
    "redundant, harmless or helps, truth -rope": (-1, ("redundant", "harmless", "helps")),
    "helps, truth +rope": (1, ("helps",)),
    "hurts, truth -rope": (-1, ("hurts",)),
}


def judge(d, test_ratio, rope):
    """p-values and probabilities of equivalence of many rows of differences, as `contrast` finds them one by one."""
    df = d.shape[1] - 1
    mean, scale = d.mean(axis=1), d.std(axis=1, ddof=1) * np.sqrt(1 / d.shape[1] + test_ratio)
    p_value = 2 * stats.t.sf(np.abs(mean) / scale, df)
    p_equivalent = stats.t.cdf((rope - mean) / scale, df) - stats.t.cdf((-rope - mean) / scale, df)
    for i in range(20):
        one = contrast(d[i], test_ratio=test_ratio, rope=rope)
        assert np.allclose((one.p_value, one.p_equivalent), (p_value[i], p_equivalent[i]))
    return p_value, p_equivalent


def normal_differences(rng, n_runs=400_000):
    error = 100 * np.sqrt(0.05 * 0.95 / n_runs)
    print(f"normal differences, {n_runs:,} runs, %, standard error {error:.2f} at 5 %: corrected (plain)")
    print(f"{'':<6}{'':>15}   redundant at the edge, rope / sd")
    print(f"{'folds':<6}{'false':>15}" + "".join(f"{rope:>15g}" for rope in ROPES))
    false, edge = [], []
    for repeats, k in ((1, 5), (2, 5), (1, 10), (10, 10)):
        ratio = 1 / (k - 1)
        # a common part of variance n_test / n_train beside one's own of 1 gives the assumed correlation
        noise = rng.normal(size=(n_runs, repeats * k)) + np.sqrt(ratio) * rng.normal(size=(n_runs, 1))
        found = [100 * (judge(noise, r, 1.0)[0] < 0.05).mean() for r in (ratio, 0.0)]
        said = [[100 * (judge(noise + rope, r, rope)[1] > 0.95).mean() for r in (ratio, 0.0)] for rope in ROPES]
        false.append(found[0])
        edge.extend(corrected for corrected, _ in said)
        cells = [f"{corrected:.2f} ({plain:.2f})" for corrected, plain in (found, *said)]
        print(f"{f'{repeats}x{k}':<6}" + "".join(f"{cell:>15}" for cell in cells))
    print(f"corrected, at most: false {max(false):.2f}, redundant at the edge {max(edge):.2f}")


def of(n_found, n):
    """A share in % with its 95 % Wilson interval."""
    low, high = stats.binomtest(int(n_found), n).proportion_ci(method="wilson")
    return f"{100 * n_found / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def fold_differences(learner, X, y, repeats, k, seed):
    halves = (X[:, :N_COLUMNS], X[:, N_COLUMNS:])
    differences = []
    for train, test in RepeatedStratifiedKFold(n_splits=k, n_repeats=repeats, random_state=seed).split(X, y):
        scores = [(learner.fit(half[train], y[train]).predict(half[test]) == y[test]).mean() for half in halves]
        differences.append(scores[0] - scores[1])
    return np.array(differences)


def exchangeable_halves():
    """A function that draws rows: classes, and two halves of columns that tell as much about them."""
    pool, classes = make_classification(
        100_000, N_COLUMNS, n_informative=3, n_redundant=0, class_sep=0.7, flip_y=0.1, random_state=0
    )
    rows_of = [np.flatnonzero(classes == label) for label in (0, 1)]

    def draw(rng, n_rows):
        y = rng.integers(2, size=n_rows)
        return np.hstack([pool[[rng.choice(rows_of[label]) for label in y]] for _ in range(2)]), y

    return draw


def real_learners(rng, n_rows=250):
    draw = exchangeable_halves()
    learners = {
        "decision tree": DecisionTreeClassifier(random_state=0),
        "5 neighbours": KNeighborsClassifier(5, algorithm="brute"),
    }
    print(f"\nreal learners without a true difference, {n_rows} rows, false positives, % [95 % interval]")
    print(f"{'learner':<16}{'folds':<8}{'samples':>7}{'corrected':>20}{'plain':>20}{'accuracy a - b':>22}")
    for name, learner in learners.items():
        for repeats, k, n_samples in ((1, 5, 1000), (2, 5, 600), (10, 10, 200)):
            p_values, means = [], []
            for _ in range(n_samples):
                X, y = draw(rng, n_rows)
                d = fold_differences(learner, X, y, repeats, k, int(rng.integers(2**31)))
                p_values.append([contrast(d, test_ratio=ratio, rope=0.01).p_value for ratio in (1 / (k - 1), 0.0)])
                means.append(d.mean())
            cells = [of(found, n_samples) for found in (np.array(p_values) < 0.05).sum(axis=0)]
            accuracy = f"{np.mean(means):+.4f} +- {stats.sem(means):.4f}"
            print(f"{name:<16}{f'{repeats}x{k}':<8}{n_samples:>7}{cells[0]:>20}{cells[1]:>20}{accuracy:>22}")


def studies(rng, n_runs, k, truth, seed_sd, n_questions):
    """Differences (runs, questions, repeats, folds), each the mean of as many seeds as the run's pilot asked for."""
    shape = (n_runs, n_questions, MOST_REPEATS, k)
    d = truth + rng.normal(size=shape) + np.sqrt(1 / (k - 1)) * rng.normal(size=(n_runs, n_questions, 1, 1))
    pilot = seed_sd * rng.normal(size=(n_runs, n_questions, k, PILOT_SEEDS))
    n_seeds = seeds_of(d[:, :, 0, :, None] + pilot)[:, None, None]
    noise = seed_sd * rng.normal(size=shape) / np.sqrt(n_seeds[..., None])
    # the pilot's networks are four of the first repeat's
    others = seed_sd * np.sqrt(n_seeds - PILOT_SEEDS) * rng.normal(size=(n_runs, n_questions, k))
    noise[:, :, 0] = (pilot.sum(axis=3) + others) / n_seeds
    return d + noise


def seeds_of(pilots):
    """For pilots (runs, questions, folds, seeds), `seeds_needed` of the question of each run that needs most."""
    n = pilots.shape[3]
    one = pilots.var(axis=3, ddof=1).mean(axis=2)
    folds = np.maximum(0, pilots.mean(axis=3).var(axis=2, ddof=1) - one / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.where(one > 0, one * (1 - SEED_SHARE) / (SEED_SHARE * folds), 0)
    found = np.minimum(MOST_SEEDS, np.ceil(np.maximum(wanted, n))).astype(int).max(axis=1)
    for i in range(20):
        assert found[i] == max(map(seeds_needed, pilots[i]))
    return found


def looks_at(d, rope):
    """The word (its place in `WORDS`) after each repeat, and whether it is settled then: (runs, questions, repeats)."""
    k = d.shape[3]
    ratio, most = 1 / (k - 1), MOST_REPEATS * k
    n = k * np.arange(1, d.shape[2] + 1)
    mean = d.sum(axis=3).cumsum(axis=2) / n
    sd = np.sqrt(((d**2).sum(axis=3).cumsum(axis=2) - n * mean**2) / (n - 1))
    scale = sd * np.sqrt(1 / n + ratio)
    p_better, p_worse = (special.stdtr(n - 1, (sign * mean - rope) / scale) for sign in (1, -1))

    def words(confidence):
        gainless, lossless = 1 - p_better > confidence, 1 - p_worse > confidence
        said = [p_better > confidence, p_worse > confidence, gainless & lossless, gainless, lossless]
        return np.select(said, range(5), 5)

    word = words(CONFIDENCE)
    half = stats.t.ppf(CONFIDENCE, most - 1) * sd * standard_error(most, ratio)
    move = sd * np.sqrt(np.maximum(1 / n - 1 / most, np.finfo(float).tiny))
    inside = special.ndtr((rope - half - mean) / move) - special.ndtr((half - rope - mean) / move)
    chance = sum(special.ndtr((sign * mean - rope - half) / move) for sign in (1, -1)) + np.maximum(0, inside)
    chance = np.where(n < most, chance, word < len(STRONG))
    return word, (words(EARLY) < len(STRONG)) | (chance < FUTILE)


def ended(word, all_settled, limit):
    """The words at the end of studies whose time is up after `limit` repeats, and how many repeats they had."""
    stop = all_settled[:, 1:limit]  # the first look is after the second repeat
    n_repeats = np.where(stop.any(axis=1), 2 + stop.argmax(axis=1), limit) if limit > 1 else np.ones(len(word), int)
    return np.take_along_axis(word[:, 0], n_repeats[:, None] - 1, axis=1)[:, 0], n_repeats


def study_by_study(d, rope, limit):
    """What `ended` finds for one run, from the functions of the package, as study/run.py calls them."""
    k = d.shape[2]
    for n_repeats in range(1, limit + 1):
        told = [contrast(of[:n_repeats].ravel(), test_ratio=1 / (k - 1), rope=rope) for of in d]
        if n_repeats > 1 and all(settled(c, MOST_REPEATS * k) for c in told):
            break
    return NAMES.index(told[0].verdict), n_repeats


def false_words(rng, n_runs, k, rope, seed_sd, n_questions):
    """How many studies say each false word, by claim and time limit, and the mean repeats by truth and time limit."""
    false, repeats = {}, {}
    for truth in (0, 1, -1):
        d = studies(rng, n_runs, k, truth * rope, seed_sd, n_questions)
        word, is_settled = looks_at(d, rope)
        for limit in LIMITS:
            said, n_repeats = ended(word, is_settled.all(axis=1), limit)
            for i in range(5):
                assert study_by_study(d[i], rope, limit) == (said[i], n_repeats[i])
            repeats[truth, limit] = n_repeats.mean()
            for claim, (at, words) in CLAIMS.items():
                if at == truth:
                    false[claim, limit] = np.isin(said, [NAMES.index(word) for word in words]).sum()
    return false, repeats


def with_looks(rng, n_runs):
    cases = list(product(STUDY_FOLDS, STUDY_ROPES, SEED_SDS, N_QUESTIONS))
    found = {case: false_words(rng, n_runs, *case) for case in cases}
    print(f"\nlooks, {n_runs:,} studies a cell, false words, % [95 % interval]")
    print(f"5 folds, seed noise of sd {USUAL[0]:g} a network, {USUAL[1]} questions; ropes in sd of a fold")
    for claim in list(CLAIMS)[:3]:
        print(f"{claim}\n{'repeats <=':<12}" + "".join(f"{f'rope {rope:g}':>18}" for rope in STUDY_ROPES))
        for limit in LIMITS:
            cells = [of(found[5, rope, *USUAL][0][claim, limit], n_runs) for rope in STUDY_ROPES]
            print(f"{limit:<12}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"mean repeats of at most {MOST_REPEATS}, truth 0 (at the rope)")
    for k in STUDY_FOLDS:
        means = [[found[k, rope, *USUAL][1][truth, MOST_REPEATS] for truth in (0, 1)] for rope in STUDY_ROPES]
        print(f"{f'{k} folds':<12}" + "".join(f"{f'{zero:.1f} ({edge:.1f})':>18}" for zero, edge in means))
    print(f"the worst of {len(cases) // 3} cases, each with 2 to 20 repeats, on {5 * n_runs:,} fresh studies")
    for claim, k in product(CLAIMS, STUDY_FOLDS):
        among = {(case, limit): found[case][0][claim, limit] for case in cases if case[0] == k for limit in LIMITS[1:]}
        case, limit = max(among, key=among.get)
        n_found = sum(false_words(rng, n_runs, *case)[0][claim, limit] for _ in range(5))
        _, rope, seed_sd, n_questions = case
        where = f"rope {rope:g}, seed noise {seed_sd:g}, questions {n_questions}, repeats {limit}"
        print(f"{claim:<46}{f'{k} folds':<10}{of(n_found, 5 * n_runs):<18}{where}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--only", nargs="+", choices=("normal", "learners", "looks"))
    parser.add_argument("--studies", type=int, default=20_000)
    args = parser.parse_args()
    parts = args.only or ("normal", "learners", "looks")
    rng = np.random.default_rng(args.seed)
    if "normal" in parts:
        normal_differences(rng)
    if "learners" in parts:
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            real_learners(rng)
    if "looks" in parts:
        with_looks(rng, args.studies)


if __name__ == "__main__":
    main()
