"""Many MLPs of one structure as a single torch module.

Activations are features-first, ``(M, H, B)``: M members, H units, B rows. Then a layer
of all members is one `torch.bmm`, and the moments of batch norm are reductions over
contiguous rows.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sk_bnreg.engine.embedding import SIZE, draw_embeddings, embed
from sk_bnreg.engine.functions import ACTIVATIONS
from sk_bnreg.engine.normalisation import NORMALISATIONS, Kind
from sk_bnreg.engine.roles import ROLES, Block, network_blocks


class Layer(NamedTuple):
    """Views of a layer's parameters, of their gradients, or of other values in their places."""

    weight: Tensor  # (M, out, in)
    shift: Tensor  # bias, or the normalisation's, (M, out, 1)
    scale: Tensor | None  # the normalisation's, (M, out, 1), or None where there is none


class StackedMLP(nn.Module):
    """M multilayer perceptrons whose parameters are the rows of one flat tensor.

    The columns of `theta` are grouped by role, in the order of `ROLES`, so that a
    solver can address a role as one slice (`slices`) and a layer as views (`layers`).
    With batch norm the hidden layers have no bias: beta takes its place.

    Parameters
    ----------
    n_members, n_features, n_outputs : int
        M, D and C.
    hidden_layer_sizes : sequence of int
        Units of each hidden layer.
    activation : str
        A key of `ACTIVATIONS`.
    batch_norm : Kind
        A key of `NORMALISATIONS`: normalise each hidden layer before its activation.
    batch_norm_eps : float
        Added to the variance.
    embedded : sequence of int
        Features that the first layer is also given an embedding of.
    dtype : torch.dtype

    Attributes
    ----------
    theta : Parameter of shape (M, P)
    parameter_blocks : list of Block
        What the columns of `theta` are.
    slices : dict of str to slice
        The columns of each role.
    hidden : list of int
        Units of each hidden layer.
    normalisation : BatchNorm or None
    piecewise : Tensor of shape (M, 1)
        Whether a member's embeddings are piecewise-linear, or periodic.

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
    piecewise: Tensor

    def __init__(
        self,
        *,
        n_members: int,
        n_features: int,
        hidden_layer_sizes: Sequence[int],
        n_outputs: int,
        activation: str = "relu",
        batch_norm: Kind = True,
        batch_norm_eps: float = 1e-5,
        embedded: Sequence[int] = (),
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.hidden = list(hidden_layer_sizes)
        self.n_features = n_features
        self.activation = activation
        self.batch_norm = batch_norm if self.hidden else False
        make_normalisation = NORMALISATIONS[self.batch_norm]
        self.normalisation = None if make_normalisation is None else make_normalisation(batch_norm_eps)
        self.register_buffer("embedded", torch.tensor(embedded, dtype=torch.int64), persistent=False)
        self.parameter_blocks = network_blocks(
            n_features, self.hidden, n_outputs, batch_norm=self.batch_norm, n_embedded=len(embedded)
        )
        self.slices: dict[str, slice] = {}
        # blocks come in the order of their roles, so those of a role are neighbours; one without any is an empty slice
        stop = 0
        for role in ROLES:
            start, stop = stop, max([stop, *(block.stop for block in self.parameter_blocks if block.role == role)])
            self.slices[role] = slice(start, stop)
        self.theta = nn.Parameter(torch.zeros(n_members, stop, dtype=dtype))
        has_statistics = self.normalisation is not None and self.normalisation.has_statistics
        n_kept = sum(self.hidden) if has_statistics else 0
        self.register_buffer("running_mean", torch.zeros(n_members, n_kept, dtype=dtype))
        # the variance with eps already added, so that nothing is added at each use
        self.register_buffer("running_var", torch.ones(n_members, n_kept, dtype=dtype))
        # whether a member's embeddings are piecewise-linear, or periodic
        self.register_buffer("piecewise", torch.zeros(n_members, 1, dtype=torch.bool))
        # training steps taken: the running statistics start as a plain mean over them
        self.n_steps = 0

    def reset_parameters(
        self, generators: Sequence[torch.Generator], starts: Sequence[float | NDArray[np.float64]]
    ) -> None:
        """Draw the initial weights of each member as scikit-learn's MLPs do: uniform, Glorot's bound.

        `starts` are those of the members' embeddings, as `draw_embeddings` takes them.
        """
        gain = 2.0 if self.activation == "logistic" else 6.0
        bound = torch.zeros_like(self.theta[:1], dtype=torch.float64, device="cpu")
        for layer in self.layers(bound):
            limit = (gain / sum(layer.weight.shape[1:])) ** 0.5
            layer.weight.fill_(limit)
            if layer.scale is None:  # the shifts of a normalisation start at 0
                layer.shift.fill_(limit)
        others = self.slices["embeddings"]
        n_drawn = bound.shape[1] - (others.stop - others.start)
        # one number for each, for those that start at 0 or 1 too: so the draws don't depend on which these are
        draws = torch.stack([torch.rand(n_drawn, generator=g, dtype=torch.float64) for g in generators])
        with torch.no_grad():
            before, after = draws.split([others.start, n_drawn - others.start], dim=1)
            self.theta[:, : others.start] = bound[:, : others.start] * (2 * before - 1)
            self.theta[:, others.stop :] = bound[:, others.stop :] * (2 * after - 1)
            for layer in self.layers(self.theta):
                if layer.scale is not None:
                    layer.scale.fill_(1.0)
            for parameters in self.blocks(self.theta)["embeddings"]:
                draw_embeddings(parameters, generators, starts)
        self.piecewise.copy_(torch.tensor([[isinstance(start, np.ndarray)] for start in starts]))

    def views(self, flat: Tensor) -> dict[Block, Tensor]:
        """View ``(M, P)`` as all blocks, ``(M, *shape)``, in the order of their columns."""
        return {block: flat[:, block.start : block.stop].unflatten(1, block.shape) for block in self.parameter_blocks}

    def blocks(self, flat: Tensor) -> dict[str, list[Tensor]]:
        """View ``(M, P)`` as each role's blocks, from the first layer that has one, ``(M, *shape)``."""
        views: dict[str, list[Tensor]] = {role: [] for role in ROLES}
        for block, view in self.views(flat).items():
            views[block.role].append(view)
        return views

    def layers(self, flat: Tensor) -> list[Layer]:
        """View ``(M, P)`` layer by layer, embeddings apart."""
        views = sorted(self.views(flat).items(), key=lambda item: item[0].layer)
        weights = [view for block, view in views if block.kind == "weights"]
        shifts, scales = (
            [view[:, :, None] for block, view in views if block.kind == kind] for kind in ("shift", "scale")
        )
        return [Layer(*parts) for parts in zip_longest(weights, shifts, scales)]

    def running_statistics(self) -> list[tuple[Tensor, Tensor]]:
        """View the running mean and variance + eps of each hidden layer, ``(M, H, 1)``, or ``(M, 0, 1)`` without."""
        sizes = self.hidden if self.running_mean.shape[1] else [0] * len(self.hidden)
        parts = (statistic[:, :, None].split(sizes, 1) for statistic in (self.running_mean, self.running_var))
        return list(zip(*parts, strict=True))

    def state(self) -> dict[str, Tensor]:
        """Return everything that members have of their own, one row per member."""
        statistics = {"running_mean": self.running_mean, "running_var": self.running_var}
        return {"theta": self.theta.data, **statistics, "piecewise": self.piecewise}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take a `state`, whose rows become the members."""
        self.theta.data, self.theta.grad = state["theta"], None
        self.running_mean, self.running_var = state["running_mean"], state["running_var"]
        self.piecewise = state["piecewise"]

    def forward(self, x: Tensor, hidden: list[Tensor] | None = None) -> Tensor:
        """Compute the outputs; batch statistics in training mode, running ones otherwise.

        A list `hidden` is given each hidden layer's activations.
        """
        for parameters in self.blocks(self.theta)["embeddings"]:
            x = torch.cat([x, embed(x[:, self.embedded], parameters, self.piecewise)], dim=1)
        *layers, last = self.layers(self.theta)
        for layer, running in zip(layers, self.running_statistics(), strict=True):
            x = torch.bmm(layer.weight, x)  # (M, H, B)
            if self.normalisation is None or layer.scale is None:
                x = x + layer.shift
            else:
                x = self.normalisation.forward(x, layer.scale, layer.shift, None if self.training else running)
            x = ACTIVATIONS[self.activation].forward(x)
            if hidden is not None:
                hidden.append(x)
        return torch.baddbmm(last.shift, last.weight, x)  # (M, C, B)

    def largest_output(self, largest_input: float) -> Tensor:
        """Return a size that no value on the way to the outputs exceeds, ``(M,)``, inf or nan if there is none.

        It follows the size of the largest possible values through the layers, with the running statistics.
        """
        sizes = self.theta.data.abs()
        x = sizes.new_full((len(sizes), self.n_features, 1), largest_input)
        reached = [x]
        for parameters in self.blocks(sizes)["embeddings"]:
            slope, shift, weight = parameters.split([1, 1, SIZE], dim=3)  # (M, E, F, .)
            reached.append((slope * largest_input + shift).flatten(1)[:, :, None])
            x = torch.cat([x, weight.sum(2).flatten(1)[:, :, None]], dim=1)
        *layers, last = self.layers(sizes)
        for layer, running in zip(layers, self.running_statistics(), strict=True):
            x = _product(layer.weight, x)
            reached.append(x)
            if self.normalisation is None or layer.scale is None:
                x = x + layer.shift
            else:
                x = self.normalisation.largest(x, layer.scale, layer.shift, running)
            x = x.clamp(min=1.0)  # a logistic unit's largest value; the other activations make nothing larger
            reached.append(x)
        x = _product(last.weight, x) + last.shift
        return torch.cat([*reached, x], 1).amax(1)[:, 0]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply by numpy: torch's threads take milliseconds to wake up, for a product of microseconds."""
    with np.errstate(over="ignore", invalid="ignore"):  # there may be no bound
        return torch.from_numpy(np.matmul(a.numpy(force=True), b.numpy(force=True))).to(a.device)
