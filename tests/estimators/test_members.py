"""Ensembles whose members differ, against a plain loop over networks."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from loops import mean_of_members
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification
from sklearn.exceptions import NotFittedError
from skorch.callbacks import EpochTimer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, compare_schemes, fit_stack

MEMBERS = [
    {"hidden_layer_sizes": (5,), "batch_norm": False},
    {"l2": 0.1, "dropout": 0.2},
    {"activation": "tanh", "max_iter": 3, "numeric_embedding": None},
    {"hidden_layer_sizes": (5,), "batch_norm": False, "learning_rate_init": 0.03},
]


def ensemble(cls=BNMLPClassifier, **params):
    return cls((8,), **{"max_iter": 5, "members": MEMBERS, "random_state": 0, **params})


def by_loop(estimator, X, y, X_test, **fit_params):
    """Return the mean of what networks predict that are fitted one by one from the seeds of the ensemble's members."""
    seeds = np.random.RandomState(estimator.random_state).randint(np.iinfo(np.int32).max, size=len(estimator.members))
    predictions = []
    for seed, params in zip(seeds, estimator.members, strict=True):
        network = clone(estimator).set_params(members=None, n_ensemble=1, random_state=int(seed), **params)
        network.fit(X, y, **fit_params)
        predictions.append(getattr(network, "predict_proba", network.predict)(X_test))
    if not hasattr(estimator, "predict_proba"):
        return np.mean(predictions, axis=0)
    return mean_of_members(predictions, labels=np.ndim(y) == 2)


@pytest.mark.parametrize("kernel", [True, False])
def test_predictions_are_the_mean_of_networks_fitted_one_by_one(kernel):
    X, y = load_iris(return_X_y=True)
    weight = np.random.default_rng(0).random(len(y))
    with patch("sk_bnreg.engine.tasks.has_kernel", return_value=kernel):
        fitted = ensemble().fit(X, y, sample_weight=weight)
        expected = by_loop(ensemble(), X, y, X, sample_weight=weight)
    np.testing.assert_allclose(fitted.predict_proba(X), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[expected.argmax(1)])
    # attributes are those of the first member, whichever net torch has put it in
    assert [w.shape for w in fitted.coefs_] == [(4 * 4, 5), (5, 3)]
    assert not fitted.gammas_
    assert len(fitted.nets_) == 4
    assert fitted.n_iter_ == 5


def test_numbers_several_targets_and_several_labels():
    X, y = load_diabetes(return_X_y=True)
    Y = np.column_stack([y, -y])
    for target in (y, Y):
        fitted = ensemble(BNMLPRegressor).fit(X, target)
        np.testing.assert_allclose(fitted.predict(X), by_loop(ensemble(BNMLPRegressor), X, target, X), rtol=1e-4)
    X, y = make_multilabel_classification(100, random_state=0)
    fitted = ensemble().fit(X, y)
    np.testing.assert_allclose(fitted.predict_proba(X), by_loop(ensemble(), X, y, X), rtol=0, atol=1e-6)


def test_hooks_hear_the_mean_loss_of_all_members_and_stop_them_together():
    X, y = load_iris(return_X_y=True)
    heard = []

    def on_epoch_end(epoch, scores):
        heard.append(scores.copy())
        return [0] if epoch == 1 else []

    rows = [np.arange(0, 150, 2)] * 2
    (found, _) = fit_stack(
        [ensemble(), ensemble()], X, y, rows=rows, monitor_rows=[np.arange(1, 150, 2)] * 2, on_epoch_end=on_epoch_end
    )
    probability = found.predict_proba(X)
    assert [len(net.records_[0].train_loss) for net in found.nets_] == [2, 2, 2, 2]
    assert np.isnan(heard[2][0])
    assert not np.isnan(heard[1]).any()
    assert np.isfinite(probability).all()
    losses = [
        -np.log(np.exp(out) / np.exp(out).sum(axis=0))[y[1::2], np.arange(75)].mean()
        for net in found.nets_
        for out in net.outputs(torch.from_numpy(X[1::2].astype(np.float32))).numpy()
    ]
    assert heard[1][0] == pytest.approx(-np.mean(losses), rel=1e-4)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"members": []}, "one or more dicts"),
        ({"members": [{"random_states": 1}]}, "one or more dicts"),
        ({"members": [{"n_ensemble": 2}]}, "other than .*n_ensemble"),
        ({"members": [{"dtype": "float64"}]}, "other than .*dtype"),
        ({"members": [5]}, "one or more dicts"),
        ({"members": [{"l2": "much"}]}, "l2"),
        ({"warm_start": True}, "warm_start"),
    ],
)
def test_what_cannot_be_is_refused(params, match):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=match):
        ensemble(**params).fit(X, y)


def test_one_member_that_diverges_leaves_nothing_fitted():
    X, y = load_iris(return_X_y=True)
    network = ensemble().fit(X, y).set_params(members=[{}, {"learning_rate_init": 1e30, "batch_norm": False}])
    with pytest.raises(ValueError, match="diverged"):
        network.fit(X, y)
    with pytest.raises(NotFittedError):
        network.predict(X)


def test_callbacks_and_studies_are_refused():
    X, y = load_iris(return_X_y=True)
    assert not hasattr(ensemble(), "partial_fit")
    with pytest.raises(ValueError, match="callbacks"):
        ensemble(callbacks=[EpochTimer()]).fit(X, y)
    with pytest.raises(ValueError, match="members=None"):
        compare_schemes(ensemble(), X, y)


def test_an_ensembles_networks_have_their_embeddings_in_turn():
    X, y = load_iris(return_X_y=True)
    options = {"hidden_layer_sizes": (4,), "max_iter": 1, "learning_rate_init": 1e-12, "random_state": 0}
    spread, lines = {}, {}
    for name, params in {
        "auto": {}, "fixed": {"frequency_init_scale": 3.0}, "members": {"members": [{}, {"frequency_init_scale": 7.0}]},
        "periodic": {"numeric_embedding": "periodic"}, "lines": {"numeric_embedding": "piecewise-linear"},
    }.items():  # fmt: skip
        net = BNMLPClassifier(**options, n_ensemble=5).set_params(**params).fit(X, y)
        blocks = [net.module_.blocks(net.module_.theta.data)["embeddings"][0] for net in net.nets_]
        spread[name] = [float(member[..., 0].std()) / (2 * np.pi) for block in blocks for member in block]
        lines[name] = [bool(own) for net in net.nets_ for own in net.module_.piecewise]
    # 32 frequencies each: a sample's deviation is that of the population to some 13 %
    periodic = [0, 2, 3, 4]
    np.testing.assert_allclose(np.array(spread["auto"])[periodic], [0.2, 0.1, 1.0, 0.2], rtol=0.5)
    np.testing.assert_allclose(np.array(spread["fixed"])[periodic], [3.0] * 4, rtol=0.5)
    np.testing.assert_allclose(spread["members"], [0.2, 7.0], rtol=0.5)
    np.testing.assert_allclose(spread["periodic"], [0.2, 0.2, 0.1, 1.0, 0.2], rtol=0.5)
    assert lines["auto"] == lines["fixed"] == [False, True, False, False, False]
    assert (lines["members"], lines["periodic"], lines["lines"]) == ([False] * 2, [False] * 5, [True] * 5)
