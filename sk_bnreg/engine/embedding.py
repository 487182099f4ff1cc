"""Embeddings of numeric features: a few learned functions of each, cosines or pieces of lines, mixed linearly."""

from collections.abc import Sequence
from math import pi
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Most of an embedding's time goes to its cosines, and every value is one more input of the first layer. Two values in
# place of three score no better (docs/accuracy.md).
N_FUNCTIONS = 8  # of each feature
SIZE = 3  # values that they are mixed to
# What an ensemble's networks have in turn, with the standard deviation of a periodic one's frequencies, in periods per
# unit of the feature: on smooth tables low ones are better, where steps matter high ones or pieces of lines.
IN_TURN = (("periodic", 0.2), ("piecewise-linear", 0.2), ("periodic", 0.1), ("periodic", 1.0))
QUANTILES = 4 * N_FUNCTIONS + 1  # of a feature, between which the ends of pieces are drawn


def embedding_shape(n_embedded: int) -> tuple[int, int, int]:
    """Return the shape of a member's embedding parameters: of each function its slope, shift and weights."""
    return n_embedded, N_FUNCTIONS, 2 + SIZE


def embeddings_in_turn(numeric_embedding: str | None, frequency_init_scale: float | str, number: int) -> dict[str, Any]:
    """Return these two parameters as a network of an ensemble has them, with what "auto" stands for.

    Parameters
    ----------
    numeric_embedding, frequency_init_scale
        The estimator's.
    number : int
        Of the network in its ensemble, from 0.
    """
    form, scale = IN_TURN[number % len(IN_TURN)]
    return {
        "numeric_embedding": form if numeric_embedding == "auto" else numeric_embedding,
        "frequency_init_scale": scale if frequency_init_scale == "auto" else frequency_init_scale,
    }


def draw_embeddings(
    parameters: Tensor, generators: Sequence[torch.Generator], starts: Sequence[float | NDArray[np.float64]]
) -> None:
    """Draw initial parameters ``(M, E, F, 2 + S)``, with uniform weights.

    Parameters
    ----------
    parameters : Tensor of shape (M, E, F, 2 + S)
    generators : sequence of Generator
    starts : sequence of float or ndarray of shape (Q, E)
        Of a periodic embedding the standard deviation of its frequencies, in periods per unit of the feature: after
        robust or standard scaling a typical cosine of 0.2 bends once or twice over the bulk of the rows. Its phases
        are uniform. Of a piecewise-linear one the quantiles of the features: its pieces have equally many rows.

    References
    ----------
    Gorishniy et al. 2022, "On embeddings for numerical features in tabular deep learning"; the values beside the
    feature itself as in Holzmüller et al. 2024, "Better by default".
    """
    shape = parameters.shape[1:]
    for member, generator, start in zip(parameters, generators, starts, strict=True):
        uniform = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
        normal = torch.randn(shape[:2], generator=generator, dtype=torch.float64)
        if isinstance(start, np.ndarray):
            pieces = [_pieces(own, shift) for own, shift in zip(start.T, uniform[:, 0, 0].tolist(), strict=True)]
            member[..., :2] = torch.from_numpy(np.array(pieces))
        else:
            member[..., 0] = 2 * pi * start * normal
            member[..., 1] = pi * uniform[..., 1]
        member[..., 2:] = uniform[..., 2:] / N_FUNCTIONS**0.5


