"""Are the default estimators as good as scikit-learn's default MLPs, and as fast?

For every .parquet table in a folder (target in the column "target"), cut to 5,000 rows, three random splits
(a quarter for testing): both sides on the same transformed rows (TableVectorizer, median imputation, standard
scaling), the regression target standardised for scikit-learn's. Accuracy or R2; each side is fitted in turn.

    python benchmarks/defaults.py DIR [--rows 5000] [--splits 3] [--out results.csv]
"""

import argparse
import warnings
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skrub import TableVectorizer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor
from sk_bnreg._tables import read_table


def make_models(task, seed):
    if task == "classification":
        return {"ours": BNMLPClassifier(random_state=seed), "theirs": MLPClassifier(random_state=seed)}
    theirs = TransformedTargetRegressor(MLPRegressor(random_state=seed), transformer=StandardScaler())
    return {"ours": BNMLPRegressor(random_state=seed), "theirs": theirs}


def compare_on(path, n_rows, seed):
    table = read_table(str(path))
    X, y = table.X.head(n_rows), table.y.head(n_rows)
    stratify = y if table.task == "classification" and y.value_counts().loc[lambda n: n > 0].min() > 1 else None
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=seed, stratify=stratify)
    scale = make_pipeline(TableVectorizer(), SimpleImputer(strategy="median"), StandardScaler())
    X_train = np.asarray(scale.fit_transform(X_train), np.float32)
    X_test = np.asarray(scale.transform(X_test), np.float32)
    y_train, y_test = np.asarray(y_train), np.asarray(y_test)
    row = {"table": path.stem, "split": seed}
    for name, model in make_models(table.task, seed).items():
        sleep(0.1)  # until the idle threads of the side before have stopped spinning
        start = perf_counter()
        model.fit(X_train, y_train)
        row[f"{name}_seconds"] = perf_counter() - start
        row[f"{name}_score"] = model.score(X_test, y_test)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's convergence warnings
    rows = [compare_on(p, args.rows, s) for p in sorted(args.folder.glob("*.parquet")) for s in range(args.splits)]
    frame = pd.DataFrame(rows)
    if args.out:
        frame.to_csv(args.out, index=False)
    frame["difference"] = frame["ours_score"] - frame["theirs_score"]
    by_table = frame.groupby("table").agg(
        ours=("ours_score", "mean"),
        theirs=("theirs_score", "mean"),
        difference=("difference", "mean"),
        standard_error=("difference", "sem"),
        ours_seconds=("ours_seconds", "mean"),
        theirs_seconds=("theirs_seconds", "mean"),
    )
    print(by_table.round(4).to_string())
    lost = by_table["difference"] < -0.02 - by_table["standard_error"]
    print(
        f"better or within 0.002 on {(by_table['difference'] >= -0.002).sum()} of {len(by_table)} tables; "
        f"lost by more than 0.02 and one paired standard error: {lost.sum()}; "
        f"mean score {by_table['ours'].mean():.4f} against {by_table['theirs'].mean():.4f}; "
        f"total fit time {frame['ours_seconds'].sum():.0f} s against {frame['theirs_seconds'].sum():.0f} s"
    )


if __name__ == "__main__":
    main()
