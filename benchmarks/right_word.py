"""Does compare_schemes say the right word where the truth is known?

Made data on which L2 helps much, hurts much or changes nothing, for a classifier and a regressor, on 300 to 800 rows
and on 150; the truth is checked by scoring on 20,000 fresh rows. Studies have the default settings, and as much time as
they want. Prints how many of them, each on a sample of its own, say each word, and their mean repeats and seeds.

    python benchmarks/right_word.py [--studies 20] [--only helps hurts ...] [--jobs 2]
"""

import argparse
import time
from collections import Counter

import joblib
import numpy as np
import torch
from sklearn.base import clone
from sklearn.metrics import get_scorer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, compare_schemes

# rows, irrelevant columns, noise; the decay budgets of the scheme that has L2; the learning rate in both schemes
CASES = {
    "helps": {"n_rows": 300, "n_noise": 200, "noise": 0.5, "budgets": (2.0,), "rate": "fixed"},
    "hurts": {"n_rows": 400, "n_noise": 0, "noise": 0.1, "budgets": (10.0,), "rate": "tuned"},
    "changes nothing": {"n_rows": 800, "n_noise": 0, "noise": 0.1, "budgets": (1e-4, 1e-3), "rate": "tuned"},
}
CASES |= {f"{name}, 150 rows": case | {"n_rows": 150} for name, case in CASES.items()}
TASKS = {
    "classification": (BNMLPClassifier, "neg_log_loss", 0.05),
    "regression": (BNMLPRegressor, "r2", 0.01),
}
STUDY = {"minutes": 1e6, "on_plan": None}
SCHEMES = {"without": {"l2_targets": "none"}, "with": {"l2_targets": "weights"}}


def sample(task, n_rows, n_noise, noise, rng):
    """Draw rows: the target is a bent function of two columns, beside irrelevant ones."""
    X = rng.standard_normal((n_rows, 2 + n_noise))
    score = X[:, 0] + np.abs(X[:, 1]) - 0.8 + noise * rng.standard_normal(n_rows)
    return X.astype(np.float32), (score > 0).astype(int) if task == "classification" else score


def study(task, case, seed):
    """Return the word for L2, the true difference that it is about, and how the study went."""
    torch.set_num_threads(1)
    *shape, budgets, rate = CASES[case].values()
    cls, scoring, rope = TASKS[task]
    plain = {"n_ensemble": 1, "numeric_embedding": None, "early_stopping": False, "batch_size": 200}
    estimator = cls((32,), batch_norm=False, max_iter=60, **plain)
    rng = np.random.default_rng(seed)
    X, y = sample(task, *shape, rng)
    comparison = compare_schemes(
        estimator, X, y, schemes=SCHEMES, budgets=budgets, learning_rate=rate, scoring=scoring, rope=rope,
        random_state=seed, **STUDY,
    )  # fmt: skip
    X_fresh, y_fresh = sample(task, 20_000, *shape[1:], rng)
    settings = comparison.frame.groupby("scheme")[["learning_rate_init", "l2"]].median()
    truth = {}
    for name, row in settings.iterrows():
        network = clone(estimator).set_params(**SCHEMES[name], random_state=seed).set_params(**row)
        truth[name] = get_scorer(scoring)(network.fit(X, y), X_fresh, y_fresh)
    word = comparison.contrast("with", "without").verdict  # `verdicts` asks whether the better one helps
    return word, truth["with"] - truth["without"], comparison.course


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    start = time.perf_counter()
    print(f"{'task':16}{'score':14}{'rope':>5}  {'L2':25}{'on fresh rows':>25}{'repeats':>9}{'seeds':>7}   words")
    for task, (_, scoring, rope) in TASKS.items():
        for case in args.only:
            jobs = (joblib.delayed(study)(task, case, seed) for seed in range(args.studies))
            words, truths, courses = zip(*joblib.Parallel(n_jobs=args.jobs)(jobs), strict=True)
            said = f"{np.mean(truths):+.3f} [{min(truths):+.3f}, {max(truths):+.3f}]"
            n_repeats, n_seeds, _ = zip(*courses, strict=True)
            took = f"{np.mean(n_repeats):>9.1f}{np.mean(n_seeds):>7.1f}"
            counts = ", ".join(f"{word} {n}" for word, n in Counter(words).most_common())
            print(f"{task:16}{scoring:14}{rope:5}  {case:25}{said:>25}{took}   {counts}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
