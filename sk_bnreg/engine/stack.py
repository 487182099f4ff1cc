"""Many MLPs of one structure as a single torch module, with a hand-derived gradient.

Activations are features-first, ``(M, H, B)``: M members, H units, B rows. Then a layer
of all members is one `torch.bmm`, and the moments of batch norm are reductions over
contiguous rows.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise, zip_longest
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sk_bnreg.engine.embedding import SIZE, EmbeddingPass, draw_embeddings, embed, embedding_shape
from sk_bnreg.engine.roles import ROLES

aten = torch.ops.aten

# One of two threads that are the first to call a function of MKL's may get four digits (pytorch issue 188792).
for _function in (torch.cos, torch.sin, torch.exp, torch.log, torch.sqrt, torch.tanh, torch.erf):
    for _dtype in (torch.float32, torch.float64):
        _function(torch.zeros(1, dtype=_dtype))


class Activation(NamedTuple):
    """A function z -> a and its chain rule (gradient at a, z, a) -> gradient at z.

    It writes a over z where the chain rule needs a alone, and the gradient at z over that at a.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]


ACTIVATIONS = {
    "identity": Activation(lambda z: z, lambda g, z, a: g),
    "logistic": Activation(torch.sigmoid_, lambda g, z, a: aten.sigmoid_backward.grad_input(g, a, grad_input=g)),
    "tanh": Activation(torch.tanh_, lambda g, z, a: aten.tanh_backward.grad_input(g, a, grad_input=g)),
    "relu": Activation(torch.relu_, lambda g, z, a: aten.threshold_backward.grad_input(g, a, 0, grad_input=g)),
    "gelu": Activation(F.gelu, lambda g, z, a: aten.gelu_backward.grad_input(g, z, grad_input=g)),
    "silu": Activation(F.silu, lambda g, z, a: aten.silu_backward.grad_input(g, z, grad_input=g)),
}


