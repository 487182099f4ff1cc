"""Solvers whose learning rate and L2 strength differ between members and roles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sk_bnreg.engine.roles import ROLES
from sk_bnreg.engine.stack import StackedMLP

LEARNING_RATES = ("constant", "cosine", "one-cycle")
L2_MODES = ("decoupled", "loss")


@dataclass(frozen=True)
class Member:
    """How one member of a stack is trained: everything in which members may differ, but the data.

    Attributes
    ----------
    seed : int
        Of the member's generator: initial weights, row order, dropout masks.
    l2 : mapping of str to float
        Strength per role.
    early_stopping : bool
        Whether the epoch with the lowest validation loss is kept.
    max_iter, n_iter_no_change : int
        In epochs.
    """

    seed: int
    learning_rate: str
    learning_rate_init: float
    l2: Mapping[str, float]
    l2_mode: str
    dropout: float
    max_iter: int
    early_stopping: bool
    n_iter_no_change: int
    tol: float


def learning_rates(schedule: str, peak: float, n_steps: int) -> NDArray[np.float64]:
    """Return the learning rate of every step of a fit.

    Parameters
    ----------
    schedule : {"constant", "cosine", "one-cycle"}
        "cosine" falls from `peak` to 0; "one-cycle" rises from peak/25 over the first
        30 % of the steps, then falls to peak/250,000, both along a cosine.
    peak : float
        The largest rate, `learning_rate_init`.
    n_steps : int

    Returns
    -------
    ndarray of shape (n_steps,)

    References
    ----------
    Smith & Topin 2018, "Super-convergence", arXiv:1708.07120, with the constants of
    `torch.optim.lr_scheduler.OneCycleLR`.

    Examples
    --------
    >>> from sk_bnreg.engine.solvers import learning_rates
    >>> learning_rates("cosine", 0.1, 4).round(4).tolist()
    [0.1, 0.0854, 0.05, 0.0146]
    """
    if schedule == "constant":
        return np.full(n_steps, peak)
    step = np.arange(n_steps)
    if schedule == "cosine":
        return peak / 2 * (1 + np.cos(np.pi * step / n_steps))
    top, last = 0.3 * n_steps - 1, n_steps - 1
    rise = np.clip(step / top, 0, 1) if top > 0 else np.ones(n_steps)
    fall = np.clip((step - top) / max(last - top, 1), 0, 1)
    low, end = peak / 25, peak / 25e4
    return np.where(
        step <= top,
        low + (peak - low) / 2 * (1 - np.cos(np.pi * rise)),
        end + (peak - end) / 2 * (1 + np.cos(np.pi * fall)),
    )


def decay_budgets(member: Member, rate_sum: float, loss_factor: float) -> dict[str, float]:
    """Return the decay budget D of each role: the e-folds by which decay alone shrinks a parameter.

    D is the sum over steps of lr * l2, and with ``l2_mode="loss"`` that times the solver's
    `loss_factor`: 1 / (1 - momentum) for SGD, nan for Adam, where it does not exist.
    """
    factor = loss_factor if member.l2_mode == "loss" else 1.0
    return {role: rate_sum * l2 * factor if (l2 := member.l2[role]) else 0.0 for role in ROLES}


class StackedSolver(torch.optim.Optimizer):
    """What the solvers share: per-member rates and the two forms of L2.

    With ``l2_mode="loss"`` the step adds l2 * theta to the gradient; with "decoupled" it
    subtracts lr * l2 * theta beside the solver's own update. ``param_groups[0]["lr"]`` is a
    factor on every member's rate (applied by the net), so that torch's schedulers act on a stack.

    Parameters
    ----------
    stack : StackedMLP
    members : sequence of Member
    **constants : float
        The solver's own: momentum, or beta_1, beta_2 and epsilon.
    """

    name: str
    constants: tuple[str, ...]
    moments: tuple[str, ...]

    def __init__(self, stack: StackedMLP, members: Sequence[Member], **constants: float):
        super().__init__([stack.theta], {"lr": 1.0, **constants})
        self.stack = stack
        self.load({name: torch.zeros_like(stack.theta.data) for name in self.moments}, members)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does, which would import its compiler for it, a second of a first fit."""
        add = torch.optim.Optimizer.add_param_group
        getattr(add, "__wrapped__", add)(self, param_group)

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("stack", "coupled", "decoupled")}
        return {**super().__getstate__(), **own}

    def member_state(self) -> dict[str, Tensor]:
        """Return the solver's moments, one row per member."""
        return {name: self.state[self.stack.theta][name] for name in self.moments}

    def load(self, state: dict[str, Tensor], members: Sequence[Member]) -> None:
        """Take the moments and the L2 strengths of `members`, who are the stack's rows now."""
        self.state[self.stack.theta].update({name: state[name] for name in self.moments})
        self.coupled = self._strengths(members, "loss")
        self.decoupled = self._strengths(members, "decoupled")

    def _strengths(self, members: Sequence[Member], l2_mode: str) -> list[tuple[slice, Tensor]]:
        """Return (columns, l2 (M, 1)) for the roles with any L2; neighbours with equal l2 are one entry."""
        merged: list[tuple[slice, list[float]]] = []
        for role, columns in self.stack.slices.items():
            l2 = [member.l2[role] if member.l2_mode == l2_mode else 0.0 for member in members]
            if columns.stop == columns.start or not any(l2):
                continue
            if merged and merged[-1][0].stop == columns.start and merged[-1][1] == l2:
                merged[-1] = (slice(merged[-1][0].start, columns.stop), l2)
            else:
                merged.append((columns, l2))
        return [(columns, self.stack.theta.data.new_tensor(l2)[:, None]) for columns, l2 in merged]

    def penalty(self) -> Tensor | float:
        """Return what ``l2_mode="loss"`` adds to the objective, 1/2 sum l2 ||theta||^2, ``(M,)``."""
        theta = self.stack.theta.data
        return sum((0.5 * l2[:, 0] * theta[:, columns].square().sum(1) for columns, l2 in self.coupled), 0.0)

    def step(self, rates: Tensor) -> None:  # type: ignore[override]
        """Take one step with the gradient in ``theta.grad`` and the learning rates `rates`, ``(M, 1)``."""
        group = self.param_groups[0]
        theta, grad = self.stack.theta.data, self.stack.theta.grad
        assert grad is not None
        for columns, l2 in self.coupled:
            grad[:, columns].addcmul_(theta[:, columns], l2)
        update = self._update(grad, group)
        for columns, l2 in self.decoupled:
            update[:, columns].addcmul_(theta[:, columns], l2, value=-1)
        theta.addcmul_(update, rates)

    # torch wraps a step without this mark, for hooks and its profiler, at the cost of a small network's layer
    step.hooked = True  # type: ignore[attr-defined]

    def clock(self) -> int:
        """Return the number of steps that the moments have seen, where it counts."""
        return 0

    def set_clock(self, n_steps: int) -> None:
        """Set that number."""

    def loss_factor(self) -> float:
        """Return how much more than lr * l2 a step with ``l2_mode="loss"`` decays a parameter."""
        raise NotImplementedError

    def _update(self, grad: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the update of theta for a rate of 1; it may take the gradient's memory."""
        raise NotImplementedError


class StackedSGD(StackedSolver):
    """SGD with momentum, torch's convention: v = momentum * v + gradient, theta -= lr * v."""

    name, constants, moments = "sgd", ("momentum",), ("momentum_buffer",)

    def loss_factor(self) -> float:
        """Return 1 / (1 - momentum), the sum of what one gradient moves."""
        return 1 / (1 - self.param_groups[0]["momentum"])

    def _update(self, grad: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[self.stack.theta]
        return state["momentum_buffer"].mul_(group["momentum"]).add_(grad).neg()


class StackedAdam(StackedSolver):
    """Adam (Kingma & Ba 2015); with decoupled decay, AdamW (Loshchilov & Hutter 2019)."""

    name, constants, moments = "adam", ("beta_1", "beta_2", "epsilon"), ("exp_avg", "exp_avg_sq")

    def __init__(self, stack: StackedMLP, members: Sequence[Member], **constants: float):
        super().__init__(stack, members, **constants)
        self.state[stack.theta]["step"] = torch.zeros((), device=stack.theta.device)

    def clock(self) -> int:
        """Return Adam's step count, on which its bias correction depends."""
        return int(self.state[self.stack.theta]["step"])

    def set_clock(self, n_steps: int) -> None:
        """Set Adam's step count."""
        self.state[self.stack.theta]["step"].fill_(n_steps)

    def loss_factor(self) -> float:
        """Return nan: the decay depends on each parameter's gradient scale."""
        return float("nan")

    def _update(self, grad: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[self.stack.theta]
        # torch's fused kernel takes one rate: with a rate and a decay of 1 it makes the update from any
        # values, and so writes it over the gradient
        state["step"] += 1
        torch._fused_adamw_(
            [grad],
            [grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            lr=1.0,
            weight_decay=1.0,
            beta1=group["beta_1"],
            beta2=group["beta_2"],
            eps=group["epsilon"],
            amsgrad=False,
            maximize=False,
        )
        return grad


SOLVERS: dict[str, type[StackedSolver]] = {solver.name: solver for solver in (StackedAdam, StackedSGD)}
