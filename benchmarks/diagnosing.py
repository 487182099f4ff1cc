"""What does it cost to diagnose a fit?

The default classifier on made-up tables of several sizes, one thread: a fit with a `NormRecorder` and `diagnose`
after it, in turn with a fit without either. Prints the least times of all rounds, and the shares of the fit.

    python benchmarks/diagnosing.py
"""

import argparse
from time import perf_counter

import numpy as np
import torch
from sklearn.datasets import make_classification

from sk_bnreg import BNMLPClassifier, NormRecorder, diagnose


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("  rows    fit, s  recorder, ms  diagnose, ms  shares of the fit")
    for n_rows in (1_000, 2_000, 5_000, 10_000):
        X, y = make_classification(n_rows, 30, n_informative=10, random_state=0)
        X = X.astype(np.float32)
        times = []
        for i in range(args.rounds + 1):
            network = BNMLPClassifier(random_state=0)
            recorded = BNMLPClassifier(random_state=0, callbacks=[NormRecorder()])
            start = perf_counter()
            if i % 2:
                network.fit(X, y)
                plain = perf_counter() - start
                start = perf_counter()
                recorded.fit(X, y)
                fitted = perf_counter() - start
            else:
                recorded.fit(X, y)
                fitted = perf_counter() - start
                start = perf_counter()
                network.fit(X, y)
                plain = perf_counter() - start
            assert torch.equal(network.net_.module_.theta, recorded.net_.module_.theta)
            start = perf_counter()
            diagnose(recorded, X)
            times.append((plain, fitted, perf_counter() - start))
        least = np.min(times[1:], axis=0)  # the first warms up; other work on the machine only adds
        plain, fitted, diagnosed = least
        print(
            f"{n_rows:6,}  {plain:8.3f}  {1e3 * (fitted - plain):12.1f}  {1e3 * diagnosed:12.1f}  "
            f"{(fitted - plain) / plain:10.3f}  {diagnosed / plain:10.3f}"
        )


if __name__ == "__main__":
    main()
