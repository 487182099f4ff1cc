"""Solvers whose learning rate and L2 strength differ between members and roles.

A solver is a subclass of `StackedSolver`. All that the package knows of one stands here: its facts, its step in torch
for all members of a stack, and its step in the plain Python that the kernel compiles, for one member.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sk_bnreg.borrowed import add_param_group, fused_adamw
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
    embedding : float or ndarray of shape (Q, E)
        Of periodic embeddings the standard deviation of their frequencies at first, of piecewise-linear ones the
        quantiles of the features.
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
    embedding: float | NDArray[np.float64]


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
        return np.full(n_steps, peak, dtype=float)
    step = np.arange(n_steps)
    if schedule == "cosine":
        return peak / 2 * (1 + np.cos(np.pi * step / n_steps))
    top, last = 0.3 * n_steps - 1, n_steps - 1
    rise, fall = step / top, (step - top) / max(last - top, 1)  # 0.3 of no whole number is 1
    low, end = peak / 25, peak / 25e4
    return np.where(
        step <= top,
        low + (peak - low) / 2 * (1 - np.cos(np.pi * rise)),
        end + (peak - end) / 2 * (1 + np.cos(np.pi * fall)),
    )


def decay_budgets(member: Member, rate_sum: float, decay_factor: float) -> dict[str, float]:
    """Return the decay budget D of each role: the e-folds by which decay alone shrinks a parameter.

    D is the sum over steps of lr * l2, times the solver's `decay_factor`; nan where that is.
    """
    return {role: rate_sum * l2 * decay_factor if (l2 := member.l2[role]) else 0.0 for role in ROLES}


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
        The solver's own.

    Attributes
    ----------
    name : str
        The value of an estimator's `solver`.
    constants : tuple of str
        The estimator's parameters that are the solver's constants.
    moments : tuple of str
        One or two averages of gradients, each of theta's shape.
    rate_power : int
        p, where a step turns weights that a normalisation follows by an angle that falls as lr / ||w||^p.
    rate_range : (float, float)
        Where a search looks for the largest learning rate.
    compiled_step : callable or None
        The step of one member, or of some of its parameters, which the kernel compiles. None: torch trains it.
        ``compiled_step(theta, grad, moment_1, moment_2, facts, rate, clock, coupled, decoupled)`` changes flat arrays
        ``(P,)`` in place (with one moment `moment_2` is `moment_1`); `facts` has the constants by name, `clock` counts
        steps from 1, the last two are the strengths of L2 in the loss and beside the step.
    fastmath : set of str
        Liberties that LLVM may take with it, beyond those of the whole kernel.
    """

    name: str
    constants: tuple[str, ...]
    moments: tuple[str, ...]
    rate_power: int
    rate_range: tuple[float, float]
    compiled_step: Callable[..., None] | None = None
    fastmath: frozenset[str] = frozenset()

    def __init__(self, stack: StackedMLP, members: Sequence[Member], **constants: float):
        super().__init__([stack.theta], {"lr": 1.0, **constants})
        self.stack = stack
        self.load({name: torch.zeros_like(stack.theta.data) for name in self.moments}, members)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does, but faster."""
        add_param_group(self, param_group)

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

    # Optimizer.__init__ wraps the step of each class, for hooks and its profiler, unless this says that it has done so.
    # Neither is of use here, and a wrapped step takes as much longer as a layer of a small network
    step.hooked = True  # type: ignore[attr-defined]

    def clock(self) -> int:
        """Return the number of steps that the moments have seen, where it counts."""
        return 0

    def set_clock(self, n_steps: int) -> None:
        """Set that number."""

    @classmethod
    def decay_factor(cls, l2_mode: str, constants: Mapping[str, Any]) -> float:
        """Return how many times lr * l2 a step decays a parameter; nan where that depends on its gradients.

        `constants` are the solver's by name, among others.
        """
        return 1.0 if l2_mode == "decoupled" else cls._loss_factor(constants)

    @classmethod
    def has_budget(cls, l2_mode: str) -> bool:
        """Tell whether a decay budget exists: whether L2 shrinks every parameter alike."""
        return cls.decay_factor(l2_mode, dict.fromkeys(cls.constants, 0.5)) > 0

    @staticmethod
    def equilibrium_angle(decay: NDArray[np.float64], constants: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return the angle by which a step turns weights whose scale does not matter, once decay balances growth.

        `decay` is the share of a parameter that a step takes away, all of it counted; `constants` are as above.
        """
        raise NotImplementedError

    @staticmethod
    def _loss_factor(constants: Mapping[str, Any]) -> float:
        """Return the `decay_factor` of ``l2_mode="loss"``."""
        raise NotImplementedError

    def _update(self, grad: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the update of theta for a rate of 1; it may take the gradient's memory."""
        raise NotImplementedError


def _turned_by_an_average(decay: NDArray[np.float64], kept: float) -> NDArray[np.float64]:
    """Return the `equilibrium_angle` of steps along a running average that keeps so much of the old."""
    return np.sqrt(2 * decay * (1 - kept) / (1 + kept))


class StackedSGD(StackedSolver):
    """SGD with momentum, torch's convention: v = momentum * v + gradient, theta -= lr * v."""

    name, constants, moments = "sgd", ("momentum",), ("momentum_buffer",)
    rate_power = 2  # the gradient of weights whose scale does not matter falls with their norm
    rate_range = (1e-2, 1.0)

    @staticmethod
    def _loss_factor(constants: Mapping[str, Any]) -> float:
        """Return 1 / (1 - momentum), the sum of what one gradient moves."""
        return 1 / (1 - constants["momentum"])

    @staticmethod
    def equilibrium_angle(decay: NDArray[np.float64], constants: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return sqrt(2 d (1 - m) / (1 + m)) with the momentum m (Wan et al. 2021, "Spherical motion dynamics")."""
        return _turned_by_an_average(decay, constants["momentum"])

    def _update(self, grad: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[self.stack.theta]
        return state["momentum_buffer"].mul_(group["momentum"]).add_(grad).neg()

    @staticmethod
    def compiled_step(
        theta: Any, grad: Any, moment_1: Any, moment_2: Any, facts: Any, rate: float, clock: int, coupled: float,
        decoupled: float,
    ) -> None:  # fmt: skip
        """Take a step; the arguments are described in `StackedSolver`."""
        number = theta.dtype.type
        momentum, rate_now, l2, decay = number(facts.momentum), number(rate), number(coupled), number(rate * decoupled)
        for p in range(len(theta)):
            moment_1[p] = momentum * moment_1[p] + grad[p] + l2 * theta[p]
            theta[p] -= rate_now * moment_1[p] + decay * theta[p]


class StackedAdam(StackedSolver):
    """Adam (Kingma & Ba 2015); with decoupled decay, AdamW (Loshchilov & Hutter 2019)."""

    name, constants, moments = "adam", ("beta_1", "beta_2", "epsilon"), ("exp_avg", "exp_avg_sq")
    rate_power = 1  # its steps are as large whatever the gradient's scale
    rate_range = (1e-3, 1e-1)
    # without infinities (which end in nan all the same) LLVM divides by an approximation and a step of Newton's
    fastmath = frozenset({"ninf"})

    def __init__(self, stack: StackedMLP, members: Sequence[Member], **constants: float):
        super().__init__(stack, members, **constants)
        self.state[stack.theta]["step"] = torch.zeros((), device=stack.theta.device)

    def clock(self) -> int:
        """Return Adam's step count, on which its bias correction depends."""
        return int(self.state[self.stack.theta]["step"])

    def set_clock(self, n_steps: int) -> None:
        """Set Adam's step count."""
        self.state[self.stack.theta]["step"].fill_(n_steps)

    @staticmethod
    def _loss_factor(constants: Mapping[str, Any]) -> float:
        """Return nan: the decay is divided by the scale of each parameter's gradients."""
        del constants
        return nan

    @staticmethod
    def equilibrium_angle(decay: NDArray[np.float64], constants: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return sqrt(2 d (1 - beta_1) / (1 + beta_1)) (Kosson et al. 2024, "Rotational equilibrium")."""
        return _turned_by_an_average(decay, constants["beta_1"])

    def _update(self, grad: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[self.stack.theta]
        # torch's fused kernel takes one learning rate for all, and steps on the parameters that it is given. With the
        # gradient in their place, a rate of 1 and a decay of 1 (theta - 1 * theta = 0) nothing of the parameters is
        # left but the update itself, minus m / (sqrt v + eps), which `step` then multiplies by each member's rate
        state["step"] += 1
        fused_adamw(
            grad, grad, state["exp_avg"], state["exp_avg_sq"], state["step"], lr=1.0, weight_decay=1.0,
            beta_1=group["beta_1"], beta_2=group["beta_2"], epsilon=group["epsilon"],
        )  # fmt: skip
        return grad

    @staticmethod
    def compiled_step(
        theta: Any, grad: Any, moment_1: Any, moment_2: Any, facts: Any, rate: float, clock: int, coupled: float,
        decoupled: float,
    ) -> None:  # fmt: skip
        """Take a step; the arguments are described in `StackedSolver`."""
        number = theta.dtype.type
        one, beta_1, beta_2, epsilon = number(1), number(facts.beta_1), number(facts.beta_2), number(facts.epsilon)
        rate_1, correction_2 = number(rate / (1 - facts.beta_1**clock)), number(1 / np.sqrt(1 - facts.beta_2**clock))
        l2, decay = number(coupled), number(rate * decoupled)
        for p in range(len(theta)):
            g = grad[p] + l2 * theta[p]
            moment_1[p] += (one - beta_1) * (g - moment_1[p])
            moment_2[p] = beta_2 * moment_2[p] + (one - beta_2) * g * g
            theta[p] -= rate_1 * moment_1[p] / (correction_2 * np.sqrt(moment_2[p]) + epsilon) + decay * theta[p]


SOLVERS: dict[str, type[StackedSolver]] = {solver.name: solver for solver in (StackedAdam, StackedSGD)}
