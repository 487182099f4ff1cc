"""fit_stack: fit many estimators at once, each as if it had been fitted alone."""

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import FitFailedWarning

from sk_bnreg.borrowed import num_samples
from sk_bnreg.engine.tasks import DIVERGED, train_tasks
from sk_bnreg.estimators.base import BaseBNMLP
from sk_bnreg.estimators.preparation import Tables, adopt, make_tasks


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
    n = _length(estimators)
    if not n or not all(isinstance(estimator, BaseBNMLP) for estimator in estimators):
        raise ValueError(f"estimators must be one or more BNMLPClassifier or BNMLPRegressor, got {estimators!r}.")
    if on_epoch_end is not None and not callable(on_epoch_end):
        raise ValueError(f"on_epoch_end must be None or callable, got {on_epoch_end!r}.")
    # a list of rows is a table too: its items have one dimension
    several = isinstance(X, list | tuple) and all(_is_table(table) for table in X)
    given = {"X": X, "y": y, "sample_weight": [None] * n if sample_weight is None else sample_weight}
    for name, parts in given.items() if several else ():
        if _length(parts) != n:
            raise ValueError(f"{name} must be a list of one per estimator, as X is or for X to be, {n} of them.")
    by_estimator = zip(*given.values(), strict=True) if several else [(X, y, sample_weight)] * n
    tables: Tables = {}
    tasks = {
        i: make_tasks(
            estimator,
            X_i,
            y_i,
            weight,
            rows=None if rows is None else _check_rows(rows, i, n, X_i, "rows"),
            monitor_rows=None if monitor_rows is None else _check_rows(monitor_rows, i, n, X_i, "monitor_rows"),
            tables=tables,
        )
        for i, (estimator, (X_i, y_i, weight)) in enumerate(zip(estimators, by_estimator, strict=True))
    }

    def call(epoch: int, losses: dict[Any, float]) -> Sequence[int]:
        assert on_epoch_end is not None
        scores = np.full(n, np.nan)
        scores[list(losses)] = [-loss for loss in losses.values()]
        stopped = on_epoch_end(epoch, scores)
        stopped = () if stopped is None else stopped
        if _length(stopped) is None or not set(stopped) <= set(range(n)):
            raise ValueError(f"on_epoch_end must return None or indices of estimators, below {n}, got {stopped!r}.")
        return stopped

    diverged = []
    for i, nets in train_tasks(tasks, None if on_epoch_end is None else call).items():
        if nets is None:
            diverged.append(i)
        else:
            adopt(estimators[i], nets, tasks[i])
    if len(diverged) == n:
        raise ValueError(DIVERGED)
    if diverged:
        warnings.warn(
            f"Estimators {sorted(diverged)} of {n} are not fitted. {DIVERGED}", FitFailedWarning, stacklevel=2
        )
    return estimators


def _length(parts: Any) -> int | None:
    """Return how many there are; None of what is no collection."""
    many = isinstance(parts, Collection) or getattr(parts, "ndim", 0) > 0
    return len(parts) if many else None


def _is_table(part: Any) -> bool:
    if hasattr(part, "shape"):
        return len(part.shape) == 2
    return isinstance(part, list | tuple) and bool(part) and isinstance(part[0], list | tuple | np.ndarray)


def _check_rows(rows: Sequence[Any], i: int, n: int, X: Any, name: str) -> np.ndarray:
    """Return estimator i's rows as indices; a boolean mask is allowed."""
    if _length(rows) != n:
        raise ValueError(f"{name} must have an entry per estimator, got {_length(rows) or rows!r} for {n} estimators.")
    index, n_rows = np.asarray(rows[i]), num_samples(X)
    if index.dtype == bool and index.shape == (n_rows,):
        index = np.flatnonzero(index)
    if index.dtype.kind not in "iu" or index.ndim != 1 or index.size == 0 or index.min() < 0 or index.max() >= n_rows:
        raise ValueError(f"{name}[{i}] must be indices from 0 to {n_rows - 1} or a mask of {n_rows}, got {rows[i]!r}.")
    return index
