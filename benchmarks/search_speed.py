"""How much faster is a stacked search than a search that fits one network at a time, and how does it grow?

speed: 30 candidates x 5 folds, two jobs on every side, float32, Adam at a constant rate, 10 epochs, no refit. The
peers are scikit-learn's GridSearchCV over its own MLPClassifier (no batch norm), over skorch's
NeuralNetClassifier (batch norm) and over this package's estimator. Each side runs in turn in every round. First the
work is checked: the same number of optimizer steps, equal scores of the two searches over the same estimator, and
mean scores within 0.02 of the peers'.

defaults: 12 candidates x 5 folds of the package's default classifier as it comes, embeddings, early stopping and
eight networks, and of one network of it; a stacked search beside scikit-learn's over the same estimator. First both
must find the same scores of two candidates in float64.

share: the share of the machine's rate of matrix products (torch.mm, 2048 x 2048, float32, one thread) that training
of 16 networks reaches, one thread, counting 6 x batch x sum of in x out operations per network and step.

growth: log-log slopes of the time in candidates (10 to 640) and rows (1,000 to 100,000), and the peak memory with
160 and 640 candidates.

    python benchmarks/search_speed.py [speed] [defaults] [share] [growth] [--rounds 3]
"""

import argparse
import platform
import resource
import subprocess
import sys
import warnings
from itertools import pairwise, product
from time import perf_counter, sleep

import numpy as np
import sklearn
import skorch
import torch
from single_fit import sequential, spread
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier

from sk_bnreg import BNMLPClassifier, StackedGridSearchCV, fit_stack

EPOCHS = 10
RATES = [0.0003, 0.001, 0.003, 0.006, 0.01]
STRENGTHS = [0.0, 0.001, 0.003, 0.01, 0.03, 0.1]
GRIDS = {
    "ours": {"learning_rate_init": RATES, "l2": STRENGTHS},
    "scikit-learn": {"learning_rate_init": RATES, "alpha": STRENGTHS},
    "skorch": {"lr": RATES, "optimizer__weight_decay": STRENGTHS},
}


def table(n_rows):
    X, y = make_classification(n_rows, 30, n_informative=10, random_state=0)
    return X.astype(np.float32), y


def network(hidden, batch_size, batch_norm):
    return BNMLPClassifier(
        hidden,
        n_ensemble=1,
        numeric_embedding=None,
        batch_norm=batch_norm,
        batch_size=batch_size,
        learning_rate="constant",
        max_iter=EPOCHS,
        n_iter_no_change=np.inf,
        early_stopping=False,
        random_state=0,
    )


def searches(units, batch_size, batch_norm):
    """Return the stacked search, scikit-learn's over the same estimator, and scikit-learn's over the peer."""
    ours = network((units, units), batch_size, batch_norm)
    if batch_norm:
        name = "skorch"
        peer = skorch.NeuralNetClassifier(
            sequential(30, units),
            criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.AdamW,
            max_epochs=EPOCHS,
            batch_size=batch_size,
            iterator_train__shuffle=True,
            train_split=None,
            verbose=0,
        )
    else:
        name = "scikit-learn"
        peer = MLPClassifier(
            (units, units), batch_size=batch_size, max_iter=EPOCHS, n_iter_no_change=EPOCHS + 1, random_state=0
        )
    options = {"n_jobs": 2, "refit": False}
    return name, {
        "stacked": StackedGridSearchCV(ours, GRIDS["ours"], **options),
        "own": GridSearchCV(ours, GRIDS["ours"], **options),
        "peer": GridSearchCV(peer, GRIDS[name], **options),
    }


def measure_speed(n_rounds):
    print(f"{'network, rows':24}{'peer':24}{'peer, s':>8}{'stacked, s':>12}{'peer / stacked':>24}{'own / stacked':>24}")
    for units, batch_size, n_rows in ((64, 64, 5_000), (128, 256, 10_000)):
        X, y = table(n_rows)
        for batch_norm in (False, True):
            name, sides = searches(units, batch_size, batch_norm)
            check_same_work(sides, X, y, batch_size)
            times = np.array([[timed(side, X, y) for side in sides.values()] for _ in range(n_rounds)])
            stacked, own, peer = times.T
            what = f"({units},{units})/{batch_size}, {n_rows:,}"
            with_norm = f"{name}{', batch norm' if batch_norm else ''}"
            print(
                f"{what:24}{with_norm:24}{np.median(peer):8.1f}{np.median(stacked):12.2f}"
                f"{spread(peer / stacked):>24}{spread(own / stacked):>24}",
                flush=True,
            )


def measure_defaults(n_rounds):
    print(f"{'networks, rows':24}{'own, s':>8}{'stacked, s':>12}{'own / stacked':>24}")
    grid = {"learning_rate_init": [0.003, 0.01, 0.03], "l2": [0.0, 0.3, 1.0, 3.0]}
    X, y = table(2_000)
    for n_ensemble in (8, 1):
        model = BNMLPClassifier(n_ensemble=n_ensemble, random_state=0)
        sides = [search(model, grid, n_jobs=2, refit=False) for search in (StackedGridSearchCV, GridSearchCV)]
        exact = [clone(side).set_params(estimator__dtype="float64", param_grid={"l2": [0.0, 1.0]}) for side in sides]
        np.testing.assert_allclose(*(side.fit(X, y).cv_results_["mean_test_score"] for side in exact), rtol=1e-9)
        stacked, own = np.array([[timed(side, X, y) for side in sides] for _ in range(n_rounds)]).T
        what = f"{n_ensemble}, {len(y):,}"
        print(f"{what:24}{np.median(own):8.1f}{np.median(stacked):12.2f}{spread(own / stacked):>24}", flush=True)


