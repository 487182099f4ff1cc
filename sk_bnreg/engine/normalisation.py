"""Normalisation of hidden layers, between their weights and their activation.

NORMALISATIONS has it by the value of `batch_norm` that asks for it. All that the package knows of one stands here: the
roles that it adds, what scaling it takes out again, its torch form, its gradient, and the plain Python that the kernel
compiles. A normalisation without a compiled form is trained by torch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sk_bnreg.borrowed import lerp_all

aten = torch.ops.aten

Kind = bool  # a value of `batch_norm`, and key of NORMALISATIONS
LEAST_MOMENTUM = 0.1


def momentum_at(n_steps: int) -> float:
    """Return the share of the newest batch in the running statistics: their plain mean first, then a tenth."""
    return max(LEAST_MOMENTUM, 1 / n_steps)


def _normalise(
    z: Any, share: Any, eps: float, momentum: float, gamma: Any, beta: Any, running_mean: Any, running_var: Any,
    means: Any, rstds: Any, scales: Any, shifts: Any, start: int, stop: int, n: int,
) -> None:  # fmt: skip
    """Write by what to scale and shift units of ``z`` ``(H, B)``, from and to, and move their running statistics.

    Parameters
    ----------
    share : ndarray of shape (B,)
        Of each row in the batch's weight.
    eps, momentum : float
    gamma, beta, running_mean, running_var : ndarray of shape (H,)
    means, rstds, scales, shifts : ndarray of shape (H,)
        Written: the batch's means and 1 / deviations, and with what units are multiplied and what is added to them.
    start, stop, n : int
        Units, from and to, and the number of rows.
    """
    least, part = z.dtype.type(eps), z.dtype.type(momentum)
    for h in range(start, stop):
        mean = square = z.dtype.type(0)
        for b in range(n):
            mean += share[b] * z[h, b]
        for b in range(n):
            distance = z[h, b] - mean
            square += share[b] * distance * distance
        means[h], rstds[h] = mean, square + least
    # a second loop over units: their roots and quotients then fill vectors
    for h in range(start, stop):
        var = rstds[h]
        running_mean[h] += part * (means[h] - running_mean[h])
        running_var[h] += part * (var - running_var[h])
        rstds[h] = 1 / np.sqrt(var)
        scales[h] = gamma[h] * rstds[h]
        shifts[h] = beta[h] - means[h] * scales[h]


def _normalise_backward(
    delta: Any, z: Any, share: Any, means: Any, rstds: Any, scales: Any, of_gamma: Any, of_beta: Any, start: int,
    stop: int, n: int,
) -> None:  # fmt: skip
    """Turn the gradient ``delta`` ``(H, B)`` at scale * z + shift into that at z, and write gamma's.

    The gradient of beta, `of_beta` ``(H,)``, a sum over rows, is given. The others are as `_normalise` left them.
    """
    for h in range(start, stop):
        total = delta.dtype.type(0)
        for b in range(n):
            total += delta[h, b] * (z[h, b] - means[h])
        of_gamma[h] = total * rstds[h]
        slope = of_gamma[h] * rstds[h]
        for b in range(n):
            delta[h, b] = scales[h] * (delta[h, b] - share[b] * (of_beta[h] + slope * (z[h, b] - means[h])))


def _use_running(gamma: Any, beta: Any, running_mean: Any, running_var: Any, scales: Any, shifts: Any) -> None:
    """Write by what to scale and shift a layer's units with the running statistics; all are ``(H,)``."""
    for h in range(len(gamma)):
        scales[h] = gamma[h] / np.sqrt(running_var[h])
        shifts[h] = beta[h] - running_mean[h] * scales[h]


class Compiled(NamedTuple):
    """What the kernel compiles of a normalisation; each is documented where it stands."""

    normalise: Callable[..., None]
    backward: Callable[..., None]
    use_running: Callable[..., None]


