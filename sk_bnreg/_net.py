"""StackedNet: the skorch net that trains every member of a stack at once."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf, isfinite, isnan, nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer, PrintLog
from skorch.history import History
from torch import Tensor

from sk_bnreg._data import Batch, StackData, Table, batch_bounds
from sk_bnreg._optim import Member, decay_budgets, learning_rates
from sk_bnreg._stack import Dropout, StackedLoss, StackedMLP, TrainingPass

EpochHook = Callable[[int, list[int], list[float]], Sequence[int]]


@dataclass
class Record:
    """What one member's training left behind; a list has an entry per epoch."""

    train_loss: list[float] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    budgets: list[dict[str, float]] = field(default_factory=list)
    n_steps: list[int] = field(default_factory=list)
    n_steps_before: int = 0  # of an earlier solver
    best_iter: int = 0
    best_loss: float = inf
    n_no_change: int = 0
    diverged: bool = False

    def update(self, member: Member, train_loss: float, valid_loss: float | None) -> tuple[bool, bool]:
        """Take in an epoch; return whether it is the best so far and whether to stop after it."""
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

    `partial_fit` takes a `StackData`. The history has a row per epoch, with the mean
    loss of the members that were still training; `records_` has the losses of each.
    Hooks of callbacks per batch are called only where a callback defines them.

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
        return [("epoch_timer", EpochTimer()), ("print_log", PrintLog())]

    def initialize(self) -> "StackedNet":
        """Build the net and draw every member's initial weights from its own generator."""
        super().initialize()
        self.generators_ = [torch.Generator().manual_seed(member.seed) for member in self.members]
        self.module_.reset_parameters(self.generators_)
        self.records_ = [Record() for _ in self.members]
        return self

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> "StackedNet":
        """Build the solver on the stack's flat parameters."""
        del triggered_directly
        self.optimizer_ = self.optimizer(self.module_, self.members, **self.get_params_for("optimizer"))
        return self

    def partial_fit(self, X: StackData, y: None = None, classes: None = None, **fit_params: Any) -> "StackedNet":
        """Train on; unlike skorch's, it lets a KeyboardInterrupt through to the user."""
        del classes
        if not self.initialized_:
            self.initialize()
        self.notify("on_train_begin", X=X, y=y)
        self.fit_loop(X, y, **fit_params)
        self.notify("on_train_end", X=X, y=y)
        return self

    def fit_loop(
        self,
        X: StackData,
        y: None = None,
        epochs: Sequence[int] | None = None,
        *,
        valid: StackData | None = None,
        monitor: StackData | None = None,
        on_epoch_end: EpochHook | None = None,
        **fit_params: Any,
    ) -> "StackedNet":
        """Train every member to its last epoch; members that stop leave the stack at once.

        Parameters
        ----------
        X : StackData
        epochs : sequence of int or None
            Epochs per member at a constant learning rate, instead of `max_iter` epochs
            of the member's schedule.
        valid : StackData or None
            Rows that early stopping watches.
        monitor : StackData or None
            Rows whose loss `on_epoch_end` is told; they decide nothing here.
        on_epoch_end : callable or None
            ``(epoch, members, losses) -> members to stop``.
        """
        del y, fit_params
        bounds = batch_bounds(len(X), len(X) if self.batch_size == -1 else self.batch_size)
        schedules = self._schedules(len(bounds) - 1, epochs)
        for record in self.records_:
            record.best_loss, record.n_no_change = inf, 0
        state = self._member_state()
        best = {} if valid is None else _clone(state)
        run = _Run(list(range(len(self.members))), X, valid, monitor, best, _clone(state))
        dropout = self._dropout_generators()
        run.training_pass = self._training_pass(run.active, dropout)
        epoch = 0
        while run.active:
            self.active_ = run.active
            data = {"dataset_train": run.train, "dataset_valid": run.valid}
            self.notify("on_epoch_begin", **data)
            rates = np.stack([schedules[m][epoch] for m in run.active])
            train_loss = self._train_epoch(run, bounds, rates)
            valid_loss = None if run.valid is None else self._evaluate(run.valid, "valid")
            stopped = self._update_records(run, rates, train_loss, valid_loss)
            stopped |= {m for m in run.active if epoch + 1 == len(schedules[m])}
            try:
                self.notify("on_epoch_end", **data)
            except KeyboardInterrupt:
                # skorch's callbacks end a training so; without any it is the user's Ctrl-C
                if len(self.callbacks_) == len(self._default_callbacks):
                    raise
                stopped = set(run.active)
            if on_epoch_end is not None:
                losses = [] if run.monitor is None else self._evaluate(run.monitor, "monitor")
                stopped |= set(on_epoch_end(epoch, run.active, losses))
            if stopped:
                self._release(run, stopped, dropout)
            epoch += 1
        self._set_members(run.final, range(len(self.members)))
        self._set_clock()
        for m, finite in enumerate(self.module_.theta.data.isfinite().all(1).tolist()):
            record, watched = self.records_[m], self._watches(run, m)
            record.diverged = not finite or record.best_loss == inf or (record.diverged and not watched)
        return self

    def run_single_epoch(
        self,
        iterator: Iterable[Batch],
        training: bool,
        prefix: str,
        step_fn: Callable[[Batch], Tensor],
        **fit_params: Any,
    ) -> Tensor:
        """Return each member's mean loss over the batches."""
        del fit_params
        self.module_.train(training)
        hooked = self._hooked("on_batch_begin", "on_batch_end")
        total = self.module_.theta.data.new_zeros(len(self.module_.theta))
        mass: Tensor | int = 0
        for batch in iterator:
            if hooked:
                self.notify("on_batch_begin", batch=batch, training=training)
            loss = step_fn(batch)
            weight = batch[0].shape[2] if batch[2] is None else batch[2].sum(1)
            total, mass = total + loss * weight, mass + weight
            if hooked:
                self.notify("on_batch_end", batch=batch, training=training, loss=loss)
        return total / mass

    def select(self, members: Sequence[int]) -> "StackedNet":
        """Return a net of these members alone, with their solver state and history."""
        if len(members) == len(self.members):
            return self
        params = self.get_params(deep=False)
        params.update(members=[self.members[m] for m in members], module__n_members=len(members))
        net = NeuralNet.initialize(StackedNet(**params))  # without drawing weights that are replaced
        net.records_ = [self.records_[m] for m in members]
        net.generators_ = [self.generators_[m] for m in members]
        net._set_members(
            {name: value[list(members)] for name, value in self._member_state().items()}, range(len(members))
        )
        net._set_clock()
        net.history = History()
        for epoch in range(max(len(record.train_loss) for record in net.records_)):
            net.history.new_epoch()
            net.history.record("epoch", epoch + 1)
            net.history.record("dur", self.history[epoch, "dur"])
            net._record_mean("train_loss", [r.train_loss[epoch] for r in net.records_ if epoch < len(r.train_loss)])
            valid = [r.valid_loss[epoch] for r in net.records_ if epoch < len(r.valid_loss)]
            if valid:
                net._record_mean("valid_loss", valid)
        return net

    def snapshot(self) -> "StackedNet":
        """Return a net for prediction with the weights of the members now in training."""
        net = copy.copy(self)  # skorch's way through pickle, so the tensors are copied
        net.members = self.members[: len(net.module_.theta)]
        return net

    def resume(
        self, members: Sequence[Member], batch_size: int, callbacks: list[Any], verbose: int, keep_solver: bool
    ) -> "StackedNet":
        """Prepare to train on from the weights as they are, with other settings."""
        self.members, self.batch_size, self.verbose = members, batch_size, verbose
        self.callbacks = callbacks or None
        self._initialize_callbacks()
        if not keep_solver:
            with self._current_init_context("optimizer"):
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
            for start, stop in pairwise(batch_bounds(table.shape[0], self._rows_at_once())):
                part = table[start:stop]
                rows = part if isinstance(part, Tensor) else torch.from_numpy(part.toarray())
                x = rows.to(theta.device).T[None].expand(len(self.members), -1, -1)  # (M, D, B)
                parts.append(self.module_(x).cpu())
        return torch.cat(parts, dim=2)

    def infer(self, x: Tensor, **fit_params: Any) -> Tensor:
        """Return the outputs for a batch ``(B, D)``, rows first as skorch expects: ``(B, M, C)``."""
        return self.module_(x.T[None].expand(len(self.members), -1, -1)).permute(2, 0, 1)

    def _schedules(self, n_batches: int, epochs: Sequence[int] | None) -> list[NDArray[np.float64]]:
        """Return each member's learning rates, ``(epochs, batches)``."""
        rates = [
            learning_rates("constant", member.learning_rate_init, epochs[m] * n_batches)
            if epochs is not None
            else learning_rates(member.learning_rate, member.learning_rate_init, member.max_iter * n_batches)
            for m, member in enumerate(self.members)
        ]
        return [rate.reshape(-1, n_batches) for rate in rates]

    def _train_epoch(self, run: "_Run", bounds: Sequence[int], rates: NDArray[np.float64]) -> list[float]:
        """Train for an epoch in fresh row orders; return each member's mean loss, penalty included.

        A scheduler among the user's callbacks acts on the solver's "lr", a factor on `rates`, in place.
        """
        device = self.module_.theta.device
        order = torch.arange(len(run.train)).repeat(len(run.active), 1)
        for row, m, count in zip(order, run.active, run.train.counts.tolist(), strict=True):
            torch.randperm(count, generator=self.generators_[m], out=row[:count])
        rate = iter(self.module_.theta.data.new_tensor(rates.T)[:, :, None])
        hooked = self._hooked("on_grad_computed")
        factors = []

        def step(batch: Batch) -> Tensor:
            loss = run.training_pass(*batch)
            if hooked:
                self.notify(
                    "on_grad_computed", named_parameters=[("theta", self.module_.theta)], batch=batch, training=True
                )
            factors.append(self.optimizer_.param_groups[0]["lr"])
            self.optimizer_.step(next(rate) if factors[-1] == 1 else next(rate) * factors[-1])
            return loss

        with torch.no_grad():
            batches = run.train.batches(order.to(device), bounds)
            loss = self.run_single_epoch(batches, True, "train", step) + self.optimizer_.penalty()
        rates *= factors
        return self._record_mean("train_loss", loss.tolist())

    def _evaluate(self, data: StackData, prefix: str) -> list[float]:
        """Return each member's mean loss over some rows, with the running statistics; nan without rows."""
        device = self.module_.theta.device
        order = torch.arange(len(data), device=device).repeat(len(data.counts), 1)

        def step(batch: Batch) -> Tensor:
            x, target, weight = batch
            loss = self.criterion_(self.module_(x), target)
            return loss.mean(1) if weight is None else (loss * weight).sum(1) / weight.sum(1).clamp(min=1e-30)

        with torch.no_grad():
            bounds = batch_bounds(len(data), self._rows_at_once())
            loss = self.run_single_epoch(data.batches(order, bounds), False, prefix, step)
        return self._record_mean(prefix + "_loss", loss.tolist())

    def _record_mean(self, name: str, losses: list[float]) -> list[float]:
        """Write the members' mean to the history, and whether it is the best so far, as skorch does."""
        known = [loss for loss in losses if not isnan(loss)]
        mean = float(np.mean(known)) if known else nan
        earlier = [row[name] for row in self.history[:-1] if name in row]
        self.history.record(name, mean)
        self.history.record(name + "_best", mean < min(earlier, default=inf))
        self.history.new_batch()  # skorch's Checkpoint looks for one
        self.history.record_batch(name, mean)
        return losses

    def _update_records(
        self, run: "_Run", rates: NDArray[np.float64], train_loss: list[float], valid_loss: list[float] | None
    ) -> set[int]:
        """Take the epoch into every member's record, keep the best states, return who stops by itself."""
        improved, stopped = [], set()
        for i, m in enumerate(run.active):
            member, record = self.members[m], self.records_[m]
            watched = valid_loss[i] if valid_loss is not None and self._watches(run, m) else None
            is_best, stops = record.update(member, train_loss[i], watched)
            budgets = decay_budgets(member, rates[i].sum(), self.optimizer_.loss_factor())
            before = record.budgets[-1] if record.budgets else dict.fromkeys(budgets, 0.0)
            record.budgets.append({role: before[role] + budget for role, budget in budgets.items()})
            record.n_steps.append(rates.shape[1] + (record.n_steps[-1] if record.n_steps else 0))
            improved += [i] if is_best and watched is not None else []
            stopped |= {m} if stops else set()
        if improved:
            for name, value in self._member_state().items():
                run.best[name][improved] = value[improved]
        return stopped

    def _release(self, run: "_Run", stopped: set[int], dropout: Sequence[torch.Generator]) -> None:
        """Write the stopped members' states away and go on with the others."""
        state = self._member_state()
        staying = [i for i, m in enumerate(run.active) if m not in stopped]
        for i, m in enumerate(run.active):
            if m in stopped:
                source = run.best if self._watches(run, m) else state
                for name, value in source.items():
                    run.final[name][m] = value[i]
        run.active = [run.active[i] for i in staying]
        if run.active:
            run.best = {name: value[staying] for name, value in run.best.items()}
            run.train = run.train.select(staying)
            run.valid = None if run.valid is None else run.valid.select(staying)
            run.monitor = None if run.monitor is None else run.monitor.select(staying)
            self._set_members({name: value[staying] for name, value in state.items()}, run.active)
            run.training_pass = self._training_pass(run.active, dropout)

    def _watches(self, run: "_Run", m: int) -> bool:
        return run.valid is not None and self.members[m].early_stopping

    def _set_clock(self) -> None:
        """Count the steps that lie behind the kept weights, for the statistics and for the solver."""
        self.module_.n_steps = max(record.n_steps[record.best_iter - 1] for record in self.records_)
        self.optimizer_.set_clock(self.module_.n_steps - self.records_[0].n_steps_before)

    def _member_state(self) -> dict[str, Tensor]:
        return {**self.module_.state(), **self.optimizer_.member_state()}

    def _set_members(self, state: dict[str, Tensor], members: Sequence[int]) -> None:
        self.module_.load(state)
        self.optimizer_.load(state, [self.members[m] for m in members])

    def _dropout_generators(self) -> list[torch.Generator]:
        """Return a generator per member on the stack's device, seeded from the member's own."""
        seeds = [int(torch.randint(2**62, (), generator=generator)) for generator in self.generators_]
        return [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def _training_pass(self, members: Sequence[int], dropout: Sequence[torch.Generator]) -> TrainingPass:
        rates = [self.members[m].dropout for m in members]
        if not any(rates):
            return TrainingPass(self.module_, self.criterion_)
        units = [shape[0] for shape in self.module_.shapes["hidden_weights"]]
        generators = [dropout[m] for m in members]
        return TrainingPass(self.module_, self.criterion_, Dropout(rates, units, generators, self.module_.theta.dtype))

    def _hooked(self, *names: str) -> bool:
        """Tell whether any callback defines one of these hooks."""
        return any(
            getattr(type(cb), name) is not getattr(Callback, name) for _, cb in self.callbacks_ for name in names
        )

    def _rows_at_once(self) -> int:
        """Return how many rows of every member to evaluate together: about 16 MB of activations."""
        shapes = self.module_.shapes
        widest = max(sum(shape) for shape in shapes["hidden_weights"] + shapes["output_weights"])
        widest = max([widest, *(n * n_cosines for n, n_cosines, _ in shapes["embeddings"])])
        return max(64, 2**22 // (widest * len(self.module_.theta)))


@dataclass
class _Run:
    """What changes as members leave a stack in training; `best` and the data have a row per active member."""

    active: list[int]
    train: StackData
    valid: StackData | None
    monitor: StackData | None
    best: dict[str, Tensor]
    final: dict[str, Tensor]
    training_pass: TrainingPass = field(init=False)


def _clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}
