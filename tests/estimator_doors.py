"""Cases at the doors of the estimators: one to three things away from a good one."""

import inspect
import warnings
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from doors import Door
from hypothesis import strategies as st
from odd_things import ODD, WEIGHTS, X_CHANGES, Y_CHANGES
from scipy import sparse
from sklearn.base import clone

from sk_bnreg import BNMLPClassifier, BNMLPRegressor

NETWORKS = {"classifier": BNMLPClassifier, "regressor": BNMLPRegressor}
TARGETS = {"classifier": ["binary", "words", "several", "labels"], "regressor": ["numbers", "columns"]}
GOOD = {
    "hidden_layer_sizes": [(), (4,), 3, "4-3", [2, 5], np.array([3, 2]), (1,)],
    "activation": ["identity", "logistic", "tanh", "relu", "gelu", "silu"],
    "batch_norm": [True, False],
    "dropout": [0, 0.5, 0.99],
    "l2": [0, 1.0, 100.0, {"weights": 0.1, "gamma": 1}, {}],
    "l2_budget": [None, 0, 0.5, 3],
    "l2_targets": ["weights", "weights+gamma+beta", "all", "none", ("gamma",), ["weights", "beta"], "embeddings"],
    "l2_mode": ["decoupled", "loss"],
    "solver": ["adam", "sgd"],
    "batch_size": ["auto", 1, 2, 5, 1000],
    "learning_rate": ["constant", "cosine", "one-cycle"],
    "learning_rate_init": [1e-4, 0.1, 1, np.float32(0.01)],
    "max_iter": [1, 2, 3, np.int64(2)],
    "momentum": [0, 0.5, 0.99],
    "beta_1": [0, 0.5, 0.99],
    "beta_2": [0, 0.5, 0.9999],
    "epsilon": [1e-8, 1e-3],
    "batch_norm_eps": [1e-5, 1e-2, 1.0],
    "early_stopping": [True, False, "auto"],
    "validation_fraction": [0.1, 0.5, 0.9],
    "n_iter_no_change": [1, 2, np.inf],
    "tol": [0, 1e-4, 0.1],
    "class_weight": [None, "balanced", {0: 1.0, 1: 3.0}, {"a": 2.0, "b": 1.0}],
    "n_ensemble": [1, 2, 5],
    "members": [None, [{}], [{"batch_norm": False}, {"l2": 3.0}], ({"hidden_layer_sizes": (2,)},)],
    "numeric_embedding": ["auto", "periodic", "piecewise-linear", None],
    "frequency_init_scale": ["auto", 0.1, 10],
    "warm_start": [True, False],
    "random_state": [0, 7, np.int64(3)],
    "device": ["cpu", "cpu:0"],
    "dtype": ["float32", "float64"],
    "callbacks": [None, [], ()],
    "verbose": [False, 0],
}


@dataclass
class Case:
    """A network and its data: a good case but for what is named."""

    kind: str
    target: str
    n_rows: int
    n_columns: int
    number: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    X: str = ""
    y: str = ""
    weight: str = "none"
    validation: tuple[str, str] | None = None

    def __repr__(self):
        shown = [getattr(self, f.name) for f in fields(self)]
        return " ".join(str(one) for one in shown if one not in ("", "none", None, {}))

    def network(self):
        """Return the network, unfitted."""
        small = {"hidden_layer_sizes": (4,), "max_iter": 2, "n_ensemble": 1, "random_state": 0}
        return NETWORKS[self.kind](**small | self.params)

    def good(self, n_rows=None, number=0):
        """Return good features and targets."""
        n, rng = n_rows or self.n_rows, np.random.default_rng(self.number + number)
        X = rng.normal(size=(n, self.n_columns))
        y = {
            "binary": np.arange(n) % 2,
            "words": np.array(["a", "b", "c"])[np.arange(n) % 3],
            "several": np.arange(n) % 3 * 2 - 1,
            "labels": (rng.random((n, 3)) < 0.5).astype(int),
            "numbers": X[:, 0] + rng.normal(size=n),
            "columns": rng.normal(size=(n, 2)),
        }[self.target]
        return X, y

    def data(self):
        """Return what is given to `fit`: features, targets, weights."""
        X, y = self.good()
        n = len(X)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            X = X_CHANGES[self.X](X) if self.X else X
            y = Y_CHANGES[self.y](y) if self.y else y
            return X, y, WEIGHTS[self.weight](n)


def _params(kind):
    names = list(inspect.signature(NETWORKS[kind]).parameters)
    good = st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(GOOD[name])))
    odd = st.tuples(st.sampled_from(names), st.sampled_from(ODD))
    return good, odd


PARAMS = {kind: _params(kind) for kind in NETWORKS}