class BatchNorm:
    """Batch norm (Ioffe & Szegedy 2015): a unit over the rows of a batch, in prediction by running statistics.

    Running variances are kept with eps in them: so the kernel, `forward` and the torch pass need none at each use.
    Tensors of a layer are ``(M, H, B)``, those of its units ``(M, H, 1)``.

    Parameters
    ----------
    eps : float
        Added to the variance.

    Attributes
    ----------
    name, short_name : str
        In words, and in the names of schemes.
    roles : (str, str)
        Of a scale and a shift of every unit; the shift stands in the place of a bias, which the layer lacks.
    has_statistics : bool
        Whether every unit has a running mean and variance.
    of_rows : bool
        Whether it compares the rows of a batch, of which it then needs two.
    takes_scale_out, takes_unit_scale_out : bool
        Whether it takes a factor on all of a layer's weights out again, but for eps, or one on the weights of any unit.
        Then their scale does not matter.
    compiled : Compiled or None
    """

    name, short_name = "batch norm", "bn"
    roles = ("gamma", "beta")
    has_statistics = True
    of_rows = True
    takes_scale_out = takes_unit_scale_out = True
    compiled: Compiled | None = Compiled(_normalise, _normalise_backward, _use_running)

    def __init__(self, eps: float):
        self.eps = eps

    def forward(self, z: Tensor, gamma: Tensor, beta: Tensor, running: tuple[Tensor, Tensor] | None) -> Tensor:
        """Normalise by running mean and variance, or without them by the batch's."""
        if running is None:
            var, mean = (moment[:, :, None] for moment in torch.var_mean(z, dim=2, correction=0))
            var = var + self.eps
        else:
            mean, var = running
        scale = gamma * var.rsqrt()
        return torch.addcmul(beta - mean * scale, z, scale)

    def largest(self, z: Tensor, gamma: Tensor, beta: Tensor, running: tuple[Tensor, Tensor]) -> Tensor:
        """Bound the size of what `forward` makes of values up to z in size; gamma and beta are sizes too."""
        mean, var = running
        return gamma * var.rsqrt() * (z + mean.abs()) + beta

    def training_pass(
        self,
        gammas: Sequence[Tensor],
        grads: Sequence[tuple[Tensor, Tensor]],
        running: Sequence[tuple[Tensor, Tensor]],
    ) -> "BatchNormPass":
        """Return what normalises all hidden layers in training."""
        return BatchNormPass(self.eps, gammas, grads, running)


class BatchNormPass:
    """Batch norm of all hidden layers in training, with its gradient; row weights weigh the moments too.

    Parameters
    ----------
    eps : float
    gammas : sequence of Tensor of shape (M, H, 1)
        A view per hidden layer, read at every step.
    grads : sequence of (Tensor, Tensor)
        Views that are written at every step: the gradients of gamma and beta.
    running : sequence of (Tensor, Tensor)
        Views that `end_step` moves: running mean and variance + eps.
    """

    def __init__(
        self,
        eps: float,
        gammas: Sequence[Tensor],
        grads: Sequence[tuple[Tensor, Tensor]],
        running: Sequence[tuple[Tensor, Tensor]],
    ):
        self.eps, self.gammas, self.grads = eps, gammas, grads
        self.eps_tensor = gammas[0].new_tensor(eps)
        self.running = [view for views in zip(*running, strict=True) for view in views]  # all means, then all variances
        self.moments: dict[int, _Moments] = {}

    def forward(self, layer: int, z: Tensor, share: Tensor | None, room: Tensor) -> Tensor:
        """Return gamma times the normalised z, written to `room`; z must stay as it is until `backward`.

        `share` ``(M, 1, B)`` has each row's share of the batch's weight, None for equal ones.
        """
        if share is None:
            mean = z.mean(2, keepdim=True)
            norm = torch.linalg.vector_norm(torch.sub(z, mean, out=room), dim=2, keepdim=True)
            var = torch.addcmul(self.eps_tensor, norm, norm, value=1 / z.shape[2])
        else:
            mean = (z * share).sum(2, keepdim=True)
            var = (torch.sub(z, mean, out=room).square() * share).sum(2, keepdim=True).add_(self.eps_tensor)
        self.moments[layer] = _Moments(mean, var, var.rsqrt())
        return room.mul_(self.gammas[layer] * self.moments[layer].rstd)

    def backward(self, layer: int, delta: Tensor, z: Tensor, share: Tensor | None) -> Tensor:
        """Write the gradients of gamma and beta, return that at z."""
        gamma, (of_gamma, of_beta), (mean, _, rstd) = self.gammas[layer], self.grads[layer], self.moments[layer]
        if share is None:
            rows = (1, -1, z.shape[2])  # (1, M*H, B), so that members' units are channels
            delta, grad_gamma, grad_beta = aten.native_batch_norm_backward.default(
                delta.view(rows),
                z.view(rows),
                gamma.reshape(-1),
                None,
                None,
                mean.view(-1),
                rstd.view(-1),
                True,
                self.eps,
                [True, True, True],
            )
            of_gamma.copy_(grad_gamma.view_as(gamma))
            of_beta.copy_(grad_beta.view_as(gamma))
            return delta.view_as(z)
        normal = (z - mean) * rstd
        grad_gamma, grad_beta = (delta * normal).sum(2, keepdim=True), delta.sum(2, keepdim=True)
        of_gamma.copy_(grad_gamma)
        of_beta.copy_(grad_beta)
        return gamma * rstd * (delta - share * torch.addcmul(grad_beta, normal, grad_gamma))

    def end_step(self, n_steps: int) -> None:
        """Average the batch's moments into the running statistics; it is the step of this number, from 1."""
        layers = [self.moments[layer] for layer in range(len(self.gammas))]
        batch = [moments.mean for moments in layers] + [moments.var for moments in layers]
        lerp_all(self.running, batch, momentum_at(n_steps))


class _Moments(NamedTuple):
    """Of a layer's rows: mean, variance + eps and its root's inverse, each ``(M, H, 1)``."""

    mean: Tensor
    var: Tensor
    rstd: Tensor


NORMALISATIONS: dict[Kind, type[BatchNorm] | None] = {False: None, True: BatchNorm}