def timed(search, X, y):
    sleep(0.2)  # until the idle threads of the side before have stopped spinning
    start = perf_counter()
    search.fit(X, y)
    return perf_counter() - start


def check_same_work(sides, X, y, batch_size):
    """Fail if the sides score differently or take other numbers of steps; it warms up the workers too."""
    means = {name: side.fit(X, y).cv_results_["mean_test_score"] for name, side in sides.items()}
    np.testing.assert_allclose(means["stacked"], means["own"], atol=0.02)
    assert abs(means["stacked"].mean() - means["own"].mean()) < 1e-3
    assert abs(means["stacked"].mean() - means["peer"].mean()) < 0.02, {k: v.mean() for k, v in means.items()}
    steps = EPOCHS * -(-len(y) // batch_size)
    ours = sides["own"].estimator.fit(X, y)
    assert ours.net_.records_[0].n_steps[-1] == steps
    peer = sides["peer"].estimator.fit(X, y)
    if isinstance(peer, MLPClassifier):
        assert peer.t_ == EPOCHS * len(y)  # rows seen
    else:
        assert sum(row["train_batch_count"] for row in peer.history) == steps


def measure_share(n_rounds):
    torch.set_num_threads(1)
    a, b = torch.rand(2, 2048, 2048)
    print(f"{'network':36}{'torch.mm, GFLOP/s':>20}{'share in training steps':>26}{'in whole fits':>24}")
    networks = (
        ((64, 64), 64, 5_000),
        ((128, 128), 64, 5_000),
        ((128, 128), 256, 10_000),
        ((256,) * 3, 256, 10_000),
    )
    for (hidden, batch_size, n_rows), batch_norm in product(networks, (False, True)):
        X, y = table(n_rows)
        stack = [network(hidden, batch_size, batch_norm).set_params(random_state=seed) for seed in range(16)]
        n_operations = (
            len(stack) * 6 * EPOCHS * n_rows * sum(n_in * n_out for n_in, n_out in pairwise([30, *hidden, 1]))
        )
        fit_stack(stack, X, y)
        rates, steps, fits = [], [], []
        for _ in range(n_rounds):
            start = perf_counter()
            for _ in range(10):
                torch.mm(a, b)
            rates.append(10 * 2 * 2048**3 / (perf_counter() - start))
            start = perf_counter()
            fit_stack(stack, X, y)
            fits.append(n_operations / (perf_counter() - start) / rates[-1])
            steps.append(n_operations / sum(stack[0].net_.history[:, "dur"]) / rates[-1])
        steps, fits = spread(np.array(steps)), spread(np.array(fits))
        what = f"{hidden}/{batch_size}{', batch norm' if batch_norm else ''}"
        print(f"{what:36}{np.median(rates) / 1e9:20.0f}{steps:>26}{fits:>24}", flush=True)


def measure_growth():
    grid = {"learning_rate_init": RATES, "l2": [0.0, 1.0]}
    candidates, seconds = [10, 40, 160, 640], []
    X, y = table(1_000)
    for n in candidates:
        several = {**grid, "random_state": list(range(n // 10))}
        search = StackedGridSearchCV(network((64, 64), 64, True), several, n_jobs=2, refit=False)
        seconds.append(min(timed(search, X, y) for _ in range(2)))
    report_slope("candidates", candidates, seconds)
    rows, seconds = [1_000, 10_000, 100_000], []
    for n in rows:
        search = StackedGridSearchCV(network((64, 64), 64, True), grid, n_jobs=2, refit=False)
        seconds.append(min(timed(search, *table(n)) for _ in range(2 if n < 100_000 else 1)))
    report_slope("rows", rows, seconds)
    peaks = []
    for n in (160, 640):
        done = subprocess.run([sys.executable, __file__, "--peak", str(n)], capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    print(f"peak memory with 160 candidates {peaks[0]:.0f} MiB, with 640 {peaks[1]:.0f} MiB: {peaks[1] / peaks[0]:.2f}")


def report_slope(what, sizes, seconds):
    slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    steps = ", ".join(f"{n:,}: {t:.1f} s" for n, t in zip(sizes, seconds, strict=True))
    print(f"time against {what}: {steps}; log-log slope {slope:.2f}", flush=True)


def print_peak(n_candidates):
    grid = {"learning_rate_init": RATES, "l2": [0.0, 1.0], "random_state": list(range(n_candidates // 10))}
    X, y = table(5_000)
    StackedGridSearchCV(network((64, 64), 256, True).set_params(max_iter=1), grid, refit=False).fit(X, y)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=[], help="of speed, defaults, share, growth; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn says that 10 epochs are few
    if args.peak:
        print_peak(args.peak)
        return
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, scikit-learn "
        f"{sklearn.__version__}, skorch {skorch.__version__}; median [min, max] of {args.rounds} rounds"
    )
    parts = args.parts or ["speed", "defaults", "share", "growth"]
    if "speed" in parts:
        measure_speed(args.rounds)
    if "defaults" in parts:
        measure_defaults(args.rounds)
    if "share" in parts:
        measure_share(args.rounds)
    if "growth" in parts:
        measure_growth()


if __name__ == "__main__":
    main()