@st.composite
def cases(draw, kinds=("classifier", "regressor"), n_odd=2):
    """Draw a case with up to `n_odd` odd things and some good parameters."""
    kind = draw(st.sampled_from(kinds))
    good, odd = PARAMS[kind]
    case = Case(
        kind,
        draw(st.sampled_from(TARGETS[kind])),
        draw(st.sampled_from([12, 7, 30, 3, 2, 1, 5, 64])),
        draw(st.sampled_from([3, 1, 2, 6])),
        draw(st.integers(0, 9)),
        dict(draw(st.lists(good, max_size=4))),
    )
    for what in draw(st.lists(st.sampled_from(["param", "X", "y", "weight"]), min_size=min(n_odd, 1), max_size=n_odd)):
        if what == "param":
            name, value = draw(odd)
            case.params[name] = -1 if name == "random_state" and value is None else value  # None draws from numpy's own
        else:
            changes = {"X": X_CHANGES, "y": Y_CHANGES, "weight": WEIGHTS}[what]
            setattr(case, what, draw(st.sampled_from(sorted(changes))))
    return case


def visit_fit(case):
    X, y, weight = case.data()
    network = case.network()
    params = network.get_params()
    yield X, y, weight
    fitted = network.fit(X, y, weight)
    yield
    assert fitted is network
    assert all(value is network.get_params()[name] for name, value in params.items())
    check_network(network, X, y, weight)
    if case.number % 3 == 0 and not case.params.get("warm_start"):
        X, y, weight = case.data()
        again = clone(case.network()).fit(X, y, weight)
        assert np.array_equal(outputs(again, X), outputs(network, X)), "another fit gives something else"


def outputs(network, X):
    return network.predict_proba(X) if hasattr(network, "predict_proba") else network.predict(X)


