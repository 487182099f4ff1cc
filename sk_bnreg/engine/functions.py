"""Activation functions and losses, each with its gradient."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        """Return the loss of every row, ``(M, B)``.

        Parameters
        ----------
        outputs : Tensor of shape (M, C, B)
        target : Tensor of shape (M, C, B) or (M, B)
        """
        if self.kind == "binary":
            return F.binary_cross_entropy_with_logits(outputs, target, reduction="none").sum(1)
        if self.kind == "multiclass":
            return F.cross_entropy(outputs, target, reduction="none")
        return 0.5 * (outputs - target).square().mean(1)

    def gradient(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the gradient of every row's loss at its outputs, ``(M, C, B)``, which may be written over them."""
        if self.kind == "binary":
            return torch.sigmoid(outputs).sub_(target)  # of the logistic and softmax losses: probability minus target
        if self.kind == "multiclass":
            index = target[:, None]
            return torch.softmax(outputs, 1).scatter_add_(1, index, outputs.new_full((), -1).expand(index.shape))
        return (outputs - target).div_(outputs.shape[1])
