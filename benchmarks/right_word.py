"""Does compare_schemes say the right word where the truth is known?

Made data on which L2 helps much, hurts much or changes nothing, for a classifier and a regressor; the truth is
checked by scoring on 20,000 fresh rows. Prints how many of 20 studies, each on a sample of its own, say each word.

    python benchmarks/right_word.py [N_SEEDS]
"""

import sys
import time
from collections import Counter

import joblib
import numpy as np
import torch
from sklearn.base import clone
from sklearn.metrics import get_scorer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, compare_schemes

torch.set_num_threads(1)

# rows, irrelevant columns, noise; the decay budgets of the scheme that has L2; the learning rate in both schemes
CASES = {
    "helps": {"n_rows": 300, "n_noise": 200, "noise": 0.5, "budgets": (2.0,), "rate": "fixed"},
    "hurts": {"n_rows": 400, "n_noise": 0, "noise": 0.1, "budgets": (10.0,), "rate": "tuned"},
    "changes nothing": {"n_rows": 800, "n_noise": 0, "noise": 0.1, "budgets": (1e-4, 1e-3), "rate": "tuned"},
}
TASKS = {
    "classification": (BNMLPClassifier, "neg_log_loss", 0.05),
    "regression": (BNMLPRegressor, "r2", 0.01),
}
STUDY = {"cv": 10, "n_repeats": 2, "n_candidates": 2, "inner_cv": 2, "on_plan": None}
SCHEMES = {"without": {"l2_targets": "none"}, "with": {"l2_targets": "weights"}}


def sample(task, n_rows, n_noise, noise, rng):
    """Draw rows: the target is a bent function of two columns, beside irrelevant ones."""
    X = rng.standard_normal((n_rows, 2 + n_noise))
    score = X[:, 0] + np.abs(X[:, 1]) - 0.8 + noise * rng.standard_normal(n_rows)
    return X.astype(np.float32), (score > 0).astype(int) if task == "classification" else score


def study(task, case, seed):
    """Return the word for L2, and the true difference that it is about."""
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
    return comparison.contrast("with", "without").verdict, truth["with"] - truth["without"]


def main(n_seeds=20):
    start = time.perf_counter()
    print(f"{STUDY['cv']} folds x {STUDY['n_repeats']}, {n_seeds} studies each")
    print(f"{'task':16}{'score':14}{'rope':>5}  {'L2':17}{'on fresh rows':>25}   words")
    for task, (_, scoring, rope) in TASKS.items():
        for case in CASES:
            jobs = (joblib.delayed(study)(task, case, seed) for seed in range(n_seeds))
            words, truths = zip(*joblib.Parallel(n_jobs=1)(jobs), strict=True)
            said = f"{np.mean(truths):+.3f} [{min(truths):+.3f}, {max(truths):+.3f}]"
            counts = ", ".join(f"{word} {n}" for word, n in Counter(words).most_common())
            print(f"{task:16}{scoring:14}{rope:5}  {case:17}{said:>25}   {counts}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
