"""fit_stack: fit many estimators at once, each as if it had been fitted alone."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.exceptions import FitFailedWarning
from skorch.callbacks import Callback

from sk_bnreg._data import Rows, StackData, Table, Tables
from sk_bnreg._net import EpochHook, StackedNet
from sk_bnreg._optim import SOLVERS, Member
from sk_bnreg._stack import StackedLoss, StackedMLP


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
    def alone(self) -> bool:
        """Whether the estimator needs a stack of its own."""
        return bool(self.callbacks or self.hooks or self.verbose or self.net)


def fit_stack(
    estimators: Sequence[Any],
    X: Any,
    y: Any,
    *,
    rows: Sequence[Any] | None = None,
    sample_weight: Any = None,
    monitor_rows: Sequence[Any] | None = None,
    stack_size: int | None = None,
    on_epoch_end: Callable[[int, Any], Sequence[int] | None] | None = None,
) -> Sequence[Any]:
    """Fit many estimators at once, in stacks of equal structure.

    Afterwards each estimator is what its own ``fit(X[rows], y[rows])`` would have made
    of it, to rounding. The estimators may differ in everything; those that agree in
    layer sizes, activation, batch_norm, batch size, batches per epoch, solver, loss,
    dtype and device are trained in one batched program. One with skorch `callbacks` gets a
    stack of its own; callbacks given to `set_callbacks` are not called here.

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
    stack_size : int or None
        The most members (networks) in a stack; None chooses by what is fastest on a CPU.
    on_epoch_end : callable or None
        ``on_epoch_end(epoch, scores)`` after every epoch of a stack; `scores` has one
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
    diverged = train_tasks(tasks, stack_size, on_epoch_end)
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
    tasks: Sequence[Task],
    stack_size: int | None = None,
    on_epoch_end: Callable[[int, Any], Sequence[int] | None] | None = None,
) -> list[int]:
    """Train tasks in stacks of equal structure; return those that diverged. The arguments are `fit_stack`'s."""

    def hook(part: list[int]) -> Callable[[int, dict[int, float]], set[int]] | None:
        if on_epoch_end is None:
            return None

        def call(epoch: int, losses: dict[int, float]) -> set[int]:
            scores = np.full(len(tasks), np.nan)
            for task, loss in losses.items():
                scores[part[task]] = -loss
            stopped = on_epoch_end(epoch, scores)
            return set() if stopped is None else {part.index(i) for i in stopped if i in part}

        return call

    diverged = []
    for part in _plan(tasks, stack_size):
        diverged += [part[i] for i in train([tasks[i] for i in part], hook(part))]
    return sorted(diverged)


def _plan(tasks: Sequence[Task], stack_size: int | None) -> list[list[int]]:
    """Divide tasks into stacks: equal structure, at most `stack_size` members."""
    groups: dict[Any, list[int]] = {}
    for i, task in enumerate(tasks):
        groups.setdefault((task.structure, i if task.alone else -1), []).append(i)
    parts = []
    for (structure, _), group in groups.items():
        n_rows = max(len(tasks[i].train[0].index) for i in group)
        batch_size = n_rows if structure.batch_size == -1 else structure.batch_size
        size = stack_size or best_stack_size(structure.hidden_layer_sizes, structure.n_features, batch_size)
        part: list[int] = []
        n_members = 0
        for i in group:
            if part and n_members + len(tasks[i].members) > size:
                parts.append(part)
                part, n_members = [], 0
            part.append(i)
            n_members += len(tasks[i].members)
        parts.append(part)
    return parts


def best_stack_size(hidden_layer_sizes: Sequence[int], n_features: int, batch_size: int) -> int:
    """Return how many members to train together on a CPU.

    Measured on AVX-512 cores, one thread: the time per member and step falls up to 8 members
    for any size, further while a layer's activations of all members are below 2^17 numbers,
    and rises when they no longer fit the cache. Very wide tables get fewer, so that the
    weights take some hundred megabytes at most.
    """
    widest = max(hidden_layer_sizes, default=1)
    n_parameters = widest * (n_features + widest)
    fastest = min(64, max(8, 2**17 // (widest * batch_size)))
    return max(1, min(fastest, 2**24 // n_parameters))


def train(tasks: Sequence[Task], on_epoch_end: Callable[[int, dict[int, float]], set[int]] | None = None) -> list[int]:
    """Train the tasks' members as one stack and hand each estimator its net; return the tasks that diverged."""
    owner = [t for t, task in enumerate(tasks) for _ in task.members]
    members = [member for task in tasks for member in task.members]
    task = tasks[0]
    if task.net is None:
        net = _make_net(task, members)
    else:
        net = task.net.resume(
            members, task.structure.batch_size, task.callbacks, int(task.verbose), keep_solver=task.epochs is not None
        )
    hooks = [(type(hook).__name__, hook) for hook in task.hooks]
    net.callbacks_ += hooks

    def stop(epoch: int, members: list[int], losses: list[float]) -> list[int]:
        of_task: dict[int, list[float]] = {}
        for i, m in enumerate(members):
            of_task.setdefault(owner[m], []).append(losses[i] if losses else float("nan"))
        assert on_epoch_end is not None
        stopped = on_epoch_end(epoch, {t: float(np.mean(values)) for t, values in of_task.items()})
        return [m for m in members if owner[m] in stopped]

    hook: EpochHook | None = None if on_epoch_end is None else stop
    nothing: list[Rows | None] = [None]
    tables = Tables(task.train[0].table for task in tasks)
    try:
        net.partial_fit(
            StackData.stack([rows for task in tasks for rows in task.train], tables),
            valid=_stack_some([rows for task in tasks for rows in task.valid or nothing * len(task.members)], tables),
            monitor=_stack_some([task.monitor for task in tasks for _ in task.members], tables),
            epochs=None if task.epochs is None else [task.epochs] * len(owner),
            on_epoch_end=hook,
        )
    finally:
        net.callbacks_ = [entry for entry in net.callbacks_ if entry not in hooks]
    diverged = []
    for t, task in enumerate(tasks):
        own = [m for m, of in enumerate(owner) if of == t]
        if any(net.records_[m].diverged for m in own):
            diverged.append(t)
        else:
            task.estimator._adopt(net.select(own), task)
    return diverged


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


def _stack_some(parts: Sequence[Rows | None], tables: Tables) -> StackData | None:
    """Stack rows of each member, where some or all may have none; rows of other tables get tables of their own."""
    given = [part for part in parts if part is not None]
    if not given:
        return None
    if not all(id(part.table) in tables.first_row for part in given):
        tables = Tables(part.table for part in given)
    empty = Rows(given[0].table, given[0].index[:0], given[0].target[:0], None)
    return StackData.stack([empty if part is None else part for part in parts], tables)
