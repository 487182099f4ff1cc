"""How much faster is a stacked Optuna search, and does asking for a batch of trials at once cost quality?

speed: 64 trials x 5 folds with TPE, one thread on every side, float32, Adam at a constant rate, 10 epochs, no
refit; on 5,000 rows x 30 columns, beside OptunaSearchCV over this package's estimator ("own") and over skorch's
NeuralNetClassifier. fixed: (64, 64) units, batch norm, batches of 64; learning rate, l2, its targets and dropout
vary. mixed: layer sizes, batch_norm, activation and batch size vary too, drawn at random, so that both sides train
the same networks (TPE goes another way when it is told in batches): of 32 or 64 units and batches of 32 or 64, and
larger ones, of 64 or 128 and 64 or 128. Sides run in turn in every round; first the
work is checked: equal numbers of trials, and equal fold scores of our trials and scikit-learn's cross_val_score.

quality DIR: ten tables of a folder (.parquet, target in the column "target"), cut to 1,000 rows, five seeds: the
best score of 64 trials in batches less that of 64 trials asked for one at a time, over the standard error of the
latter's mean over its five folds.

pruning DIR: the same tables: the best score with a pruner of Optuna's, told of epochs or of folds, less the best
without, over the same standard error, and the share of epochs that it trained. A table passes with a difference of at
least -1 and at most half of the epochs (means over seeds).

workers DIR: the best score of 1, 2 and 4 worker processes on one journal file, each with one thread, and their trials
per second from the first trial's start to the last one's end.

    python benchmarks/tuning.py speed [--rounds 3]
    python benchmarks/tuning.py quality|pruning|workers DIR [--seeds 5] [--tables abalone adult ...] [--jobs 2]
"""

import argparse
import platform
import tempfile
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
import optuna
import pandas as pd
import skorch
import torch
from joblib import Parallel, delayed
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from scipy import stats
from single_fit import sequential, spread
from sklearn.datasets import make_classification
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skrub import TableVectorizer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, StackedOptunaSearchCV, search_space
from sk_bnreg.study.tables import read_table

EPOCHS, N_TRIALS = 10, 64
TABLES = (
    "abalone", "adult", "california_housing", "credit_g", "eucalyptus", "kin8nm", "letter", "phoneme", "segment",
    "telco_churn",
)  # fmt: skip
PRUNERS = {
    "median of epochs": {"pruner": optuna.pruners.MedianPruner()},
    "best 15 % of folds": {"pruner": optuna.pruners.PercentilePruner(15.0), "report": "fold"},
    "best fifth of folds": {"pruner": optuna.pruners.PercentilePruner(20.0), "report": "fold"},
    "best quarter of folds": {"pruner": optuna.pruners.PercentilePruner(25.0), "report": "fold"},
    "best third of folds": {"pruner": optuna.pruners.PercentilePruner(100 / 3), "report": "fold"},
    "halving of folds": {"pruner": optuna.pruners.SuccessiveHalvingPruner(1, 3), "report": "fold"},
    "median of folds": {"pruner": optuna.pruners.MedianPruner(), "report": "fold"},
}


def network():
    return BNMLPClassifier(
        (64, 64),
        n_ensemble=1,
        numeric_embedding=None,
        batch_size=64,
        learning_rate="constant",
        max_iter=EPOCHS,
        early_stopping=False,
        n_iter_no_change=np.inf,
        random_state=0,
    )


def spaces():
    fixed = {
        "learning_rate_init": FloatDistribution(3e-4, 3e-2, log=True),
        "l2": FloatDistribution(1e-3, 1.0, log=True),
        "l2_targets": CategoricalDistribution(["weights", "weights+gamma+beta", "all"]),
        "dropout": FloatDistribution(0.0, 0.5),
    }
    kinds = {
        "batch_norm": CategoricalDistribution([False, True]),
        "activation": CategoricalDistribution(["relu", "gelu"]),
    }
    mixed, larger = (
        fixed
        | kinds
        | {"hidden_layer_sizes": CategoricalDistribution(sizes), "batch_size": CategoricalDistribution(batches)}
        for sizes, batches in (
            (["32-32", "64-64", "32-32-32"], [32, 64]),
            (["64-64", "128-128", "64-64-64"], [64, 128]),
        )
    )
    return {"fixed": fixed, "mixed": mixed, "larger": larger}


