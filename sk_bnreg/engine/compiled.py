"""The compiled engine in the training loop: each network by itself, on any thread."""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sk_bnreg.engine.dropout import n_kept
from sk_bnreg.engine.embedding import SIZE
from sk_bnreg.engine.net import StackedNet
from sk_bnreg.engine.normalisation import NORMALISATIONS, Kind
from sk_bnreg.engine.rows import Rows, Table
from sk_bnreg.engine.solvers import SOLVERS
from sk_bnreg.engine.training import Key, Run
from sk_bnreg.engine.workers import CACHE_LINE, Job, Room, Team

if TYPE_CHECKING:
    from sk_bnreg.engine.buffers import Data, Member

ROWS_AT_ONCE = 256  # in evaluation
DIVISIBLE = 2**24  # parameters times rows of a batch from which a team is faster than a thread


@cache
def has_kernel() -> bool:
    """Tell whether numba can be used here; if not, say so once.

    Nobody is locked out of a new Python for which numba has no release: torch trains there.
    """
    collecting = gc.isenabled()
    gc.disable()  # half of the time of this import would go to walks over torch's million objects
    try:
        import numba
    except ImportError as error:  # it is not there yet for every new Python or numpy
        reason = str(error)
    else:
        reason = "NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else ""  # type: ignore[attr-defined]
    finally:
        if collecting:
            gc.enable()
    if reason:
        warnings.warn(
            f"Networks are trained by torch, several times slower on a CPU: numba can't be used here ({reason}).",
            stacklevel=2,
        )
    return not reason


def has_compiled_form(solver: str, batch_norm: Kind) -> bool:
    """Tell whether the kernel has the steps of a solver and of a normalisation; torch trains what it has not."""
    normalisation = NORMALISATIONS[batch_norm]
    return SOLVERS[solver].compiled_step is not None and (normalisation is None or normalisation.compiled is not None)


@contextmanager
def compilation_told(tell: Callable[[str], object]) -> Iterator[None]:
    """Tell of it, in one line, if the kernel has to be compiled within.

    Parameters
    ----------
    tell : callable
        Called with the line; not at all where numba's cache has the kernel.
    """
    from numba.core import event

    from sk_bnreg.engine.kernel import train_epoch

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            if event.data["dispatcher"] is train_epoch:
                tell("Compiling the engine, once in this environment: some 15 seconds.")

        def on_end(self, event: Any) -> None:
            pass

    with event.install_listener("numba:compile", Listener()):
        yield


