"""Periodic embeddings of numeric features: a few learned cosines of each, mixed linearly."""

from collections.abc import Sequence
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

# Most of an embedding's time goes to its cosines, and every value is one more input of the first layer. Twice the
# cosines, or two values in place of three, score the same (docs/accuracy.md).
N_COSINES = 8  # of each feature
SIZE = 3  # values that they are mixed to
# standard deviations of the frequencies, in periods per unit of the feature, which an ensemble's networks have in turn:
# on smooth tables low ones are better, where steps matter high ones
SCALES = (0.2, 0.5, 0.1, 1.0)


def embedding_shape(n_embedded: int) -> tuple[int, int, int]:
    """Return the shape of a member's embedding parameters: of each cosine its frequency, phase and weights."""
    return n_embedded, N_COSINES, 2 + SIZE


def draw_embeddings(parameters: Tensor, generators: Sequence[torch.Generator], scales: Sequence[float]) -> None:
    """Draw initial parameters ``(M, E, F, 2 + S)``: normal frequencies, uniform phases and weights.

    The standard deviation of a member's frequencies is its scale, in periods per unit of the feature: after robust or
    standard scaling a typical cosine of scale 0.2 bends once or twice over the bulk of the rows.

    References
    ----------
    Gorishniy et al. 2022, "On embeddings for numerical features in tabular deep learning"; the values beside the
    feature itself as in Holzmüller et al. 2024, "Better by default".
    """
    shape = parameters.shape[1:]
    for member, generator, scale in zip(parameters, generators, scales, strict=True):
        uniform = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
        normal = torch.randn(shape[:2], generator=generator, dtype=torch.float64)
        member[..., 0] = 2 * pi * scale * normal
        member[..., 1] = pi * uniform[..., 1]
        member[..., 2:] = uniform[..., 2:] / N_COSINES**0.5


def embed(x: Tensor, parameters: Tensor) -> Tensor:
    """Embed features: `SIZE` values of each.

    Parameters
    ----------
    x : Tensor of shape (M, E, B)
    parameters : Tensor of shape (M, E, F, 2 + S)

    Returns
    -------
    Tensor of shape (M, E * S, B)
    """
    frequency, phase, weight = parameters.split([1, 1, SIZE], dim=3)  # (M, E, F, .)
    cosines = torch.cos(frequency * x[:, :, None] + phase)  # (M, E, F, B)
    return (weight.mT @ cosines).flatten(1, 2)


class EmbeddingPass:
    """`embed` in training, with the gradient of its parameters.

    Angles are products with rows of ones below the features, so that all but the cosines is matrix products.

    Parameters
    ----------
    parameters, grad : Tensor of shape (M, E, F, 2 + S)
        Views that are read, and written, at every step.
    """

    def __init__(self, parameters: Tensor, grad: Tensor):
        self.parameters, self.grad = parameters, grad
        self.buffers: dict[int, _Buffers] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Embed features ``(M, E, B)``; what `backward` needs stays in buffers."""
        n_members, n_embedded, n_rows = x.shape
        if n_rows not in self.buffers:
            self.buffers[n_rows] = _Buffers.of(n_members * n_embedded, x)
        self.used = self.buffers[n_rows]
        self.first, self.weight = self.parameters.flatten(0, 1).split([2, SIZE], dim=2)  # (M*E, F, .)
        self.used.affine[:, 0] = x.flatten(0, 1)
        torch.cos(torch.bmm(self.first, self.used.affine, out=self.used.angle), out=self.used.cosine)
        return torch.bmm(self.weight.mT, self.used.cosine).view(n_members, -1, n_rows)

    def backward(self, delta: Tensor) -> None:
        """Write the gradient, given that at the last embeddings, ``(M, E * S, B)``."""
        affine, angle, cosine, slope = self.used
        delta = delta.view(-1, SIZE, delta.shape[2])
        torch.bmm(self.weight, delta, out=slope).mul_(angle.sin_())
        grad_first = torch.bmm(affine, slope.mT).mT.neg()  # (M*E, F, 2)
        grad_weight = torch.bmm(delta, cosine.mT).mT
        self.grad.copy_(torch.cat([grad_first, grad_weight], dim=2).view_as(self.grad))


class _Buffers(NamedTuple):
    """What a pass writes: features above ones ``(M*E, 2, B)``, then ``(M*E, F, B)`` each."""

    affine: Tensor
    angle: Tensor
    cosine: Tensor
    slope: Tensor

    @classmethod
    def of(cls, n: int, x: Tensor) -> "_Buffers":
        shape = (n, N_COSINES, x.shape[2])
        return cls(x.new_ones(n, 2, x.shape[2]), *(x.new_empty(shape) for _ in range(3)))
