"""What does it cost to diagnose a fit, and how good is its estimate of the fit without L2?

cost: the default classifier on made-up tables of several sizes, one thread: a fit with a `NormRecorder` and `diagnose`
after it, in turn with a fit without either. Prints the least times of all rounds, and the shares of the fit.

estimate: how many times larger the effective learning rate of each hidden layer is than without L2, as estimated from
recorded norms, beside a second fit with ``l2=0``.

    python benchmarks/diagnosing.py cost [--rounds 15]
    python benchmarks/diagnosing.py estimate
"""

import argparse
from time import perf_counter

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, NormRecorder, diagnose

PLAIN = {"n_ensemble": 1, "numeric_embedding": None, "early_stopping": False, "batch_size": 200}
SGD = {"solver": "sgd", "learning_rate_init": 0.1}
FITS = (
    {},
    {"l2": 5.0},
    {"max_iter": 100},
    {"l2_targets": "hidden_weights"},
    {"learning_rate": "constant", "learning_rate_init": 0.003},
    {**SGD, "l2": 0.1},
    {**SGD, "l2": 0.02, "l2_mode": "loss", "learning_rate": "constant"},
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["cost", "estimate"])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.part == "cost":
        cost(args.rounds)
    else:
        estimate()


def estimate():
    errors = []
    print("data            D  estimated, layers 1 and 2  a second fit's  parameters")
    for load in (load_digits, load_breast_cancer):
        X, y = load(return_X_y=True)
        X = StandardScaler().fit_transform(X)
        for params in FITS:
            network = BNMLPClassifier((64, 64), callbacks=[NormRecorder()], random_state=0, **PLAIN, **params).fit(X, y)
            without = clone(network).set_params(l2=0.0, callbacks=None).fit(X, y)
            layers = diagnose(network, X).layers
            power = 2 if network.solver == "sgd" else 1
            norms = [[np.linalg.norm(w, axis=0) for w in net.coefs_[:2]] for net in (network, without)]
            truth = [np.median((larger / norm) ** power) for norm, larger in zip(*norms, strict=True)]
            found = layers["times_without_l2"].dropna().to_numpy()
            errors.append(max(abs(found / truth - 1)))
            name = load.__name__.removeprefix("load_")
            columns = ("{:.2f} {:.2f}".format(*pair) for pair in (found, truth))
            print(f"{name:13}{layers['budget'].max():5.2f}  {next(columns):>25}  {next(columns):>14}  {params}")
    print(
        f"larger error of the two layers: {sum(e < 0.1 for e in errors)} of {len(errors)} below 10 %, at most "
        f"{100 * max(errors):.0f} %"
    )


def cost(n_rounds):
    print("  rows    fit, s  recorder, ms  diagnose, ms  shares of the fit")
    for n_rows in (1_000, 2_000, 5_000, 10_000):
        X, y = make_classification(n_rows, 30, n_informative=10, random_state=0)
        X = X.astype(np.float32)
        times = []
        for i in range(n_rounds + 1):
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
