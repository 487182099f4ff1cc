"""Published and derived results on batch norm and L2, run afresh on this package's engine and estimators."""

from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import count, product
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import fisher_exact
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import ShuffleSplit, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from sk_bnreg.engine.roles import HIDDEN_WEIGHTS
from sk_bnreg.estimators.fit_stack import fit_stack
from sk_bnreg.estimators.networks import BNMLPClassifier, BNMLPRegressor
from sk_bnreg.search.grid import StackedGridSearchCV
from sk_bnreg.stats.folds import contrast
from sk_bnreg.theory.diagnosis import diagnose
from sk_bnreg.theory.equilibria import (
    CONSTANT,
    N_SEEDS,
    PLAIN,
    equilibrium_of_adam,
    equilibrium_of_adamw,
    equilibrium_of_sgd,
    made_up,
)
from sk_bnreg.theory.finding import Finding

_EXACT = {"dtype": "float64", "batch_norm_eps": 1e-30}  # so that batch norm leaves nothing of the weights' scale


def reproduce() -> Iterator[Finding]:
    """Run every result afresh, judged figures on 20 seeds, and yield its figures.

    Yields
    ------
    Finding

    Examples
    --------
    >>> from sk_bnreg.theory.reproduce import tuned_weight_decays
    >>> [finding.value for finding in tuned_weight_decays()][:2]
    [3.0, 8.0]
    """
    for result in (
        exponential_rates,
        equilibrium_of_sgd,
        equilibrium_of_adamw,
        equilibrium_of_adam,
        invariances,
        tuned_weight_decays,
        rate_and_decay,
        retuned_rate,
    ):
        yield from result()


class _HiddenRates(Callback):
    """Multiplies the learning rate of the hidden weights by `factor` of the step; `prepare` sets their start."""

    def __init__(self, factor: Callable[[int], float], prepare: Callable[[Any, slice], None]):
        self.factor, self.prepare = factor, prepare

    def on_train_begin(self, net: Any, *args: Any, **kwargs: Any) -> None:
        """Count steps from here."""
        slices = [net.module_.slices[role] for role in HIDDEN_WEIGHTS]  # neighbours
        self.columns, self.number = slice(slices[0].start, slices[-1].stop), count()
        self.prepare(net, self.columns)

    def around_step(self, net: Any, take: Callable[[torch.Tensor], None], rates: torch.Tensor) -> None:
        """Take a step with the factor."""
        rates = rates.expand_as(net.module_.theta).clone()
        rates[:, self.columns] *= self.factor(next(self.number))
        take(rates)


def _train_outputs(network: Any, X: NDArray[np.float64]) -> torch.Tensor:
    """Return every member's outputs with the batch statistics of X, ``(M, N)``."""
    module = network.net_.module_.train(True)
    with torch.no_grad():
        x = torch.from_numpy(X.T).to(module.theta)
        return module(x.expand(len(module.theta), -1, -1))[:, 0]


def _largest_differences(a: torch.Tensor, b: torch.Tensor) -> tuple[float, ...]:
    return tuple((a - b).abs().amax(1).tolist())


def exponential_rates(n_steps: int = 208) -> Iterator[Finding]:
    """R1: SGD with weight decay and a constant rate is SGD without, at an exponentially growing rate.

    Both trainings start at the same weights and see the same batches. With momentum they are the same only if the
    momentum buffer, too, starts where decay would have brought it: that is what `start` writes.

    Parameters
    ----------
    n_steps : int
        A multiple of 16, the batches of an epoch. Rounding grows with the steps, and so does the bound of 1e-11.

    Yields
    ------
    Finding
    """
    source = "Li & Arora 2020, An exponential learning rate schedule for deep learning, ICLR"
    claim = "Weight decay on weights that batch norm follows is the same as a learning rate that grows exponentially."
    lr, momentum, l2 = 0.05, 0.9, 1e-2
    X, y = made_up()
    common = {
        **_EXACT, **CONSTANT, "solver": "sgd", "momentum": momentum, "learning_rate_init": lr, "batch_size": 64,
        "l2_mode": "loss", "l2_targets": HIDDEN_WEIGHTS, "max_iter": n_steps // 16, "n_ensemble": N_SEEDS,
        "random_state": 0,
    }  # fmt: skip
    root = _growth(lr, momentum, l2)

    def start(net: Any, columns: slice) -> None:
        buffer = net.optimizer_.member_state()["momentum_buffer"]
        buffer[:, columns] = -(1 - root) / (root * lr) * net.module_.theta.data[:, columns]

    growing = _HiddenRates(lambda t: root ** (-2 * t - 1), start)
    decay, growth, neither = (
        _train_outputs(BNMLPRegressor((32, 32), **common, **arm).fit(X, y), X)
        for arm in ({"l2": l2}, {"l2": 0.0, "callbacks": [growing]}, {"l2": 0.0})
    )
    quantity = f"largest difference of a prediction after {n_steps} steps"
    yield Finding("R1", claim, source, quantity, 0.0, _largest_differences(decay, growth), "largest", None, 1e-11)
    quantity = "the same with neither decay nor growth"
    yield Finding("R1", claim, source, quantity, None, _largest_differences(decay, neither), "smallest", 0.1, None)
    quantity = "growth of the rate per epoch of 391 steps, for lr 0.1, momentum 0.9, weight decay 5e-4"
    measured = (_growth(0.1, 0.9, 5e-4) ** (-2 * 391),)
    yield Finding("R1", claim, source, quantity, 1.481, measured, "median", 1.4805, 1.4815, origin="formula")


