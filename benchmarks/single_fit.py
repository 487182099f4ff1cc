"""How long does one fit take, and one member of a stack, beside scikit-learn's MLP and skorch?

Each side is fitted in turn in one process: the same rows, network, batch size, epochs and solver (Adam,
constant rate, float32). Without batch norm the peer is scikit-learn's MLPClassifier, with it skorch's
NeuralNetClassifier. First the work is checked: equal optimizer steps, and training accuracies within 0.02.

    python benchmarks/single_fit.py [--rounds 7] [--rows 5000] [--stack 16]
"""

import argparse
import platform
import warnings
from time import perf_counter, sleep

import numpy as np
import sklearn
import skorch
import torch
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier

from sk_bnreg import BNMLPClassifier, fit_stack

EPOCHS = 10


def sequential(n_features, units):
    def block(n_in):
        return [torch.nn.Linear(n_in, units, bias=False), torch.nn.BatchNorm1d(units), torch.nn.ReLU()]

    return torch.nn.Sequential(*block(n_features), *block(units), torch.nn.Linear(units, 2))


def ours(units, batch_size, batch_norm, seed=0):
    return BNMLPClassifier(
        (units, units),
        n_ensemble=1,
        numeric_embedding=None,
        early_stopping=False,
        batch_norm=batch_norm,
        batch_size=batch_size,
        l2=0.0,
        learning_rate="constant",
        learning_rate_init=1e-3,
        max_iter=EPOCHS,
        n_iter_no_change=np.inf,
        random_state=seed,
    )


def scikit_learns(units, batch_size):
    return MLPClassifier(
        (units, units), batch_size=batch_size, alpha=0.0, max_iter=EPOCHS, n_iter_no_change=EPOCHS + 1, random_state=0
    )


def skorchs(units, batch_size, n_features):
    return skorch.NeuralNetClassifier(
        sequential(n_features, units),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=EPOCHS,
        batch_size=batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


def timed(fit):
    sleep(0.2)  # until the idle threads of the side before have stopped spinning
    start = perf_counter()
    model = fit()
    return perf_counter() - start, model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--stack", type=int, default=16)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn says that 10 epochs are few
    X, y = make_classification(args.rows, 30, n_informative=10, random_state=0)
    X = X.astype(np.float32)
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}, skorch {skorch.__version__}; {args.rows:,} x 30 rows, {EPOCHS} epochs, "
        f"median [min, max] of {args.rounds} rounds"
    )
    print(
        f"{'network':22} {'peer':14} {'peer, s':>8} {'one fit / peer':>22} {f'stack of {args.stack}, each / peer':>30}"
    )
    for units, batch_size in ((64, 64), (128, 256)):
        for batch_norm in (False, True):

            def peer(units=units, batch_size=batch_size, batch_norm=batch_norm):
                if batch_norm:
                    return skorchs(units, batch_size, 30).fit(X, y)
                return scikit_learns(units, batch_size).fit(X, y)

            def one(units=units, batch_size=batch_size, batch_norm=batch_norm):
                return ours(units, batch_size, batch_norm).fit(X, y)

            def many(units=units, batch_size=batch_size, batch_norm=batch_norm):
                return fit_stack([ours(units, batch_size, batch_norm, seed) for seed in range(args.stack)], X, y)

            check_same_work(peer(), one(), many(), X, y, -(-args.rows // batch_size))
            times = np.array([[timed(peer)[0], timed(one)[0], timed(many)[0] / args.stack] for _ in range(args.rounds)])
            single, stacked = times[:, 1] / times[:, 0], times[:, 2] / times[:, 0]
            print(
                f"{f'({units},{units})/{batch_size}' + (', batch norm' if batch_norm else ''):22} "
                f"{'skorch' if batch_norm else 'scikit-learn':14} {np.median(times[:, 0]):8.3f} "
                f"{spread(single):>22} {spread(stacked):>30}"
            )


def check_same_work(peer, one, many, X, y, n_batches):
    """Fail if the sides took other numbers of steps or learned unequally well."""
    steps = EPOCHS * n_batches
    if isinstance(peer, MLPClassifier):
        assert peer.t_ == EPOCHS * len(y)  # rows seen
    else:
        assert sum(row["train_batch_count"] for row in peer.history) == steps
    for net in (one, *many):
        assert net.net_.records_[0].n_steps[-1] == steps
    accuracy = [float((model.predict(X) == y).mean()) for model in (peer, one, many[0])]
    assert max(accuracy) - min(accuracy) < 0.02, accuracy


def spread(ratios):
    return f"{np.median(ratios):.3f} [{ratios.min():.3f}, {ratios.max():.3f}]"


if __name__ == "__main__":
    main()
