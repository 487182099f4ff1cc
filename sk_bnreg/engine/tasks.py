"""fit_stack: fit many estimators at once, each as if it had been fitted alone."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import FitFailedWarning
from skorch.callbacks import Callback

from sk_bnreg.engine.compiled import CompiledRun, compilation_told, has_compiled_form, has_kernel
from sk_bnreg.engine.functions import StackedLoss
from sk_bnreg.engine.net import StackedNet
from sk_bnreg.engine.rows import Rows, Table
from sk_bnreg.engine.solvers import SOLVERS, Member
from sk_bnreg.engine.stack import StackedMLP
from sk_bnreg.engine.training import STEP_HOOKS, Run, TorchRun, train_nets


class Structure(NamedTuple):
    """What members must have in common to share a stack."""

    n_features: int
    sparse: bool
    embedded: tuple[int, ...]
    hidden_layer_sizes: tuple[int, ...]
    n_outputs: int
    activation: str
    batch_norm: bool
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
    """One estimator's checked data and settings, ready to be trained.

    Attributes
    ----------
    train, valid : list of Rows
        Rows that each member trains on and is stopped early on; `valid` is empty without early stopping.
    monitor : Rows or None
        Rows to report on.
    net : StackedNet or None
        The net to go on with (warm start); None starts a new one.
    epochs : int or None
        Epochs at a constant learning rate (`partial_fit`) instead of the schedule.
    callbacks : list
        skorch callbacks that stay with the net.
    hooks : list
        skorch callbacks for this training alone.
    """

    estimator: Any
    structure: Structure
    members: list[Member]
    train: list[Rows]
    valid: list[Rows]
    monitor: Rows | None = None
    net: StackedNet | None = None
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
        """Whether the estimator gets a net of its own."""
        return bool(self.compiled or self.callbacks or self.hooks or self.verbose or self.net)


def fit_stack(
    estimators: Sequence[Any],
    X: Any,
    y: Any,
    *,
    rows: Sequence[Any] | None = None,
    sample_weight: Any = None,
    monitor_rows: Sequence[Any] | None = None,
    on_epoch_end: Callable[[int, Any], Sequence[int] | None] | None = None,
) -> Sequence[Any]:
    """Fit many estimators at once, an epoch of all at a time.

    Afterwards each estimator is what its own ``fit(X[rows], y[rows])`` would have made
    of it. The estimators may differ in everything. On a CPU every network is trained by itself, on as many
    threads as torch may use (`torch.set_num_threads`), and is the same to the bit whatever the others and the
    threads. On a GPU those that agree in layer sizes, activation, batch_norm, batch size, batches per epoch, solver,
    loss and dtype are one batched program, up to 64 networks in each, and are the same to rounding.
    Callbacks given to `set_callbacks` are not called here.

    Parameters
    ----------
    estimators : sequence of BNMLPClassifier or BNMLPRegressor
        Fitted in place.
    X : {array-like, sparse matrix} of shape (n_samples, n_features), or list of them
        One table for all, or a list of one per estimator. A table given several times
        is held once.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), or list of them
        A list of arrays is one per estimator when `X` is a list.
    rows : sequence of array-like of int, or None
        The rows that each estimator trains on, early-stopping fraction included.
    sample_weight : array-like of shape (n_samples,), list of them, or None
        A list when `X` is one.
    monitor_rows : sequence of array-like of int, or None
        Rows on which each estimator is scored after every epoch for `on_epoch_end`.
        They have no influence on the weights, nor on which epoch is kept.
    on_epoch_end : callable or None
        ``on_epoch_end(epoch, scores)`` after every epoch; `scores` has one
        entry per estimator, minus its mean loss on its monitor rows (of an ensemble, the mean
        over its networks), nan for those that are not training now. It may return the indices of estimators to stop.

    Returns
    -------
    list of estimators

    Raises
    ------
    ValueError
        If the data or a parameter is not valid, or if the training of every estimator
        diverged. If only some diverged, a `FitFailedWarning` names them and they stay
        unfitted.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, fit_stack
    >>> X, y = load_iris(return_X_y=True)
    >>> nets = [BNMLPClassifier(l2=l2, random_state=0) for l2 in (0.01, 0.1, 1.0)]
    >>> [bool(net.score(X, y) > 0.9) for net in fit_stack(nets, X, y)]
    [True, True, True]
    """
    n = len(estimators)
    if not n or not all(hasattr(estimator, "_make_task") for estimator in estimators):
        raise ValueError(f"estimators must be one or more BNMLPClassifier or BNMLPRegressor, got {list(estimators)!r}.")
    several = isinstance(X, list | tuple) and all(len(np.shape(table)) == 2 for table in X)
    if several and len(X) != n:
        raise ValueError(f"X must be one table or a list of one per estimator, got {len(X)} for {n} estimators.")
    given = (X, y, [None] * n if sample_weight is None else sample_weight)
    by_estimator = zip(*given, strict=True) if several else [(X, y, sample_weight)] * n
    tables: dict[Any, Table] = {}
    tasks = [
        make_task(
            estimator,
            X_i,
            y_i,
            weight,
            (None, None, None),
            tables,
            rows=None if rows is None else _check_rows(rows, i, n, X_i, "rows"),
            monitor_rows=None if monitor_rows is None else _check_rows(monitor_rows, i, n, X_i, "monitor_rows"),
        )
        for i, (estimator, (X_i, y_i, weight)) in enumerate(zip(estimators, by_estimator, strict=True))
    ]
    diverged = train_tasks(tasks, on_epoch_end)
    if len(diverged) == n:
        raise ValueError(DIVERGED)
    if diverged:
        warnings.warn(f"Estimators {diverged} of {n} are not fitted. {DIVERGED}", FitFailedWarning, stacklevel=2)
    return estimators


def _check_rows(rows: Sequence[Any], i: int, n: int, X: Any, name: str) -> np.ndarray:
    """Return estimator i's rows as indices; a boolean mask is allowed."""
    if len(rows) != n:
        raise ValueError(f"{name} must have an entry per estimator, got {len(rows)} for {n} estimators.")
    index, n_rows = np.asarray(rows[i]), X.shape[0] if hasattr(X, "shape") else len(X)
    if index.dtype == bool and len(index) == n_rows:
        index = np.flatnonzero(index)
    if index.dtype.kind not in "iu" or index.size == 0 or index.min() < 0 or index.max() >= n_rows:
        raise ValueError(f"{name}[{i}] must be indices from 0 to {n_rows - 1} or a mask of {n_rows}, got {rows[i]!r}.")
    return index


