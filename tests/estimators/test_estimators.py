"""The estimators against scikit-learn's contract, and the inputs on which their peers fail."""

import inspect
import pickle
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from loops import mean_of_members
from scipy import sparse
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import check_estimator
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, LRScheduler
from skrub import tabular_pipeline

from sk_bnreg import BNMLPClassifier, BNMLPRegressor

# In float32 two sums of the same numbers in another order differ in the seventh digit, which these checks
# compare. Beside each the largest absolute difference measured, of probabilities or predictions of size one.
SEVEN_DIGITS = {
    "check_sample_weight_equivalence_on_dense_data": 9e-6,
    "check_sample_weight_equivalence_on_sparse_data": 9e-6,
    "check_methods_subset_invariance": 3e-7,
    "check_methods_sample_order_invariance": 1e-7,
}


@pytest.mark.parametrize(
    "params", [{"n_ensemble": 2}, {"batch_norm": False, "n_ensemble": 1}], ids=["two networks", "one plain network"]
)
@pytest.mark.parametrize("estimator", [BNMLPClassifier(), BNMLPRegressor()], ids=repr)
def test_check_estimator_float64_nothing_fails_and_nothing_is_excused(estimator, params):
    results = check_estimator(clone(estimator).set_params(dtype="float64", **params), on_fail=None, on_skip=None)
    assert [(r["check_name"], r["exception"]) for r in results if r["status"] not in ("passed", "skipped")] == []
    assert len(results) > 55


@pytest.mark.parametrize("estimator", [BNMLPClassifier(), BNMLPRegressor()], ids=repr)
def test_check_estimator_float32_fails_only_where_seven_digits_are_asked(estimator):
    results = check_estimator(clone(estimator).set_params(n_ensemble=2), on_fail=None, on_skip=None)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] not in ("passed", "skipped")}
    assert set(failed) <= set(SEVEN_DIGITS)
    for check, message in failed.items():
        largest = float(re.search(r"Max absolute difference.*: ([\d.e+-]+)", message).group(1))
        assert largest < 10 * SEVEN_DIGITS[check]


@pytest.fixture
def table():
    return make_classification(n_samples=200, n_features=6, n_informative=4, random_state=0)


@pytest.fixture
def small():
    return {
        "hidden_layer_sizes": (16,), "max_iter": 15, "random_state": 0, "learning_rate_init": 0.01, "n_ensemble": 1,
    }  # fmt: skip


def test_inputs_of_other_types_give_the_same_predictions(table, small):
    X, y = table
    expected = BNMLPClassifier(**small).fit(X.astype(np.float32), y).predict_proba(X.astype(np.float32))
    names = [f"x{i}" for i in range(6)]
    words = np.array(["no", "yes"])[y]
    for other_X, other_y in (
        (X, y),
        (pd.DataFrame(X, columns=names), pd.Series(y, index=range(1000, 1200))),
        (pl.DataFrame(X, schema=names), pl.Series(y)),
        (sparse.csr_matrix(X), y),
        (sparse.csc_array(X), y),
        (np.asfortranarray(X), y.astype(bool)),
        (X.tolist(), y.tolist()),
        (X, words),
        (X, words.astype(object)),
        (X, pd.Series(words, dtype="category")),
        (X, y[:, None].ravel().astype(float)),
    ):
        net = BNMLPClassifier(**small).fit(other_X, other_y)
        np.testing.assert_allclose(net.predict_proba(other_X), expected, atol=1e-6)
        assert set(net.predict(other_X)) <= set(np.asarray(other_y).tolist())


def test_integer_features_are_floats(small):
    X = np.random.default_rng(0).integers(0, 5, (60, 4))
    y = X.sum(1)
    np.testing.assert_array_equal(
        BNMLPRegressor(**small).fit(X, y).predict(X), BNMLPRegressor(**small).fit(X.astype(float), y).predict(X)
    )


