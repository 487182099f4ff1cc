"""Other packages' private functions, under names of our own.

Nothing else in this package calls what another keeps to itself. Each section names the release with which it was
checked (that of constraints.txt); the tests go through all of them, so they show it if a release changes one. What to
do instead if one goes stands beside it. A package that is not always installed is imported where it is used.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor

# torch 2.13.0


def fused_adamw(
    parameters: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    *,
    lr: float,
    weight_decay: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
) -> None:
    """Take AdamW's step as one kernel, in place; `step` counts from 1.

    It is `torch.optim.AdamW(fused=True)` without the optimizer around it, whose step would cost as much again. Instead:
    the same update in four calls (`lerp_`, `mul_`, `addcmul_`, `addcdiv_`), half as fast.
    """
    torch._fused_adamw_(
        [parameters],
        [grad],
        [exp_avg],
        [exp_avg_sq],
        [],
        [step],
        lr=lr,
        weight_decay=weight_decay,
        beta1=beta_1,
        beta2=beta_2,
        eps=epsilon,
        amsgrad=False,
        maximize=False,
    )


def lerp_all(values: list[Tensor], targets: list[Tensor], share: float) -> None:
    """Move tensors a share of the way to others, in one call. Instead: ``lerp_`` of each."""
    torch._foreach_lerp_(values, targets, share)


def add_param_group(optimizer: torch.optim.Optimizer, param_group: dict[str, Any]) -> None:
    """Add a group as torch does, but import no compiler for it, which takes a second of a first fit.

    Instead: `Optimizer.add_param_group`.
    """
    add = torch.optim.Optimizer.add_param_group
    getattr(add, "__wrapped__", add)(optimizer, param_group)


# skorch 1.4.0


def init_context(net: NeuralNet, name: str) -> AbstractContextManager[None]:
    """Return a context in which what is set on a net is known to be its optimizer, or whatever `name` says.

    Instead: `NeuralNet.initialize`, and the weights put back after it.
    """
    return net._current_init_context(name)


def initialize_callbacks(net: NeuralNet) -> None:
    """Make ``net.callbacks_`` of the callbacks that are set now. Instead: as for `init_context`."""
    net._initialize_callbacks()
