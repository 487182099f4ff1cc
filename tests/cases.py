"""Random tables and estimators, of which laws must hold, and how many of them."""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from sklearn.base import clone

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, fit_stack
from sk_bnreg.engine.roles import L2_TARGETS, ROLES

# the suite has the same cases in every run; benchmarks/laws.py loads a profile of others, and more
ASKED = settings(
    max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
if settings.get_current_profile_name() == "laws":
    ASKED = settings.default
OF_FITS, OF_STUDIES = ASKED, settings(ASKED, max_examples=max(10, ASKED.max_examples // 40))

CLASSES, NUMBERS = ("binary", "multiclass", "multilabel"), ("number", "numbers")
KEPT = ("best_iter", "train_loss", "valid_loss", "budgets")  # of a training
HALF_THE_DIGITS = np.finfo(float).eps ** 0.5  # where sums are taken in another order


class Case(NamedTuple):
    """A table with a target of some kind, and an estimator."""

    kind: str
    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    network: BNMLPClassifier | BNMLPRegressor

    def changed(self, **changes):
        """Return the case with other tables, targets, weights or parameters."""
        data = {name: changes.pop(name) for name in ("X", "y", "weight") if name in changes}
        return self._replace(network=clone(self.network).set_params(**changes), **data)

    def fitted(self, **changes):
        """Fit the case when it is so changed."""
        case = self.changed(**changes)
        return case.network.fit(case.X, case.y, sample_weight=case.weight)

    def beside(self, *changes):
        """Fit the case as it is and when it is changed, which takes less time at once."""
        _, X, y, weight, networks = zip(self.changed(), *(self.changed(**own) for own in changes), strict=True)
        return fit_stack(networks, list(X), list(y), sample_weight=list(weight))


def any_of(**values):
    """Draw one of all combinations at once, cheaper than a value after the other; the first are the simplest."""
    return st.sampled_from([dict(zip(values, own, strict=True)) for own in product(*values.values())])


SETTINGS = (
    any_of(
        hidden_layer_sizes=[(), (3,), "4-2", [2, 3]],
        activation=["relu", "identity", "logistic", "tanh", "gelu", "silu"],
        batch_norm=[True, False],
        batch_norm_eps=[1e-5, 1e-2],
        numeric_embedding=[None, None, "auto", "periodic", "piecewise-linear"],
    ),
    any_of(
        solver=["adam", "sgd"],
        learning_rate=["constant", "cosine", "one-cycle"],
        learning_rate_init=[0.001, 0.01, 0.03],
        momentum=[0.0, 0.9],
        max_iter=[1, 2, 4],
        batch_size=["auto", 4, 7],
    ),
    any_of(
        l2=[0.0, 0.1, 1.0, {"weights": 0.1, "gamma": np.float64(0.3)}],
        l2_targets=[*L2_TARGETS, *ROLES, ("biases", "weights")],
        l2_mode=["decoupled", "loss"],
    ),
    any_of(
        dropout=[0.0, 0.3],
        early_stopping=["auto"] * 3 + [True],  # what is usual is cheaper, so it is more frequent
        validation_fraction=[0.3],
        n_iter_no_change=[np.inf, 1],
        n_ensemble=[1] * 3 + [np.int64(2)],
        dtype=["float32", "float64"],
        class_weight=[None] * 3 + ["balanced"],
    ),
)


@cache
def tables(kinds):
    """Draw what a table is like, with a target of one of these kinds."""
    return any_of(
        kind=kinds,
        n_rows=range(12, 25),
        n_features=[1, 2, 4],
        scale=[1.0, 0.01, 3.0],
        shift=[0.0, 1.0],
        ties=["no ties", "whole numbers", "constant"],
        weights=["none", "whole numbers", "any"],
    )


SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def cases(draw, kinds=CLASSES + NUMBERS, **fixed):
    """Draw a table with a target of some kind, in part with ties, constant columns and weights, and an estimator."""
    about, rng = draw(tables(kinds)), np.random.default_rng(draw(SEEDS))
    n = about["n_rows"]
    X = rng.standard_normal((n, about["n_features"])) * about["scale"] + about["shift"]
    # the first column stays: so no unit has the same input in all rows, which relu would be undecided about
    others = {"no ties": X, "whole numbers": X.round(), "constant": np.full_like(X, 3.0)}
    X[:, 1:] = others[about["ties"]][:, 1:]
    y = {
        "binary": rng.integers(0, 2, n),
        "multiclass": rng.integers(0, 3, n),
        "multilabel": rng.integers(0, 2, (n, 3)),
        "number": X[:, 0] + rng.standard_normal(n),
        "numbers": X[:, :1] * [1.0, -9.0] + rng.standard_normal((n, 2)),
    }[about["kind"]]
    weights = {"none": None, "whole numbers": rng.integers(1, 4, n).astype(float), "any": rng.uniform(0.1, 5.0, n)}
    return Case(about["kind"], X, y, weights[about["weights"]], draw_network(draw, about["kind"], **fixed))


def draw_network(draw, kind, **fixed):
    """Draw an estimator for targets of a kind; what is `fixed` is not drawn."""
    params = {name: value for settings in SETTINGS for name, value in draw(settings).items()}
    params |= {"random_state": draw(SEEDS)} | fixed
    if kind in CLASSES:
        return BNMLPClassifier(**params)
    del params["class_weight"]
    return BNMLPRegressor(**params)


# where sums are taken in another order, that must not decide which epoch is the best; and Adam's usual epsilon of 1e-8
# makes steps of gradients that are nothing but rounding, such as those at a constant column before batch norm
STEADY = {"early_stopping": False, "dtype": "float64", "epsilon": 0.01}


def predicted(network, X):
    """Return probabilities or numbers."""
    return network.predict_proba(X) if hasattr(network, "predict_proba") else network.predict(X)


def assert_same_bits(one, other, X):
    """Compare all that two fits left: weights, statistics, losses and what is predicted."""
    for net, its in zip(one.nets_, other.nets_, strict=True):
        for name, value in net.module_.state().items():
            assert torch.equal(value, its.module_.state()[name]), name
        for record, its_record in zip(net.records_, its.records_, strict=True):
            np.testing.assert_equal(*({name: getattr(own, name) for name in KEPT} for own in (record, its_record)))
    np.testing.assert_array_equal(predicted(one, X), predicted(other, X))


def assert_close(found, expected):
    """Compare as numbers that differ by the order of sums."""
    found, expected = np.asarray(found), np.asarray(expected)
    scale = max(1.0, np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=HALF_THE_DIGITS * scale)
