"""Do the corrected t-test and its posterior keep their word, and what would plain ones do?

normal: differences with the correlation that the correction assumes, n_test / (n_test + n_train) between any two
folds, 400,000 runs. "false" is the share of runs that find a difference (p < 0.05) where there is none; "redundant at
the edge" the share that say "redundant" where the true difference is the rope itself, for ropes of 0.5 to 4 standard
deviations of the fold differences. Both should be at most 5 %.

learners: two learners of the same kind on samples of 250 rows. One sees the first half of the columns, the other the
second; given the class, the halves are independent draws from one distribution, so the two are equally accurate in
expectation and every difference found is a false one. The correction is an approximation here, no bound holds.

    python benchmarks/calibration.py [seed]
"""

import argparse

import numpy as np
import sklearn
from scipy import stats
from sklearn.datasets import make_classification
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from sk_bnreg.stats.folds import contrast

ROPES = (0.5, 1.0, 2.0, 4.0)
N_COLUMNS = 5


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


def fold_differences(learner, X, y, repeats, k, seed):
    halves = (X[:, :N_COLUMNS], X[:, N_COLUMNS:])
    differences = []
    for train, test in RepeatedStratifiedKFold(n_splits=k, n_repeats=repeats, random_state=seed).split(X, y):
        scores = [(learner.fit(half[train], y[train]).predict(half[test]) == y[test]).mean() for half in halves]
        differences.append(scores[0] - scores[1])
    return np.array(differences)


def real_learners(rng, n_rows=250):
    pool, classes = make_classification(
        100_000, N_COLUMNS, n_informative=3, n_redundant=0, class_sep=0.7, flip_y=0.1, random_state=0
    )
    rows_of = [np.flatnonzero(classes == label) for label in (0, 1)]
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
                y = rng.integers(2, size=n_rows)
                X = np.hstack([pool[[rng.choice(rows_of[label]) for label in y]] for _ in range(2)])
                d = fold_differences(learner, X, y, repeats, k, int(rng.integers(2**31)))
                p_values.append([contrast(d, test_ratio=ratio, rope=0.01).p_value for ratio in (1 / (k - 1), 0.0)])
                means.append(d.mean())
            cells = []
            for found in (np.array(p_values) < 0.05).sum(axis=0):
                share = stats.binomtest(int(found), n_samples)
                low, high = share.proportion_ci(method="wilson")
                cells.append(f"{100 * share.statistic:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
            accuracy = f"{np.mean(means):+.4f} +- {stats.sem(means):.4f}"
            print(f"{name:<16}{f'{repeats}x{k}':<8}{n_samples:>7}{cells[0]:>20}{cells[1]:>20}{accuracy:>22}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    rng = np.random.default_rng(parser.parse_args().seed)
    normal_differences(rng)
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        real_learners(rng)


if __name__ == "__main__":
    main()
