"""How often does compare_schemes find a difference between a scheme and itself?

Batch norm and L2 under two names, with seeds and candidates of their own, so that the true difference is 0 and every
"helps" or "hurts" is a false word. Each study draws rows of its own, without replacement, from a large table, which
stands for the population, and looks for itself how many seeds and repeats it takes: at most 8 seeds and 6 repeats, so
that 400 studies take half an hour; three minutes of larger networks are seldom enough for more. The network is small:
one of 16 units and 12 epochs, and four candidates on two inner folds. Prints, table by table and in all, how many
studies end with each word, with 95 % intervals; how many corrected t-tests have p < 0.05 at the end; and how many
repeats and seeds it took. Both words together are to be found in at most 5 %.

    python benchmarks/same_scheme.py DIR [--studies 400] [--rows 300] [--tables magic adult ...] [--jobs 2]
"""

import argparse
import warnings
from functools import partial
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

import joblib
import numpy as np
import pandas as pd
import torch
from calibration import of
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skrub import TableVectorizer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, compare_schemes
from sk_bnreg.stats.folds import WORDS
from sk_bnreg.study import plan, run
from sk_bnreg.study.schemes import SCHEMES
from sk_bnreg.study.tables import read_table

TABLES = ("magic", "adult", "letter", "california_housing")
NETWORK = {"hidden_layer_sizes": (16,), "max_iter": 12, "n_ensemble": 1, "numeric_embedding": None}
TWICE = {name: SCHEMES["bn+l2"] | {"random_state": seed} for seed, name in enumerate("ab", 1)}
MOST_SEEDS, MOST_REPEATS = 8, 6
STUDY = {"n_candidates": 4, "inner_cv": 2, "minutes": 1e6, "on_plan": None}


def population(path):
    """Return the whole table in numbers: steps before the network, which both schemes share, need no folds."""
    table = read_table(str(path))
    X = make_pipeline(TableVectorizer(), StandardScaler()).fit_transform(table.X)
    return np.nan_to_num(np.asarray(X, np.float32)), np.asarray(table.y), table.task


def study(X, y, task, n_rows, rope, seed):
    """Return what one study ends with."""
    torch.set_num_threads(1)
    rows = np.random.default_rng(seed).choice(len(y), n_rows, replace=False)
    network = (BNMLPClassifier if task == "classification" else BNMLPRegressor)(**NETWORK)
    start = perf_counter()
    fewer_seeds = patch.object(run, "seeds_needed", partial(run.seeds_needed, most=MOST_SEEDS))
    with warnings.catch_warnings(), fewer_seeds, patch.object(plan, "MOST_REPEATS", MOST_REPEATS):
        warnings.filterwarnings("ignore", "The least populated class")  # letters of which a sample has few
        found = compare_schemes(network, X[rows], y[rows], schemes=TWICE, rope=rope, random_state=seed, **STUDY)
    # which of the two is asked about is set beforehand, while `verdicts` asks whether the better one helps
    contrast = found.contrast("a", "b")
    return {
        "word": contrast.verdict,
        "p": contrast.p_value,
        "mean": contrast.mean,
        "sd": contrast.sd,
        "repeats": found.course.n_repeats,
        "seeds": found.course.n_seeds,
        "share": found.seed_share(),
        "seconds": perf_counter() - start,
    }


def tell(name, found):
    n, means = len(found), found.mean(numeric_only=True)
    print(
        f"{name}: {n} studies of {means['seconds']:.1f} s, {means['repeats']:.1f} repeats, {means['seeds']:.1f} seeds, "
        f"which have {means['share']:.2f} of the variance; sd of a fold {means['sd']:.3f}, mean difference "
        f"{means['mean']:+.4f} +- {found['mean'].sem():.4f}"
    )
    counts = found["word"].value_counts()
    print("  " + ", ".join(f"{word} {counts[word]}" for word in WORDS if word in counts))
    shares = [of(each.sum(), n) for each in (found["word"].isin(("helps", "hurts")), found["p"] < 0.05)]
    print(f"  helps or hurts {shares[0]}, p < 0.05 {shares[1]}, %", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, default=400, help="over all tables")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--rope", type=float, default=0.01)
    parser.add_argument("--tables", nargs="+", default=TABLES)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    parts = []
    for number, table in enumerate(args.tables):
        X, y, task = population(args.folder / f"{table}.parquet")
        seeds = range(10_000 * number, 10_000 * number + args.studies // len(args.tables))
        jobs = (joblib.delayed(study)(X, y, task, args.rows, args.rope, seed) for seed in seeds)
        parts.append(pd.DataFrame(joblib.Parallel(n_jobs=args.jobs)(jobs)))
        tell(table, parts[-1])
    tell("in all", pd.concat(parts))


if __name__ == "__main__":
    main()
