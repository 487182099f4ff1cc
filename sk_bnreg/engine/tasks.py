"""Tasks and their training: what to train on which rows and how, any number of them at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch.callbacks import Callback

from sk_bnreg.engine.compiled import CompiledRun, compilation_told, has_compiled_form, has_kernel
from sk_bnreg.engine.functions import StackedLoss
from sk_bnreg.engine.net import StackedNet
from sk_bnreg.engine.normalisation import Kind
from sk_bnreg.engine.rows import Rows
from sk_bnreg.engine.solvers import SOLVERS, Member
from sk_bnreg.engine.stack import StackedMLP
from sk_bnreg.engine.training import STEP_HOOKS, Key, Run, TorchRun, train_nets

Place = tuple[Any, int]  # an estimator's key, and the number of the task among its own


class Structure(NamedTuple):
    """What members must have in common to share a stack."""

    n_features: int
    sparse: bool
    embedded: tuple[int, ...]
    hidden_layer_sizes: tuple[int, ...]
    n_outputs: int
    activation: str
    batch_norm: Kind
    batch_norm_eps: float
    loss: str
    solver: str
    constants: tuple[tuple[str, float], ...]
    dtype: torch.dtype
    device: str
    batch_size: int
    n_batches: int


@dataclass
class Task:
    """Networks to be trained as one net, such as an estimator's ensemble: their rows and settings, checked.

    Attributes
    ----------
    members : list of Member
        A network each.
    train, valid : list of Rows
        Rows that each member trains on and is stopped early on; `valid` is empty without early stopping.
    monitor : Rows or None
        Rows to report on.
    net : StackedNet or None
        The net to go on with (warm start); None starts a new one.
    n_before : int
        Epochs that `net` has trained already.
    epochs : int or None
        Epochs at a constant learning rate (`partial_fit`) instead of the schedule.
    callbacks : list
        skorch callbacks that stay with the net.
    hooks : list
        skorch callbacks for this training alone.
    """

    structure: Structure
    members: list[Member]
    train: list[Rows]
    valid: list[Rows]
    monitor: Rows | None = None
    net: StackedNet | None = None
    n_before: int = 0
    epochs: int | None = None
    callbacks: list[Any] = field(default_factory=list)
    hooks: list[Callback] = field(default_factory=list)
    verbose: bool = False

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernel can train it."""
        s = self.structure
        return s.device == "cpu" and has_compiled_form(s.solver, s.batch_norm) and has_kernel()

    @property
    def alone(self) -> bool:
        """Whether its net is shared with no other task."""
        return bool(self.compiled or self.callbacks or self.hooks or self.verbose or self.net)


DIVERGED = (
    "The training diverged: parameters or loss became infinite or nan. "
    "Scale X (StandardScaler) or lower learning_rate_init or l2."
)


def train_tasks(
    tasks: Mapping[Key, Sequence[Task]],
    on_epoch_end: Callable[[int, dict[Key, float]], Iterable[Key]] | None = None,
) -> dict[Key, list[StackedNet] | None]:
    """Train tasks, an epoch of all at a time; return the nets of each estimator, None where its training diverged.

    Parameters
    ----------
    tasks : mapping of lists
        Those of each estimator by any key, by which the hook knows them too.
    on_epoch_end : callable or None
        ``on_epoch_end(epoch, losses)`` after every epoch; `losses` has, for each estimator that is training, the mean
        loss of its members on their monitor rows, nan without any. It returns the keys of those to stop.
    """
    single = {(key, i): task for key, own in tasks.items() for i, task in enumerate(own)}
    parts = _plan(single)
    runs = [_run(single, part) for part in parts]
    # compiling takes fifteen seconds of silence: who asked for words is told why
    told = any(task.verbose and task.compiled for task in single.values())
    try:
        with compilation_told(print) if told else nullcontext():
            train_nets(runs, on_epoch_end)
    finally:
        for run, part in zip(runs, parts, strict=True):
            hooks = single[part[0]].hooks
            run.net.callbacks_ = [(name, callback) for name, callback in run.net.callbacks_ if callback not in hooks]
    # one member that diverged fails its ensemble: a mean with it would be nan, and one without it another model
    nets, failed = {}, set()
    for run, part in zip(runs, parts, strict=True):
        ends = np.cumsum([0, *(len(single[place].members) for place in part)])
        for place, members in zip(part, pairwise(ends), strict=True):
            if any(run.net.records_[m].diverged for m in range(*members)):
                failed.add(place[0])
            else:
                nets[place] = run.net.select(range(*members))
    return {key: None if key in failed else [nets[key, i] for i in range(len(own))] for key, own in tasks.items()}


def _plan(tasks: Mapping[Place, Task]) -> list[list[Place]]:
    """Divide tasks among nets: one each, but where torch trains those of equal structure together, up to 64 members.

    The weights of very wide tables' nets take some hundred megabytes at most.
    """
    # where torch trains, a program of many networks takes hardly longer than one of one: a step is forty calls
    parts: list[list[Place]] = []
    latest: dict[Structure, list[Place]] = {}
    for place, task in tasks.items():
        part = latest.get(task.structure)
        if task.alone or part is None or _n_members(tasks, [*part, place]) > _most_members(task.structure):
            part = []
            parts.append(part)
            if not task.alone:
                latest[task.structure] = part
        part.append(place)
    return parts


def _n_members(tasks: Mapping[Place, Task], part: Sequence[Place]) -> int:
    return sum(len(tasks[place].members) for place in part)


def _most_members(structure: Structure) -> int:
    widest = max(structure.hidden_layer_sizes, default=1)
    return max(1, min(64, 2**24 // (widest * (structure.n_features + widest))))


def _run(tasks: Mapping[Place, Task], part: Sequence[Place]) -> Run[Any]:
    """Return what trains the members of some tasks as one net."""
    first = tasks[part[0]]
    members = [member for place in part for member in tasks[place].members]
    if first.net is None:
        net = make_net(first.structure, members, first.callbacks, int(first.verbose)).initialize()
    else:
        net = first.net.resume(
            members,
            first.structure.batch_size,
            first.callbacks,
            int(first.verbose),
            keep_solver=first.epochs is not None,
        )
    net.callbacks_ += [(type(hook).__name__, hook) for hook in first.hooks]
    nothing: list[Rows | None] = [None]
    return (CompiledRun if first.compiled and not net.hooked(*STEP_HOOKS) else TorchRun)(
        net,
        [place[0] for place in part for _ in tasks[place].members],
        [rows for place in part for rows in tasks[place].train],
        [rows for place in part for rows in tasks[place].valid or nothing * len(tasks[place].members)],
        [tasks[place].monitor for place in part for _ in tasks[place].members],
        first.epochs,
    )


def make_net(s: Structure, members: list[Member], callbacks: Sequence[Any] = (), verbose: int = 0) -> StackedNet:
    """Return a net of members of this structure, not initialized."""
    net = StackedNet(
        StackedMLP,
        StackedLoss,
        members=members,
        optimizer=SOLVERS[s.solver],
        batch_size=s.batch_size,
        device=s.device,
        verbose=verbose,
        callbacks=list(callbacks) or None,
        module__n_members=len(members),
        module__n_features=s.n_features,
        module__embedded=s.embedded,
        module__hidden_layer_sizes=s.hidden_layer_sizes,
        module__n_outputs=s.n_outputs,
        module__activation=s.activation,
        module__batch_norm=s.batch_norm,
        module__batch_norm_eps=s.batch_norm_eps,
        module__dtype=s.dtype,
        criterion__kind=s.loss,
    )
    return net.set_params(**{f"optimizer__{name}": value for name, value in s.constants})
