"""checked_splits: the rows of every fold, whoever gives them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.model_selection import check_cv

from sk_bnreg.borrowed import num_samples
from sk_bnreg.search.evaluation import attempt


def checked_splits(
    cv: Any, X: Any, y: Any, *, classifier: bool = False, name: str = "cv", **params: Any
) -> list[tuple[Any, ...]]:
    """Return the rows of every fold; refuse what are none.

    Parameters
    ----------
    cv : int, splitter, iterable or None
        As for `check_cv`.
    X, y, classifier
    name : str
        Of the argument.
    **params
        More for the splitter.

    Raises
    ------
    ValueError
        If there are no folds, or not of rows to train and to test on, or not as many as the splitter said.
    """

    def make() -> tuple[list[tuple[Any, Any]], int]:
        splitter = check_cv(cv, y, classifier=classifier)
        splits = [(np.asarray(train), np.asarray(test)) for train, test in splitter.split(X, y, **params)]
        return splits, splitter.get_n_splits(X, y, **params)

    made, failure = attempt(make)
    if failure is not None and not isinstance(cv, Iterable):
        if isinstance(failure.raised, ValueError | TypeError):  # a splitter's own words
            raise failure.raised
        raise ValueError(f"{name} cannot divide these rows: {failure.raised}.") from failure.raised
    splits, n_announced = made or ([], 0)
    n_rows = num_samples(X)
    if not splits or not all(_are_rows(rows, n_rows) for split in splits for rows in split):
        raise ValueError(
            f"{name} must give at least one pair of row numbers, those to train on and those to test on, neither empty "
            f"and all from 0 to {n_rows - 1}; got {cv!r}."
        )
    if len(splits) != n_announced:
        raise ValueError(f"{name} announced {n_announced} splits and made {len(splits)}.")
    return [tuple(np.flatnonzero(rows) if rows.dtype == bool else rows for rows in split) for split in splits]


def _are_rows(rows: Any, n_rows: int) -> bool:
    if rows.dtype == bool:
        return rows.shape == (n_rows,) and bool(rows.any())
    return rows.ndim == 1 and rows.dtype.kind in "iu" and len(rows) > 0 and -n_rows <= rows.min() <= rows.max() < n_rows
