"""StackedNet: the skorch net that trains every member of a stack at once."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import inf, isfinite, isnan, nan
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, PrintLog
from skorch.history import History
from torch import Tensor

from sk_bnreg.borrowed import init_context, initialize_callbacks
from sk_bnreg.engine.functions import StackedLoss
from sk_bnreg.engine.rows import Table, batch_bounds
from sk_bnreg.engine.solvers import Member
from sk_bnreg.engine.stack import StackedMLP


@dataclass
class Record:
    """What one member's training left behind; a list has an entry per epoch.

    Attributes
    ----------
    train_loss, valid_loss : list of float
        `valid_loss` is empty without early stopping.
    budgets : list of dict
        The decay budget of each role so far.
    n_steps : list of int
        Steps so far.
    n_steps_before : int
        Those of an earlier solver: after a warm start the present one has its own clock.
    best_iter : int
        Epochs after which the kept weights were reached.
    best_loss : float
    n_no_change : int
        Epochs since the last improvement by `tol`.
    diverged : bool
    """

    train_loss: list[float] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    budgets: list[dict[str, float]] = field(default_factory=list)
    n_steps: list[int] = field(default_factory=list)
    n_steps_before: int = 0
    best_iter: int = 0
    best_loss: float = inf
    n_no_change: int = 0
    diverged: bool = False

    def update(self, member: Member, train_loss: float, valid_loss: float | None) -> tuple[bool, bool]:
        """Take in an epoch.

        Parameters
        ----------
        member : Member
        train_loss : float
        valid_loss : float or None
            None where nothing is watched: then every epoch is the best so far.

        Returns
        -------
        improved, stops : bool
            Whether it is the best so far, and whether to stop after it.
        """
        self.train_loss.append(train_loss)
        if valid_loss is not None:
            self.valid_loss.append(valid_loss)
        loss = train_loss if valid_loss is None else valid_loss
        self.n_no_change = 0 if loss <= self.best_loss - member.tol else self.n_no_change + 1
        improved = valid_loss is None or loss < self.best_loss
        self.best_loss = min(self.best_loss, loss)
        if improved:
            self.best_iter = len(self.train_loss)
        self.diverged = not isfinite(train_loss)
        # a falling schedule is planned to its end, so there the training loss does not stop it
        patient = valid_loss is None and member.learning_rate != "constant"
        return improved, self.diverged or (not patient and self.n_no_change > member.n_iter_no_change)


class StackedNet(NeuralNet):
    """A skorch net whose module is a stack of MLPs, one per entry of `members`.

    It is trained by `train_nets`. The history has a row per epoch, with the mean loss of the members that were still
    training; `records_` has the losses of each. Hooks of callbacks per batch are called only where a callback defines
    them. A callback that raises KeyboardInterrupt in ``on_epoch_end`` ends the training, as in skorch.

    Beyond skorch's a callback may have hooks for the solver's steps:

    ``around_step(net, take, rates)``
        Called in place of every step, with the learning rates of the members in training, ``(M, 1)``, or wider ones,
        ``(M, P)``; ``take(rates)`` takes the step. With this hook torch trains, several times slower on a CPU.
    ``choose_step(n_steps)``
        Called at the start of an epoch; returns the number of one of its steps. The first such callback chooses for
        all.
    ``on_chosen_step(net, before, grad, after, rates)``
        Told of that step: the flat parameters before it, their gradient, the parameters after it, ``(M, P)`` each, and
        the learning rates ``(M,)`` of the members in training. It costs no speed.

    Parameters
    ----------
    members : sequence of Member
    module, criterion, optimizer, batch_size, callbacks, verbose, device, **kwargs
        As in `skorch.NeuralNet`.
    """

    def __init__(
        self,
        module: type = StackedMLP,
        criterion: type = StackedLoss,
        *,
        members: Sequence[Member],
        train_split: None = None,
        **kwargs: Any,
    ):
        self.members = members
        super().__init__(module, criterion, train_split=train_split, **kwargs)

    @property
    def _default_callbacks(self) -> list[tuple[str, Callback]]:
        # PrintLog makes its table also when nothing prints it
        return [("epoch_timer", EpochTimer()), *([("print_log", PrintLog())] if self.verbose else [])]

    def initialize(self) -> "StackedNet":
        """Build the net and draw every member's initial weights from its own generator."""
        super().initialize()
        self.generators_ = [torch.Generator().manual_seed(member.seed) for member in self.members]
        self.module_.reset_parameters(self.generators_, [member.embedding for member in self.members])
        self.records_ = [Record() for _ in self.members]
        self.least_: dict[str, float] = {}
        return self

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> "StackedNet":
        """Build the solver on the stack's flat parameters."""
        del triggered_directly
        self.optimizer_ = self.optimizer(self.module_, self.members, **self.get_params_for("optimizer"))
        return self

    def select(self, members: Sequence[int]) -> "StackedNet":
        """Return a net of these members alone, with their solver state and history.

        So an estimator whose networks were trained in company has a net as if they had been alone: it can be pickled,
        saved and trained on without the others.
        """
        if len(members) == len(self.members):
            return self
        params = self.get_params(deep=False)
        params.update(members=[self.members[m] for m in members], module__n_members=len(members))
        return StackedNet(**params).restore(
            {name: value[list(members)] for name, value in self.member_state().items()},
            [self.records_[m] for m in members],
            [self.generators_[m] for m in members],
            self.history[:, "dur"],
        )

    def restore(
        self,
        state: dict[str, Tensor],
        records: list[Record],
        generators: list[torch.Generator],
        seconds: Sequence[float],
    ) -> "StackedNet":
        """Build the net, untrained as it is, with what the members of another had.

        Parameters
        ----------
        state : dict of str to Tensor
            As of `member_state`; without a solver's moments, those begin at 0.
        records, generators : list
            Of each member.
        seconds : sequence of float
            That each epoch took.
        """
        NeuralNet.initialize(self)  # without drawing weights that are replaced
        self.records_, self.generators_ = records, generators
        self.set_members({**self.optimizer_.member_state(), **state}, range(len(self.members)))
        self.module_.n_steps = max(record.n_steps[record.best_iter - 1] for record in records)
        self.optimizer_.set_clock(self.module_.n_steps - records[0].n_steps_before)
        self.history, self.least_ = History(), {}
        for epoch in range(max(len(record.train_loss) for record in records)):
            self.history.new_epoch()
            self.history.record("epoch", epoch + 1)
            self.history.record("dur", seconds[epoch])
            self.record_mean("train_loss", [r.train_loss[epoch] for r in records if epoch < len(r.train_loss)])
            valid = [r.valid_loss[epoch] for r in records if epoch < len(r.valid_loss)]
            if valid:
                self.record_mean("valid_loss", valid)
        return self

    def snapshot(self) -> "StackedNet":
        """Return a net for prediction with the weights of the members now in training."""
        net = copy.copy(self)  # skorch's way through pickle, so the tensors are copied
        net.members = self.members[: len(net.module_.theta)]
        return net

    def resume(
        self, members: Sequence[Member], batch_size: int, callbacks: list[Any], verbose: int, keep_solver: bool
    ) -> "StackedNet":
        """Prepare to train on from the weights as they are, with other settings.

        Parameters
        ----------
        members : sequence of Member
            As many as before.
        batch_size, callbacks, verbose
            As in `skorch.NeuralNet`.
        keep_solver : bool
            Whether the solver's moments stay (`partial_fit`), or begin at 0 (`warm_start`).
        """
        self.members, self.batch_size, self.verbose = members, batch_size, verbose
        self.callbacks = callbacks or None
        initialize_callbacks(self)
        if not keep_solver:
            with init_context(self, "optimizer"):
                self.initialize_optimizer()
            for record in self.records_:
                record.n_steps_before = record.n_steps[-1]
        self.optimizer_.load(self.optimizer_.member_state(), members)
        return self

    def outputs(self, table: Table) -> Tensor:
        """Return the outputs of every member for all rows of a table, ``(M, C, N)``, on the CPU."""
        theta = self.module_.theta
        self.module_.train(False)
        parts = []
        with torch.no_grad():
            for start, stop in pairwise(batch_bounds(table.shape[0], self.rows_at_once())):
                part = table[start:stop]
                rows = part if isinstance(part, Tensor) else torch.from_numpy(part.toarray())
                x = rows.to(theta.device).T[None].expand(len(self.members), -1, -1)  # (M, D, B)
                parts.append(self.module_(x).cpu())
        return torch.cat(parts, dim=2)

    def infer(self, x: Tensor, **fit_params: Any) -> Tensor:
        """Return the outputs for a batch ``(B, D)``, rows first as skorch expects: ``(B, M, C)``."""
        return self.module_(x.T[None].expand(len(self.members), -1, -1)).permute(2, 0, 1)

    def record_mean(self, name: str, losses: list[float]) -> list[float]:
        """Write the members' mean to the history, and whether it is the best so far, as skorch does."""
        known = [loss for loss in losses if not isnan(loss)]
        mean = sum(known) / len(known) if known else nan
        self.history.record(name, mean)
        self.history.record(name + "_best", mean < self.least_.get(name, inf))
        self.least_[name] = min(mean, self.least_.get(name, inf))
        self.history.new_batch()  # skorch's Checkpoint looks for one
        self.history.record_batch(name, mean)
        return losses

    def fit_loop(self, X: Any, y: Any = None, epochs: Any = None, **fit_params: Any) -> "StackedNet":
        """Refuse: data and schedules are the estimator's."""
        raise NotImplementedError("A StackedNet is trained by its estimator's fit or partial_fit.")

    def take_step(self, rates: Tensor) -> None:
        """Take a step of the solver, through the callbacks that stand around it."""
        take = self.optimizer_.step
        for callback in self.callbacks_with("around_step"):
            take = partial(callback.around_step, self, take)
        take(rates)

    def end_epoch(self, **data: Any) -> bool:
        """Call the callbacks' ``on_epoch_end``; return whether one of the user's ends the training.

        skorch's callbacks do that by KeyboardInterrupt, and those after it are not called. Anywhere else it is Ctrl-C.
        """
        own = {name for name, _ in self.get_default_callbacks()}
        self.on_epoch_end(self, **data)
        for name, callback in self.callbacks_:
            if name in own:
                callback.on_epoch_end(self, **data)
                continue
            try:
                callback.on_epoch_end(self, **data)
            except KeyboardInterrupt:
                return True
        return False

    def member_state(self) -> dict[str, Tensor]:
        return {**self.module_.state(), **self.optimizer_.member_state()}

    def set_members(self, state: dict[str, Tensor], members: Sequence[int]) -> None:
        self.module_.load(state)
        self.optimizer_.load(state, [self.members[m] for m in members])

    def callbacks_with(self, name: str) -> list[Any]:
        """Return the callbacks that have a hook that skorch does not know."""
        return [callback for _, callback in self.callbacks_ if hasattr(callback, name)]

    def hooked(self, *names: str) -> bool:
        """Tell whether any callback defines one of these hooks."""
        return any(
            getattr(type(cb), name, None) is not getattr(Callback, name, None)
            for _, cb in self.callbacks_
            for name in names
        )

    def rows_at_once(self) -> int:
        """Return how many rows of every member to evaluate together: about 16 MB of activations."""
        blocks = self.module_.parameter_blocks
        widths = [sum(block.shape) for block in blocks if block.kind == "weights"]  # a layer's inputs and outputs
        widths += [block.shape[0] * block.shape[1] for block in blocks if block.kind == "embeddings"]  # their functions
        return max(64, 2**22 // (max(widths) * len(self.module_.theta)))