def _growth(lr: float, momentum: float, l2: float) -> float:
    """Return alpha, by whose power -2 the rate grows every step: the larger root of x^2 - (1 + m - lr l2) x + m."""
    b = 1 + momentum - lr * l2
    return float((b + np.sqrt(b * b - 4 * momentum)) / 2)


def invariances() -> Iterator[Finding]:
    """R5: which rescalings leave a fitted network's function as it is, and which L2 they evade.

    The networks are fitted and then scaled by `diagnose`, so that it is the package's own layers that are judged.

    Yields
    ------
    Finding
    """
    source = "van Laarhoven 2017, arXiv:1706.05350; extended to gamma, beta and the output layer here"
    X, y = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    networks = [
        BNMLPClassifier((16, 16), **_EXACT, **PLAIN, l2_targets=targets, random_state=seed)
        for targets, seed in product(("weights", "weights+gamma+beta"), range(N_SEEDS))
    ]
    found = [diagnose(network, X) for network in fit_stack(networks, X, y)]
    tables = [diagnosis.invariances for diagnosis in found]
    claim = "Batch norm and ReLU leave the function as it is when hidden weights, gamma and beta of earlier layers, or "
    claim += "the last gamma and beta against the output weights are scaled; not when these are scaled alone."
    for said, judged, low, high, quantity in (
        (
            True,
            "largest",
            None,
            1e-9,
            "largest change of an output, in its standard deviations, by what should change none",
        ),
        (False, "smallest", 0.1, None, "smallest by what should change them"),
    ):
        changes = tuple(getattr(t["change"][t["invariant"] == said], "max" if said else "min")() for t in tables)
        yield Finding("R5", claim, source, quantity, 0.0 if said else None, changes[:N_SEEDS], judged, low, high)
    claim = "L2 on all weights is evaded through the last gamma and beta; L2 on those as well is not."
    for name, part, expected in (("weights", found[:N_SEEDS], 1.0), ("weights+gamma+beta", found[N_SEEDS:], 0.0)):
        evaded = tuple(float((3, "output_weights") in diagnosis.evaded) for diagnosis in part)
        quantity = f"share of fits that evade L2 on the output weights, l2_targets={name!r}"
        yield Finding("R5", claim, "derived here", quantity, expected, evaded, "mean", expected, expected)


def tuned_weight_decays() -> Iterator[Finding]:
    """R6: tuning chose no weight decay more often with batch norm, and never enough to matter.

    The tuned values are the authors', from their repository: ``rtdl.csv`` has a row per data set and model.

    Yields
    ------
    Finding
    """
    source = "Gorishniy et al. 2021, Revisiting deep learning models for tabular data, NeurIPS: its repository"
    with (files("sk_bnreg.theory") / "rtdl.csv").open() as file:
        tuned = pd.read_csv(file)
    zeros = (tuned["weight_decay"] == 0).groupby(tuned["model"]).sum()
    claim = "Tuned on 11 data sets, ResNets with batch norm chose weight decay 0 more often than MLPs without."
    for model, name in (("mlp", "MLPs without"), ("resnet", "ResNets with")):
        quantity = f"tuned weight decays of 0, {name} batch norm, of 11"
        yield Finding("R6", claim, source, quantity, None, (float(zeros[model]),), origin="table")
    p_value = fisher_exact(np.array([[n, 11 - n] for n in zeros])).pvalue
    yield Finding("R6", claim, source, "Fisher's exact p, two-sided", None, (float(p_value),), origin="table")
    budgets = tuned["learning_rate"] * tuned["weight_decay"] * tuned["steps"]
    claim = "The grid of weight decays was so low that none shrank a weight by 1 %."
    largest = (float(budgets.max()),)  # decay alone shrinks a weight by the factor exp(-D)
    yield Finding("R6", claim, source, "largest decay budget D", None, largest, "largest", None, 0.01, origin="table")