def check_network(network, X, y, weight=None):
    """Check a network that was fitted to these."""
    if hasattr(X, "__next__"):
        return
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    y = np.asarray(y.todense() if sparse.issparse(y) else y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    predicted = network.predict(X)
    assert len(predicted) == n
    assert np.isfinite(network.loss_curve_).all() or network.validation_loss_curve_, "loss"
    assert all(np.isfinite(coef).all() for coef in network.coefs_)
    if hasattr(network, "predict_proba"):
        probability = network.predict_proba(X)
        assert np.isfinite(probability).all(), "probability"
        assert ((probability >= 0) & (probability <= 1)).all()
        if network.target_.multilabel:
            assert probability.shape == predicted.shape == y.shape
            assert np.array_equal(predicted, probability > 0.5)
            return
        seen = y if weight is None else y[np.broadcast_to(np.asarray(weight, float), len(y)) > 0]
        assert np.array_equal(network.classes_, np.unique(seen)), f"classes {network.classes_}"
        assert probability.shape == (n, len(network.classes_))
        assert np.allclose(probability.sum(axis=1), 1)
        assert np.array_equal(predicted, network.classes_[probability.argmax(axis=1)])
        assert 0 <= network.score(X, y) <= 1
    else:
        assert predicted.shape == y.shape, f"{predicted.shape} {y.shape}"
        assert np.isfinite(predicted).all(), "prediction"
        y = y.astype(float)
        if n > 1 and len(np.unique(y, axis=0)) == 1:
            assert np.allclose(predicted, y, rtol=1e-6), "a constant is not predicted"


@st.composite
def cases_with_validation(draw):
    case = draw(cases(n_odd=1))
    sound = draw(st.sampled_from(["X", "y", "weight"]))
    changes = {"X": X_CHANGES, "y": Y_CHANGES, "weight": WEIGHTS}[sound]
    case.validation = sound, draw(st.sampled_from(sorted(changes)))
    case.params.setdefault("early_stopping", True)
    return case


def visit_fit_with_validation(case):
    """One of the rows for early stopping, their targets and weights is odd, or absent."""
    X, y, weight = case.data()
    what, change = case.validation
    other = Case(case.kind, case.target, 6, case.n_columns, 77, **{what: change})
    X_val, y_val, weight_val = other.data()
    network = case.network()
    yield X, y, weight, X_val, y_val, weight_val
    network.fit(X, y, weight, X_val=X_val, y_val=y_val, sample_weight_val=weight_val)
    yield
    check_network(network, X, y, weight)


CLASSES = {
    "all": lambda y: np.unique(y),
    "none": lambda y: None,
    "list": lambda y: np.unique(y).tolist(),
    "one more": lambda y: [*np.unique(y).tolist(), "z" if y.dtype.kind == "U" else 99],
    "one less": lambda y: np.unique(y)[:-1],
    "reversed": lambda y: np.unique(y)[::-1],
    "twice": lambda y: np.repeat(np.unique(y), 2),
    "empty": lambda y: [],
    "mixed": lambda y: [0, "a"],
    "nan": lambda y: [0.0, np.nan],
    "missing": lambda y: [0, None],
    "inf": lambda y: [0.0, np.inf],
    "words": lambda y: ["p", "q"],
    "text": lambda y: "ab",
    "a number": lambda y: 2,
    "two axes": lambda y: np.eye(2),
    "dict": lambda y: {0: 1},
    "Series": lambda y: pd.Series(np.unique(y)),
}


@st.composite
def cases_in_parts(draw):
    case = draw(cases(n_odd=1))
    other = draw(cases(kinds=[case.kind], n_odd=1))
    other.target, other.n_columns, other.params = case.target, draw(st.sampled_from([case.n_columns] * 5 + [2])), {}
    if draw(st.booleans()):
        case.X = case.y = ""
        case.weight = "none"
    return case, draw(st.sampled_from(["all"] * 20 + sorted(CLASSES))), other


def visit_partial_fit(parts):
    """Two calls, the second with other rows."""
    case, classes, other = parts
    X, y, weight = case.data()
    X_2, y_2, weight_2 = other.data()
    _, good = case.good()
    network = case.network()
    given = {"classes": CLASSES[classes](good)} if case.kind == "classifier" else {}
    if not hasattr(network, "partial_fit"):
        network = Case(case.kind, case.target, 5, 2).network()
    yield X, y, weight, X_2, y_2, weight_2, *given.values()
    network.partial_fit(X, y, sample_weight=weight, **given)
    predicted = outputs(network, case.good()[0])
    assert np.isfinite(predicted).all()
    network.partial_fit(X_2, y_2, sample_weight=weight_2)
    yield
    assert np.isfinite(outputs(network, case.good()[0])).all()
    assert len(network.loss_curve_) == 2


@st.composite
def cases_again(draw):
    case = draw(cases(n_odd=0))
    other = draw(cases(kinds=[case.kind], n_odd=2))
    other.target, other.n_columns = case.target, draw(st.sampled_from([case.n_columns] * 5 + [2]))
    return case, other


def visit_warm_start(both):
    """A fit that may go on after a good one, with other data and parameters."""
    case, other = both
    X, y, weight = other.data()
    network = case.network().set_params(warm_start=True)
    try:
        network.fit(*case.good())
    except ValueError:  # parameters that are good alone
        network = Case(case.kind, case.target, case.n_rows, case.n_columns).network().set_params(warm_start=True)
        network.fit(*case.good())
    network.set_params(**other.params)
    yield X, y, weight
    network.fit(X, y, weight)
    yield
    assert np.isfinite(outputs(network, X)).all()


@st.composite
def settings_of_params(draw):
    kind = draw(st.sampled_from(sorted(NETWORKS)))
    good, odd = PARAMS[kind]
    names = st.sampled_from(["alpha", "x", "x__y", "net_", "", "__", "fit"])
    return kind, draw(st.lists(st.one_of(good, odd, st.tuples(names, st.sampled_from(ODD))), min_size=1, max_size=3))


def visit_params(setting):
    """set_params, clone, repr and HTML of an unfitted network."""
    kind, params = setting
    network = NETWORKS[kind]()
    yield [dict(params)]
    network.set_params(**dict(params))
    yield
    for name, value in dict(params).items():
        assert network.get_params()[name] is value
        copied = clone(network).get_params()[name]
        assert type(copied) is type(value)
    assert repr(network).startswith(type(network).__name__)
    assert network._repr_html_()


def visit_budget(question):
    kind, params, budget, n_samples = question
    network = Case(kind, "binary", 5, 2, params=dict(params)).network()
    yield
    l2 = network.l2_for_budget(budget, n_samples)
    yield
    assert np.isfinite(l2)
    assert l2 >= 0


BUDGETS = st.tuples(
    st.just("classifier"),
    st.lists(st.one_of(PARAMS["classifier"]), max_size=2),
    st.sampled_from([0, 0.5, 3.0, *ODD]),
    st.sampled_from([1, 50, 1000, *ODD]),
)
DATA = {"X", "y", "sample_weight", "X_val", "y_val", "sample_weight_val", "classes"}
WORDS = frozenset(DATA | set(inspect.signature(BNMLPClassifier).parameters))
DOORS = [
    Door("fit", cases(), visit_fit, WORDS),
    Door("fit with X_val", cases_with_validation(), visit_fit_with_validation, WORDS),
    Door("partial_fit", cases_in_parts(), visit_partial_fit, WORDS, ("/sklearn/utils/_available_if",)),
    Door("fit, warm_start", cases_again(), visit_warm_start, WORDS),
    Door("set_params, clone, repr", settings_of_params(), visit_params, WORDS),
    Door("l2_for_budget", BUDGETS, visit_budget, WORDS | {"budget", "n_samples"}),
]