class CompiledRun(Run[Key]):
    """A net whose members are trained by the compiled kernel, in place.

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
        from sk_bnreg.engine import kernel

        super().__init__(net, owner, [len(rows.index) for rows in train], epochs, train)
        self.kernel = kernel
        self.n_rows_at_once = max(stop - start for bounds in self.bounds for start, stop in pairwise(bounds))
        self.plan, self.evaluation = (Plan(net, n_rows) for n_rows in (self.n_rows_at_once, ROWS_AT_ONCE))
        self.data = [_data(net, rows) for rows in train]
        self.valid, self.monitor = ([_data(net, rows) if rows else None for rows in part] for part in (valid, monitor))
        # views: the kernel writes into torch's own memory, so that nothing is copied back at an epoch's end
        self.state = {name: value.numpy() for name, value in net.member_state().items()}
        self.best = {name: value.copy() for name, value in self.state.items()} if any(valid) else {}
        self.members = [_member(net, self.state, m) for m in range(len(net.members))]
        self.n_steps = np.zeros(len(net.members), np.int64)
        self.closing_loss = [0.0] * len(net.members)

    def jobs(self) -> list[Job]:
        """Return a job per active member."""
        factor = self.net.optimizer_.param_groups[0]["lr"]  # a scheduler's
        self.rates = [rates * factor for rates in self.rates]
        n_parameters = len(self.members[0].theta)
        n_seen = len(self.active) if self.watchers else 0
        # parameters before, gradient, parameters after, of the step that a callback chose
        self.seen = np.zeros((n_seen, 3, n_parameters), self.members[0].theta.dtype)
        # a team's threads meet several times a step: below some work, or some units each, one is faster alone. It is
        # decided from the network alone, and no bit depends on it
        most_threads = (
            max(1, max(self.net.module_.hidden, default=0) // 64)
            if n_parameters * self.n_rows_at_once >= DIVISIBLE
            else 1
        )
        return [
            Job(n_parameters * len(self.data[m].table_rows), partial(self._train, i, m), most_threads)
            for i, m in enumerate(self.active)
        ]

    def end_epoch(self, epoch: int) -> None:
        """Tell callbacks of the step that they chose, then as every run."""
        for watcher in self.watchers:
            rates = np.array([rates[self.chosen] for rates in self.rates])
            before, grad, after = torch.from_numpy(self.seen).unbind(1)
            watcher.on_chosen_step(self.net, before, grad, after, rates)
        super().end_epoch(epoch)

    def watches(self, m: int) -> bool:
        """Tell whether a member keeps its best epoch."""
        return self.valid[m] is not None and self.net.members[m].early_stopping

    def keep(self, improved: Sequence[int]) -> None:
        """Keep the states of these active members, by their places."""
        for i in improved:
            for name, value in self.state.items():
                self.best[name][self.active[i]] = value[self.active[i]]

    def release(self) -> None:
        """Return the stopped members to their best states."""
        for m in self.stopped:
            if self.watches(m):
                for name, value in self.state.items():
                    value[m] = self.best[name][m]
        self.active = [m for m in self.active if m not in self.stopped]

    def closing_jobs(self) -> list[Job]:
        """Return a job per member that may overflow."""
        return [Job(len(self.data[m].table_rows), partial(self._close, m)) for m in self.doubtful()]

    def _train(self, i: int, m: int, room: Room, team: Team) -> None:
        """Train a member for an epoch and evaluate it.

        Parameters
        ----------
        i, m : int
            Its place among the active members, and its number.
        room : Room
            Memory of the thread that does it.
        team : Team
        """
        order = room.take("order", len(self.data[m].table_rows), np.int64)
        torch.randperm(len(order), generator=self.net.generators_[m], out=torch.from_numpy(order))
        n_steps, (before, before_solver) = int(self.n_steps[m]), self.n_steps_before
        clocks = before + n_steps, before_solver + n_steps, n_steps
        work = room.take("work", self.plan.work_size, self.members[m].theta.dtype)
        bounds, rates, flags = np.array(self.bounds[m]), self.rates[i], np.zeros(2, np.int64)
        seen = self.seen[i] if self.watchers else np.empty((0, 0), self.seen.dtype)
        train = partial(
            self.kernel.train_epoch, self.plan.network, self.data[m], self.members[m], order, bounds, rates, clocks,
            self.dropout_seeds[m], self.chosen, seen, work, flags, team.stop, team.size,
        )  # fmt: skip
        # rank 0 is this thread; the others have the same arguments, and share flags and buffers
        others = [team.submit(train, rank) for rank in range(1, team.size)]
        self.train_loss[i] = train(0)
        wait(others)
        self.n_steps[m] += len(rates)
        self.valid_loss[i] = self._evaluate(m, self.valid[m], room)
        self.monitor_loss[i] = self._evaluate(m, self.monitor[m], room)

    def _close(self, m: int, room: Room, team: Team) -> None:
        del team
        self.closing_loss[m] = self._evaluate(m, self.data[m], room)

    def _evaluate(self, m: int, data: "Data | None", room: Room) -> float:
        """Return a member's mean loss over some rows, nan without any."""
        if data is None or not len(data.table_rows):
            return np.nan
        work = room.take("work", self.evaluation.work_size, data.dense.dtype)
        rows = np.arange(len(data.table_rows))
        return self.kernel.evaluate(self.evaluation.network, data, self.members[m], rows, ROWS_AT_ONCE, work)


