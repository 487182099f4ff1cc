"""The rows that each member of a stack trains on, and the batches cut from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

Table = Tensor | sparse.csr_array
Batch = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class Rows:
    """Rows of a table for one member: their indices ``(R,)``, targets and weights (None for ones)."""

    table: Table
    index: Tensor
    target: Tensor
    weight: Tensor | None


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
    def stack(cls, members: Sequence[Rows]) -> "StackData":
        """Stack the members' rows; a table that several members share is held once."""
        tables = {id(rows.table): rows.table for rows in members}
        first_row, n_rows = {}, 0
        for key, table in tables.items():
            first_row[key] = n_rows
            n_rows += table.shape[0]
        counts = np.array([len(rows.index) for rows in members])
        plain = all(rows.weight is None for rows in members)
        weight = None
        if not (plain and counts.min() == counts.max()):
            dtype = torch.float64 if members[0].table.dtype in (torch.float64, np.float64) else torch.float32
            weight = _pad(
                [
                    rows.index.new_ones(len(rows.index), dtype=dtype) if rows.weight is None else rows.weight
                    for rows in members
                ]
            )
        return cls(
            table=_concatenate(list(tables.values())),
            index=_pad([rows.index + first_row[id(rows.table)] for rows in members]),
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
        for start, stop in pairwise(bounds):
            position = order[:, start:stop]
            index = self.index.gather(1, position)  # (M, B)
            if isinstance(self.table, Tensor):
                x = self.table.index_select(0, index.view(-1))
            else:
                x = torch.from_numpy(self.table[index.view(-1).cpu().numpy()].toarray()).to(index.device)
            if self.target.dim() == 2:
                target = self.target.gather(1, position)
            else:
                target = self.target.gather(1, position[:, :, None].expand(-1, -1, self.target.shape[2])).mT
            weight = None if self.weight is None or stop <= self.n_unweighted else self.weight.gather(1, position)
            yield x.view(*index.shape, -1).mT, target, weight


def _pad(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _concatenate(tables: Sequence[Table]) -> Table:
    if len(tables) == 1:
        return tables[0]
    dense = [table for table in tables if isinstance(table, Tensor)]
    return torch.cat(dense) if dense else sparse.vstack(list(tables), format="csr")  # type: ignore[call-overload]


def batch_bounds(n_rows: int, batch_size: int) -> list[int]:
    """Return where batches start and end; a last batch of one row joins the batch before it.

    Examples
    --------
    >>> from sk_bnreg._data import batch_bounds
    >>> batch_bounds(17, 8), batch_bounds(18, 8), batch_bounds(1, 8)
    ([0, 8, 17], [0, 8, 16, 18], [0, 1])
    """
    bounds = [*range(0, n_rows, batch_size), n_rows]
    if batch_size > 1 and len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    return bounds
