"""Does racing find the winner of the whole search, and what does it save?

For every .parquet table in a folder (target in the column "target"), cut to 5,000 rows: 30 candidates (five
learning rates x six strengths of L2) on five folds, by the whole search and by racing. "gap" is how much worse
than the winner of the whole search the winner of the race scores in the whole search, in standard errors of the
former's mean over folds. The last columns are why candidates race over folds and not over epochs: Spearman's rank
correlation between the candidates' losses on the first fold's test rows at the end of training and those after a
tenth and half of the epochs.

    python benchmarks/racing.py DIR [--rows 5000] [--tables abalone adult ...]
"""

import argparse
import warnings
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skrub import TableVectorizer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, StackedGridSearchCV, fit_stack
from sk_bnreg.study.tables import read_table

PLAIN = {"n_ensemble": 1, "numeric_embedding": None, "early_stopping": False, "batch_size": 200}
GRID = {"learning_rate_init": [0.001, 0.003, 0.01, 0.03, 0.1], "l2": [0.0, 0.03, 0.3, 1.0, 3.0, 10.0]}


def race_on(path, n_rows):
    table = read_table(str(path))
    y = np.asarray(table.y.head(n_rows))
    front = make_pipeline(TableVectorizer(), SimpleImputer(strategy="median"), StandardScaler())
    X = np.asarray(front.fit_transform(table.X.head(n_rows)), np.float32)
    classification = table.task == "classification"
    cv = (StratifiedKFold if classification else KFold)(5, shuffle=True, random_state=0)
    network = (BNMLPClassifier if classification else BNMLPRegressor)(**PLAIN, random_state=0)
    searches, seconds = [], []
    for racing in (False, True):
        search = StackedGridSearchCV(network, GRID, cv=cv, n_jobs=2, refit=False, racing=racing)
        sleep(0.2)  # until the workers of the side before are idle
        start = perf_counter()
        searches.append(search.fit(X, y))
        seconds.append(perf_counter() - start)
    whole, raced = searches
    means = np.nan_to_num(whole.cv_results_["mean_test_score"], nan=-np.inf)
    folds = np.array([whole.cv_results_[f"split{i}_test_score"][whole.best_index_] for i in range(5)])
    n_fits = raced.cv_results_["n_splits_scored"].sum()
    early = correlations_with_the_end(network, X, y, *next(iter(cv.split(X, y))))
    return {
        "table": path.stem,
        "whole_seconds": seconds[0],
        "fits": n_fits / (5 * len(means)),
        "seconds": seconds[1] / seconds[0],
        "same_winner": whole.best_index_ == raced.best_index_,
        "gap": (means[whole.best_index_] - means[raced.best_index_]) / (folds.std(ddof=1) / np.sqrt(5)),
        "tenth": early[0],
        "half": early[1],
    }


def correlations_with_the_end(network, X, y, train, test):
    curves = []
    candidates = [
        type(network)(learning_rate_init=rate, l2=l2, **PLAIN, random_state=0)
        for rate in GRID["learning_rate_init"]
        for l2 in GRID["l2"]
    ]
    n = len(candidates)
    fit_stack(
        candidates,
        X,
        y,
        rows=[train] * n,
        monitor_rows=[test] * n,
        on_epoch_end=lambda epoch, scores: curves.append(np.nan_to_num(scores, nan=-np.inf)),
    )
    return [spearmanr(curves[round(len(curves) * share) - 1], curves[-1])[0] for share in (0.1, 0.5)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--tables", nargs="*")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # diverged candidates
    X, y = np.random.default_rng(0).random((2, 200, 1))
    StackedGridSearchCV(BNMLPRegressor(max_iter=1), GRID, n_jobs=2).fit(X, y)  # starts the workers
    rows = []
    for path in sorted(args.folder.glob("*.parquet")):
        if not args.tables or path.stem in args.tables:
            rows.append(race_on(path, args.rows))
            print(".", end="", flush=True)
    frame = pd.DataFrame(rows).set_index("table")
    print("\n" + frame.round(2).to_string())
    print(
        f"share of the fits {frame['fits'].mean():.2f}, of the time {frame['seconds'].median():.2f} "
        f"[{frame['seconds'].min():.2f}, {frame['seconds'].max():.2f}]; same winner on {frame['same_winner'].sum()}, "
        f"same or within one standard error on {(frame['gap'] <= 1).sum()} of {len(frame)} tables"
    )


if __name__ == "__main__":
    main()