class Plan:
    """A net's members described to the kernel, with buffers for so many rows at a time.

    Attributes
    ----------
    network : Network
    work_size : int
        Length of all buffers.
    """

    def __init__(self, net: StackedNet, n_rows: int):
        from sk_bnreg.engine import buffers, passes
        from sk_bnreg.engine.simd import VECTOR_BYTES

        module, solver, n_bytes = net.module_, net.optimizer_, net.module_.theta.element_size()
        self.line, self.lanes = CACHE_LINE // n_bytes, VECTOR_BYTES // n_bytes
        self.work_size = 0
        blocks = sorted(module.parameter_blocks)  # by layer
        weights = [block for block in blocks if block.kind == "weights"]
        begin = {
            kind: [block.start for block in blocks if block.kind == kind] for kind in ("scale", "shift", "embeddings")
        }
        hidden, n_features, n_embedded = module.hidden, module.n_features, len(module.embedded)
        sizes, stride = [weights[0].shape[1], *(block.shape[0] for block in weights)], self._padded(n_rows)
        widths = [self._padded(self._tiles(n_features) + self._tiles(SIZE * n_embedded)), *map(self._padded, hidden)]
        layers = np.zeros(len(weights), buffers.LAYER)
        layers["n_in"], layers["n_out"] = sizes[:-1], sizes[1:]
        layers["unit_at"] = np.cumsum([0, *hidden])
        layers["weight_at"] = [block.start for block in weights]
        layers["shift_at"] = begin["shift"]
        layers["scale_at"][: len(begin["scale"])] = begin["scale"]
        layers["input_at"] = [self._take((self._tiles(size) + self.lanes) * stride) for size in sizes[:-1]]
        layers["flipped_at"] = [self._take(self._tiles(n_rows) * width) for width in widths]
        layers["flipped_width"] = widths
        layers["linear_at"] = [self._take(size * stride) for size in sizes[1:]]
        deltas = [self._take(max(sizes) * stride) for _ in range(2)]
        layers["delta_at"] = [deltas[layer % 2] for layer in range(len(weights))]
        layers["delta_at"][-1] = layers["linear_at"][-1]
        facts, kind = np.zeros(1, buffers.FACTS), net.criterion_.kind
        numbers = {
            "n_features": n_features, "n_units": sum(hidden), "widest": max(sizes), "stride": stride,
            "units_at_once": _units_at_once(max(sizes), stride * n_bytes), "loss": passes.LOSSES.index(kind),
            "activation": passes.ACTIVATIONS.index(module.activation),
            "solver": buffers.COMPILED_SOLVERS.index(type(solver)),
            "embeddings_at": sum(begin["embeddings"]), "unit_values_at": self._take(4 * (sum(hidden) + 1)),
            "row_values_at": self._take(3 * stride), "grad_at": self._take(module.theta.shape[1]),
            "zeros_at": self._take(max(sizes)), "inputs_delta_at": deltas[1],
        }  # fmt: skip
        if module.normalisation is not None:
            numbers |= {"normalised": 1, "eps": module.normalisation.eps}
        for name, number in (numbers | {name: solver.param_groups[0][name] for name in solver.constants}).items():
            facts[name] = number
        self._take(2 * stride)  # products read to the end of a vector
        ends = np.array([0, *(columns.stop for columns in module.slices.values())])
        self.network = buffers.Network(layers, facts, module.embedded.numpy(), ends)

    def _take(self, length: int) -> int:
        """Return where a buffer begins, a cache line's."""
        start = self.work_size
        self.work_size += -(-length // self.line) * self.line
        return start

    def _padded(self, n: int) -> int:
        """Round up to whole cache lines, but no multiple of 8: then rows below each other would share a cache set."""
        lines = -(-n // self.line)
        return (lines + (lines % 8 == 0)) * self.line

    def _tiles(self, n: int) -> int:
        """Round up to whole vectors."""
        return -(-n // self.lanes) * self.lanes


def _units_at_once(widest: int, n_bytes: int) -> int:
    """Return for how many units the inputs, which stay in a cache, are read at once; all, where they don't."""
    from sk_bnreg.engine.kernel import UNITS

    return UNITS if widest * n_bytes < 2**18 else -(-widest // UNITS) * UNITS


def _member(net: StackedNet, state: dict[str, NDArray[Any]], m: int) -> "Member":
    """View a member's part of the state; with one moment alone, both are that one."""
    from sk_bnreg.engine import buffers

    member = net.members[m]
    moments = [state[name][m] for name in net.optimizer_.moments]
    strengths = np.array(list(member.l2.values()))
    return buffers.Member(
        theta=state["theta"][m],
        moment_1=moments[0],
        moment_2=moments[-1],
        running_mean=state["running_mean"][m],
        running_var=state["running_var"][m],
        coupled=strengths * (member.l2_mode == "loss"),
        decoupled=strengths * (member.l2_mode == "decoupled"),
        n_kept=n_kept(member.dropout),
        piecewise=bool(state["piecewise"][m, 0]),
    )


def _data(net: StackedNet, rows: Rows) -> "Data":
    """View rows as the kernel takes them: one type for targets of all losses, so that one compilation serves all."""
    from sk_bnreg.engine import buffers

    dtype = net.module_.theta.data.numpy().dtype
    dense, values, columns, starts = _arrays(rows.table, dtype)
    target = rows.target.numpy().astype(dtype, copy=False)
    return buffers.Data(
        dense=dense,
        values=values,
        columns=columns,
        starts=starts,
        table_rows=rows.index.numpy(),
        target=np.ascontiguousarray(target.reshape(len(target), -1)),
        weight=np.empty(0, dtype) if rows.weight is None else rows.weight.numpy(),
    )


def _arrays(table: Table, dtype: Any) -> tuple[NDArray[Any], ...]:
    """Return a table as the kernel's dense and sparse parts, one of which is empty."""
    if isinstance(table, torch.Tensor):
        return table.numpy(), np.empty(0, dtype), np.empty(0, np.int32), np.empty(0, np.int64)
    return (
        np.empty((0, 0), dtype),
        np.require(table.data, dtype, "W"),
        np.require(table.indices, np.int32, "W"),
        np.require(table.indptr, np.int64, "W"),
    )
