"""The stack's hand-derived gradient against torch's autograd on one ordinary network per member."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier

from sk_bnreg import BNMLPClassifier
from sk_bnreg.engine.dropout import Dropout
from sk_bnreg.engine.functions import ACTIVATIONS, StackedLoss
from sk_bnreg.engine.rows import batch_bounds
from sk_bnreg.engine.stack import StackedMLP
from sk_bnreg.engine.training_pass import TrainingPass

TORCH_ACTIVATIONS = {
    "identity": torch.nn.Identity,
    "logistic": torch.nn.Sigmoid,
    "tanh": torch.nn.Tanh,
    "relu": torch.nn.ReLU,
    "gelu": torch.nn.GELU,
    "silu": torch.nn.SiLU,
}
M, D, C, B = 3, 5, 3, 11


def make_stack(**kwargs):
    stack = StackedMLP(n_members=M, n_features=D, hidden_layer_sizes=(7, 4), n_outputs=C, dtype=torch.float64, **kwargs)
    # the second member's embeddings are piecewise-linear
    quantiles = np.linspace(-2, 2, 9)[:, None] ** 3 + np.zeros(len(kwargs.get("embedded", ())))
    stack.reset_parameters([torch.Generator().manual_seed(m) for m in range(M)], [0.2, quantiles, 0.2])
    with torch.no_grad():  # away from the special values 1 and 0
        for role in ("gamma", "beta"):
            stack.theta[:, stack.slices[role]] += torch.linspace(-0.3, 0.4, stack.theta[:, stack.slices[role]].shape[1])
    return stack


class Embedded(torch.nn.Module):
    """Features, then of each embedded one three sums of weighted functions, written out."""

    def __init__(self, columns, parameters, piecewise):
        super().__init__()
        self.columns, self.parameters_ = columns, torch.nn.Parameter(parameters)
        self.function = torch.nn.Hardtanh(0, 1) if piecewise else torch.cos

    def forward(self, x):
        values = [x]
        for column, table in zip(self.columns, self.parameters_, strict=True):
            for k in range(3):
                terms = [w[2 + k] * self.function(w[0] * x[:, column] + w[1]) for w in table]
                values.append(sum(terms)[:, None])
        return torch.cat(values, dim=1)


def ordinary_network(stack, m):
    """Member m as a torch.nn.Sequential with copies of its parameters, and those in the order of theta."""
    block = {role: [view[m].detach().clone() for view in views] for role, views in stack.blocks(stack.theta).items()}
    layers, by_role = [], {role: [] for role in block}
    if block["embeddings"]:
        layers.append(Embedded(stack.embedded.tolist(), *block["embeddings"], stack.piecewise[m]))
        by_role["embeddings"].append(layers[0].parameters_)
    for k, weight in enumerate([*block["hidden_weights"], *block["output_weights"]]):
        last = k == len(block["hidden_weights"])
        linear = torch.nn.Linear(
            weight.shape[1], weight.shape[0], bias=last or not stack.batch_norm, dtype=torch.float64
        )
        linear.weight.data = weight
        by_role["output_weights" if last else "hidden_weights"].append(linear.weight)
        if linear.bias is not None:
            linear.bias.data = block["biases"][len(by_role["biases"])]
            by_role["biases"].append(linear.bias)
        layers.append(linear)
        if not last and stack.batch_norm:
            norm = torch.nn.BatchNorm1d(weight.shape[0], dtype=torch.float64)
            norm.weight.data, norm.bias.data = block["gamma"][k], block["beta"][k]
            by_role["gamma"].append(norm.weight)
            by_role["beta"].append(norm.bias)
            layers.append(norm)
        if not last:
            layers.append(TORCH_ACTIVATIONS[stack.activation]())
    return torch.nn.Sequential(*layers), [parameter for role in stack.slices for parameter in by_role[role]]


TORCH_LOSSES = {
    "binary": lambda z, t: torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none").sum(1),
    "multiclass": lambda z, t: torch.nn.functional.cross_entropy(z, t, reduction="none"),
    "squared": lambda z, t: 0.5 * ((z - t) ** 2).mean(1),
}


def make_batch(loss, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(M, D, B, generator=generator, dtype=torch.float64)
    if loss == "multiclass":
        return x, torch.randint(0, C, (M, B), generator=generator)
    return x, torch.rand(M, C, B, generator=generator, dtype=torch.float64).round()


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(("activation", "loss"), list(itertools.product(ACTIVATIONS, TORCH_LOSSES)))
def test_gradient_equals_autograd_on_an_ordinary_network(activation, loss, batch_norm):
    stack = make_stack(activation=activation, batch_norm=batch_norm)
    x, target = make_batch(loss)
    losses = TrainingPass(stack, StackedLoss(loss))(x, target, None)
    for m in range(M):
        network, parameters = ordinary_network(stack, m)
        expected = TORCH_LOSSES[loss](network(x[m].T), target[m].mT if target.dim() == 3 else target[m]).mean()
        gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(expected, parameters)])
        torch.testing.assert_close(losses[m], expected.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(stack.theta.grad[m], gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_gradient_of_embeddings_equals_autograd(batch_norm):
    stack = make_stack(batch_norm=batch_norm, embedded=(4, 0, 1))
    training = TrainingPass(stack, StackedLoss("multiclass"))
    for seed, n_rows in enumerate((B, 6, B)):  # batches of two sizes
        x, target = (part[..., :n_rows] for part in make_batch("multiclass", seed))
        losses = training(x, target, None)
        for m in range(M):
            network, parameters = ordinary_network(stack, m)
            expected = torch.nn.functional.cross_entropy(network(x[m].T), target[m])
            gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(expected, parameters)])
            torch.testing.assert_close(losses[m], expected.detach(), rtol=1e-12, atol=0)
            torch.testing.assert_close(stack.theta.grad[m], gradient, rtol=1e-9, atol=1e-13)
            torch.testing.assert_close(stack.train()(x)[m].T, network(x[m].T), rtol=1e-12, atol=1e-14)


def test_embeddings_start_smooth():
    """At a fifth of a period per unit of the feature, each member with cosines of its own."""
    stack = StackedMLP(n_members=2, n_features=300, hidden_layer_sizes=(2,), n_outputs=1, embedded=range(300))
    stack.reset_parameters([torch.Generator().manual_seed(m) for m in range(2)], [0.2] * 2)
    parameters = stack.blocks(stack.theta.detach())["embeddings"][0]  # (M, E, F, 2 + S)
    frequency, phase, weight = parameters.split([1, 1, 3], dim=3)
    assert abs(frequency.std().item() - 0.4 * np.pi) < 5 * 0.4 * np.pi / (2 * frequency.numel()) ** 0.5
    assert 3.1 < phase.abs().max().item() <= np.pi
    assert 0.34 < weight.abs().max().item() <= 8**-0.5
    assert not torch.equal(parameters[0], parameters[1])


def test_pieces_of_lines_start_between_quantiles_with_equally_many_rows():
    """Each rises from 0 to 1, the next where the last ended; members divide at other quantiles."""
    rows = np.sort(np.random.default_rng(0).lognormal(size=4001))
    quantiles = np.quantile(rows, np.linspace(0, 1, 33))[:, None]
    stack = StackedMLP(n_members=2, n_features=1, hidden_layer_sizes=(2,), n_outputs=1, embedded=[0])
    stack.reset_parameters([torch.Generator().manual_seed(m) for m in range(2)], [quantiles] * 2)
    parameters = stack.blocks(stack.theta.detach())["embeddings"][0].double().numpy()[:, 0]  # (M, F, 2 + S)
    slope, shift = parameters[..., 0], parameters[..., 1]
    beyond = 0.01 / 1.02  # a hundredth of a piece at both ends
    begin, end = (beyond - shift) / slope, (1 - beyond - shift) / slope
    np.testing.assert_allclose(begin[:, 0], rows[0], rtol=1e-4)
    np.testing.assert_allclose(end[:, -1], rows[-1], rtol=1e-4)
    np.testing.assert_allclose(begin[:, 1:], end[:, :-1], rtol=1e-4)
    shares = np.array([np.diff(np.searchsorted(rows, own)) for own in end]) / len(rows)
    np.testing.assert_allclose(shares[:, :-1], 1 / 8, atol=0.01)
    assert abs(begin[0, 1] - begin[1, 1]) > 0.01


@pytest.mark.parametrize("values", [[0, 1, 2], [1e-40, 2e-40, 3e-40], [1e18, 1.0000001e18, -1e18], [5, 5.0000005, 9]])
def test_pieces_of_few_tiny_huge_or_close_values_are_finite(values):
    quantiles = np.quantile(np.float32(values), np.linspace(0, 1, 33), method="inverted_cdf").astype(float)[:, None]
    stack = StackedMLP(n_members=1, n_features=1, hidden_layer_sizes=(2,), n_outputs=1, embedded=[0]).eval()
    stack.reset_parameters([torch.Generator()], [quantiles])
    outputs = stack(torch.tensor([[[*values, 1e19, -1e19]]], dtype=torch.float32))
    assert outputs.isfinite().all()
    assert len(outputs[0, 0, :3].unique()) == 1 + len(np.unique(np.float32(values))) - (max(values) < 1e-30) * 2 - 1


class PassAsFunction(torch.autograd.Function):
    """A training pass as autograd sees it: parameters in, losses out."""

    @staticmethod
    def forward(ctx, theta, stack, loss, batch):
        stack.load({**stack.state(), "theta": theta.clone()})
        losses = TrainingPass(stack, StackedLoss(loss))(*batch)
        ctx.save_for_backward(stack.theta.grad)
        return losses

    @staticmethod
    def backward(ctx, grad_losses):
        return grad_losses[:, None] * ctx.saved_tensors[0], None, None, None


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("loss", TORCH_LOSSES)
def test_gradient_passes_torchs_gradcheck(loss, batch_norm, weighted):
    """Against finite differences; autograd has no part in it."""
    stack = make_stack(activation="tanh", batch_norm=batch_norm, embedded=(0, 3) if loss == "squared" else ())
    weight = torch.rand(M, B, generator=torch.Generator().manual_seed(1), dtype=torch.float64) if weighted else None
    batch = (*make_batch(loss), weight)
    theta = stack.theta.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(PassAsFunction.apply, (theta, stack, loss, batch))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_integer_weights_equal_repeated_rows(batch_norm):
    x, target = make_batch("multiclass")
    weight = torch.tensor([3, 1, 2, 1, 1, 4, 1, 2, 1, 1, 5], dtype=torch.float64)
    weighted, repeated = make_stack(batch_norm=batch_norm), make_stack(batch_norm=batch_norm)
    loss = TrainingPass(weighted, StackedLoss("multiclass"))(x, target, weight.expand(M, B))
    rows = torch.repeat_interleave(torch.arange(B), weight.long())
    expected = TrainingPass(repeated, StackedLoss("multiclass"))(x[:, :, rows], target[:, rows], None)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(weighted.theta.grad, repeated.theta.grad, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(weighted.running_mean, repeated.running_mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(weighted.running_var, repeated.running_var, rtol=1e-12, atol=0)


def test_running_statistics_are_a_mean_of_ten_steps_and_then_move_by_a_tenth():
    stack = make_stack()
    training = TrainingPass(stack, StackedLoss("squared"))
    first_weight = stack.blocks(stack.theta.data)["hidden_weights"][0]
    means, variances = [], []
    for seed in range(12):
        x, target = make_batch("squared", seed)
        training(x, target, None)
        z = torch.bmm(first_weight, x)
        means.append(z.mean(2))
        variances.append(z.var(2, correction=0) + stack.normalisation.eps)
    for values, running in ((means, stack.running_mean), (variances, stack.running_var)):
        expected = torch.stack(values[:10]).mean(0)
        for value in values[10:]:
            expected = 0.9 * expected + 0.1 * value
        torch.testing.assert_close(running[:, :7], expected)


def test_evaluation_uses_the_running_statistics():
    stack = make_stack().eval()
    stack.running_mean += 0.3
    stack.running_var *= 1.7
    x, _ = make_batch("squared")
    for m in range(M):
        network, _ = ordinary_network(stack, m)
        for norm in network:
            if isinstance(norm, torch.nn.BatchNorm1d):
                norm.running_mean += 0.3
                norm.running_var.fill_(1.7 - norm.eps)
        torch.testing.assert_close(stack(x)[m], network.eval()(x[m].T).T)


def test_dropout_gradient_equals_autograd_with_the_same_masks():
    stack = make_stack(batch_norm=False)
    x, target = make_batch("squared")
    first, second = (Dropout([0.5, 0.0, 0.3], [7, 4], range(M), 3, x) for _ in range(2))
    TrainingPass(stack, StackedLoss("squared"), first)(x, target, None)
    masks = second.draw(B)
    assert masks[0][1].eq(1).all()
    for m in range(M):
        network, parameters = ordinary_network(stack, m)
        a = torch.relu(network[0](x[m].T)) * masks[0][m].T
        a = torch.relu(network[2](a)) * masks[1][m].T
        loss = TORCH_LOSSES["squared"](network[4](a), target[m].T).mean()
        gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)])
        torch.testing.assert_close(stack.theta.grad[m], gradient, rtol=1e-9, atol=1e-13)


def test_dropout_keeps_the_mean_and_drops_its_share():
    masks = Dropout([0.25], [200], [0], 0, torch.zeros(1, dtype=torch.float64)).draw(5000)[0]
    dropped = masks.eq(0).double().mean().item()
    assert abs(dropped - 0.25) < 5 * (0.25 * 0.75 / 1e6) ** 0.5
    assert set(masks.unique().tolist()) == {0.0, 1 / 0.75}


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_loss_and_gradient_equal_scikit_learns_mlp(n_classes, activation):
    """One SGD step at rate 1 from the same weights: alpha / batch_size is l2."""
    rng = np.random.default_rng(0)
    X, y, alpha = rng.standard_normal((40, 6)), rng.integers(0, n_classes, 40), 0.7
    theirs = MLPClassifier(
        (9, 5),
        activation,
        solver="sgd",
        alpha=alpha,
        batch_size=40,
        max_iter=1,
        random_state=0,
        momentum=0,
        nesterovs_momentum=False,
        learning_rate_init=1e-12,
    )
    ours = BNMLPClassifier(
        (9, 5),
        activation,
        batch_norm=False,
        solver="sgd",
        l2=alpha / 40,
        l2_mode="loss",
        momentum=0,
        batch_size=40,
        max_iter=1,
        learning_rate="constant",
        learning_rate_init=1.0,
        dtype="float64",
        warm_start=True,
        random_state=0,
        n_ensemble=1,
        numeric_embedding=None,
    )
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs.fit(X, y)
    ours.fit(X, y)
    block = ours.net_.module_.blocks(ours.net_.module_.theta.data)
    weights = block["hidden_weights"] + block["output_weights"]
    for view, coef in zip(weights, theirs.coefs_, strict=True):
        view[0] = torch.from_numpy(coef.T)
    for view, intercept in zip(block["biases"], theirs.intercepts_, strict=True):
        view[0] = torch.from_numpy(intercept)
    sizes = [6, 9, 5, 1 if n_classes == 2 else n_classes]
    coef_room = [np.empty((a, b)) for a, b in itertools.pairwise(sizes)]
    intercept_room = [np.empty(b) for b in sizes[1:]]
    deltas = [np.empty((40, size)) for size in sizes[1:]]
    codes = y[:, None] if n_classes == 2 else np.eye(n_classes)[y]
    activations = [X, *(np.empty((40, size)) for size in sizes[1:])]
    loss, coef_grads, intercept_grads = theirs._backprop(
        X, codes.astype(float), None, activations, deltas, coef_room, intercept_room
    )
    before = [coef.copy() for coef in ours.coefs_ + ours.intercepts_]
    ours.fit(X, y)
    steps = [a - b for a, b in zip(before, ours.coefs_ + ours.intercepts_, strict=True)]
    for step, gradient in zip(steps, [*coef_grads, *intercept_grads], strict=True):
        np.testing.assert_allclose(step, gradient, atol=1e-9)
    penalty = 0.5 * alpha / 40 * sum((coef**2).sum() for coef in ours.coefs_)
    penalty_before = 0.5 * alpha / 40 * sum((coef**2).sum() for coef in theirs.coefs_)
    assert ours.loss_curve_[-1] - penalty == pytest.approx(loss - penalty_before, abs=1e-9)


def test_batches_lose_no_row_and_never_end_on_a_single_one():
    for n_rows in range(1, 60):
        for batch_size in range(2, 20):
            bounds = batch_bounds(n_rows, batch_size)
            sizes = np.diff(bounds)
            assert (bounds[0], bounds[-1]) == (0, n_rows)
            assert n_rows == 1 or sizes.min() >= 2
            assert sizes.max() <= batch_size + 1


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_output_is_larger_than_the_bound(activation, batch_norm):
    stack = make_stack(activation=activation, batch_norm=batch_norm, embedded=[1, 3]).eval()
    generator = torch.Generator().manual_seed(0)
    if batch_norm:
        stack.running_mean.normal_(generator=generator)
        stack.running_var.uniform_(0.1, 2.0, generator=generator)
    for largest in (0.1, 1.0, 30.0):
        x = largest * (2 * torch.rand(M, D, 4000, generator=generator, dtype=torch.float64) - 1)
        hidden = []
        with torch.no_grad():
            outputs = stack(x, hidden).abs().amax((1, 2))
        reached = torch.stack([outputs, *(values.abs().amax((1, 2)) for values in hidden)]).amax(0)
        assert (reached <= stack.largest_output(largest)).all()


def test_the_bound_is_reached_by_the_worst_input_of_a_linear_network():
    stack = make_stack(activation="identity", batch_norm=False)
    with torch.no_grad():
        stack.theta.abs_()
        outputs = stack.eval()(torch.full((M, D, 1), 2.0, dtype=torch.float64))
    torch.testing.assert_close(stack.largest_output(2.0), outputs.amax((1, 2)))
