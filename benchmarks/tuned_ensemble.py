"""Is a tuned ensemble better than the best trial of the same search, and than RealMLP tuned as much?

Each table of a folder is split as accuracy.py splits it; a search of 40 trials of single networks on five folds of the
training rows, by log loss or R2, gives three models, all fitted to all training rows: the best trial, eight
networks with its parameters, and the ensemble of refit="ensemble". "RealMLP_HPO" is pytabkit's search of as many random
settings on one held-out fifth, in an environment that has it. A line per table and model is added to a .jsonl file;
what is there is not computed again.

    OMP_NUM_THREADS=1 python benchmarks/tuned_ensemble.py run DIR FILE [--models sk_bnreg RealMLP_HPO] [--tables ...]
    python benchmarks/tuned_ensemble.py report FILE
"""

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
import optuna
import pandas as pd
from accuracy import N_ROWS, append, of_pytabkit, prepare, scores, split
from scipy import stats
from sklearn.base import clone
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import KFold, StratifiedKFold

N_TRIALS, SEED = 40, 0
MODELS = {"sk_bnreg": ("best trial", "best trial, 8 networks", "ensemble"), "RealMLP_HPO": ("RealMLP_HPO",)}
TABLES = (
    "abalone", "concrete", "credit_g", "eucalyptus", "kin8nm", "letter", "phoneme", "pima", "segment", "telco_churn",
    "vehicle", "yeast",
)  # fmt: skip


def ours(X, y, task):
    """Yield the three models of a search, with the seconds that it took."""
    from sk_bnreg import StackedOptunaSearchCV, search_space
    from sk_bnreg.study.tables import network_pipeline

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pipeline = network_pipeline(task)
    pipeline[-1].set_params(n_ensemble=1, random_state=SEED)
    folds, scoring = KFold, "r2"
    if task == "classification":  # of which a fold's test rows may lack some
        loss = {"greater_is_better": False, "response_method": "predict_proba", "labels": np.unique(y)}
        folds, scoring = StratifiedKFold, make_scorer(log_loss, **loss)
    start = perf_counter()
    search = StackedOptunaSearchCV(
        pipeline, search_space(pipeline), n_trials=N_TRIALS, refit="ensemble", random_state=SEED,
        cv=folds(5, shuffle=True, random_state=SEED), scoring=scoring,
    ).fit(X, y)  # fmt: skip
    seconds = perf_counter() - start
    single = clone(pipeline).set_params(**search.best_params_)
    several = clone(single)
    several[-1].set_params(n_ensemble=8)
    for name, model in zip(
        MODELS["sk_bnreg"], (single.fit(X, y), several.fit(X, y), search.best_estimator_), strict=True
    ):
        yield name, model, seconds


def theirs(X, y, task):
    """Yield RealMLP, tuned."""
    kind = "Classifier" if task == "classification" else "Regressor"
    tuned, start = of_pytabkit("RealMLP_HPO", kind, SEED, n_hyperopt_steps=N_TRIALS), perf_counter()
    yield "RealMLP_HPO", tuned.fit(X, y), perf_counter() - start


def run(args):
    done = prepare(args.results)
    for path in sorted(args.folder.glob("*.parquet")):
        for kind in args.models:
            if path.stem not in args.tables or (path.stem, SEED, MODELS[kind][0], N_ROWS) in done:
                continue
            X, X_test, y, y_test, task = split(path, SEED)
            for name, model, seconds in (ours if kind == "sk_bnreg" else theirs)(X, y, task):
                row = {"table": path.stem, "task": task, "split": SEED, "model": name, "rows": N_ROWS}
                row |= {"n_train": len(X), "seconds": seconds}
                row |= scores(model, X_test, y_test.to_numpy(), np.ravel(model.predict(X_test)))
                append(args.results, row)


def report(args):
    frame = pd.read_json(args.results, lines=True)
    score = frame.pivot_table(index="table", columns="model", values="score")
    loss = frame.assign(loss=frame["log_loss"].fillna(frame["rmse"])).pivot_table(
        index="table", columns="model", values="loss"
    )
    print(score.round(4).to_markdown())
    for other in score.columns.drop("ensemble"):
        gain = (score["ensemble"] - score[other]).dropna()
        half = gain.sem() * stats.t.ppf(0.975, len(gain) - 1)
        ratio = (loss["ensemble"] / loss[other]).dropna()
        print(
            f"ensemble against {other}: better on {(gain > 0).sum()} of {len(gain)} tables, within 0.002 or better on "
            f"{(gain >= -0.002).sum()}, mean {gain.mean():+.4f} +- {half:.4f}; "
            f"log loss or RMSE lower on {(ratio < 1).sum()}, median ratio {ratio.median():.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run")
    runs.add_argument("folder", type=Path)
    runs.add_argument("results", type=Path)
    runs.add_argument("--models", nargs="+", choices=MODELS, default=["sk_bnreg"])
    runs.add_argument("--tables", nargs="+", default=TABLES)
    runs.set_defaults(function=run)
    reports = commands.add_parser("report")
    reports.add_argument("results", type=Path)
    reports.set_defaults(function=report)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
