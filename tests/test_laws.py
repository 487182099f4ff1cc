"""Laws that every fit keeps, on random tables and estimators; benchmarks/laws.py asks a hundred times as many."""

import copy
import pickle
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from cases import (
    CLASSES,
    HALF_THE_DIGITS,
    OF_FITS,
    SEEDS,
    STEADY,
    any_of,
    assert_close,
    assert_same_bits,
    cases,
    draw_network,
    predicted,
)  # fmt: skip
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import fit_stack, load_model, save_model
from sk_bnreg.engine.functions import ACTIVATIONS
from sk_bnreg.engine.roles import L2_TARGETS, ROLES
from sk_bnreg.engine.stack import StackedMLP

pytestmark = pytest.mark.filterwarnings("ignore")  # settings without effect, few epochs
ORDERS = st.randoms(use_true_random=False)


def shuffled(values, order):
    return order.sample(list(values), len(values))


@st.composite
def companies(draw):
    """Draw a case and another network for its table, each of which is trained on rows of its own, as folds are."""
    case = draw(cases())
    found = [case.network, draw_network(draw, case.kind)]
    if draw(st.sampled_from([False, False, True])):
        found[0].set_params(members=[{"hidden_layer_sizes": (2,)}, {"dropout": 0.1, "max_iter": 3}])
    order = draw(ORDERS)
    return case, found, [np.array(shuffled(range(len(case.X)), order)[len(case.X) // 3 :]) for _ in found]


@OF_FITS
@given(companies())
def test_alone_as_among_others(company):
    """And a clone as its original."""
    case, (network, other), rows = company
    own = rows[0]
    among, _ = fit_stack([clone(network), other], case.X, case.y, rows=rows, sample_weight=case.weight)
    network.fit(case.X[own], case.y[own], None if case.weight is None else case.weight[own])
    assert_same_bits(among, network, case.X)


# all rows in one batch: which rows share one would depend on their number
@OF_FITS
@given(cases(**STEADY, batch_size=1000, dropout=0.0), SEEDS)
def test_a_weight_of_two_is_the_row_twice(case, seed):
    counts = np.random.default_rng(seed).integers(1, 4, len(case.X))
    case = case.changed(weight=counts.astype(float))
    rows = np.repeat(np.arange(len(counts)), counts)
    weighted, repeated = case.beside({"X": case.X[rows], "y": case.y[rows], "weight": None})
    assert_close(predicted(weighted, case.X), predicted(repeated, case.X))
    assert_close(weighted.loss_curve_, repeated.loss_curve_)


@OF_FITS
@given(cases(), st.integers(-30, 30))
def test_weights_times_a_power_of_two_change_no_bit(case, exponent):
    weight = np.ones(len(case.X)) if case.weight is None else case.weight
    assert_same_bits(*case.beside({"weight": weight * 2.0**exponent}), case.X)


@OF_FITS
@given(cases(**STEADY), st.floats(1e-9, 1e9))
def test_weights_times_a_constant_change_nothing(case, factor):
    weight = np.ones(len(case.X)) if case.weight is None else case.weight
    one, other = case.beside({"weight": weight * factor})
    assert_close(predicted(other, case.X), predicted(one, case.X))


@OF_FITS
@given(cases(), SEEDS)
def test_a_weight_of_zero_is_no_row(case, seed):
    weight = np.ones(len(case.X)) if case.weight is None else case.weight
    kept = np.random.default_rng(seed).permutation(len(weight)) >= len(weight) // 3
    spoiled = case.changed(X=np.where(kept[:, None], case.X, 100.0), weight=weight * kept)
    assert_same_bits(*spoiled.beside({"X": case.X[kept], "y": case.y[kept], "weight": weight[kept]}), case.X)


def fit_from(change, case, **changed):
    """Fit a case whose stack's initial parameters are changed first."""
    draw = StackedMLP.reset_parameters

    def reset(stack, *arguments):
        draw(stack, *arguments)
        with torch.no_grad():
            change(stack)

    with patch.object(StackedMLP, "reset_parameters", reset):
        return case.fitted(**changed)


def fitted_and_moved(case, order_of, **changed):
    """Fit as it is, and on a permuted table from the initial weights permuted; these are so in the end."""
    starts = []
    one = fit_from(lambda stack: starts.append(stack.theta.clone()), case)

    def move(stack):
        places, signs = order_of(stack)
        stack.theta[:] = starts[0][:, places] * signs

    other = fit_from(move, case, **changed)
    places, signs = order_of(other.net_.module_)
    assert_close(other.net_.module_.theta.data, one.net_.module_.theta.data[:, places] * signs)
    return one, other


def places_of(stack):
    """Return where every parameter stands, ``(1, P)``, and views of it by role."""
    flat = torch.arange(stack.theta.shape[1])[None].clone()
    return flat, stack.blocks(flat)


@OF_FITS
@given(cases(**STEADY), ORDERS)
def test_permuted_features_with_weights_permuted_alike(case, order):
    n = case.X.shape[1]
    columns = shuffled(range(n), order)

    def order_of(stack):
        flat, blocks = places_of(stack)
        embedded = [columns[column] for column in stack.embedded.tolist()]  # in the numbers of before
        turn = [sorted(embedded).index(column) for column in embedded]
        first = [*blocks["hidden_weights"], *blocks["output_weights"]][0]
        first[:] = first.clone()[:, :, columns + [n + 3 * place + k for place in turn for k in range(3)]]
        for block in blocks["embeddings"]:
            block[:] = block.clone()[:, turn]
        return flat[0], 1.0

    one, other = fitted_and_moved(case, order_of, X=case.X[:, columns])
    assert_close(predicted(other, case.X[:, columns]), predicted(one, case.X))


@OF_FITS
@given(cases(**STEADY), ORDERS)
def test_permuted_classes_labels_and_targets(case, order):
    """Classes by other names, in another order; labels and targets in other columns."""
    columns, y, n_classes = [0], case.y, 0
    if y.ndim == 2:
        columns = shuffled(range(y.shape[1]), order)
        y = y[:, columns]
    elif case.kind != "number":
        n_classes = len(np.unique(y))
        names = np.array(shuffled(["b", "a, of course", "ä"][:n_classes], order))
        columns, y = np.argsort(names), names[np.unique(y, return_inverse=True)[1]]

    def order_of(stack):
        flat, blocks = places_of(stack)
        signs = torch.ones(len(flat[0]), dtype=torch.float64)
        for block in (blocks["output_weights"][0], blocks["biases"][-1]):
            if n_classes != 2:
                block[:] = block.clone()[:, columns]
            elif columns[0] == 1:  # one logit, of the second class
                signs[block.flatten()] = -1.0
        return flat[0], signs

    one, other = fitted_and_moved(case, order_of, y=y)
    expected = predicted(one, case.X)
    assert_close(predicted(other, case.X), expected if case.kind == "number" else expected[:, columns])


@st.composite
def ensembles(draw):
    """Draw a case whose members differ, and them in another order."""
    case = draw(cases(n_ensemble=1, dtype="float64"))
    differ = "hidden_layer_sizes", "activation", "batch_norm", "dropout", "l2", "solver", "max_iter", "random_state"
    found = [case.network, draw_network(draw, case.kind)]
    members = [{name: getattr(network, name) for name in differ} for network in found]
    return case, members, shuffled(range(len(members)), draw(ORDERS))


@OF_FITS
@given(ensembles())
def test_permuted_members_are_the_same_networks(ensemble):
    case, members, order = ensemble
    one, other = case.changed(members=members).beside({"members": [members[place] for place in order]})
    for net, place in zip(other.nets_, order, strict=True):
        for name, value in net.module_.state().items():
            assert torch.equal(value, one.nets_[place].module_.state()[name])
    assert_close(predicted(other, case.X), predicted(one, case.X))


@OF_FITS
@given(cases(), st.permutations(ROLES))
def test_permuted_roles_move_parameters_alone(case, roles):
    """Roles in another order in the flat parameters, with the same initial values."""
    starts = []

    def move(stack):
        for role, blocks in stack.blocks(stack.theta).items():
            for block, value in zip(blocks, starts[0][role], strict=True):
                block[:] = value

    one = fit_from(lambda stack: starts.append(stack.blocks(stack.theta.clone())), case)
    expected = one.net_.module_.blocks(one.net_.module_.theta.data)
    with patch("sk_bnreg.engine.roles.ROLES", roles), patch("sk_bnreg.engine.stack.ROLES", roles):
        other = fit_from(move, case)
        for role, blocks in other.net_.module_.blocks(other.net_.module_.theta.data).items():
            assert all(torch.equal(own, its) for own, its in zip(blocks, expected[role], strict=True))
        np.testing.assert_array_equal(predicted(other, case.X), predicted(one, case.X))


@st.composite
def stacks(draw):
    """Draw a network with batch norm, a batch, and what each hidden unit's weights are to be multiplied by."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes, n_rows = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)), draw(st.integers(2, 20))
    stack = StackedMLP(
        n_members=2,
        n_features=3,
        hidden_layer_sizes=sizes,
        n_outputs=2,
        activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
        batch_norm_eps=draw(st.sampled_from([1e-12, 1e-5, 1e-2, 1.0])),
        dtype=torch.float64,
    )
    stack.theta.data = torch.from_numpy(rng.standard_normal(stack.theta.shape))
    factors = [torch.from_numpy(2.0 ** rng.uniform(-3, 6, (2, size, 1))) for size in sizes]
    return stack, torch.from_numpy(rng.standard_normal((2, 3, n_rows))), factors


# how much an activation may at most multiply a difference: the largest slopes of gelu and silu are 1.13 and 1.10
SLOPES = {"identity": 1.0, "logistic": 0.25, "tanh": 1.0, "relu": 1.0, "gelu": 1.13, "silu": 1.1}


@OF_FITS
@given(stacks())
def test_scaled_weights_before_batch_norm_change_no_more_than_eps_allows(case):
    """Weights times a are as an eps of eps / a^2: z / sqrt(s^2 + eps) becomes z / sqrt(s^2 + eps / a^2).

    Here s is a unit's deviation over the rows. Below, d is how far a value may have moved. A layer's z then moves by
    |W| d at most, its centred values by that and its mean, and its deviation, a seminorm, by the root mean square; so
    the new divisor is between two bounds.
    """
    stack, x, factors = case
    with torch.no_grad():
        scaled = copy.deepcopy(stack)
        for layer, a in zip(scaled.layers(scaled.theta.data), factors, strict=False):
            layer.weight.mul_(a)
        change = (scaled.train()(x) - stack.train()(x)).abs()
        *layers, last = stack.layers(stack.theta.data)
        d, eps = torch.zeros_like(x), stack.normalisation.eps
        for layer, a in zip(layers, factors, strict=True):
            z, d = layer.weight @ x, layer.weight.abs() @ d
            centred, d = z - z.mean(2, keepdim=True), d + d.mean(2, keepdim=True)
            s, moved = (values.square().mean(2, keepdim=True).sqrt() for values in (centred, d))
            was = (s**2 + eps).sqrt()
            least, most = (((s + by).clamp(min=0) ** 2 + eps / a**2).sqrt() for by in (-moved, moved))
            other_divisor = torch.maximum((1 / least - 1 / was).abs(), (1 / most - 1 / was).abs())
            d = SLOPES[stack.activation] * layer.scale.abs() * (centred.abs() * other_divisor + d / least)
            x = ACTIVATIONS[stack.activation].forward(layer.shift + layer.scale * centred / was)
        bound = last.weight.abs() @ d
    assert (change <= bound * (1 + HALF_THE_DIGITS) + HALF_THE_DIGITS).all()


@OF_FITS
@given(cases(batch_norm=True, dtype="float64", numeric_embedding=None, l2=0.0, early_stopping=False, batch_size=1000),
       st.integers(-4, 4))  # fmt: skip
def test_scaled_weights_are_as_another_eps(case, exponent):
    """All weights times a with eps times a^2 give the same first loss; a power of two is a product without rounding."""
    factor, eps = 2.0**exponent, case.network.batch_norm_eps

    def scale(stack):
        for weight in stack.blocks(stack.theta)["hidden_weights"]:
            weight *= factor

    other = fit_from(scale, case, batch_norm_eps=eps * factor**2)
    assert case.fitted().loss_curve_[0] == other.loss_curve_[0]


@OF_FITS
@given(cases(), st.sampled_from([*L2_TARGETS, *ROLES, ("beta", "weights"), ("weights", "hidden_weights"), ()]),
       st.floats(0.0, 2.0), ORDERS, st.booleans())  # fmt: skip
def test_l2_targets_by_name_are_those_of_a_mapping_or_tuple_in_any_order(case, targets, l2, order, mapping):
    names = [targets] if isinstance(targets, str) else targets
    roles = shuffled([role for name in names for role in L2_TARGETS.get(name, (name,))], order)
    named = case.changed(l2=l2, l2_targets=targets)
    other = {"l2": dict.fromkeys(roles, l2)} if mapping else {"l2_targets": tuple(roles)}
    assert_same_bits(*named.beside(other), case.X)


def in_pipeline(network):
    return make_pipeline(StandardScaler(), PCA(1), make_pipeline("passthrough", network))


def of_scaled_target(network):
    return TransformedTargetRegressor(make_pipeline(StandardScaler(), network), transformer=StandardScaler())


@OF_FITS
@given(cases(), any_of(place=[None, None, None, in_pipeline, of_scaled_target], named=[False, True],
                       random_state=[3, None, np.random.RandomState(0)]))  # fmt: skip
def test_copies_and_files_predict_the_same(case, how):
    case.network.set_params(random_state=how["random_state"])
    X = pd.DataFrame(case.X, columns=list("abcd")[: case.X.shape[1]]) if how["named"] else case.X
    if how["place"] is None or (how["place"] is of_scaled_target and case.kind in CLASSES):
        estimator = case.network.fit(X, case.y, case.weight)
    else:
        estimator = how["place"](case.network).fit(X, case.y)
    with tempfile.TemporaryDirectory() as folder:
        save_model(estimator, path := Path(folder) / "model.safetensors")
        loaded = load_model(path)
    expected = predicted(estimator, X)
    for other in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator), loaded):
        np.testing.assert_array_equal(predicted(other, X), expected)
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X))
