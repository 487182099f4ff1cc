"""How long does this checkout take, beside an earlier one?

For each kind of work the two sides run in turn, in every round a new process each, which is warmed up before the clock
starts (but for a whole `compare`). Both sides' scores are told, and may differ by what seeds make of them.

classifier, regressor: a default fit on 4,500 x 20 rows, on as many threads as named.
wide: ten epochs of one network, (512, 512) units and batches of 1,024, or (256, 256, 256) and 256, two threads.
optuna: 64 random trials over layers of 64 and 128 units and batches of 64 and 128 (tuning.py's "larger"), one thread.
single, search: what single_fit.py and search_speed.py measure of this package (five fits; a stacked search of 30
candidates on five folds, one job), with batch norm ("bn") or without, of (64, 64) units and batches of 64 or (128, 128)
and 256.
compare: `sk-bnreg compare TABLE` as it comes.

    python benchmarks/before_after.py CHECKOUT [--work classifier-2 regressor-1 wide-512 optuna ...] [--rounds 5]
    python benchmarks/before_after.py CHECKOUT --work compare --tables digits adult.parquet
"""

import argparse
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np

HERE = Path(__file__).resolve().parents[1]


def default_fit(kind, n_threads):
    import torch
    from sklearn.datasets import make_classification, make_regression

    from sk_bnreg import BNMLPClassifier, BNMLPRegressor

    torch.set_num_threads(int(n_threads))
    if kind == "classifier":
        X, y = make_classification(9_000, 20, n_informative=10, n_clusters_per_class=6, flip_y=0.05, random_state=0)
        model = BNMLPClassifier(random_state=0)
    else:
        X, y = make_regression(9_000, 20, n_informative=10, noise=20.0, random_state=0)
        y = np.sign(y) * np.sqrt(np.abs(y))
        model = BNMLPRegressor(random_state=0)
    model.fit(X[:4500], y[:4500])  # warms up
    return lambda: model.fit(X[:4500], y[:4500]).score(X[4500:], y[4500:])


def wide_fit(units):
    import torch
    from sklearn.datasets import make_classification

    from sk_bnreg import BNMLPClassifier

    torch.set_num_threads(2)
    X, y = make_classification(10_000, 30, n_informative=10, random_state=0)
    layers, batch_size = {"512": ((512, 512), 1024), "256": ((256,) * 3, 256)}[units]
    model = BNMLPClassifier(
        layers,
        n_ensemble=1,
        numeric_embedding=None,
        early_stopping=False,
        batch_size=batch_size,
        max_iter=10,
        n_iter_no_change=np.inf,
        random_state=0,
    )
    model.fit(X.astype(np.float32), y)  # warms up
    return lambda: model.fit(X.astype(np.float32), y).score(X, y)


def single_fits(case):
    import torch
    from search_speed import table
    from single_fit import ours

    torch.set_num_threads(2)
    units = int(case.removesuffix("bn"))
    X, y = table(5_000)
    model = ours(units, {64: 64, 128: 256}[units], case.endswith("bn")).fit(X, y)  # warms up

    def fits():
        for _ in range(5):
            model.fit(X, y)
        return model.score(X, y)

    return fits


def stacked_search(case):
    from search_speed import GRIDS, network, table

    from sk_bnreg import StackedGridSearchCV

    units = int(case.removesuffix("bn"))
    X, y = table({64: 5_000, 128: 10_000}[units])
    model = network((units, units), {64: 64, 128: 256}[units], case.endswith("bn"))
    search = StackedGridSearchCV(model, GRIDS["ours"], refit=False)
    search.fit(X[:500], y[:500])  # warms up
    return lambda: search.fit(X, y).best_score_


def optuna_search():
    import torch
    from optuna import logging
    from optuna.samplers import RandomSampler
    from sklearn.datasets import make_classification
    from tuning import N_TRIALS, network, spaces

    from sk_bnreg import StackedOptunaSearchCV

    torch.set_num_threads(1)
    logging.set_verbosity(logging.WARNING)
    X, y = make_classification(5_000, 30, n_informative=10, random_state=0)
    search = StackedOptunaSearchCV(
        network(), spaces()["larger"], n_trials=N_TRIALS, refit=False, sampler=RandomSampler(seed=0)
    )
    search.fit(X[:200].astype(np.float32), y[:200])  # warms up
    return lambda: search.fit(X.astype(np.float32), y).best_score_


WORK = {
    "classifier": default_fit, "regressor": default_fit, "wide": wide_fit, "optuna": optuna_search,
    "single": single_fits, "search": stacked_search,
}  # fmt: skip


def work(name):
    """Do the work, and print its time and score."""
    warnings.simplefilter("ignore")
    kind, _, argument = name.partition("-")
    arguments = ([kind] if WORK[kind] is default_fit else []) + ([argument] if argument else [])
    do = WORK[kind](*arguments)
    start = perf_counter()
    score = do()
    print(perf_counter() - start, score)


def measure(checkout, command):
    """Return the time and what is printed of a command in a checkout."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), str(HERE / "benchmarks")])}
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    return perf_counter() - start, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    names = ["classifier-2", "classifier-1", "regressor-2", "regressor-1", "wide-512", "wide-256", "optuna"]
    names += [f"{kind}-{case}" for kind in ("single", "search") for case in ("64", "64bn", "128", "128bn")]
    parser.add_argument("--work", nargs="*", default=names, choices=[*names, "compare"])
    parser.add_argument("--tables", nargs="*", default=["digits"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--do", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do:
        work(args.do)
        return
    sides = {"before": args.checkout.resolve(), "now": HERE}
    tables = [str(Path(table).resolve()) if "." in table else table for table in args.tables]
    jobs = [(name, table) for name in args.work for table in (tables if name == "compare" else [None])]
    print(f"{'work':28}{'before, s':>11}{'now, s':>9}{'now / before':>24}   scores before and now")
    for name, table in jobs:
        times, scores = {side: [] for side in sides}, {}
        for _ in range(args.rounds):
            for side, checkout in sides.items():
                if table:
                    seconds, out = measure(checkout, ["-m", "sk_bnreg", "compare", table])
                    scores[side] = re.search(r"^\s*\S+\s+(0\.\d+)\s+best", out, re.MULTILINE)[1]
                else:
                    out = measure(checkout, [__file__, str(checkout), "--do", name])[1]
                    seconds, scores[side] = (float(part) for part in out.split()[-2:])
                times[side].append(seconds)
        before, now = (np.array(times[side]) for side in sides)
        ratio = now / before
        print(
            f"{name + (' ' + Path(table).stem if table else ''):28}{np.median(before):11.2f}{np.median(now):9.2f}"
            f"{f'{np.median(ratio):.3f} [{ratio.min():.3f}, {ratio.max():.3f}]':>24}"
            f"   {' '.join(f'{float(score):.4f}' for score in scores.values())}",
            flush=True,
        )


if __name__ == "__main__":
    main()