def skorch_peer():
    net = skorch.NeuralNetClassifier(
        sequential(30, 64),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        max_epochs=EPOCHS,
        batch_size=64,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    space = {
        "lr": FloatDistribution(3e-4, 3e-2, log=True),
        "optimizer__weight_decay": FloatDistribution(1e-3, 1.0, log=True),
    }
    return net, space


def measure_speed(n_rounds, names):
    from optuna.integration import OptunaSearchCV

    torch.set_num_threads(1)
    X, y = make_classification(5_000, 30, n_informative=10, random_state=0)
    X = X.astype(np.float32)
    print(f"{'space':8}{'stacked, s':>11}{'own, s':>9}{'skorch, s':>11}{'own / stacked':>24}{'skorch / stacked':>24}")
    for name in names:
        space, kind = spaces()[name], TPESampler if name == "fixed" else RandomSampler
        sides = {
            "stacked": lambda seed, space=space, kind=kind: StackedOptunaSearchCV(
                network(), space, n_trials=N_TRIALS, refit=False, sampler=kind(seed=seed)
            ),
            "own": lambda seed, space=space, kind=kind: OptunaSearchCV(
                network(), space, n_trials=N_TRIALS, refit=False, study=study(kind(seed=seed)), cv=5
            ),
        }
        if name == "fixed":
            sides["skorch"] = lambda seed: OptunaSearchCV(
                *skorch_peer(), n_trials=N_TRIALS, refit=False, study=study(TPESampler(seed=seed)), cv=5
            )
        check_same_work(sides, X, y)
        times = {side: [] for side in sides}
        for seed in range(n_rounds):
            for side, make in sides.items():
                start = perf_counter()
                make(seed).fit(X, y)
                times[side].append(perf_counter() - start)
        stacked, own = np.array(times["stacked"]), np.array(times["own"])
        peer = np.array(times.get("skorch", [np.nan] * n_rounds))
        print(
            f"{name:8}{np.median(stacked):11.1f}{np.median(own):9.1f}{np.median(peer):11.1f}"
            f"{spread(own / stacked):>24}{spread(peer / stacked) if 'skorch' in times else '':>24}",
            flush=True,
        )


def study(sampler):
    return optuna.create_study(direction="maximize", sampler=sampler)


def check_same_work(sides, X, y):
    double = network().set_params(dtype="float64")  # in float32 sums in another order move a score by a row or more
    ours = sides["stacked"](0).set_params(n_trials=3, estimator=double).fit(X, y)
    for params, *scores in zip(
        ours.cv_results_["params"], *(ours.cv_results_[f"split{i}_test_score"] for i in range(5)), strict=True
    ):
        np.testing.assert_allclose(scores, cross_val_score(double.set_params(**params), X, y), atol=1e-9)
    for side, make in sides.items():
        if side != "stacked":
            peer = make(0).set_params(n_trials=3).fit(X, y)
            assert len(peer.study_.trials) == len(ours.study_.trials) == 3


def read(path, n_rows):
    """Return a network for a table, its rows as numbers, and folds."""
    table = read_table(str(path))
    rows = np.random.default_rng(0).permutation(len(table.X))[:n_rows]
    front = make_pipeline(TableVectorizer(), SimpleImputer(strategy="median"), StandardScaler())
    X = np.asarray(front.fit_transform(table.X.iloc[rows]), np.float32)
    classification = table.task == "classification"
    make = BNMLPClassifier if classification else BNMLPRegressor
    cv = (StratifiedKFold if classification else KFold)(5, shuffle=True, random_state=0)
    return make((64, 64), random_state=0), X, np.asarray(table.y.iloc[rows]), cv


def search_on(path, n_rows, seed, **options):
    """Return a search that has run on a table with one thread, and the fold scores of its best trial."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    net, X, y, cv = read(path, n_rows)
    search = StackedOptunaSearchCV(
        net, search_space(net), cv=cv, refit=False, random_state=seed, **{"n_trials": N_TRIALS, **options}
    ).fit(X, y)
    return search, np.array([search.cv_results_[f"split{i}_test_score"][search.best_index_] for i in range(5)])


def best_of(*arguments, **options):
    """Return the fold scores of the best trial of a search, and the epochs of all its networks."""
    search, scores = search_on(*arguments, **options)
    return scores, search.cv_results_["n_epochs"]


def measure_in_pairs(paths, n_rows, n_seeds, n_jobs, base, others):
    """Return a row per table, seed and other way of searching: how far its best is from the base's."""
    cells = [(path, seed) for path in paths for seed in range(n_seeds)]
    ways = {"base": base, **others}
    found = Parallel(n_jobs)(
        delayed(best_of)(path, n_rows, seed, **options) for path, seed in cells for options in ways.values()
    )
    rows = []
    for (path, seed), *outcomes in zip(cells, *(found[i :: len(ways)] for i in range(len(ways))), strict=True):
        scores, epochs = outcomes[0]
        error = scores.std(ddof=1) / np.sqrt(len(scores))
        for name, (other, other_epochs) in zip(others, outcomes[1:], strict=True):
            rows.append(
                {
                    "way": name,
                    "table": path.stem,
                    "seed": seed,
                    "base": scores.mean(),
                    "difference": (other.mean() - scores.mean()) / error,
                    "epochs": np.sum(other_epochs) / np.sum(epochs),
                }
            )
    return pd.DataFrame(rows)


def report(frame):
    """Print the mean difference of each way over tables and seeds; tables, not seeds, are the sample."""
    for way, rows in frame.groupby("way", sort=False):
        by_table = rows.groupby("table")[["base", "difference", "epochs"]].mean()
        mean = by_table["difference"].mean()
        low, high = stats.t.interval(0.95, len(by_table) - 1, mean, stats.sem(by_table["difference"]))
        passed = (by_table["difference"] >= -1) & (by_table["epochs"] <= 0.5)
        print(by_table.round(3).to_string())
        print(
            f"{way}: mean difference {mean:+.3f} standard errors, 95 % interval {low:+.3f} to {high:+.3f}; share of "
            f"epochs {by_table['epochs'].mean():.2f}; at least -1 at no more than half of the epochs on "
            f"{passed.sum()} of {len(by_table)} tables\n",
            flush=True,
        )


def measure_workers(paths, n_rows, n_seeds):
    rows = []
    for path in paths:
        for seed in range(n_seeds):
            for n_workers in (1, 2, 4):
                with tempfile.TemporaryDirectory() as folder:
                    options = {"n_jobs": n_workers, "storage": f"{folder}/study.journal"}
                    search_on(path, 200, seed, study_name="warm up", n_trials=4 * n_workers, batch_size=2, **options)
                    search, scores = search_on(path, n_rows, seed, **options)
                    trials = search.study_.trials
                seconds = max(t.datetime_complete for t in trials) - min(t.datetime_start for t in trials)
                rows.append({"table": path.stem, "seed": seed, "workers": n_workers, "score": scores.mean()})
                rows[-1] |= {"error": scores.std(ddof=1) / np.sqrt(5), "rate": N_TRIALS / seconds.total_seconds()}
    frame = pd.DataFrame(rows).set_index(["table", "seed", "workers"]).unstack("workers")
    for n in (2, 4):
        gap = (frame["score"][n] - frame["score"][1]) / frame["error"][1]
        by_table = gap.groupby("table").mean()
        print(
            f"{n} workers: best score less that of 1, in standard errors: mean {by_table.mean():+.3f} over "
            f"{len(by_table)} tables, from {by_table.min():+.3f} to {by_table.max():+.3f}; "
            f"trials per second {spread((frame['rate'][n] / frame['rate'][1]).to_numpy())} of 1 worker's"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "quality", "pruning", "workers"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spaces", nargs="*", default=["fixed", "mixed", "larger"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--tables", nargs="*", default=TABLES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="*", default=[8])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, optuna {optuna.__version__}, skorch "
        f"{skorch.__version__}"
    )
    if args.part == "speed":
        measure_speed(args.rounds, args.spaces)
        return
    paths = [args.folder / f"{name}.parquet" for name in args.tables]
    if args.part == "workers":
        measure_workers(paths, args.rows, args.seeds)
        return
    if args.part == "quality":
        base, others = {"batch_size": 1}, {f"batches of {n}": {"batch_size": n} for n in args.batches}
    else:
        base, others = {}, PRUNERS
    report(measure_in_pairs(paths, args.rows, args.seeds, args.jobs, base, others))


if __name__ == "__main__":
    main()
