"""The compiled engine against the torch pass, which knows nothing of it."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from skorch.callbacks import Callback

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, fit_stack
from sk_bnreg.engine.compiled import has_kernel
from sk_bnreg.engine.functions import ACTIVATIONS
from sk_bnreg.engine.roles import ROLES

pytestmark = pytest.mark.skipif(not has_kernel(), reason="numba has no release yet for this Python or numpy")

STATES = ("theta", "running_mean", "running_var")


@pytest.fixture
def torch_alone(monkeypatch):
    """Return a function that fits estimators by torch."""

    def fit(estimators, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr("sk_bnreg.engine.tasks.has_kernel", lambda: False)
            return fit_stack(estimators, *args, **kwargs)

    return fit


def make_table(loss, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((90, 7))
    X[:, 2] = X[:, 2] > 0
    raw = X[:, :3] @ rng.standard_normal((3, 3)) + 0.5 * rng.standard_normal((90, 3))
    return X, {
        "binary": raw[:, 0] > 0,
        "multilabel": (raw > 0).astype(int),
        "multiclass": raw.argmax(1),
        "squared": raw[:, 0],
        "several targets": raw,
    }[loss]


def largest_difference(one, other):
    """The largest difference of a parameter, running statistic or moment, and of a loss."""
    one_state, other_state = (net.net_.member_state() for net in (one, other))
    assert one_state.keys() == other_state.keys()
    assert sum(value.numel() for value in one_state.values()) > 20
    differences = [
        (one_state[name].double() - other_state[name].double()).abs().max()
        for name in one_state
        if one_state[name].numel()
    ]
    losses = [np.abs(np.subtract(one.loss_curve_, other.loss_curve_)).max()]
    if one.validation_loss_curve_:
        losses.append(np.abs(np.subtract(one.validation_loss_curve_, other.validation_loss_curve_)).max())
    return max(float(difference) for difference in differences + losses)


def estimator(loss, **params):
    make = BNMLPRegressor if loss in ("squared", "several targets") else BNMLPClassifier
    settings = {
        "hidden_layer_sizes": (19, 8), "batch_size": 32, "max_iter": 5, "learning_rate": "constant", "n_ensemble": 1,
        "l2": dict(zip(ROLES, (0.1, 0.2, 0.05, 0.3, 0.15, 0.02), strict=True)), "numeric_embedding": None,
        "dtype": "float64", "random_state": 1,
    }  # fmt: skip
    return make(**settings | params)


LOSSES = ("binary", "multiclass", "multilabel", "squared", "several targets")
EMBEDDED = {
    "numeric_embedding": "auto", "dropout": 0.3, "early_stopping": True, "n_iter_no_change": 2, "n_ensemble": 3,
    "max_iter": 8,
}  # fmt: skip

# What both engines train: parameters, and the losses, forms of rows and weights that each goes with.
PROBLEMS = {
    **{
        f"{activation}, batch norm {batch_norm}, {solver}, {l2_mode}": (
            {"activation": activation, "batch_norm": batch_norm, "solver": solver, "l2_mode": l2_mode},
            LOSSES, (np.asarray,), (True, False),
        )
        for activation, batch_norm, solver, l2_mode in itertools.product(
            ACTIVATIONS, (True, False), ("adam", "sgd"), ("decoupled", "loss")
        )
    },
    "embeddings, dropout, early stopping": (EMBEDDED, LOSSES, (np.asarray, sparse.csr_array), (True, False)),
    "the same without batch norm": (
        EMBEDDED | {"batch_norm": False, "l2_mode": "loss"}, LOSSES, (np.asarray, sparse.csr_array), (True, False)
    ),
    **{
        f"layers {hidden}, batches of {batch_size}": (
            {"hidden_layer_sizes": hidden, "activation": activation, "batch_size": batch_size},
            ("multiclass",), (np.asarray,), (False,),
        )
        for hidden in ((), (1,), (33,), (5, 3, 2))
        for activation, batch_size in (("relu", 89), ("gelu", 7))
    },
}  # fmt: skip


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 2e-7), ("float64", 4e-16)])
def test_cosines_equal_numpys(dtype, largest):
    """Up to some thousand periods; nan goes through, and of a huge number nothing is larger than 1 but by rounding."""
    import numba

    from sk_bnreg.engine.elementary import cos_sin

    @numba.njit
    def both(x, cosines, sines):
        for i in range(len(x)):
            cosines[i], sines[i] = cos_sin(x[i])

    x = np.concatenate([np.linspace(-7, 7, 1001), np.random.default_rng(0).normal(0, 5000, 1000)]).astype(dtype)
    huge = np.array([1e30, -1e30, np.nan, 0.0], dtype)
    for function, own in ((np.cos, 0), (np.sin, 1)):
        found = np.empty((2, len(x)), dtype)
        both(x, *found)
        assert abs(found[own] - function(x.astype(np.float64))).max() < largest
        found = np.empty((2, 4), dtype)
        both(huge, *found)
        assert np.isnan(found[own, 2])
        assert abs(found[own, :2]).max() < 1 + 1e-6
        assert found[own, 3] == function(0.0)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_epochs_equal_torchs(problem, torch_alone):
    params, losses, forms, weighted = PROBLEMS[problem]
    if params.get("activation") == "identity":
        # a beta before another batch norm has no gradient then but L2's and rounding
        params = params | {"l2": {"weights": 0.1, "gamma": 0.3, "biases": 0.2}}
    for loss, form, has_weight in itertools.product(losses, forms, weighted):
        X, y = make_table(loss)
        X[X < -1] = 0
        weight = np.random.default_rng(2).uniform(0.1, 2, len(X)) if has_weight else None
        (compiled,), (torchs,) = (
            fit([estimator(loss, **params)], form(X), y, sample_weight=weight) for fit in (fit_stack, torch_alone)
        )
        assert largest_difference(compiled, torchs) < 1e-9, (loss, form, has_weight)
        assert compiled.best_iter_ == torchs.best_iter_
        if "numeric_embedding" in params:
            assert compiled.net_.module_.embedded.tolist() == [0, 1, 3, 4, 5, 6]


def test_losses_of_a_few_rows_at_a_time_equal_torchs(torch_alone, monkeypatch):
    monkeypatch.setattr("sk_bnreg.engine.compiled.ROWS_AT_ONCE", 4)
    X, y = make_table("multiclass")
    weight = np.random.default_rng(2).uniform(0.1, 2, len(X))
    (compiled,), (torchs,) = (
        fit([estimator("multiclass", early_stopping=True)], X, y, sample_weight=weight)
        for fit in (fit_stack, torch_alone)
    )
    assert len(compiled.validation_loss_curve_) == 5
    assert largest_difference(compiled, torchs) < 1e-9


class Watcher(Callback):
    """Keeps what it is shown of the third step of each epoch."""

    def choose_step(self, n_steps):
        return 2

    def on_chosen_step(self, net, before, grad, after, rates):
        self.shown_ = [*getattr(self, "shown_", []), np.stack([before, grad, after])]


def test_a_step_is_shown_as_torch_shows_it(torch_alone):
    X, y = make_table("multiclass")
    shown = []
    for fit in (fit_stack, torch_alone):
        watcher = Watcher()
        fit([estimator("multiclass", callbacks=[watcher])], X, y)
        shown.append(watcher.shown_)
    assert np.shape(shown[0])[:2] == (5, 3)
    np.testing.assert_allclose(*shown, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_step_in_float32_equals_torchs_to_a_few_digits(solver, torch_alone):
    """After one step: Adam turns rounding of tiny gradients into steps, so longer runs part."""
    X, y = make_table("multiclass")
    for activation in ACTIVATIONS:
        params = {"activation": activation, "solver": solver, "batch_size": 90, "max_iter": 1, "dtype": "float32"}
        params |= {"hidden_layer_sizes": (19,), "epsilon": 1e-3}
        (compiled,), (torchs,) = (fit([estimator("multiclass", **params)], X, y) for fit in (fit_stack, torch_alone))
        module, other = compiled.net_.module_, torchs.net_.module_
        for role, columns in module.slices.items():
            if columns.stop > columns.start:
                ours, theirs = (net.theta.data[:, columns] for net in (module, other))
                assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max(), (activation, role)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("n_rows", "n_inner", "n_columns"), [(1, 1, 1), (13, 7, 9), (40, 300, 33), (70, 600, 40), (83, 520, 700)]
)
def test_products_equal_numpys_whoever_does_which_rows(n_rows, n_inner, n_columns, dtype):
    from numba import njit

    from sk_bnreg.engine.simd import multiply  # which copies long rows first, as in the last case

    @njit
    def call_multiply(*args):
        multiply(*args)

    rng, stride = np.random.default_rng(0), -(-n_columns // 16) * 16 + 16
    a, shift = rng.normal(size=(n_rows, n_inner)).astype(dtype), rng.normal(size=n_rows).astype(dtype)
    b = np.zeros((n_inner + 2, stride), dtype)
    b[:n_inner, :n_columns] = rng.normal(size=(n_inner, n_columns))
    expected = a.astype(float) @ b[:n_inner, :n_columns].astype(float) + shift[:, None]
    for least in (-np.inf, 0.0):
        results = []
        for turned, cuts in itertools.product((False, True), ([0, n_rows], [0, n_rows // 3, n_rows])):
            c = np.full((n_rows, stride), 7, dtype)
            for start, stop in itertools.pairwise(cuts):
                one = np.ascontiguousarray(a.T) if turned else a
                call_multiply(one, turned, b, c, shift, least, start, stop, n_inner, n_columns)
            results.append(c)
            assert (c[:, n_columns:] == 7).all()
        np.testing.assert_allclose(
            results[0][:, :n_columns], np.maximum(expected, least), rtol=0, atol=1e3 * np.finfo(dtype).eps
        )
        for c in results[1:]:
            np.testing.assert_array_equal(c, results[0])


NOWHERE_TO_KEEP_IT = """
from numba.core import caching
caching.FunctionCache._impl_class._locator_classes = []  # as in a read-only container without a home
from sk_bnreg.engine.kernel import evaluate, train_epoch
print(train_epoch.stats.cache_path, evaluate.stats.cache_path)
"""


def test_a_machine_without_a_folder_to_write_in_compiles_each_time():
    done = subprocess.run([sys.executable, "-c", NOWHERE_TO_KEEP_IT], capture_output=True, text=True, check=True)
    assert done.stdout == "None None\n"


TOLD = """
from numba.core import event
from sk_bnreg.engine import compiled
from sk_bnreg.engine import kernel
told = []
with compiled.compilation_told(told.append):
    event.start_event("numba:compile", data={"dispatcher": kernel.evaluate})
    assert not told
    event.start_event("numba:compile", data={"dispatcher": kernel.train_epoch})
event.start_event("numba:compile", data={"dispatcher": kernel.train_epoch})
print(*told)
"""


def test_a_compilation_is_told_in_one_line():
    done = subprocess.run([sys.executable, "-c", TOLD], capture_output=True, text=True, check=True)
    assert done.stdout == "Compiling the engine, once in this environment: some 15 seconds.\n"
