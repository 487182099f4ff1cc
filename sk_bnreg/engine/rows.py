"""The rows that each member of a stack trains on, and the batches cut from them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

MOST_LOOKED_AT = 2**14  # rows, for quantiles
Table = Tensor | sparse.csr_array
Batch = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class Rows:
    """Rows of a table for one member: their indices ``(R,)``, targets and weights (None for ones)."""

    table: Table
    index: Tensor
    target: Tensor
    weight: Tensor | None

    def divide(self, aside: NDArray[np.int64]) -> "tuple[Rows, Rows]":
        """Return all rows but those at some places, and those.

        Both in their old order: what is read from a table then comes in the order in which it lies in memory.
        """
        is_aside = torch.zeros(len(self.index), dtype=torch.bool, device=self.index.device)
        is_aside[torch.from_numpy(aside)] = True
        return self._select(~is_aside), self._select(is_aside)

    def _select(self, mask: Tensor) -> "Rows":
        at = mask.nonzero()[:, 0]
        return Rows(self.table, self.index[at], self.target[at], None if self.weight is None else self.weight[at])


@dataclass
class StackData(torch.utils.data.Dataset):
    """The rows of every member, padded to the longest with rows of weight zero.

    Attributes
    ----------
    table : Tensor or csr_array of shape (N, D)
    index : Tensor of shape (M, R)
        Rows of `table`.
    target : Tensor of shape (M, R) or (M, R, C)
    weight : Tensor of shape (M, R) or None
    counts : ndarray of shape (M,)
        Rows of each member without padding.
    n_unweighted : int
        Up to this position every member has a row of weight one.
    """

    table: Table
    index: Tensor
    target: Tensor
    weight: Tensor | None
    counts: NDArray[np.int64]
    n_unweighted: int

    @classmethod
    def stack(cls, members: Sequence[Rows], tables: "Tables") -> "StackData":
        """Stack the members' rows, whose tables are in `tables`.

        Members of equal length without weights need none; otherwise padding has the weight 0.
        """
        counts = np.array([len(rows.index) for rows in members])
        plain = all(rows.weight is None for rows in members)
        weight = None
        if not (plain and counts.min() == counts.max()):
            weight = _pad([_weights(rows) for rows in members])
        return cls(
            table=tables.together,
            index=_pad([rows.index + tables.first_row[id(rows.table)] for rows in members]),
            target=_pad([rows.target for rows in members]),
            weight=weight,
            counts=counts,
            n_unweighted=int(counts.min()) if plain else 0,
        )

    def __len__(self) -> int:
        return self.index.shape[1]

    def select(self, members: Sequence[int]) -> "StackData":
        """Return the data of these members."""
        weight = None if self.weight is None else self.weight[members]
        return StackData(
            self.table, self.index[members], self.target[members], weight, self.counts[members], self.n_unweighted
        )

    def batches(self, order: Tensor, bounds: Sequence[int]) -> Iterator[Batch]:
        """Yield inputs ``(M, D, B)``, targets ``(M, C, B)`` or ``(M, B)``, weights ``(M, B)`` or None.

        `order` ``(M, R)`` counts within each member's rows; `bounds` cuts its columns.
        """
        sizes = np.diff(bounds).tolist()
        if self.target.dim() == 2:
            target = self.target.gather(1, order)
        else:
            target = self.target.gather(1, order[:, :, None].expand(-1, -1, self.target.shape[2])).mT
        targets = target.split(sizes, dim=-1)
        weights = [None] * len(sizes) if self.weight is None else self.weight.gather(1, order).split(sizes, dim=1)
        for index, part, weight, stop in zip(
            self.index.gather(1, order).split(sizes, dim=1), targets, weights, bounds[1:], strict=True
        ):
            rows = index.reshape(-1)
            if isinstance(self.table, Tensor):
                x = self.table.index_select(0, rows)
            else:
                x = torch.from_numpy(self.table[rows.cpu().numpy()].toarray()).to(rows.device)
            yield x.view(*index.shape, -1).mT, part, None if stop <= self.n_unweighted else weight


class Tables:
    """The tables of some members one below the other; a table that several share is held once.

    Parameters
    ----------
    tables : iterable of Tensor or csr_array
        All dense or all sparse.

    Attributes
    ----------
    together : Tensor or csr_array
    first_row : dict
        Where a table starts in `together`, by its id.
    """

    def __init__(self, tables: Iterable[Table]):
        different = {id(table): table for table in tables}
        ends = np.cumsum([0] + [table.shape[0] for table in different.values()])
        self.first_row = dict(zip(different, ends[:-1].tolist(), strict=True))
        dense = [table for table in different.values() if isinstance(table, Tensor)]
        if len(different) == 1:
            self.together = next(iter(different.values()))
        elif dense:
            self.together = torch.cat(dense)
        else:
            self.together = sparse.vstack(list(different.values()), format="csr")  # type: ignore[call-overload]


def numeric_features(table: Table, index: NDArray[np.int64]) -> list[int]:
    """Return the columns with more than two values in these rows: of two, a line is as good as any function.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sk_bnreg.engine.rows import numeric_features
    >>> numeric_features(torch.tensor([[1.0, 5.0, 0.0], [2.0, 5.0, 1.0], [3.0, 5.0, 0.0]]), np.arange(3))
    [0]
    """
    if not isinstance(table, Tensor):
        rows = table[index]
        least, most = (bound.toarray().ravel() for bound in (rows.min(axis=0), rows.max(axis=0)))
        between = (rows.data > least[rows.indices]) & (rows.data < most[rows.indices])
        zero_between = (least < 0) & (most > 0) & (rows.count_nonzero(axis=0) < len(index))
        return np.union1d(rows.indices[between], np.flatnonzero(zero_between)).tolist()
    parts: list = [slice(i, i + 2**13) for i in range(0, len(index), 2**13)]  # so that no copy of the table is made
    if len(index) < len(table) or not np.bincount(index).all():  # otherwise each row once, in any order
        parts = [torch.as_tensor(index[part], device=table.device) for part in parts]
    bounds = [table[part].aminmax(dim=0) for part in parts]
    low = torch.stack([bound.min for bound in bounds]).amin(0)
    high = torch.stack([bound.max for bound in bounds]).amax(0)
    inside = [((table[part] > low) & (table[part] < high)).any(0) for part in parts]
    return torch.stack(inside).any(0).nonzero()[:, 0].tolist()


def feature_quantiles(
    table: Table, index: NDArray[np.int64], weight: Any, features: Sequence[int], n: int
) -> NDArray[np.float64]:
    """Return quantiles of columns at n equal distances, from the least value to the largest, ``(n, E)``.

    Of many rows some are looked at, evenly spaced: it takes a moment on any table.

    Parameters
    ----------
    table : Table
    index : ndarray of int
        The rows that are meant.
    weight : ndarray or None
        A row of weight 2 counts as two.
    features : sequence of int
        E columns.
    n : int

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sk_bnreg.engine.rows import feature_quantiles
    >>> table = torch.tensor([[4.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    >>> feature_quantiles(table, np.arange(3), np.array([1, 2, 1]), [0], 5).ravel().tolist()
    [1.0, 1.0, 1.0, 2.0, 4.0]
    """
    some = slice(None, None, -(-len(index) // MOST_LOOKED_AT))
    rows, columns = index[some], list(features)
    if isinstance(table, Tensor):
        of_rows, of_columns = (torch.as_tensor(own, device=table.device) for own in (rows[:, None], columns))
        values = table[of_rows, of_columns].numpy(force=True)  # without a copy of other columns
    else:
        values = table[rows][:, columns].toarray()
    weights = None if weight is None else weight[some] / weight.max()  # so that their sum is finite
    method: Any = "inverted_cdf"  # with it integer weights are the same as rows repeated
    # a hair below, or the rounding of sums of weights would decide which of two values a share of k / (n - 1) ends at
    levels = np.linspace(0, 1, n) * (1 - 1e-9)
    return np.quantile(values.astype(np.float64), levels, axis=0, weights=weights, method=method)


def _pad(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _weights(rows: Rows) -> Tensor:
    if rows.weight is not None:
        return rows.weight
    double = rows.table.dtype in (torch.float64, np.float64)
    return torch.ones(len(rows.index), dtype=torch.float64 if double else torch.float32, device=rows.index.device)


def batch_bounds(n_rows: int, batch_size: int) -> list[int]:
    """Return where batches start and end; a last batch of one row joins the batch before it.

    Batch norm has no variance of one row, and to drop it would leave a row out of every epoch.

    Parameters
    ----------
    n_rows, batch_size : int

    Returns
    -------
    list of int
        One more than there are batches.

    Examples
    --------
    >>> from sk_bnreg.engine.rows import batch_bounds
    >>> batch_bounds(17, 8), batch_bounds(18, 8), batch_bounds(1, 8)
    ([0, 8, 17], [0, 8, 16, 18], [0, 1])
    """
    bounds = [*range(0, n_rows, batch_size), n_rows]
    if batch_size > 1 and len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    return bounds
