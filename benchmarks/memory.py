"""By how much does a fit grow the process, in units of the size of X?

Fits one epoch on float32 rows and compares the peak resident memory with what the process held before. A
small fit comes first, so that libraries and thread pools are loaded.

    python benchmarks/memory.py [--rows 1000000] [--columns 50]
"""

import argparse
import resource

import numpy as np

from sk_bnreg import BNMLPClassifier, BNMLPRegressor


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--task", choices=("classification", "regression"), default="classification")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    X = np.empty((args.rows, args.columns), np.float32)
    for start in range(0, args.rows, 10_000):
        X[start : start + 10_000] = rng.standard_normal((len(X[start : start + 10_000]), args.columns), np.float32)
    y = X[:, 0] > 0 if args.task == "classification" else X[:, 0].astype(np.float64)
    net = BNMLPClassifier(max_iter=1) if args.task == "classification" else BNMLPRegressor(max_iter=1)
    net.fit(X[:2000], y[:2000])
    before = resident()
    net.fit(X, y)
    print(
        f"{args.task}, {args.rows:,} x {args.columns}: X {X.nbytes / 2**20:.0f} MiB, "
        f"before fit {before / 2**20:.0f} MiB, peak {peak() / 2**20:.0f} MiB, "
        f"growth {(peak() - before) / X.nbytes:.2f} of X"
    )


if __name__ == "__main__":
    main()