def rate_and_decay() -> Iterator[Finding]:
    """R7: with SGD a learning rate and a decay can be traded for each other exactly; their product is what counts.

    The exact half is a training of 208 steps from weights c times as large, at c^2 times the rate; the other half is
    a grid of AdamW's fits in equilibrium, where the score's spread over either axis is reported.

    Yields
    ------
    Finding
    """
    claim = "(lr, l2, w) and (c^2 lr, l2 / c^2, c w) of the hidden weights are the same training."
    X, y = made_up()
    common = {
        **_EXACT, **CONSTANT, "solver": "sgd", "learning_rate_init": 0.02, "batch_size": 64, "l2_mode": "loss",
        "l2_targets": HIDDEN_WEIGHTS, "max_iter": 13, "n_ensemble": N_SEEDS, "random_state": 0,
    }  # fmt: skip
    c = 3.0

    def larger(net: Any, columns: slice) -> None:
        net.module_.theta.data[:, columns] *= c

    one, other = (
        _train_outputs(BNMLPRegressor((32, 32), **common, **arm).fit(X, y), X)
        for arm in ({"l2": 1e-2}, {"l2": 1e-2 / c**2, "callbacks": [_HiddenRates(lambda t: c**2, larger)]})
    )
    source, quantity = "van Laarhoven 2017, arXiv:1706.05350", "largest difference of a prediction after 208 steps"
    yield Finding("R7", claim, source, quantity, 0.0, _largest_differences(one, other), "largest", None, 1e-9)
    claim = "In equilibrium the score depends on lr * l2 of the hidden weights more than on lr."
    losses = rate_decay_grid().set_index(["rate", "product", "seed"])["log_loss"]
    for name, fixed in (("over lr, at one lr * l2", "product"), ("over lr * l2, at one lr", "rate")):
        spread = losses.groupby([fixed, "seed"]).std().groupby("seed").mean()
        yield Finding("R7", claim, "derived here", f"standard deviation of the log loss {name}", None, tuple(spread))


def rate_decay_grid(n_seeds: int = 5) -> pd.DataFrame:
    """Train a grid of learning rates and lr * l2 on the digits with AdamW as one stack, each to equilibrium.

    Returns
    -------
    DataFrame
        A row per `rate`, `product` (lr * l2) and `seed` with the `log_loss` on held-out rows.
    """
    X, y = load_digits(return_X_y=True)
    train, test = next(ShuffleSplit(1, test_size=0.3, random_state=0).split(X))
    X = StandardScaler().fit(X[train]).transform(X)
    grid = list(product((1e-3, 3e-3, 1e-2, 3e-2), (0.002, 0.008, 0.032, 0.128), range(n_seeds)))
    networks = [
        BNMLPClassifier((32, 32), **CONSTANT | {"batch_size": 50}, learning_rate_init=rate, l2=decay / rate,
                        l2_targets=HIDDEN_WEIGHTS, max_iter=100, random_state=seed)
        for rate, decay, seed in grid
    ]  # fmt: skip
    fit_stack(networks, X[train], y[train])
    losses = [log_loss(y[test], network.predict_proba(X[test])) for network in networks]
    return pd.DataFrame(grid, columns=["rate", "product", "seed"]).assign(log_loss=losses)


def retuned_rate(n_seeds: int = 4) -> Iterator[Finding]:
    """R8: does the gap from dropping L2 close when the learning rate is tuned again?

    Learning rate and budget are tuned by an inner search of each of ten outer folds, so that no test row chooses
    anything; the three arms are then fitted from the same seeds.

    Parameters
    ----------
    n_seeds : int
        Networks per arm and fold, whose losses are averaged.

    Yields
    ------
    Finding
    """
    source = "Wu 2019, L2 regularization and batch norm, Jane Street's blog, read in summaries: it does, on CIFAR-10"
    claim = "On the digits: what L2 on the hidden weights gains, a learning rate tuned without it gains as well."
    X, y = load_digits(return_X_y=True)
    network = BNMLPClassifier((64, 64), **PLAIN, l2_targets=HIDDEN_WEIGHTS, random_state=0)
    grid = {"learning_rate_init": [1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1], "l2_budget": [0.0, 0.3, 1.0, 3.0]}
    rows = []
    for train, test in StratifiedKFold(10, shuffle=True, random_state=0).split(X, y):
        scaler = StandardScaler().fit(X[train])
        inner, outer = scaler.transform(X[train]), scaler.transform(X[test])
        search = StackedGridSearchCV(network, grid, cv=3, refit=False, scoring="neg_log_loss").fit(inner, y[train])
        tried = pd.DataFrame(search.cv_results_["params"]).assign(score=search.cv_results_["mean_test_score"])
        ranked = tried.sort_values("score", ascending=False).drop(columns="score")
        best, again = (ranked[ranked["l2_budget"].gt(0) == l2].to_dict("records")[0] for l2 in (True, False))
        arms: tuple[dict[Any, Any], ...] = (best, {**best, "l2_budget": 0.0}, again)
        fitted = [clone(network).set_params(random_state=seed, **arm) for arm in arms for seed in range(n_seeds)]
        fit_stack(fitted, inner, y[train])
        losses = [log_loss(y[test], one.predict_proba(outer)) for one in fitted]
        rows.append(np.reshape(losses, (3, n_seeds)).mean(axis=1))
    tuned, same_rate, tuned_again = np.transpose(rows)
    for name, arm in (("at the same learning rate", same_rate), ("with the learning rate tuned again", tuned_again)):
        found, lost = contrast(arm - tuned, test_ratio=1 / 9, rope=0.01), tuple((arm - tuned).tolist())
        quantity = f"log loss lost by dropping L2 {name}, 10 folds"
        yield Finding("R8", claim, source, quantity, None, lost, "mean", interval=(found.low, found.high))
