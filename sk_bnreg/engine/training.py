"""The loop over epochs that trains any number of nets at once, and the torch engine that stands in it."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from math import inf
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sk_bnreg.engine.dropout import Dropout
from sk_bnreg.engine.net import StackedNet
from sk_bnreg.engine.rows import Batch, Rows, StackData, Tables, batch_bounds
from sk_bnreg.engine.solvers import decay_budgets, learning_rates
from sk_bnreg.engine.training_pass import TrainingPass
from sk_bnreg.engine.workers import Job, Workers

Key = TypeVar("Key", bound=Hashable)  # of a task
STEP_HOOKS = ("on_batch_begin", "on_batch_end", "on_grad_computed", "around_step")


def train_nets(
    runs: Sequence["Run[Key]"], on_epoch_end: Callable[[int, dict[Key, float]], Iterable[Key]] | None = None
) -> None:
    """Train every member of every run to its last epoch, an epoch of all at a time.

    Parameters
    ----------
    runs : sequence of Run
    on_epoch_end : callable or None
        ``on_epoch_end(epoch, losses)`` with each training task's mean loss on its monitor rows; returns tasks to stop.
    """
    waiting, epoch = list(runs), 0
    with Workers() as workers:
        for run in runs:
            run.net.notify("on_train_begin", X=run.train, y=None)
        while waiting:
            # an epoch of all: a hook that compares tasks must find them after equal training
            for run in waiting:
                run.begin_epoch(epoch)
            workers.do([job for run in waiting for job in run.jobs()])
            for run in waiting:
                run.end_epoch(epoch)
            if on_epoch_end is not None:
                losses: dict[Key, list[float]] = {}
                for run in waiting:
                    for m, loss in zip(run.active, run.monitor_loss, strict=True):
                        losses.setdefault(run.owner[m], []).append(loss)
                stopped = set(on_epoch_end(epoch, {task: float(np.mean(values)) for task, values in losses.items()}))
                for run in waiting:
                    run.stopped |= {m for m in run.active if run.owner[m] in stopped}
            for run in waiting:
                run.release()
            waiting, epoch = [run for run in waiting if run.active], epoch + 1
        workers.do([job for run in runs for job in run.closing_jobs()])
    for run in runs:
        run.finish()
        run.net.notify("on_train_end", X=run.train, y=None)


class Run(Generic[Key]):
    """A net in training: what does not depend on the engine.

    In every epoch `begin_epoch`, `jobs`, `end_epoch` and `release` are called in this order, in the end `closing_jobs`
    and `finish`.

    Parameters
    ----------
    net : StackedNet
    owner : sequence of hashable
        The task that each member belongs to.
    n_rows : sequence of int
        Rows that each member trains on.
    epochs : int or None
        Epochs at a constant learning rate, instead of `max_iter` epochs of each member's schedule.
    train : object
        What skorch's callbacks are given as the data.

    Attributes
    ----------
    active : list of int
        Members that are still training.
    train_loss, valid_loss, monitor_loss : list of float
        Of the epoch, one per active member; nan where there are no rows.
    stopped : set of int
        Active members that stop after this epoch.
    closing_loss : list of float
        In the end, of each member on its training rows; 0 where its parameters tell that no input overflows.
    """

    closing_loss: list[float]

    def __init__(self, net: StackedNet, owner: Sequence[Key], n_rows: Sequence[int], epochs: int | None, train: Any):
        self.net, self.owner, self.train = net, owner, train
        self.active = list(range(len(net.members)))
        self.bounds = [batch_bounds(n, n if net.batch_size == -1 else net.batch_size) for n in n_rows]
        self.schedules = []
        for member, bounds in zip(net.members, self.bounds, strict=True):
            n_batches = len(bounds) - 1
            schedule, n_epochs = ("constant", epochs) if epochs else (member.learning_rate, member.max_iter)
            rates = learning_rates(schedule, member.learning_rate_init, n_epochs * n_batches)
            self.schedules.append(rates.reshape(n_epochs, n_batches))
        for record in net.records_:
            record.best_loss, record.n_no_change = inf, 0
        # a warm start has an old clock of the running statistics, and a new one of the solver
        self.n_steps_before = net.module_.n_steps, net.optimizer_.clock()
        # drawn also where nothing is dropped, so that the row order does not depend on dropout
        self.dropout_seeds = [int(torch.randint(2**62, (), generator=generator)) for generator in net.generators_]
        self.stopped: set[int] = set()

    def begin_epoch(self, epoch: int) -> None:
        """Plan the epoch."""
        self.net.active_ = self.active
        self.net.notify("on_epoch_begin", dataset_train=self.train, dataset_valid=None)
        self.rates = [self.schedules[m][epoch] for m in self.active]
        self.train_loss, self.valid_loss, self.monitor_loss = ([np.nan] * len(self.active) for _ in range(3))
        n_steps = min(len(rates) for rates in self.rates)  # one that every member takes
        self.watchers = self.net.callbacks_with("choose_step")
        self.chosen = self.watchers[0].choose_step(n_steps) if self.watchers else -1

    def jobs(self) -> list[Job]:
        """Return what is to be done in this epoch."""
        raise NotImplementedError

    def end_epoch(self, epoch: int) -> None:
        """Take the epoch into history and records, and see who stops by itself."""
        net = self.net
        net.record_mean("train_loss", self.train_loss)
        if any(self.watches(m) for m in self.active):
            net.record_mean("valid_loss", self.valid_loss)
        self.stopped, improved = set(), []
        for i, m in enumerate(self.active):
            member, record, rates = net.members[m], net.records_[m], self.rates[i]
            is_best, stops = record.update(member, self.train_loss[i], self.valid_loss[i] if self.watches(m) else None)
            # what was planned may not be what was done: a scheduler's factor and early stopping are in these
            factor = net.optimizer_.decay_factor(member.l2_mode, net.optimizer_.param_groups[0])
            budgets = decay_budgets(member, rates.sum(), factor)
            before = record.budgets[-1] if record.budgets else dict.fromkeys(budgets, 0.0)
            record.budgets.append({role: before[role] + budget for role, budget in budgets.items()})
            record.n_steps.append(len(rates) + (record.n_steps[-1] if record.n_steps else 0))
            if is_best and self.watches(m):
                improved.append(i)
            if stops or epoch + 1 == len(self.schedules[m]):
                self.stopped.add(m)
        self.keep(improved)
        if net.end_epoch(dataset_train=self.train, dataset_valid=None):
            self.stopped = set(self.active)

    def watches(self, m: int) -> bool:
        """Tell whether a member keeps its best epoch."""
        raise NotImplementedError

    def keep(self, improved: Sequence[int]) -> None:
        """Keep the states of these active members, by their places."""
        raise NotImplementedError

    def release(self) -> None:
        """Leave the stopped members as they are to stay, and go on with the others."""
        raise NotImplementedError

    def closing_jobs(self) -> list[Job]:
        """Return what tells whether the outputs on the training rows are finite."""
        raise NotImplementedError

    def doubtful(self) -> list[int]:
        """Return the members whose outputs may overflow on inputs that `fit` lets pass.

        For all others a bound says that they can't, which spares an evaluation of all rows in the end.
        """
        largest = torch.finfo(self.net.module_.theta.dtype).max
        bound = self.net.module_.largest_output(largest**0.5)
        return (~(bound < largest / 2**10)).nonzero()[:, 0].tolist()

    def finish(self) -> None:
        """Count the steps that lie behind the kept weights, and say which members diverged."""
        net, records = self.net, self.net.records_
        net.module_.n_steps = max(record.n_steps[record.best_iter - 1] for record in records)
        net.optimizer_.set_clock(net.module_.n_steps - records[0].n_steps_before)
        states = net.member_state().values()
        finite = torch.stack([value.isfinite().all(1) for value in states]).all(0).tolist()
        for m, record in enumerate(records):
            sound = finite[m] and np.isfinite(self.closing_loss[m]) and record.best_loss < inf
            record.diverged = not sound or (record.diverged and not self.watches(m))


class TorchRun(Run[Key]):
    """A net whose members, of equal structure, are one batched torch program.

    Parameters
    ----------
    net, owner, epochs
        As for `Run`.
    train : sequence of Rows
    valid, monitor : sequence of Rows or None
        Rows that early stopping watches, and rows to report on; None for members that have none.
    """

    def __init__(
        self,
        net: StackedNet,
        owner: Sequence[Key],
        train: Sequence[Rows],
        valid: Sequence[Rows | None],
        monitor: Sequence[Rows | None],
        epochs: int | None,
    ):
        tables = Tables(rows.table for rows in train)
        self.data = StackData.stack(train, tables)  # padded to the longest, since they are one program
        super().__init__(net, owner, [len(self.data)] * len(train), epochs, self.data)
        self.all_rows = self.data
        self.valid, self.monitor = _stack_some(valid, tables), _stack_some(monitor, tables)
        state = net.member_state()
        # members leave one by one, and what they were is written here, by their numbers
        self.best = {} if self.valid is None else _clone(state)
        self.final = _clone(state)
        self.n_steps = 0
        self._make_pass()

    def jobs(self) -> list[Job]:
        """Train now: torch has threads of its own."""
        rates = np.stack(self.rates)
        self.train_loss = self._train_epoch(rates)
        self.rates = list(rates)
        self.n_steps += rates.shape[1]
        if self.valid is not None:
            self.valid_loss = self._evaluate(self.valid, self.net.hooked("on_batch_begin", "on_batch_end"))
        if self.monitor is not None:
            self.monitor_loss = self._evaluate(self.monitor)
        return []

    def watches(self, m: int) -> bool:
        """Tell whether a member keeps its best epoch."""
        return self.valid is not None and self.net.members[m].early_stopping

    def keep(self, improved: Sequence[int]) -> None:
        """Keep the states of these active members, by their places."""
        if improved:
            for name, value in self.net.member_state().items():
                self.best[name][improved] = value[improved]

    def release(self) -> None:
        """Write the stopped members' states away; the others go on without them, and faster."""
        if not self.stopped:
            return
        net, state = self.net, self.net.member_state()
        for i, m in enumerate(self.active):
            if m in self.stopped:
                source = self.best if self.watches(m) else state
                for name, value in source.items():
                    self.final[name][m] = value[i]
        staying = [i for i, m in enumerate(self.active) if m not in self.stopped]
        self.active = [self.active[i] for i in staying]
        if self.active:
            self.best = {name: value[staying] for name, value in self.best.items()}
            self.data = self.data.select(staying)
            self.valid = None if self.valid is None else self.valid.select(staying)
            self.monitor = None if self.monitor is None else self.monitor.select(staying)
            net.set_members({name: value[staying] for name, value in state.items()}, self.active)
            self._make_pass()
        else:
            net.set_members(self.final, range(len(net.members)))

    def closing_jobs(self) -> list[Job]:
        """Compute the losses now."""
        self.closing_loss = self._evaluate(self.all_rows) if self.doubtful() else [0.0] * len(self.net.members)
        return []

    def _make_pass(self) -> None:
        """Make the pass of the active members: it holds views of their tensors, which are others when one has left."""
        net, dropout = self.net, None
        rates = [net.members[m].dropout for m in self.active]
        if any(rates):
            seeds = [self.dropout_seeds[m] for m in self.active]
            dropout = Dropout(rates, net.module_.hidden, seeds, self.n_steps, net.module_.theta.data)
        self.training_pass = TrainingPass(net.module_, net.criterion_, dropout)

    def _train_epoch(self, rates: NDArray[np.float64]) -> list[float]:
        """Train for an epoch in fresh row orders; return each member's mean loss, penalty included.

        A scheduler among the user's callbacks acts on the solver's "lr", a factor on `rates`, in place.
        """
        net, device = self.net, self.net.module_.theta.device
        order = torch.arange(len(self.data)).repeat(len(self.active), 1)
        for row, m, count in zip(order, self.active, self.data.counts.tolist(), strict=True):
            torch.randperm(count, generator=net.generators_[m], out=row[:count])
        rate = iter(net.module_.theta.data.new_tensor(rates.T)[:, :, None])  # per step (M, 1), on the device at once
        computed, hooked = net.hooked("on_grad_computed"), net.hooked("on_batch_begin", "on_batch_end")
        factors: list[float] = []

        def step(batch: Batch) -> Tensor:
            loss = self.training_pass(*batch)
            # skorch's machinery per batch costs more than a small network's step: only for who asks
            if computed:
                named = [("theta", net.module_.theta)]
                net.notify("on_grad_computed", named_parameters=named, batch=batch, training=True)
            chosen = len(factors) == self.chosen
            before, grad = (net.module_.theta.data.clone(), net.module_.theta.grad.clone()) if chosen else (None, None)
            factors.append(net.optimizer_.param_groups[0]["lr"])
            now = next(rate) if factors[-1] == 1 else next(rate) * factors[-1]
            net.take_step(now)
            for watcher in self.watchers if chosen else ():
                watcher.on_chosen_step(net, before, grad, net.module_.theta.data, now[:, 0].cpu().numpy())
            return loss

        with torch.no_grad():
            batches = self.data.batches(order.to(device), self.bounds[0])
            loss = self._mean_loss(batches, step, True, hooked) + net.optimizer_.penalty()
        rates *= factors
        return loss.tolist()

    def _evaluate(self, data: StackData, hooked: bool = False) -> list[float]:
        """Return each member's mean loss over some rows, with the running statistics; nan without rows."""
        module, criterion = self.net.module_, self.net.criterion_
        order = torch.arange(len(data), device=module.theta.device).repeat(len(data.counts), 1)

        def step(batch: Batch) -> Tensor:
            x, target, weight = batch
            loss = criterion(module(x), target)
            return loss.mean(1) if weight is None else (loss * weight).sum(1) / weight.sum(1).clamp(min=1e-30)

        with torch.no_grad():
            bounds = batch_bounds(len(data), self.net.rows_at_once())
            return self._mean_loss(data.batches(order, bounds), step, False, hooked).tolist()

    def _mean_loss(
        self, batches: Iterable[Batch], step: Callable[[Batch], Tensor], training: bool, hooked: bool
    ) -> Tensor:
        """Return each member's mean loss over the batches, which callbacks may be told of."""
        net = self.net
        net.module_.train(training)
        total = net.module_.theta.data.new_zeros(len(net.module_.theta))
        mass: Tensor | int = 0
        for batch in batches:
            if hooked:
                net.notify("on_batch_begin", batch=batch, training=training)
            loss = step(batch)
            weight = batch[0].shape[2] if batch[2] is None else batch[2].sum(1)
            total, mass = total + loss * weight, mass + weight
            if hooked:
                net.notify("on_batch_end", batch=batch, training=training, loss=loss)
        return total / mass


def _clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def _stack_some(parts: Sequence[Rows | None], tables: Tables) -> StackData | None:
    """Stack rows of each member, where some or all may have none; rows of other tables get tables of their own."""
    given = [part for part in parts if part is not None]
    if not given:
        return None
    if not all(id(part.table) in tables.first_row for part in given):
        tables = Tables(part.table for part in given)
    empty = Rows(given[0].table, given[0].index[:0], given[0].target[:0], None)
    return StackData.stack([empty if part is None else part for part in parts], tables)