class StackedMLP(nn.Module):
    """M multilayer perceptrons whose parameters are the rows of one flat tensor.

    The columns of `theta` are grouped by role, in the order of `ROLES`, so that a
    solver can address a role as one slice (`slices`) and a layer as a view (`blocks`).
    With batch norm the hidden layers have no bias: beta takes its place.

    Parameters
    ----------
    n_members, n_features, n_outputs : int
        M, D and C.
    hidden_layer_sizes : sequence of int
        Units of each hidden layer.
    activation : str
        A key of `ACTIVATIONS`.
    batch_norm : bool
        Normalise each hidden layer before its activation.
    batch_norm_eps : float
        Added to the variance.
    embedded : sequence of int
        Features that the first layer is also given a periodic embedding of.
    dtype : torch.dtype

    Shape
    -----
    Input ``(M, D, B)``, output ``(M, C, B)``.

    Examples
    --------
    >>> import torch
    >>> from sk_bnreg.engine.stack import StackedMLP
    >>> stack = StackedMLP(n_members=3, n_features=4, hidden_layer_sizes=(8,), n_outputs=2)
    >>> stack(torch.zeros(3, 4, 5)).shape
    torch.Size([3, 2, 5])
    """

    embedded: Tensor

    def __init__(
        self,
        *,
        n_members: int,
        n_features: int,
        hidden_layer_sizes: Sequence[int],
        n_outputs: int,
        activation: str = "relu",
        batch_norm: bool = True,
        batch_norm_eps: float = 1e-5,
        embedded: Sequence[int] = (),
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        hidden = list(hidden_layer_sizes)
        self.n_features = n_features
        self.activation = activation
        self.batch_norm = batch_norm = batch_norm and bool(hidden)
        self.batch_norm_eps = batch_norm_eps
        self.register_buffer("embedded", torch.tensor(embedded, dtype=torch.int64), persistent=False)
        sizes = [n_features + SIZE * len(embedded), *hidden, n_outputs]
        weights: list[tuple[int, ...]] = [(out, into) for into, out in pairwise(sizes)]
        units: list[tuple[int, ...]] = [(size,) for size in hidden]
        self.shapes: dict[str, list[tuple[int, ...]]] = {
            "hidden_weights": weights[:-1],
            "output_weights": weights[-1:],
            "biases": [*([] if batch_norm else units), (n_outputs,)],
            "gamma": units if batch_norm else [],
            "beta": units if batch_norm else [],
            "embeddings": [embedding_shape(len(embedded))] if len(embedded) else [],
        }
        self.slices: dict[str, slice] = {}
        stop = 0
        for role in ROLES:
            start, stop = stop, stop + sum(prod(shape) for shape in self.shapes[role])
            self.slices[role] = slice(start, stop)
        self.theta = nn.Parameter(torch.zeros(n_members, stop, dtype=dtype))
        n_normalised = sum(hidden) if batch_norm else 0
        self.register_buffer("running_mean", torch.zeros(n_members, n_normalised, dtype=dtype))
        # the variance with eps already added, which is what the kernel hands back
        self.register_buffer("running_var", torch.ones(n_members, n_normalised, dtype=dtype))
        # training steps taken: the running statistics start as a plain mean over them
        self.n_steps = 0

    def reset_parameters(self, generators: Sequence[torch.Generator]) -> None:
        """Draw the initial weights of each member as scikit-learn's MLPs do: uniform, Glorot's bound."""
        gain = 2.0 if self.activation == "logistic" else 6.0
        layers = self.shapes["hidden_weights"] + self.shapes["output_weights"]
        bounds = [(gain / sum(shape)) ** 0.5 for shape in layers]
        bound = torch.zeros_like(self.theta[:1], dtype=torch.float64, device="cpu")
        views = self.blocks(bound)
        for view, value in zip(views["hidden_weights"] + views["output_weights"], bounds, strict=True):
            view.fill_(value)
        for view, value in zip(reversed(views["biases"]), reversed(bounds), strict=False):
            view.fill_(value)
        n_drawn = self.slices["embeddings"].start
        draws = torch.stack([torch.rand(n_drawn, generator=g, dtype=torch.float64) for g in generators])
        with torch.no_grad():
            self.theta[:, :n_drawn] = bound[:, :n_drawn] * (2 * draws - 1)
            self.theta[:, self.slices["gamma"]] = 1.0
            for parameters in self.blocks(self.theta)["embeddings"]:
                draw_embeddings(parameters, generators)

    def blocks(self, flat: Tensor) -> dict[str, list[Tensor]]:
        """View ``(M, P)`` as each role's layers, ``(M, *shape)``."""
        views: dict[str, list[Tensor]] = {}
        for role, shapes in self.shapes.items():
            parts = flat[:, self.slices[role]].split([prod(shape) for shape in shapes], dim=1) if shapes else ()
            views[role] = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        return views

    def running_statistics(self) -> list[tuple[Tensor, Tensor]]:
        """View the running mean and variance + eps of each hidden layer, ``(M, H)``."""
        sizes = [shape[0] for shape in self.shapes["gamma"]]
        return list(zip(self.running_mean.split(sizes, 1), self.running_var.split(sizes, 1), strict=True))

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes, one row per member."""
        return {"theta": self.theta.data, "running_mean": self.running_mean, "running_var": self.running_var}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a `state`, whose rows become the members."""
        self.theta.data, self.theta.grad = state["theta"], None
        self.running_mean, self.running_var = state["running_mean"], state["running_var"]

    def forward(self, x: Tensor, hidden: list[Tensor] | None = None) -> Tensor:
        """Compute the outputs; batch statistics in training mode, running ones otherwise.

        A list `hidden` is given each hidden layer's activations.
        """
        block = self.blocks(self.theta)
        statistics = self.running_statistics()
        for parameters in block["embeddings"]:
            x = torch.cat([x, embed(x[:, self.embedded], parameters)], dim=1)
        for layer, weight in enumerate(block["hidden_weights"]):
            x = torch.bmm(weight, x)  # (M, H, B)
            if self.batch_norm:
                if self.training:
                    var, mean = torch.var_mean(x, dim=2, correction=0)
                    var = var + self.batch_norm_eps
                else:
                    mean, var = statistics[layer]
                scale = block["gamma"][layer] * var.rsqrt()
                x = torch.addcmul((block["beta"][layer] - mean * scale)[:, :, None], x, scale[:, :, None])
            else:
                x = x + block["biases"][layer][:, :, None]
            x = ACTIVATIONS[self.activation].forward(x)
            if hidden is not None:
                hidden.append(x)
        return torch.baddbmm(block["biases"][-1][:, :, None], block["output_weights"][0], x)  # (M, C, B)

    def largest_output(self, largest_input: float) -> Tensor:
        """Return a size that no value on the way to the outputs exceeds, ``(M,)``, inf or nan if there is none.

        It follows the size of the largest possible values through the layers, with the running statistics.
        """
        block = self.blocks(self.theta.data.abs())
        x = self.theta.data.new_full((len(self.theta), self.n_features), largest_input)
        reached = [x]
        for parameters in block["embeddings"]:
            frequency, phase, weight = parameters.split([1, 1, SIZE], dim=3)
            reached.append((frequency * largest_input + phase).flatten(1))
            x = torch.cat([x, weight.sum(2).flatten(1)], dim=1)
        for layer, weight in enumerate(block["hidden_weights"]):
            x = (weight @ x[:, :, None])[:, :, 0]
            reached.append(x)
            if self.batch_norm:
                mean, var = self.running_statistics()[layer]
                x = block["gamma"][layer] * var.rsqrt() * (x + mean.abs()) + block["beta"][layer]
            else:
                x = x + block["biases"][layer]
            x = x.clamp(min=1.0)  # a logistic unit's largest value; the other activations make nothing larger
            reached.append(x)
        x = torch.baddbmm(block["biases"][-1][:, :, None], block["output_weights"][0], x[:, :, None])[:, :, 0]
        return torch.cat([*reached, x], 1).amax(1)


class StackedLoss(nn.Module):
    """The loss of every row, and its gradient at the outputs.

    Parameters
    ----------
    kind : {"binary", "multiclass", "squared"}
        "binary": logistic loss summed over outputs (one logit, or one per label);
        "multiclass": softmax cross-entropy, targets are class indices ``(M, B)``;
        "squared": half the squared error, averaged over outputs.

    Shape
    -----
    Outputs ``(M, C, B)``, targets ``(M, C, B)`` (or ``(M, B)``), result ``(M, B)``.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every row."""
        if self.kind == "binary":
            return F.binary_cross_entropy_with_logits(outputs, target, reduction="none").sum(1)
        if self.kind == "multiclass":
            return F.cross_entropy(outputs, target, reduction="none")
        return 0.5 * (outputs - target).square().mean(1)

    def gradient(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the gradient of every row's loss at its outputs."""
        if self.kind == "binary":
            return torch.sigmoid(outputs).sub_(target)
        if self.kind == "multiclass":
            index = target[:, None]
            return torch.softmax(outputs, 1).scatter_add_(1, index, outputs.new_full((), -1).expand(index.shape))
        return (outputs - target).div_(outputs.shape[1])


class TrainingPass:
    """One forward and backward pass over a batch of every member.

    Writes the gradient of the summed member losses to ``stack.theta.grad`` and moves the
    running statistics. It holds views of the stack's tensors: build a new one when the
    members change.

    Parameters
    ----------
    stack : StackedMLP
    loss : StackedLoss
    dropout : Dropout or None
        Draws the masks of the hidden activations.
    """

    def __init__(self, stack: StackedMLP, loss: StackedLoss, dropout: "Dropout | None" = None):
        if stack.theta.grad is None:
            stack.theta.grad = torch.zeros_like(stack.theta)
        self.stack = stack
        self.loss = loss
        self.dropout = dropout
        self.activation = ACTIVATIONS[stack.activation]
        self.value = _layers(stack, stack.theta.data)
        self.grad = _layers(stack, stack.theta.grad)
        means_and_variances = zip(*stack.running_statistics(), strict=True) if stack.batch_norm else ()
        self.statistics = [view[:, :, None] for views in means_and_variances for view in views]
        self.eps = stack.theta.data.new_tensor(stack.batch_norm_eps)
        self.buffers: dict[int, _Buffers] = {}
        pairs = zip(*(stack.blocks(flat)["embeddings"] for flat in (stack.theta.data, stack.theta.grad)), strict=True)
        self.embedding = next((EmbeddingPass(*pair) for pair in pairs), None)

    def __call__(self, x: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """Return each member's mean loss over its rows, ``(M,)``.

        Parameters
        ----------
        x : Tensor of shape (M, D, B)
        target : Tensor of shape (M, C, B) or (M, B)
        weight : Tensor of shape (M, B) or None
            Row weights, which also weigh the moments of batch norm; None for ones.
        """
        n_features, n_rows = x.shape[1:]
        if self.embedding is not None:
            x = torch.cat([x, self.embedding.forward(x[:, self.stack.embedded])], dim=1)
        if n_rows not in self.buffers:
            self.buffers[n_rows] = _Buffers(self.value, n_rows)
        buffers = self.buffers[n_rows]
        share = None if weight is None else (weight / weight.sum(1, keepdim=True))[:, None]  # (M, 1, B)
        masks = None if self.dropout is None else self.dropout.draw(n_rows)
        *hidden, last = self.value
        inputs, before, after, moments = [x], [], [], []
        for layer, value in enumerate(hidden):
            z = torch.bmm(value.weight, inputs[-1], out=buffers.linear[layer])
            if value.gamma is not None:
                moments.append(self._moments(z, buffers.normalised[layer], share))
                z = buffers.normalised[layer].mul_(value.gamma * moments[-1].rstd)
            before.append(z.add_(value.shift))
            after.append(self.activation.forward(before[layer]))
            inputs.append(after[layer] if masks is None else after[layer] * masks[layer])
        outputs = torch.bmm(last.weight, inputs[-1]).add_(last.shift)  # (M, C, B)

        row_loss = self.loss(outputs, target)  # (M, B)
        delta = self.loss.gradient(outputs, target)  # (M, C, B)
        if share is None:
            loss = row_loss.sum(1).div_(n_rows)
            delta.div_(n_rows)
        else:
            loss = (row_loss * share[:, 0]).sum(1)
            delta.mul_(share)

        for layer, (value, grad) in reversed([*enumerate(zip(self.value, self.grad, strict=True))]):
            if layer < len(hidden):
                if masks is not None:
                    delta.mul_(masks[layer])
                delta = self.activation.backward(delta, before[layer], after[layer])
            if grad.gamma is None:
                torch.sum(delta, 2, keepdim=True, out=grad.shift)
            else:
                delta = self._normalise_backward(layer, delta, buffers.linear[layer], moments[layer], share)
            torch.bmm(delta, inputs[layer].mT, out=grad.weight)
            if layer:
                delta = torch.bmm(value.weight.mT, delta, out=buffers.delta[layer - 1])  # (M, H, B)
            elif self.embedding is not None:
                self.embedding.backward(torch.bmm(value.weight[:, :, n_features:].mT, delta))
        if moments:
            self._move_running_statistics(moments)
        return loss

    def _moments(self, z: Tensor, centred: Tensor, share: Tensor | None) -> "_Moments":
        """Return the moments over the rows of z, and write z minus its mean to `centred`."""
        if share is None:
            mean = z.mean(2, keepdim=True)
            norm = torch.linalg.vector_norm(torch.sub(z, mean, out=centred), dim=2, keepdim=True)
            var = torch.addcmul(self.eps, norm, norm, value=1 / z.shape[2])
        else:
            mean = (z * share).sum(2, keepdim=True)
            var = (torch.sub(z, mean, out=centred).square() * share).sum(2, keepdim=True).add_(self.eps)
        return _Moments(mean, var, var.rsqrt())

    def _move_running_statistics(self, moments: "list[_Moments]") -> None:
        """Average in the batch moments: a plain mean over the first ten steps, then with momentum 0.1."""
        self.stack.n_steps += 1
        batch = [layer.mean for layer in moments] + [layer.var for layer in moments]
        torch._foreach_lerp_(self.statistics, batch, max(0.1, 1 / self.stack.n_steps))

    def _normalise_backward(
        self, layer: int, delta: Tensor, z: Tensor, moments: "_Moments", share: Tensor | None
    ) -> Tensor:
        """Write the gradients of gamma and beta, return that at z."""
        gamma, grad = self.value[layer].gamma, self.grad[layer]
        assert gamma is not None
        assert grad.gamma is not None
        mean, _, rstd = moments
        if share is None:
            rows = (1, -1, z.shape[2])  # (1, M*H, B)
            delta, grad_gamma, grad_beta = aten.native_batch_norm_backward.default(
                delta.view(rows),
                z.view(rows),
                gamma.reshape(-1),
                None,
                None,
                mean.view(-1),
                rstd.view(-1),
                True,
                self.stack.batch_norm_eps,
                [True, True, True],
            )
            grad.gamma.copy_(grad_gamma.view_as(gamma))
            grad.shift.copy_(grad_beta.view_as(gamma))
            return delta.view_as(z)
        normal = (z - mean) * rstd
        grad_gamma, grad_beta = (delta * normal).sum(2, keepdim=True), delta.sum(2, keepdim=True)
        grad.gamma.copy_(grad_gamma)
        grad.shift.copy_(grad_beta)
        return gamma * rstd * (delta - share * torch.addcmul(grad_beta, normal, grad_gamma))


class _Moments(NamedTuple):
    """Of a layer's rows: mean, variance + eps and its root's inverse, each ``(M, H, 1)``."""

    mean: Tensor
    var: Tensor
    rstd: Tensor


class _Layer(NamedTuple):
    """Views of a layer's parameters, or of their gradients."""

    weight: Tensor  # (M, out, in)
    shift: Tensor  # bias or beta, (M, out, 1)
    gamma: Tensor | None  # (M, out, 1), or None where batch norm is not


def _layers(stack: StackedMLP, flat: Tensor) -> list[_Layer]:
    block = stack.blocks(flat)
    columns = {role: [view[:, :, None] for view in block[role]] for role in ("biases", "gamma", "beta")}
    return [
        _Layer(weight, shift, gamma)
        for weight, shift, gamma in zip_longest(
            block["hidden_weights"] + block["output_weights"], columns["beta"] + columns["biases"], columns["gamma"]
        )
    ]


class _Buffers:
    """What a pass over `n_rows` rows writes: allocated once, since each step would pay for fresh pages."""

    def __init__(self, layers: Sequence[_Layer], n_rows: int):
        def empty() -> list[Tensor]:
            return [layer.weight.new_empty(*layer.weight.shape[:2], n_rows) for layer in layers[:-1]]

        self.linear, self.delta = empty(), empty()
        self.normalised = [] if layers[0].gamma is None else empty()


class Dropout:
    """Inverted dropout masks of a stack's members, from a counter-based generator that the compiled kernel shares.

    Parameters
    ----------
    rates : sequence of float
        The share of units that each member drops.
    units : sequence of int
        Units of each hidden layer.
    seeds : sequence of int
        One per member.
    step : int
        Steps that lie behind.
    like : Tensor
        Of the masks' dtype and device.
    """

    def __init__(self, rates: Sequence[float], units: Sequence[int], seeds: Sequence[int], step: int, like: Tensor):
        self.units, self.seeds, self.step, self.like = units, seeds, step, like
        self.n_kept = torch.tensor([n_kept(rate) for rate in rates], device=like.device)[:, None, None]

    def draw(self, n_rows: int) -> tuple[Tensor, ...]:
        """Return the next step's mask per hidden layer, ``(M, H, B)``, with mean one.

        A unit is kept if 16 bits of a hash of its place in the batch and the step's key are below a threshold.
        """
        keys = torch.tensor([key_of_step(seed, self.step) for seed in self.seeds], device=self.like.device)
        self.step += 1
        first, second = keys[:, :, None, None].unbind(1)  # (M, 1, 1)
        n_units = sum(self.units)
        place = torch.arange(n_units * n_rows, device=self.like.device).view(n_rows, n_units).T  # (H, B)
        x = place ^ first
        for shift, factor, key in ((16, 0x7FEB352D, second), (15, 0x846CA68B, 0)):
            x = ((x ^ (x >> shift)) * factor & 0xFFFFFFFF) ^ key
        kept = (x >> 16) < self.n_kept
        return (kept * (2**16 / self.n_kept.to(self.like))).split(list(self.units), dim=1)


def n_kept(rate: float) -> int:
    """Return how many of 2**16 values of a hash keep a unit that is dropped at this rate."""
    return 2**16 if rate == 0 else min(round((1 - rate) * 2**16), 2**16 - 1)


def key_of_step(seed: int, step: int) -> tuple[int, int]:
    """Return two words of 32 bits for the dropout of a step: SplitMix64's output number `step`.

    References
    ----------
    Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA.
    """
    z = seed + step * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> shift)) * factor & 0xFFFFFFFFFFFFFFFF
    z ^= z >> 31
    return z & 0xFFFFFFFF, z >> 32
