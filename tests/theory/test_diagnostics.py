"""Diagnoses against plain loops, hand-worked cases and second fits."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_digits, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from skorch.callbacks import Callback

from sk_bnreg import (
    BNMLPClassifier,
    BNMLPRegressor,
    InvarianceDisplay,
    NormRecorder,
    NormTrajectoryDisplay,
    StackedGridSearchCV,
    diagnose,
)
from sk_bnreg.theory.rotation import equilibrium_angle

HIDDEN = [(1, "hidden_weights"), (2, "hidden_weights")]
OUTPUT = (3, "output_weights")
EXACT = {"dtype": "float64", "batch_norm_eps": 1e-30}
PLAIN = {"numeric_embedding": None, "n_ensemble": 1, "early_stopping": False, "batch_size": 200}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def networks(digits, **params):
    return BNMLPClassifier((16, 12), random_state=0, **PLAIN | params).fit(*digits)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", [BNMLPClassifier, BNMLPRegressor])
def test_what_theory_says_of_rescalings_holds_on_fitted_networks(task, seed, digits):
    """gamma of an earlier layer alone matters as far as its beta is not 0: after 100 epochs it is not."""
    network = task((16, 12), max_iter=100, n_ensemble=1, random_state=seed, **EXACT).fit(*digits)
    table = diagnose(network, digits[0]).invariances
    assert table.loc[table["invariant"], "change"].max() < 1e-9
    assert table.loc[~table["invariant"].astype(bool), "change"].min() > 0.1
    assert set(table.index[table["invariant"]]) == {
        "hidden weights of layer 1 x 3",
        "hidden weights of layer 2 x 3",
        "gamma and beta of layer 1 x 3",
        "gamma and beta of layer 2 x 3, output weights / 3",
    }


def test_a_rescaling_against_a_plain_pass_through_the_network(digits):
    """gamma of layer 2 times 3, by numpy."""
    X = digits[0][:200]
    network = networks(digits, **EXACT)

    def outputs(factor):
        x = X
        for weight, gamma, beta, c in zip(network.coefs_, network.gammas_, network.betas_, (1, factor), strict=False):
            z = x @ weight
            x = np.maximum(c * gamma * (z - z.mean(0)) / z.std(0) + beta, 0)
        return x @ network.coefs_[-1] + network.intercepts_[-1]

    change = (np.abs(outputs(3) - outputs(1)) / outputs(1).std(0, ddof=1)).max()
    found = diagnose(network, X).invariances.loc["gamma of layer 2 x 3", "change"]
    assert found == pytest.approx(change, rel=1e-9)


@pytest.mark.parametrize(
    ("params", "evaded"),
    [
        ({"l2_targets": "weights"}, {*HIDDEN, OUTPUT}),
        ({"l2_targets": "hidden_weights"}, set(HIDDEN)),
        ({"l2_targets": "output_weights"}, {OUTPUT}),
        ({"l2_targets": ("gamma", "beta")}, {(n, role) for n in (1, 2) for role in ("gamma", "beta")}),
        ({"l2_targets": "weights+gamma+beta"}, {*HIDDEN, (1, "gamma"), (1, "beta")}),
        ({"l2_targets": "all"}, {*HIDDEN, (1, "gamma"), (1, "beta")}),
        ({"l2_targets": "weights", "batch_norm": False}, set()),
        ({"l2_targets": "hidden_weights", "batch_norm": False}, set(HIDDEN)),
        ({"l2_targets": "all", "activation": "tanh"}, set(HIDDEN)),
        ({"l2_targets": "weights", "activation": "tanh"}, set(HIDDEN)),
        ({"l2_targets": "weights", "activation": "gelu", "batch_norm": False}, set()),
        ({"l2_targets": "none"}, set()),
    ],
)
def test_which_l2_is_evaded(params, evaded, digits):
    """Worked out by hand: what can shrink without changing the function and without anything penalised growing."""
    diagnosis = diagnose(networks(digits, **EXACT, **params), digits[0])
    assert diagnosis.evaded == evaded
    said = diagnosis.summary()
    assert ("is evaded" in said or "cannot change the best function" in said) == bool(evaded)


def test_sentences(digits):
    weights, everything, tanh, nothing = (
        diagnose(networks(digits, max_iter=30, **params), digits[0]).sentences
        for params in ({}, {"l2_targets": "all"}, {"l2_targets": "all", "activation": "tanh"}, {"l2": 0})
    )
    assert weights[0].startswith("L2 on hidden weights of layers 1 and 2 cannot change the best function here")
    assert weights[1].startswith(
        "L2 on output weights is evaded: the scale can move into gamma and beta of layer 2, which L2 does not reach"
    )
    assert everything[1].startswith("L2 on gamma and beta of layer 1 is evaded: the next batch norm")
    assert everything[2].startswith("L2 on gamma and beta of layer 2, output weights and biases of layer 3 limits the")
    assert "'tanh', which is not homogeneous" in tanh[-1]
    assert nothing == ("There is no L2 in this fit.",)


def test_an_eps_that_is_not_small_is_told_to_make_the_scale_count(digits):
    diagnosis = diagnose(networks(digits, batch_norm_eps=1.0), digits[0])
    assert diagnosis.evaded == {OUTPUT}
    assert diagnosis.sentences[1].startswith(
        "L2 on hidden weights of layers 1 and 2 would be without effect on the function, but batch_norm_eps=1 is not"
    )


def test_theory_is_silent_of_tanh_where_it_is(digits):
    table = diagnose(networks(digits, activation="tanh"), digits[0]).invariances
    assert table["invariant"].tolist() == [True, None, None, True, None, None, None, False]


def test_a_budget_of_nearly_nothing_is_said_to_do_nothing(digits):
    network = networks(digits, l2=1e-3)
    (sentence,) = diagnose(network, digits[0]).sentences
    budget = network.l2_report_[0].budget
    assert sentence.startswith(f"D = {budget:.2g}: decay alone")
    assert f"by {100 * (1 - np.exp(-budget)):.2g} %. This L2 did nothing." in sentence


def test_layers_against_the_fitted_attributes(digits):
    network = networks(digits, l2={"hidden_weights": 1.0, "gamma": 0.5})
    layers = diagnose(network, digits[0]).layers
    norms = {
        **{(i, "hidden_weights"): w for i, w in enumerate(network.coefs_[:2], 1)},
        **{(i, "gamma"): g for i, g in enumerate(network.gammas_, 1)},
        **{(i, "beta"): b for i, b in enumerate(network.betas_, 1)},
        OUTPUT: network.coefs_[2],
        (3, "biases"): network.intercepts_[0],
    }
    assert set(layers.index) == set(norms)
    for block, values in norms.items():
        assert layers.loc[block, "norm"] == pytest.approx(np.linalg.norm(values), rel=1e-6)
        assert layers.loc[block, "parameters"] == values.size
    penalty = [np.sum(w**2) for w in network.coefs_[:2]] + [0.5 * np.sum(g**2) for g in network.gammas_]
    shares = layers.loc[[*HIDDEN, (1, "gamma"), (2, "gamma")], "share_of_penalty"]
    np.testing.assert_allclose(shares, np.array(penalty) / sum(penalty), rtol=1e-5)
    rates = [np.median(0.01 / np.linalg.norm(w, axis=0)) for w in network.coefs_[:2]]
    np.testing.assert_allclose(layers.loc[HIDDEN, "effective_rate"], rates, rtol=1e-5)
    # a fit of no steps worth speaking of shows where it started
    start = clone(network).set_params(learning_rate_init=1e-30).fit(*digits)
    expected = [np.linalg.norm(w) for w in start.coefs_]
    np.testing.assert_allclose(layers.loc[[*HIDDEN, OUTPUT], "norm_at_start"], expected, rtol=1e-6)


class Everything(Callback):
    """Keeps the weights before every step."""

    def __init__(self):
        self.seen = []

    def on_grad_computed(self, net, *args, **kwargs):
        module = net.module_
        self.seen.append([w[0].clone().numpy() for w in module.blocks(module.theta.data)["hidden_weights"]])


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_recorded_angles_against_a_plain_loop(solver, digits):
    everything, recorder = Everything(), NormRecorder()
    network = networks(
        digits, solver=solver, max_iter=12, batch_size=300, dtype="float64", callbacks=[everything, recorder]
    )
    everything.seen.append([w.T for w in network.coefs_[:2]])
    n_batches = 6
    for epoch, found in enumerate(recorder.epochs_):
        step = epoch * n_batches + (epoch % n_batches if epoch else 0)
        angles = []
        for before, after in zip(everything.seen[step], everything.seen[step + 1], strict=True):
            cosine = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
            angles.append(np.arccos(np.minimum(cosine, 1)))  # rounding may bring it above
        np.testing.assert_allclose(found.angles[0], np.concatenate(angles), rtol=1e-3, atol=1e-7)
        ends = np.concatenate([np.linalg.norm(w, axis=1) for w in everything.seen[(epoch + 1) * n_batches]])
        np.testing.assert_allclose(found.unit_norms[0], ends)


def test_recording_does_not_touch_the_training(digits):
    plain, recorded = networks(digits, max_iter=3), networks(digits, max_iter=3, callbacks=[NormRecorder()])
    assert torch.equal(plain.net_.module_.theta, recorded.net_.module_.theta)


def test_members_that_stopped_are_not_recorded_any_more(digits):
    recorder = NormRecorder()
    network = networks(digits, n_ensemble=3, early_stopping=True, n_iter_no_change=2, tol=0.02, callbacks=[recorder])
    lengths = [len(record.train_loss) for record in network.net_.records_]
    assert len(set(lengths)) > 1
    trained = np.array([~np.isnan(epoch.rates) for epoch in recorder.epochs_])
    assert trained.sum(0).tolist() == lengths
    assert np.isnan(recorder.epochs_[-1].angles[~trained[-1]]).all()
    trajectory = diagnose(network, digits[0]).trajectory
    assert trajectory["epoch"].max() == lengths[0]


def test_rates_of_the_schedule_are_recorded(digits):
    recorder = NormRecorder()
    networks(digits, batch_size=2000, max_iter=20, learning_rate="cosine", callbacks=[recorder])  # a step an epoch
    rates = [epoch.rates[0] for epoch in recorder.epochs_]
    np.testing.assert_allclose(rates, 0.005 * (1 + np.cos(np.pi * np.arange(20) / 20)), rtol=1e-6)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"l2_targets": "hidden_weights", "learning_rate": "constant", "learning_rate_init": 0.003},
        {"solver": "sgd", "learning_rate_init": 0.1, "l2": 0.1},
    ],
)
def test_the_estimate_of_training_without_l2_against_such_a_training(params, digits):
    """Within a fifth of what a fit without L2 has, where L2 made a difference of over a half."""
    for X, y in (digits, load_breast_cancer(return_X_y=True)):
        X = StandardScaler().fit_transform(X)
        network = BNMLPClassifier((32, 32), random_state=0, callbacks=[NormRecorder()], **PLAIN | params).fit(X, y)
        without = clone(network).set_params(l2=0.0).fit(X, y)
        power = 2 if network.solver == "sgd" else 1
        for layer in (1, 2):
            norms, larger = (np.linalg.norm(net.coefs_[layer - 1], axis=0) for net in (network, without))
            truth = np.median((larger / norms) ** power)
            estimate = diagnose(network, X).layers.loc[(layer, "hidden_weights"), "times_without_l2"]
            assert truth > 1.2
            assert estimate == pytest.approx(truth, rel=0.2)


def test_equilibrium_angles_by_hand(digits):
    """sqrt(2 lr l2 / (1 + m)); sqrt(2 lr l2 (1 - m) / (1 + m)); none for Adam with L2 in the loss."""
    rate = np.array([0.1])
    sgd = {"solver": "sgd", "l2": 0.02, "max_iter": 1}
    assert equilibrium_angle(networks(digits, **sgd, l2_mode="loss"), rate)[0] == pytest.approx((0.004 / 1.9) ** 0.5)
    assert equilibrium_angle(networks(digits, **sgd), rate)[0] == pytest.approx((0.0004 / 1.9) ** 0.5)
    assert equilibrium_angle(networks(digits, l2=0.02, max_iter=1), rate)[0] == pytest.approx((0.0004 / 1.9) ** 0.5)
    assert np.isnan(equilibrium_angle(networks(digits, l2_mode="loss", max_iter=1), rate)[0])


def test_units_of_no_use_are_counted(digits):
    network = networks(digits)
    with torch.no_grad():
        block = network.net_.module_.blocks(network.net_.module_.theta)
        block["gamma"][0][0, :3], block["beta"][0][0, :2] = 0.0, -1.0
    found = diagnose(network, digits[0])
    assert found.units.loc[1].to_dict() == {"units": 16, "dead": 3, "gamma_near_0": 3}
    assert "3 of 16 units of layer 1 give one output on every row." in found.sentences


def test_estimators_around_a_network(digits):
    X, y = load_digits(return_X_y=True)
    network = BNMLPClassifier((16, 12), random_state=0)
    search = StackedGridSearchCV(make_pipeline(StandardScaler(), network), {}, cv=2).fit(pd.DataFrame(X), y)
    assert diagnose(search, pd.DataFrame(X)).summary() == diagnose(network.fit(*digits), digits[0]).summary()
    assert diagnose(network, sparse.csr_array(digits[0])).summary() == diagnose(network, digits[0]).summary()
    X, y = make_regression(200, 5, random_state=0)
    model = TransformedTargetRegressor(BNMLPRegressor((8,), random_state=0), transformer=StandardScaler()).fit(X, y)
    assert (2, "output_weights") in diagnose(model, X).evaded


def test_a_network_without_hidden_layers_has_no_moves(digits):
    diagnosis = diagnose(BNMLPClassifier((), callbacks=[NormRecorder()], random_state=0).fit(*digits), digits[0])
    assert diagnosis.evaded == set()
    assert "L2 on output weights limits the function" in diagnosis.summary()


def test_warm_starts_do_not_claim_to_know_the_start(digits):
    network = networks(digits, warm_start=True, callbacks=[NormRecorder()]).fit(*digits)
    diagnosis = diagnose(network, digits[0])
    assert diagnosis.layers["norm_at_start"].isna().all()
    assert "times_without_l2" not in diagnosis.layers
    assert len(diagnosis.trajectory["epoch"].unique()) == network.max_iter  # of the second fit


def test_partial_fits_are_diagnosed_by_what_the_last_one_recorded(digits):
    network = BNMLPClassifier((16, 12), callbacks=[NormRecorder()], random_state=0)
    for _ in range(3):
        network.partial_fit(*digits, classes=range(10))
    diagnosis = diagnose(network, digits[0])
    assert "times_without_l2" not in diagnosis.layers
    assert diagnosis.trajectory["epoch"].unique().tolist() == [1]


def test_bad_input_gets_one_sentence(digits):
    network = networks(digits, max_iter=1)
    with pytest.raises(ValueError, match="estimator must be or end in a BNMLPClassifier or BNMLPRegressor, got SVC"):
        diagnose(SVC().fit(*digits), digits[0])
    with pytest.raises(ValueError, match="X must have at least 2 rows"):
        diagnose(network, digits[0][:1])
    with pytest.raises(NotFittedError):
        diagnose(BNMLPClassifier(), digits[0])
    with pytest.raises(ValueError, match=r"train the network with callbacks=\[NormRecorder\(\)\]"):
        NormTrajectoryDisplay.from_diagnosis(diagnose(network, digits[0]))
    plain = networks(digits, max_iter=1, batch_norm=False, callbacks=[NormRecorder()])
    with pytest.raises(ValueError, match=r"quantity must be one of \['norm'\] for this network, got 'angle'"):
        NormTrajectoryDisplay.from_diagnosis(diagnose(plain, digits[0]), quantity="angle")


def test_a_role_that_the_display_does_not_know_is_drawn():
    path = pd.DataFrame({"epoch": [1, 2], "layer": [1, 1], "role": ["input_weights"] * 2, "norm": [2.0, 1.0]})
    display = NormTrajectoryDisplay(path, quantity="norm").plot()
    assert display.lines_["input weights 1"].get_ydata().tolist() == [2.0, 1.0]


def test_displays_draw_what_the_diagnosis_says(digits):
    diagnosis = diagnose(networks(digits, callbacks=[NormRecorder()]), digits[0])
    table = diagnosis.invariances
    display = InvarianceDisplay.from_diagnosis(diagnosis)
    drawn = np.concatenate([points.get_xdata() for points in display.points_.values()])
    np.testing.assert_allclose(np.sort(drawn), np.sort(table["change"]))
    assert [label.get_text().replace("\n", " ") for label in display.ax_.get_yticklabels()] == list(table.index)
    seen = diagnosis.trajectory
    norms = NormTrajectoryDisplay.from_diagnosis(diagnosis)
    assert len(norms.lines_) == len(diagnosis.layers)
    beta = seen[(seen["role"] == "beta") & (seen["layer"] == 2)]
    np.testing.assert_array_equal(norms.lines_["beta 2"].get_ydata(), beta["norm"])
    angles = NormTrajectoryDisplay.from_diagnosis(diagnosis, quantity="angle")
    hidden = seen[(seen["role"] == "hidden_weights") & (seen["layer"] == 1)]
    np.testing.assert_array_equal(angles.lines_["layer 1"].get_ydata(), hidden["angle"])
    np.testing.assert_array_equal(angles.equilibrium_.get_ydata(), hidden["equilibrium_angle"])
