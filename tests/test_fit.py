"""fit_stack against the same estimators fitted one at a time."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import FitFailedWarning

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, fit_stack


def twelve_different_classifiers(**shared):
    """Members that differ in everything that members of one stack may differ in."""
    modes = ["decoupled", "loss"]
    targets = ["weights", "weights+gamma+beta", "all", "none", ("output_weights", "gamma")]
    schedules = ["constant", "cosine", "one-cycle"]
    return [
        BNMLPClassifier(
            hidden_layer_sizes=(12, 8),
            batch_size=32,
            dtype="float64",
            random_state=i,
            learning_rate=schedules[i % 3],
            learning_rate_init=0.002 * (i + 1),
            l2=0.03 * i,
            l2_targets=targets[i % 5],
            l2_mode=modes[i % 2],
            dropout=[0.0, 0.2, 0.5][i // 4],
            max_iter=8 + i,
            early_stopping=i % 4 != 3,
            n_iter_no_change=1 + i % 3,
            n_ensemble=1,
            **shared,
        )
        for i in range(12)
    ]


@pytest.fixture
def classes():
    return make_classification(n_samples=300, n_features=10, n_informative=6, n_classes=3, random_state=0)


@pytest.fixture
def unequal_rows():
    rng = np.random.default_rng(0)
    return [rng.permutation(300)[: 230 - i % 7] for i in range(12)]


def largest_difference(one, other, X):
    pairs = [(one.predict_proba(X), other.predict_proba(X))]
    for name in ("coefs_", "intercepts_", "gammas_", "betas_"):
        pairs += zip(getattr(one, name), getattr(other, name), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_stack_equals_single_fits(classes, unequal_rows, solver, batch_norm):
    X, y = classes
    stacked = fit_stack(
        twelve_different_classifiers(solver=solver, batch_norm=batch_norm), X, y, rows=unequal_rows, stack_size=12
    )
    alone = twelve_different_classifiers(solver=solver, batch_norm=batch_norm)
    for single, rows in zip(alone, unequal_rows, strict=True):
        single.fit(X[rows], y[rows])
    assert [net.n_iter_ for net in stacked] == [net.n_iter_ for net in alone]
    assert len({net.n_iter_ for net in alone}) > 3
    assert max(largest_difference(a, b, X) for a, b in zip(stacked, alone, strict=True)) < 1e-9
    for a, b in zip(stacked, alone, strict=True):
        np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=1e-9)
        np.testing.assert_allclose([row[3] for row in a.l2_report_], [row[3] for row in b.l2_report_], rtol=1e-12)


def test_order_and_size_of_the_stack_change_nothing(classes, unequal_rows):
    X, y = classes
    whole = fit_stack(twelve_different_classifiers(), X, y, rows=unequal_rows, stack_size=12)
    order = np.random.default_rng(1).permutation(12)
    permuted = twelve_different_classifiers()
    fit_stack([permuted[i] for i in order], X, y, rows=[unequal_rows[i] for i in order], stack_size=12)
    halved = fit_stack(twelve_different_classifiers(), X, y, rows=unequal_rows, stack_size=6)
    for other in (permuted, halved):
        assert max(largest_difference(a, b, X) for a, b in zip(whole, other, strict=True)) < 1e-9


def test_tables_weights_and_targets_of_its_own_for_each_member():
    X, y = make_regression(n_samples=120, n_features=6, n_targets=2, noise=5.0, random_state=0)
    weight = np.random.default_rng(0).uniform(0, 2, size=120)
    weight[::5] = 0
    tables, targets = [X, X * 2 + 1, X], [y, y, -3 * y]
    nets = [
        BNMLPRegressor((9,), max_iter=15, n_ensemble=k, random_state=k, dtype="float64", batch_size=16)
        for k in (1, 2, 3)
    ]
    stacked = fit_stack([clone(net) for net in nets], tables, targets, sample_weight=[weight, None, weight])
    for net, other, X_i, y_i, w in zip(stacked, nets, tables, targets, [weight, None, weight], strict=True):
        np.testing.assert_allclose(net.predict(X_i), other.fit(X_i, y_i, sample_weight=w).predict(X_i), atol=1e-9)
        assert len(net.net_.members) == net.n_ensemble


def test_training_goes_on_from_a_stack_as_from_a_single_fit(classes):
    X, y = classes
    nets = twelve_different_classifiers()[:4]
    alone = [clone(net).fit(X, y) for net in nets]
    fit_stack(nets, X, y)
    for net, single in zip(nets, alone, strict=True):
        for estimator in (net, single):
            estimator.set_params(early_stopping="auto")
            for _ in range(3):
                estimator.partial_fit(X, y)
        assert largest_difference(net, single, X) < 1e-9


def test_monitor_rows_never_touch_the_weights(classes):
    X, y = classes
    rows, monitor = np.arange(200), np.arange(200, 300)
    seen = []
    nets = fit_stack(
        twelve_different_classifiers(),
        X,
        y,
        rows=[rows] * 12,
        monitor_rows=[monitor] * 12,
        on_epoch_end=lambda epoch, scores: seen.append(scores.copy()),
    )
    spoiled_X, spoiled_y = X.copy(), y.copy()
    spoiled_X[monitor], spoiled_y[monitor] = 1e3, (y[monitor] + 1) % 3
    spoiled = fit_stack(twelve_different_classifiers(), spoiled_X, spoiled_y, rows=[rows] * 12)
    assert max(largest_difference(a, b, X) for a, b in zip(nets, spoiled, strict=True)) == 0
    # the last score of a member without early stopping is that of the fitted net
    last = [scores[3] for scores in seen if np.isfinite(scores[3])][-1]
    probability = nets[3].predict_proba(X[monitor])[np.arange(100), y[monitor]]
    assert last == pytest.approx(np.log(probability).mean(), abs=1e-9)


def test_on_epoch_end_stops_the_members_it_names(classes):
    X, y = classes
    nets = [BNMLPClassifier((8,), max_iter=10, random_state=i) for i in range(4)]
    fit_stack(nets, X, y, on_epoch_end=lambda epoch, scores: np.array([1, 2]) if epoch == 4 else None)
    assert [net.n_iter_ for net in nets] == [10, 5, 5, 10]


def test_rows_may_be_masks_and_are_checked(classes):
    X, y = classes
    mask = np.arange(300) % 3 > 0
    one, other = (BNMLPClassifier((8,), max_iter=2, random_state=0, dtype="float64") for _ in range(2))
    fit_stack([one, other], X, y, rows=[mask, np.flatnonzero(mask)])
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    for bad in ([np.array([0, 300])], [np.array([-1, 5])], [mask[:-1]], [np.array([], dtype=int)]):
        with pytest.raises(ValueError, match=r"rows\[0\] must be indices from 0 to 299 or a mask of 300"):
            fit_stack([one], X, y, rows=bad)
    with pytest.raises(ValueError, match="rows must have an entry per estimator, got 1 for 2"):
        fit_stack([one, other], X, y, rows=[mask])


def test_sparse_and_dense_tables_in_one_call(classes):
    X, y = classes
    nets = [BNMLPClassifier((8,), max_iter=2, random_state=i, dtype="float64") for i in range(3)]
    expected = [clone(net).fit(X, y).predict_proba(X) for net in nets]
    fit_stack(nets, [sparse.csr_array(X), X, sparse.csr_matrix(X)], [y, y, y])
    for net, probability in zip(nets, expected, strict=True):
        np.testing.assert_allclose(net.predict_proba(X), probability, atol=1e-9)


def test_a_users_interrupt_is_not_a_callbacks_stop(classes):
    def interrupt(epoch, scores):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_stack([BNMLPClassifier((8,))], *classes, on_epoch_end=interrupt)


def test_a_diverged_member_takes_no_other_with_it(classes):
    X, y = classes
    nets = [
        BNMLPRegressor((8,), solver="sgd", batch_norm=False, learning_rate_init=lr, max_iter=20) for lr in (1e-3, 1e9)
    ]
    with pytest.warns(FitFailedWarning, match=r"Estimators \[1\] of 2 are not fitted"):
        fit_stack(nets, X, y)
    assert np.isfinite(nets[0].predict(X)).all()
    assert not hasattr(nets[1], "net_")
    with pytest.raises(ValueError, match="The training diverged"):
        nets[1].fit(X, y)


FIT_AND_PRINT = """
import hashlib
from sklearn.datasets import make_classification
from sk_bnreg import BNMLPClassifier
X, y = make_classification(n_samples=500, random_state=0)
net = BNMLPClassifier(dropout=0.1, early_stopping=True, random_state=3, max_iter=5).fit(X, y)
print(hashlib.sha256(net.predict_proba(X).tobytes()).hexdigest())
"""


def test_same_seed_gives_the_same_bits_here_and_in_another_process():
    X, y = make_classification(n_samples=500, random_state=0)
    net = BNMLPClassifier(dropout=0.1, early_stopping=True, random_state=3, max_iter=5)
    first = net.fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(first, net.fit(X, y).predict_proba(X))
    there = subprocess.run([sys.executable, "-c", FIT_AND_PRINT], capture_output=True, text=True, check=True).stdout
    assert there.strip() == hashlib.sha256(first.tobytes()).hexdigest()