@pytest.mark.parametrize("n_rows", [17, 16, 9, 2, 1])
def test_any_number_of_rows_with_batch_norm(n_rows, small):
    """Targets are noise, so that a row that no batch had would be wrong by about their standard deviation."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n_rows, 3)), rng.standard_normal(n_rows)
    net = BNMLPRegressor(batch_size=8, dtype="float64", l2=0.0, **small | {"max_iter": 200}).fit(X, y)
    np.testing.assert_allclose(net.predict(X), y, rtol=0, atol=0.5 * y.std() if n_rows > 1 else 1e-12)


def test_one_class_is_predicted(table, small):
    X, _ = table
    net = BNMLPClassifier(**small).fit(X, np.full(200, "only"))
    assert set(net.predict(X)) == {"only"}
    np.testing.assert_array_equal(net.predict_proba(X), np.ones((200, 1)))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_targets_in_single_precision_are_as_good_as_in_double(table, small):
    """Their mean is not: 1e6 added to each leaves seven digits; a constant is one, though its sum is rounded."""
    X, _ = table
    y = (1e6 + X[:, 0] / 4).astype(np.float32)
    single, double = (BNMLPRegressor(**small).fit(X, own) for own in (y, y.astype(np.float64)))
    np.testing.assert_array_equal(single.predict(X), double.predict(X))
    constant = BNMLPRegressor(**small).fit(X, np.full(len(X), 0.1, np.float32))
    assert constant.target_.scale == 0
    np.testing.assert_allclose(constant.predict(X), 0.1, rtol=1e-7)


def test_a_constant_target_is_predicted(table, small):
    net = BNMLPRegressor(**small).fit(table[0], np.full(200, 7.5))
    np.testing.assert_allclose(net.predict(table[0]), 7.5, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_column_changes_little(value, small):
    X, y = make_regression(n_samples=300, n_features=4, noise=1.0, random_state=0)
    X_more = np.column_stack([X, np.full(300, value)])
    net = BNMLPRegressor(**small | {"max_iter": 100})
    without = net.fit(X, y).score(X, y)
    assert without > 0.99
    assert net.fit(X_more, y).score(X_more, y) == pytest.approx(without, abs=0.005)


def test_a_class_seen_only_in_a_later_partial_fit(small):
    X, y = make_classification(n_samples=300, n_features=6, n_informative=4, n_classes=3, random_state=0)
    order = np.argsort(y, kind="stable")
    net = BNMLPClassifier(**small)
    net.partial_fit(X[y < 2], y[y < 2], classes=[0, 1, 2])
    assert net.predict_proba(X).shape == (300, 3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        rng.shuffle(order)
        net.partial_fit(X[order], y[order])
    assert net.score(X[y == 2], y[y == 2]) > 0.7
    assert (net.n_iter_, len(net.loss_curve_), net.t_) == (1, 41, 40 * 300 + (y < 2).sum())
    with pytest.raises(ValueError, match=r"y has classes \[.*7.*\] that are not in classes_"):
        net.partial_fit(X, np.full(300, 7))


def test_partial_fit_without_classes_and_balanced_weights_are_refused(table):
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        BNMLPClassifier().partial_fit(*table)
    with pytest.raises(ValueError, match="class_weight='balanced' is not known before"):
        BNMLPClassifier(class_weight="balanced").partial_fit(*table, classes=[0, 1])


def test_partial_fit_epochs_equal_a_fit_at_a_constant_rate(table):
    X, y = table
    settings = {
        "hidden_layer_sizes": (8,), "learning_rate": "constant", "dtype": "float64", "random_state": 1,
        "batch_size": 200,
    }  # fmt: skip
    whole = BNMLPClassifier(max_iter=6, n_iter_no_change=np.inf, **settings).fit(X, y)
    parts = BNMLPClassifier(**settings)
    for _ in range(6):
        parts.partial_fit(X, y, classes=[0, 1])
    np.testing.assert_allclose(parts.predict_proba(X), whole.predict_proba(X), atol=1e-12)


def test_warm_start_goes_on_from_the_weights(table, small):
    X, y = table
    net = BNMLPClassifier(warm_start=True, **small).fit(X, y)
    before = net.loss_curve_[-1]
    net.set_params(max_iter=5, l2=0.3, learning_rate="constant", learning_rate_init=1e-4).fit(X, y)
    assert (net.n_iter_, len(net.loss_curve_)) == (5, 20)
    assert net.loss_curve_[15] == pytest.approx(before, rel=0.1)
    assert net.l2_report_[0].strength == 0.3
    with pytest.raises(ValueError, match="warm_start and partial_fit go on with the network as it is"):
        net.set_params(hidden_layer_sizes=(3,)).fit(X, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": -1.0}, "l2 must be a finite number >= 0"),
        ({"l2_targets": ("weights", "bias")}, "unknown role 'bias'"),
        ({"solver": "lbfgs"}, "solver must be 'adam' or 'sgd', got 'lbfgs'"),
        ({"batch_size": 1}, "batch_size must be at least 2 with batch_norm=True"),
        ({"hidden_layer_sizes": (8, 0)}, "hidden_layer_sizes must be integers > 0"),
        ({"learning_rate_init": 0.0}, "'learning_rate_init' parameter of BNMLPClassifier must be"),
        ({"dropout": 1.0}, "'dropout' parameter of BNMLPClassifier must be"),
        ({"activation": "swish"}, "'activation' parameter of BNMLPClassifier must be"),
    ],
)
def test_bad_parameters_are_told_in_one_sentence(table, change, message):
    with pytest.raises(ValueError, match=message):
        BNMLPClassifier(**change).fit(*table)


def test_bad_tables_are_told_in_one_sentence(table, small):
    X, y = table
    frame = pd.DataFrame(X, columns=list("abcdef"))
    net = BNMLPClassifier(**small).fit(frame, y)
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        net.predict(frame[list("bacdef")])
    for bad in (np.nan, np.inf):
        spoiled = X.copy()
        spoiled[3, 2] = bad
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            net.fit(spoiled, y)
    with pytest.raises(ValueError, match="contains NaN"):
        BNMLPRegressor().fit(X, np.where(y == 1, np.nan, 0.0))
    with pytest.raises(ValueError, match="y must have one column or be 0/1 labels"):
        net.fit(X, np.column_stack([y, y + 1]))
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        net.fit(X[:0], y[:0])


def test_nothing_to_penalise_is_warned_of_once(table, small):
    with pytest.warns(UserWarning, match="L2 has nothing to penalise") as record:
        BNMLPClassifier(batch_norm=False, l2_targets=("gamma", "beta"), **small).fit(*table)
    assert len(record) == 1


def test_sample_weight_and_class_weight_multiply(table, small):
    X, y = table
    weight = np.random.default_rng(0).uniform(0.5, 2, 200)
    both = BNMLPClassifier(class_weight={0: 3.0, 1: 1.0}, **small).fit(X, y, sample_weight=weight)
    product = BNMLPClassifier(**small).fit(X, y, sample_weight=weight * np.where(y == 0, 3.0, 1.0) * 10)
    np.testing.assert_allclose(both.predict_proba(X), product.predict_proba(X), atol=1e-5)


def test_balanced_counts_classes_by_their_sample_weight(table, small):
    """As scikit-learn counts them on repeated rows."""
    X, y = table
    counts = np.random.default_rng(0).integers(0, 3, 200)
    counts[y == 0] = np.random.default_rng(1).integers(0, 2, (y == 0).sum())
    settings = small | {"dtype": "float64", "batch_size": 500, "early_stopping": False}
    balanced = BNMLPClassifier(class_weight="balanced", **settings).fit(X, y, sample_weight=counts)
    rows, labels = X.repeat(counts, 0), y.repeat(counts)
    weight = compute_sample_weight("balanced", labels)
    assert weight.max() > 1.5 * weight.min()
    expected = BNMLPClassifier(**settings).fit(rows, labels, sample_weight=weight)
    np.testing.assert_allclose(balanced.predict_proba(X), expected.predict_proba(X), atol=1e-9)


def test_balanced_counts_labels_by_their_sample_weight(small):
    """As scikit-learn counts them on repeated rows, and validation rows weigh what training rows like them do."""
    X, y = make_multilabel_classification(120, 5, n_classes=3, random_state=0)
    counts = np.where(y[:, 0], 3, 1)
    rows = np.repeat(np.arange(120), counts)
    weight = compute_sample_weight("balanced", y[rows])
    assert weight.max() > 1.5 * weight.min()
    settings = small | {"dtype": "float64", "batch_size": 500}
    shown = {"X_val": X[:20], "y_val": y[:20]}
    balanced = BNMLPClassifier(class_weight="balanced", **settings).fit(X, y, sample_weight=counts, **shown)
    of_shown = weight[np.cumsum(counts) - counts][:20]
    expected = BNMLPClassifier(**settings).fit(X[rows], y[rows], weight, **shown, sample_weight_val=of_shown)
    np.testing.assert_allclose(balanced.predict_proba(X), expected.predict_proba(X), atol=1e-9)
    np.testing.assert_allclose(balanced.validation_loss_curve_, expected.validation_loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_without_hidden_layers_it_is_logistic_regression(batch_norm, table):
    X, y = table
    net = BNMLPClassifier((), batch_norm=batch_norm, l2=0.0, max_iter=400, learning_rate_init=0.1, random_state=0)
    expected = LogisticRegression(C=np.inf).fit(X, y)
    np.testing.assert_allclose(net.fit(X, y).predict_proba(X), expected.predict_proba(X), atol=0.01)


def test_weights_beyond_single_precision_are_as_good_as_zero(table, small):
    X, y = table
    weight = np.exp(-np.linspace(0, 400, 200))
    net = BNMLPClassifier(batch_size=16, dropout=0.1, **small).fit(X, y, sample_weight=weight)
    assert np.isfinite(net.predict_proba(X)).all()
    tiny = BNMLPClassifier(batch_size=16, dropout=0.1, **small).fit(X, y, sample_weight=weight * 1e-100)
    np.testing.assert_allclose(tiny.predict_proba(X), net.predict_proba(X), atol=1e-4)


def test_a_failed_partial_fit_leaves_no_nan_model(table, small):
    X, y = table
    net = BNMLPRegressor(batch_norm=False, solver="sgd", **small).partial_fit(X, y)
    net.set_params(learning_rate_init=1e30, batch_size=20)
    with pytest.raises(ValueError, match="The training diverged"):
        net.partial_fit(X, y)
    with pytest.raises(NotFittedError):
        net.predict(X)


def test_validation_rows_whose_loss_is_never_finite_are_refused(table, small):
    X, y = table
    X_val = np.full((4, 6), 1e25)
    with pytest.raises(ValueError, match="The training diverged"):
        BNMLPRegressor(**small).fit(X, y, X_val=X_val, y_val=y[:4])


def test_partial_fit_may_begin_with_one_row(table, small):
    X, y = table
    net = BNMLPRegressor(**small).partial_fit(X[:1], y[:1])
    for _ in range(60):
        net.partial_fit(X, y)
    assert net.score(X, y) > 0.3


def test_callbacks_and_checkpoints_of_a_warm_start(table, small, tmp_path):
    X, y = table
    checkpoint = Checkpoint(monitor="valid_loss_best", dirname=tmp_path)
    net = BNMLPClassifier(warm_start=True, early_stopping=True, callbacks=[checkpoint], **small).fit(X, y)
    assert (tmp_path / "params.pt").exists()
    recorder = Recorder()
    net.set_params(callbacks=[recorder]).fit(X, y)
    assert recorder.calls
    before = len(recorder.calls)
    net.set_params(callbacks=None).fit(X, y)
    assert len(recorder.calls) == before


def test_the_number_of_targets_stays(table, small):
    X, y = table
    net = BNMLPRegressor(**small).fit(X, np.column_stack([y, -y]))
    with pytest.raises(ValueError, match="y must have 2 columns as in the first fit, got 1"):
        net.partial_fit(X, y)


def test_budget_adds_up_over_partial_fits(table, small):
    X, y = table
    net = BNMLPClassifier(l2=2.0, batch_size=200, **small).partial_fit(X, y, classes=[0, 1])
    net.set_params(l2=0.0).partial_fit(X, y)
    net.set_params(l2=4.0).partial_fit(X, y)
    assert net.l2_report_[0].budget == pytest.approx(0.01 * (2.0 + 4.0))


def test_multilabel_learns_each_label(small):
    X, Y = make_multilabel_classification(n_samples=400, n_features=10, n_classes=4, random_state=0)
    X = StandardScaler().fit_transform(X)
    net = BNMLPClassifier(**small | {"max_iter": 60}).fit(X[:300], Y[:300])
    probability = net.predict_proba(X[300:])
    assert probability.shape == (100, 4)
    np.testing.assert_array_equal(net.predict(X[300:]), probability > 0.5)
    chance = np.maximum(Y[300:].mean(0), 1 - Y[300:].mean(0))
    assert ((net.predict(X[300:]) == Y[300:]).mean(0) > chance).all()


def test_several_targets_on_different_scales(small):
    X, Y = make_regression(n_samples=400, n_features=8, n_targets=3, noise=1.0, random_state=0)
    Y *= [1e-6, 1.0, 1e6]
    net = BNMLPRegressor(**small | {"max_iter": 100}).fit(X[:300], Y[:300])
    residual = ((net.predict(X[300:]) - Y[300:]) ** 2).mean(0) / Y[300:].var(0)
    assert (residual < 0.2).all()
    assert MultiOutputRegressor(BNMLPRegressor(**small)).fit(X, Y).predict(X).shape == Y.shape


def test_early_stopping_keeps_the_best_epoch(table):
    X, y = table
    X_train, X_val, y_train, y_val = train_test_split(X, y, random_state=0)
    settings = {
        "hidden_layer_sizes": (64,), "learning_rate": "constant", "learning_rate_init": 0.02, "dtype": "float64",
        "random_state": 0, "batch_size": 16, "l2": 0.0, "n_ensemble": 1,
    }  # fmt: skip
    net = BNMLPClassifier(max_iter=60, n_iter_no_change=8, **settings).fit(X_train, y_train, X_val=X_val, y_val=y_val)
    curve = np.array(net.validation_loss_curve_)
    assert net.best_iter_ == curve.argmin() + 1 < net.n_iter_ < 60
    probability = net.predict_proba(X_val)[np.arange(len(y_val)), y_val]
    assert -np.log(probability).mean() == pytest.approx(curve.min(), rel=1e-9)
    shorter = BNMLPClassifier(max_iter=net.best_iter_, early_stopping=False, **settings).fit(X_train, y_train)
    np.testing.assert_allclose(shorter.predict_proba(X), net.predict_proba(X), atol=1e-12)


def test_auto_early_stopping_means_more_than_200_rows():
    X, y = make_classification(n_samples=201, n_features=4, weights=[0.95], random_state=0)
    settings = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}
    assert BNMLPClassifier(**settings).fit(X[:200], y[:200]).validation_loss_curve_ is None
    assert len(BNMLPClassifier(**settings).fit(X, y).validation_loss_curve_) == 2
    assert len(BNMLPRegressor(early_stopping=True, **settings).fit(X, y).validation_loss_curve_) == 2
    with pytest.raises(ValueError, match="early_stopping must be True or 'auto' when X_val"):
        BNMLPClassifier(early_stopping=False).fit(X, y, X_val=X, y_val=y)


def test_ensemble_is_the_mean_of_its_members(table, small):
    X, y = table
    net = BNMLPClassifier(dtype="float64", **small | {"n_ensemble": 3}).fit(X, y)
    logits = net.net_.module_.eval()(torch.from_numpy(X).T[None].expand(3, -1, -1)).detach().numpy()
    probability = 1 / (1 + np.exp(-logits[:, 0]))
    expected = mean_of_members(np.stack([1 - probability, probability], axis=2))
    np.testing.assert_allclose(net.predict_proba(X), expected, atol=1e-12)
    assert np.ptp(logits, axis=0).max() > 0.1


def test_attributes_compute_the_prediction_by_hand(table, small):
    X, y = table
    plain = {"batch_norm": False, "numeric_embedding": None, "dtype": "float64"}
    net = BNMLPRegressor(**plain, **small).fit(X, y * 10.0 + 3)
    hidden = np.maximum(X @ net.coefs_[0] + net.intercepts_[0], 0)
    output = (hidden @ net.coefs_[1] + net.intercepts_[1]).ravel()
    np.testing.assert_allclose(net.predict(X), output * (y * 10).std() + (y * 10 + 3).mean(), rtol=1e-9)
    assert net.gammas_ == []
    normed = BNMLPRegressor(**small).fit(X, y)
    assert [len(part) for part in (normed.coefs_, normed.intercepts_, normed.gammas_, normed.betas_)] == [2, 1, 1, 1]


def test_pickle_holds_no_training_data_and_trains_on(table, small):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20_000, 50)).astype(np.float32), rng.standard_normal(20_000)
    net = BNMLPRegressor(**small | {"max_iter": 2}, numeric_embedding=None, early_stopping=True).fit(X, y)
    stored = pickle.dumps(net)
    assert len(stored) < 100_000
    again = pickle.loads(stored)
    np.testing.assert_array_equal(again.predict(X), net.predict(X))
    for estimator in (net, again):
        estimator.set_params(early_stopping=False).partial_fit(X, y)
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


def test_the_skorch_net_is_reachable(table, small, tmp_path):
    X, y = table
    net = BNMLPClassifier(**small).fit(X, y)
    assert [row["epoch"] for row in net.net_.history] == list(range(1, 16))
    np.testing.assert_array_equal(net.net_.history[:, "train_loss"], net.loss_curve_)
    net.net_.save_params(f_params=tmp_path / "net.pt")
    other = BNMLPClassifier(**small | {"random_state": 1}).fit(X, y)
    other.net_.load_params(f_params=tmp_path / "net.pt")
    np.testing.assert_array_equal(other.predict_proba(X), net.predict_proba(X))


class Recorder(Callback):
    """Counts the hooks that the net calls."""

    def __init__(self):
        self.calls = []

    def on_batch_end(self, net, loss, training, **kwargs):
        self.calls.append(("batch", training))

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.calls.append(("grad", dict(named_parameters)["theta"].grad is not None))

    def on_epoch_end(self, net, dataset_train, **kwargs):
        self.calls.append(("epoch", net.history[-1]["train_loss"]))


def test_skorch_callbacks_see_batches_and_epochs_and_can_stop(table, small):
    X, y = table
    recorder = Recorder()
    net = BNMLPClassifier(callbacks=[recorder], batch_size=50, **small | {"max_iter": 3}).fit(X, y)
    assert recorder.calls[:9] == [("grad", True), ("batch", True)] * 4 + [("epoch", net.loss_curve_[0])]
    assert len(recorder.calls) == 27
    stopped = BNMLPClassifier(
        callbacks=[EarlyStopping(monitor="train_loss", patience=2, threshold=1.0)], **small | {"max_iter": 50}
    ).fit(X, y)
    assert stopped.n_iter_ == 3
    constant = small | {"learning_rate": "constant", "l2": 1.0, "batch_size": 200}
    factors = [0.5**epoch for epoch in range(15)]
    scheduled = BNMLPClassifier(callbacks=[LRScheduler("LambdaLR", lr_lambda=lambda e: 0.5**e)], **constant).fit(X, y)
    assert scheduled.l2_report_[0].budget == pytest.approx(0.01 * sum(factors), rel=1e-6)


class EpochCounter:
    """A scikit-learn callback that counts epochs at any depth and stops each fit after `stop_after` of them."""

    max_propagation_depth = None

    def __init__(self, stop_after):
        self.stop_after = stop_after
        self.epochs = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        if context.task_name == "epoch":
            self.epochs.append(context.task_id)

    def on_fit_task_end(self, estimator, context):
        return context.task_name == "epoch" and context.task_id + 1 == self.stop_after


def test_scikit_learn_callbacks_see_and_stop_epochs_inside_a_search(table, small):
    counter = EpochCounter(stop_after=3)
    search = GridSearchCV(BNMLPClassifier(**small), {"l2": [0.0, 0.1]}, cv=2).set_callbacks(counter).fit(*table)
    assert counter.epochs == [0, 1, 2] * 5  # 2 candidates x 2 folds and the refit
    assert search.best_estimator_.n_iter_ == 3


def test_scikit_learns_own_callbacks(table, small, capsys):
    X, y = table
    GridSearchCV(BNMLPClassifier(**small), {"l2": [0.0, 0.1]}, cv=2).set_callbacks(ProgressBar()).fit(X, y)
    assert "BNMLPClassifier" in capsys.readouterr().out
    monitor = ScoringMonitor(scoring="accuracy")
    net = BNMLPClassifier(**small | {"n_ensemble": 2}).set_callbacks(monitor).fit(X, y)
    scores = [row["accuracy"] for row in monitor.get_logs(select="most_recent").data]
    assert len(scores) == 15
    assert scores[-1] == net.score(X, y)


def test_at_home_in_pipelines_searches_and_metadata_routing(table, small):
    import sklearn

    X, y = table
    weight = np.where(np.arange(200) < 150, 1.0, 0.0)
    with sklearn.config_context(enable_metadata_routing=True):
        net = BNMLPClassifier(**small).set_fit_request(sample_weight=True, X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), net, transform_input=["X_val"])
        pipeline.fit(X, y, sample_weight=weight, X_val=X[150:], y_val=y[150:])
    scaler = StandardScaler().fit(X)
    direct = BNMLPClassifier(**small).fit(
        scaler.transform(X)[:150], y[:150], X_val=scaler.transform(X[150:]), y_val=y[150:]
    )
    np.testing.assert_allclose(pipeline[-1].predict_proba(X), direct.predict_proba(X), atol=1e-6)
    grid = {
        "bnmlpclassifier__batch_norm": [True, False],
        "bnmlpclassifier__l2_targets": ["weights", ("gamma", "weights")],
    }
    search = GridSearchCV(make_pipeline(StandardScaler(), BNMLPClassifier(**small)), grid, cv=3).fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_score_ > 0.7
    assert cross_val_score(BNMLPClassifier(**small), X, y, scoring="neg_log_loss").mean() > -0.7


@pytest.mark.parametrize("cls", [BNMLPClassifier, BNMLPRegressor])
def test_documented_defaults_are_the_signatures(cls):
    documented = dict(re.findall(r"^    (\w+) : .*, default=(.+)$", cls.__doc__, flags=re.M))
    signature = inspect.signature(cls).parameters
    assert documented == {name: repr(p.default).replace("'", '"') for name, p in signature.items()} | {
        name: documented[name] for name in ("epsilon", "batch_norm_eps", "tol")
    }
    for name in ("epsilon", "batch_norm_eps", "tol"):
        assert float(documented[name]) == signature[name].default


def test_global_state_is_left_alone(table, small):
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state, threads = torch.get_rng_state(), torch.get_num_threads()
    BNMLPClassifier(dropout=0.1, early_stopping=True, **small | {"n_ensemble": 2}).fit(*table)
    assert torch_state.equal(torch.get_rng_state())
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("params", [{}, {"solver": "sgd", "l2_mode": "loss"}, {"learning_rate": "constant"}])
def test_l2_budget_is_what_the_report_finds(params):
    """Also where early stopping takes rows, and rows of weight zero do not count."""
    X, y = make_classification(301, 5, random_state=0)
    net = BNMLPClassifier((8,), batch_size=32, max_iter=7, random_state=0, l2_budget=0.7, l2_targets="all", **params)
    weight = np.where(np.arange(301) % 3, 1.0, 0.0)
    for stopping in (False, True):
        net.set_params(early_stopping=stopping, n_iter_no_change=np.inf).fit(X, y, sample_weight=weight)
        last_epoch = net.net_.records_[0].budgets[-1]
        assert list(last_epoch.values()) == pytest.approx([0.7] * 6)


def test_layer_sizes_as_text():
    X, y = make_classification(60, 5, random_state=0)
    text, numbers = (BNMLPClassifier(sizes, max_iter=2, random_state=0).fit(X, y) for sizes in ("8-4", (8, 4)))
    np.testing.assert_array_equal(text.predict_proba(X), numbers.predict_proba(X))
    for sizes in ("8,4", "8-", "", "-8"):
        with pytest.raises(ValueError, match="hidden_layer_sizes must be integers > 0"):
            BNMLPClassifier(sizes).fit(X, y)


def test_l2_budget_where_there_is_none():
    with pytest.raises(ValueError, match="for a decay budget to exist, got 'loss' with 'adam'"):
        BNMLPClassifier(l2_mode="loss", l2_budget=1.0).fit(*make_classification(random_state=0))


@pytest.mark.filterwarnings("ignore:Found unknown categories")  # scikit-learn's encoder, of rows that are to have some
def test_a_mixed_table_in_one_line():
    """Words, dates and gaps, levels and days that training did not see; the target depends on each."""
    rng = np.random.default_rng(0)
    size, days = rng.normal(10, 3, 600), rng.integers(0, 700, 600)
    colour = rng.choice(["red", "green", "blue", None], 600)
    frame = pd.DataFrame(
        {
            "size": np.where(rng.random(600) < 0.1, np.nan, size),
            "colour": colour,
            "name": [f"customer {i}" for i in range(600)],
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(days, unit="D"),
        }
    )
    frame.loc[450:460, "colour"] = "violet"
    value = size + 4 * (colour == "red") + 3 * np.cos(days * 2 * np.pi / 365.25)
    train, test = frame[:450], frame[450:]
    classifier = tabular_pipeline(BNMLPClassifier(n_ensemble=2, random_state=0)).fit(train, value[:450] > 11)
    assert classifier.score(test, value[450:] > 11) > 0.8
    for target in (1e-6 * value, np.exp(value / 5)):  # of a tiny scale, with a heavy tail
        model = tabular_pipeline(BNMLPRegressor(n_ensemble=2, random_state=0)).fit(train, target[:450])
        assert model.score(test, target[450:]) > 0.6
