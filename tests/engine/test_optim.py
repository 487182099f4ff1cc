"""Solvers and schedules against hand-written updates and torch's own."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sk_bnreg.engine.roles import HIDDEN_WEIGHTS, L2_TARGETS, ROLES, l2_by_role, lacking_roles, network_blocks
from sk_bnreg.engine.solvers import L2_MODES, LEARNING_RATES, SOLVERS, Member, decay_budgets, learning_rates
from sk_bnreg.engine.stack import StackedMLP

CONSTANTS = {"adam": {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-8}, "sgd": {"momentum": 0.8}}


def make_member(l2, l2_mode):
    return Member(
        seed=0, learning_rate="constant", learning_rate_init=0.1, l2=l2, l2_mode=l2_mode, dropout=0.0, max_iter=1,
        early_stopping=False, n_iter_no_change=10, tol=0.0, embedding=0.2,
    )  # fmt: skip


def hand_written_steps(theta, gradients, rate, l2, l2_mode, solver):
    """The update in a scalar loop's words; l2 is an array with a strength per parameter."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, gradient in enumerate(gradients, start=1):
        g = gradient + (l2 * theta if l2_mode == "loss" else 0)
        decay = rate * l2 * theta if l2_mode == "decoupled" else 0
        if solver == "sgd":
            m = 0.8 * m + g
            step = m
        else:
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        theta = theta - decay - rate * step
    return theta


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("l2_mode", ["decoupled", "loss"])
@pytest.mark.parametrize("role", ROLES)
def test_decay_of_each_role_equals_the_hand_written_update(role, l2_mode, solver):
    sizes = {"n_members": 2, "n_features": 3, "hidden_layer_sizes": (4, 5), "n_outputs": 2}
    stack = StackedMLP(**sizes, embedded=(1,), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    stack.theta.data = torch.randn(stack.theta.shape, generator=generator, dtype=torch.float64)
    gradients = torch.randn(4, *stack.theta.shape, generator=generator, dtype=torch.float64)
    gradients[:, :, ::3] *= 1e-3  # Adam in "loss" mode decays these harder
    strengths, rates = [0.3, 0.7], np.array([0.01, 0.05])
    members = [make_member({**dict.fromkeys(ROLES, 0.0), role: l2}, l2_mode) for l2 in strengths]
    before = stack.theta.detach().numpy().copy()
    optimizer = SOLVERS[solver](stack, members, **CONSTANTS[solver])
    for gradient in gradients:
        stack.theta.grad = gradient.clone()
        optimizer.step(torch.from_numpy(rates)[:, None])
    for m in range(2):
        l2 = np.zeros(before.shape[1])
        l2[stack.slices[role]] = strengths[m]
        assert (l2 > 0).any()
        expected = hand_written_steps(before[m], gradients[:, m].numpy(), rates[m], l2, l2_mode, solver)
        np.testing.assert_allclose(stack.theta[m].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("l2_mode", L2_MODES)
def test_a_step_as_the_kernel_compiles_it_equals_the_hand_written_update(l2_mode, solver):
    """In plain Python, where numbers are checked that compiled code would take from anywhere."""
    rng, l2, rate = np.random.default_rng(0), 0.3, 0.05
    theta, gradients = rng.standard_normal(6), rng.standard_normal((4, 6)) * [1, 1e-3, 1, 1e-3, 1, 1e-7]
    expected = hand_written_steps(theta, gradients, rate, l2, l2_mode, solver)
    moments = [np.zeros(6) for _ in SOLVERS[solver].moments]
    strengths = [l2 * (l2_mode == mode) for mode in ("loss", "decoupled")]
    for clock, gradient in enumerate(gradients, 1):
        facts = SimpleNamespace(**CONSTANTS[solver])
        SOLVERS[solver].compiled_step(theta, gradient, moments[0], moments[-1], facts, rate, clock, *strengths)
    np.testing.assert_allclose(theta, expected, rtol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_angles_fall_with_the_norm_by_the_power_of_the_rate(solver):
    """Where scale does not matter the gradient is orthogonal to the weights, and half as large at twice their norm."""
    angles = []
    for norm in (1.0, 2.0):
        theta, moments = np.array([norm, 0.0]), np.zeros((2, 2))
        facts = SimpleNamespace(**CONSTANTS[solver])
        SOLVERS[solver].compiled_step(theta, np.array([0.0, 1 / norm]), *moments, facts, 1e-6, 1, 0.0, 0.0)
        angles.append(abs(theta[1]) / norm)
    assert angles[0] / angles[1] == pytest.approx(2 ** SOLVERS[solver].rate_power)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_pickled_solver_goes_on_where_it_was(solver):
    stack = StackedMLP(n_members=1, n_features=2, hidden_layer_sizes=(3,), n_outputs=1, dtype=torch.float64)
    members = [make_member(l2_by_role(0.3, "all"), mode) for mode in L2_MODES]
    optimizer = SOLVERS[solver](stack, members[:1], **CONSTANTS[solver])
    gradients = torch.randn(5, *stack.theta.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gradient in gradients[:4]:
        stack.theta.grad = gradient.clone()
        optimizer.step(torch.full((1, 1), 0.1, dtype=torch.float64))
    again = pickle.loads(pickle.dumps(optimizer))
    for one in (optimizer, again):
        one.stack.theta.grad = gradients[4].clone()
        one.step(torch.full((1, 1), 0.1, dtype=torch.float64))
    assert torch.equal(again.stack.theta, stack.theta)
    assert (optimizer.clock(), again.clock()) == ((5, 5) if solver == "adam" else (0, 0))
    assert "step" not in vars(SOLVERS[solver])  # torch did not wrap it


@pytest.mark.parametrize("l2_mode", L2_MODES)
def test_the_penalty_is_half_the_strengths_times_the_squared_norms(l2_mode):
    stack = StackedMLP(n_members=2, n_features=2, hidden_layer_sizes=(3,), n_outputs=1, dtype=torch.float64)
    stack.theta.data.normal_(generator=torch.Generator().manual_seed(0))
    strengths = [l2_by_role({"weights": 0.1, "gamma": 2.0, "beta": 3.0}, "none"), l2_by_role(0.5, "beta")]
    optimizer = SOLVERS["sgd"](stack, [make_member(l2, l2_mode) for l2 in strengths], momentum=0.8)
    norms = {role: stack.theta.detach()[:, columns].square().sum(1) for role, columns in stack.slices.items()}
    expected = [sum(l2[role] / 2 * norms[role][m].item() for role in ROLES) for m, l2 in enumerate(strengths)]
    assert np.allclose(optimizer.penalty(), expected if l2_mode == "loss" else 0.0, rtol=1e-12)
    # neighbours with the same strengths are multiplied at once: 3 * 2 and 3 weights; biases have none
    columns = [columns for columns, _ in optimizer.coupled + optimizer.decoupled]
    assert columns == [slice(0, 9), slice(10, 13), slice(13, 16)]


def test_roles_are_known_by_what_they_are_not_by_shape():
    stack = StackedMLP(n_members=2, n_features=3, hidden_layer_sizes=(4, 5), n_outputs=2)
    sizes = {role: columns.stop - columns.start for role, columns in stack.slices.items()}
    assert sizes == {
        "hidden_weights": 3 * 4 + 4 * 5,
        "output_weights": 10,
        "biases": 2,
        "gamma": 9,
        "beta": 9,
        "embeddings": 0,
    }
    sizes = {"n_features": 3, "hidden_layer_sizes": (4, 5), "n_outputs": 2, "batch_norm": False}
    plain = StackedMLP(n_members=1, embedded=(0, 2), **sizes)
    sizes = {role: columns.stop - columns.start for role, columns in plain.slices.items()}
    with_embeddings = 4 * (3 + 2 * 3) + 4 * 5  # three values of each
    assert sizes == {
        "hidden_weights": with_embeddings, "output_weights": 10, "biases": 11, "gamma": 0, "beta": 0,
        "embeddings": 2 * 8 * (2 + 3),
    }  # fmt: skip


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 100])
def test_schedules_equal_torchs(n_steps):
    def torch_rates(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
        schedule, rates = make(optimizer), []
        for _ in range(n_steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if len(rates) < n_steps:
                schedule.step()
        return rates

    torchs = {
        "constant": lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, n_steps),
        "one-cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=n_steps),
    }
    for schedule in LEARNING_RATES:
        rates = learning_rates(schedule, 0.2, n_steps)
        if n_steps > 1:  # of one step torch makes the last one, which is next to nothing
            np.testing.assert_allclose(rates, torch_rates(torchs[schedule]), rtol=1e-9, atol=1e-12)
        assert len(rates) == n_steps
        assert (rates > 0.04).any()
        assert rates.min() > 0
        assert rates.max() <= 0.2 + 1e-12
        of_an_integer = learning_rates(schedule, 2, n_steps)
        assert of_an_integer.dtype == rates.dtype == np.float64
        np.testing.assert_allclose(of_an_integer, 10 * rates, rtol=1e-12)


def test_budget_is_the_shrinkage_that_decay_alone_brings():
    """With zero gradients theta falls by exp(-D) in the limit of small steps."""
    for solver, l2_mode, factor in (("adam", "decoupled", 1.0), ("sgd", "decoupled", 1.0), ("sgd", "loss", 5.0)):
        stack = StackedMLP(n_members=1, n_features=2, hidden_layer_sizes=(3,), n_outputs=1, dtype=torch.float64)
        stack.theta.data.fill_(1.0)
        l2 = l2_by_role({"gamma": 2.0 / factor}, "none")
        optimizer = SOLVERS[solver](stack, [make_member(l2, l2_mode)], **CONSTANTS[solver])
        rates = learning_rates("cosine", 2e-4, 5000)
        for rate in rates:
            stack.theta.grad = torch.zeros_like(stack.theta)
            optimizer.step(torch.full((1, 1), rate, dtype=torch.float64))
        budget = decay_budgets(
            make_member(l2, l2_mode), rates.sum(), optimizer.decay_factor(l2_mode, CONSTANTS[solver])
        )
        assert budget["gamma"] == pytest.approx(rates.sum() * 2.0)
        shrunk = stack.theta.detach()[0, stack.slices["gamma"]]
        np.testing.assert_allclose(shrunk, np.exp(-budget["gamma"]), rtol=0.01)
        assert stack.theta.detach()[0, stack.slices["beta"]].eq(1).all()


def test_adam_has_no_budget_in_loss_mode():
    stack = StackedMLP(n_members=1, n_features=2, hidden_layer_sizes=(3,), n_outputs=1)
    member = make_member(l2_by_role(0.1, "weights"), "loss")
    optimizer = SOLVERS["adam"](stack, [member], **CONSTANTS["adam"])
    budgets = decay_budgets(member, 1.0, optimizer.decay_factor("loss", CONSTANTS["adam"]))
    assert np.isnan([budgets["hidden_weights"], budgets["output_weights"]]).all()
    assert budgets["gamma"] == 0.0


def test_a_budget_exists_where_l2_shrinks_every_parameter_alike():
    known = {(name, mode): solver.has_budget(mode) for name, solver in SOLVERS.items() for mode in L2_MODES}
    assert [pair for pair, has_budget in known.items() if not has_budget] == [("adam", "loss")]


def test_l2_by_role():
    weights = ("hidden_weights", "output_weights")
    some = {"all": ROLES, "weights": weights, "weights+gamma+beta": (*weights, "gamma", "beta"), "none": ()}
    assert L2_TARGETS.keys() == some.keys()
    for targets, roles in some.items():
        assert l2_by_role(0.5, targets) == {role: 0.5 * (role in roles) for role in ROLES}
    assert l2_by_role(0.5, ("weights", "beta")) == {role: 0.5 * (role in (*weights, "beta")) for role in ROLES}
    assert l2_by_role({"weights": 0.1, "gamma": 2}, "none")["output_weights"] == 0.1
    assert l2_by_role({"weights": 0.1, "gamma": 2}, "none")["gamma"] == 2.0
    for role in ROLES:
        assert l2_by_role(0.5, role) == l2_by_role(0.5, (role,)) == l2_by_role({role: 0.5}, "all")
    # the name of one role goes before that of both, in whichever order
    for l2 in ({"weights": 0.1, "hidden_weights": 0.3}, {"hidden_weights": 0.3, "weights": 0.1}):
        assert list(l2_by_role(l2, "all").values()) == [0.3, 0.1, 0, 0, 0, 0]
    assert set(l2_by_role(0, "all").values()) == {0.0}


def test_blocks_by_hand():
    """Two hidden layers of 4 and 5 units on two features, one of them embedded: three more inputs, of 8 functions."""
    blocks = network_blocks(2, (4, 5), 3, n_embedded=1)
    assert [tuple(block) for block in blocks] == [
        (1, "weights", "hidden_weights", (4, 5), 0, 20),
        (2, "weights", "hidden_weights", (5, 4), 20, 40),
        (3, "weights", "output_weights", (3, 5), 40, 55),
        (3, "shift", "biases", (3,), 55, 58),
        (1, "scale", "gamma", (4,), 58, 62),
        (2, "scale", "gamma", (5,), 62, 67),
        (1, "shift", "beta", (4,), 67, 71),
        (2, "shift", "beta", (5,), 71, 76),
        (1, "embeddings", "embeddings", (1, 8, 5), 76, 116),
    ]
    assert {block.role for block in blocks if block.kind == "weights" and block.layer < 3} == set(HIDDEN_WEIGHTS)
    plain = network_blocks(2, (4,), 3, batch_norm=False)
    assert [(block.layer, block.kind, block.role, block.start) for block in plain] == [
        (1, "weights", "hidden_weights", 0), (2, "weights", "output_weights", 8), (1, "shift", "biases", 20),
        (2, "shift", "biases", 24),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        ({}, set()),
        ({"embedded": False}, {"embeddings"}),
        ({"batch_norm": False}, {"gamma", "beta"}),
        ({"n_hidden": 1, "embedded": False}, {"embeddings"}),
        ({"n_hidden": 0}, {"hidden_weights", "gamma", "beta"}),
    ],
)
def test_roles_that_a_kind_of_network_lacks(kind, lacking):
    assert lacking_roles(**kind) == lacking


@pytest.mark.parametrize(
    ("l2", "l2_targets", "message"),
    [
        (-0.1, "weights", "l2 must be a finite number >= 0 .* got -0.1"),
        (-0.1, "none", "l2 must be a finite number >= 0"),
        (float("nan"), "all", "l2 must be a finite number >= 0"),
        ({"gamma": float("inf")}, "all", "l2 must be a finite number >= 0"),
        ({"gammas": 0.1}, "all", "l2 names the unknown role 'gammas'; the roles are"),
        (0.1, ("weights", "bias"), "l2_targets names the unknown role 'bias'"),
        ("0.1", "weights", "l2 must be a finite number >= 0"),
        (0.1, "weight", "l2_targets must be one of .* got 'weight'"),
    ],
)
def test_bad_l2_is_told_in_one_sentence(l2, l2_targets, message):
    with pytest.raises(ValueError, match=message):
        l2_by_role(l2, l2_targets)