def _pieces(quantiles: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Return slopes and shifts ``(F, 2)`` that lead from about 0 at a piece's begin to about 1 at its end.

    Parameters
    ----------
    quantiles : ndarray of shape (Q,)
        Of a feature, at equal distances from its least value to its largest.
    shift : float
        In [-1, 1]: by how many halves of a piece the ends of inner pieces are moved.
    """
    inner = (np.arange(1, N_FUNCTIONS) + shift / 2) / N_FUNCTIONS
    ends = np.unique(np.interp([0, *inner, 1], np.linspace(0, 1, len(quantiles)), quantiles))
    ends = ends if len(ends) > 1 else np.repeat(ends, 2)  # where one row has nearly all weight
    # a step that single precision can't resolve would be a slope of infinity
    width = np.maximum(np.diff(ends), max(1e-6 * abs(ends).max(), 1e-30))
    # a hundredth beyond both ends, so that for a row with just that value rounding does not decide on the gradient
    pieces = np.column_stack([1 / width, 0.01 - ends[:-1] / width]) / 1.02
    return pieces[np.arange(N_FUNCTIONS) % len(pieces)]  # of few values there are fewer


def embed(x: Tensor, parameters: Tensor, piecewise: Tensor) -> Tensor:
    """Embed features: `SIZE` values of each.

    Parameters
    ----------
    x : Tensor of shape (M, E, B)
    parameters : Tensor of shape (M, E, F, 2 + S)
    piecewise : Tensor of shape (M, 1)
        Whether a member's functions are pieces of lines, from 0 to 1, or else cosines.

    Returns
    -------
    Tensor of shape (M, E * S, B)
    """
    slope, shift, weight = parameters.split([1, 1, SIZE], dim=3)  # (M, E, F, .)
    z = slope * x[:, :, None] + shift  # (M, E, F, B)
    lines, values = piecewise[:, 0], torch.cos(z)
    values[lines] = z[lines].clamp(0, 1)
    return (weight.mT @ values).flatten(1, 2)


class EmbeddingPass:
    """`embed` in training, with the gradient of its parameters.

    Arguments are products with rows of ones below the features, so that all but the functions is matrix products.

    Parameters
    ----------
    parameters, grad : Tensor of shape (M, E, F, 2 + S)
        Views that are read, and written, at every step.
    piecewise : Tensor of shape (M, 1)
    """

    def __init__(self, parameters: Tensor, grad: Tensor, piecewise: Tensor):
        self.parameters, self.grad = parameters, grad
        self.lines = piecewise.expand(parameters.shape[:2]).flatten().nonzero()[:, 0]  # of all members' features
        self.buffers: dict[int, _Buffers] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Embed features ``(M, E, B)``; what `backward` needs stays in buffers."""
        n_members, n_embedded, n_rows = x.shape
        if n_rows not in self.buffers:
            self.buffers[n_rows] = _Buffers.of(n_members * n_embedded, x)
        self.used = self.buffers[n_rows]
        self.first, self.weight = self.parameters.flatten(0, 1).split([2, SIZE], dim=2)  # (M*E, F, .)
        self.used.affine[:, 0] = x.flatten(0, 1)
        torch.cos(torch.bmm(self.first, self.used.affine, out=self.used.argument), out=self.used.value)
        self.used.value[self.lines] = self.used.argument[self.lines].clamp(0, 1)
        return torch.bmm(self.weight.mT, self.used.value).view(n_members, -1, n_rows)

    def backward(self, delta: Tensor) -> None:
        """Write the gradient, given that at the last embeddings, ``(M, E * S, B)``."""
        affine, argument, value, fall = self.used
        delta = delta.view(-1, SIZE, delta.shape[2])
        inside = -((argument[self.lines] >= 0) & (argument[self.lines] <= 1)).to(argument.dtype)
        argument.sin_()[self.lines] = inside
        torch.bmm(self.weight, delta, out=fall).mul_(argument)
        grad_first = torch.bmm(affine, fall.mT).mT.neg()  # (M*E, F, 2)
        grad_weight = torch.bmm(delta, value.mT).mT
        self.grad.copy_(torch.cat([grad_first, grad_weight], dim=2).view_as(self.grad))


class _Buffers(NamedTuple):
    """What a pass writes: features above ones ``(M*E, 2, B)``, then ``(M*E, F, B)`` each."""

    affine: Tensor
    argument: Tensor
    value: Tensor
    fall: Tensor  # minus the derivative by the argument

    @classmethod
    def of(cls, n: int, x: Tensor) -> "_Buffers":
        shape = (n, N_FUNCTIONS, x.shape[2])
        return cls(x.new_ones(n, 2, x.shape[2]), *(x.new_empty(shape) for _ in range(3)))