def make_task(
    network: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    validation: Any,
    tables: dict[Any, Table],
    *,
    monitor: tuple[Any, Any] | None = None,
    **options: Any,
) -> Task:
    """Return a network's task; a table that an earlier task in `tables` checked is not checked or copied again.

    `monitor` is X and y of other rows to report on; the options are `_make_task`'s.
    """
    keys = [(id(table), network.dtype, str(network.device)) for table in (X, *(monitor or ())[:1])]
    task: Task = network._make_task(X, y, sample_weight, validation=validation, table=tables.get(keys[0]), **options)
    tables[keys[0]] = task.train[0].table
    if monitor is not None:
        task.monitor = network._monitor_rows(*monitor, tables.get(keys[1]))
        tables[keys[1]] = task.monitor.table
    return task


DIVERGED = (
    "The training diverged: parameters or loss became infinite or nan. "
    "Scale X (StandardScaler) or lower learning_rate_init or l2."
)


def train_tasks(
    tasks: Sequence[Task], on_epoch_end: Callable[[int, Any], Sequence[int] | None] | None = None
) -> list[int]:
    """Train tasks and hand each estimator its net; return the tasks that diverged. `on_epoch_end` is `fit_stack`'s."""

    def call(epoch: int, losses: dict[int, float]) -> Sequence[int]:
        assert on_epoch_end is not None
        scores = np.full(len(tasks), np.nan)
        for i, loss in losses.items():
            scores[i] = -loss
        stopped = on_epoch_end(epoch, scores)
        return () if stopped is None else stopped

    runs = [_run(tasks, part) for part in _plan(tasks)]
    told = any(task.verbose and task.compiled for task in tasks)
    try:
        with compilation_told(print) if told else nullcontext():
            train_nets(runs, None if on_epoch_end is None else call)
    finally:
        for run in runs:
            hooks = tasks[run.owner[0]].hooks
            run.net.callbacks_ = [(name, callback) for name, callback in run.net.callbacks_ if callback not in hooks]
    diverged = []
    for run in runs:
        for i in dict.fromkeys(run.owner):
            own = [m for m, owner in enumerate(run.owner) if owner == i]
            if any(run.net.records_[m].diverged for m in own):
                diverged.append(i)
            else:
                tasks[i].estimator._adopt(run.net.select(own), tasks[i])
    return sorted(diverged)


def _plan(tasks: Sequence[Task]) -> list[list[int]]:
    """Divide tasks among nets: one each, but where torch trains those of equal structure together, up to 64 members.

    The weights of very wide tables' nets take some hundred megabytes at most.
    """
    parts: list[list[int]] = []
    latest: dict[Structure, list[int]] = {}
    for i, task in enumerate(tasks):
        part = latest.get(task.structure)
        if task.alone or part is None or _n_members(tasks, [*part, i]) > _most_members(task.structure):
            part = []
            parts.append(part)
            if not task.alone:
                latest[task.structure] = part
        part.append(i)
    return parts


def _n_members(tasks: Sequence[Task], part: Sequence[int]) -> int:
    return sum(len(tasks[i].members) for i in part)


def _most_members(structure: Structure) -> int:
    widest = max(structure.hidden_layer_sizes, default=1)
    return max(1, min(64, 2**24 // (widest * (structure.n_features + widest))))


def _run(tasks: Sequence[Task], part: Sequence[int]) -> Run:
    """Return what trains the members of some tasks as one net."""
    first = tasks[part[0]]
    members = [member for i in part for member in tasks[i].members]
    if first.net is None:
        net = _make_net(first, members)
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
        [i for i in part for _ in tasks[i].members],
        [rows for i in part for rows in tasks[i].train],
        [rows for i in part for rows in tasks[i].valid or nothing * len(tasks[i].members)],
        [tasks[i].monitor for i in part for _ in tasks[i].members],
        first.epochs,
    )


def _make_net(task: Task, members: list[Member]) -> StackedNet:
    """Build the net of a stack whose members share the task's structure."""
    s = task.structure
    net = StackedNet(
        StackedMLP,
        StackedLoss,
        members=members,
        optimizer=SOLVERS[s.solver],
        batch_size=s.batch_size,
        device=s.device,
        verbose=int(task.verbose),
        callbacks=task.callbacks or None,
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
    net.set_params(**{f"optimizer__{name}": value for name, value in s.constants})
    return net.initialize()
