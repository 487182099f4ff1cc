"""Plain loops that tests compare with."""

import numpy as np


def mean_of_members(predictions, labels=False):
    """Return an ensemble's mean of its networks' predictions, in plain loops: of probabilities a power mean."""
    rows = []
    for row in zip(*predictions, strict=True):
        yes = [sum(p**0.5 for p in column) ** 2 for column in zip(*row, strict=True)]
        no = [sum((1 - p) ** 0.5 for p in column) ** 2 for column in zip(*row, strict=True)]
        rows.append([y / (y + n) for y, n in zip(yes, no, strict=True)] if labels else [y / sum(yes) for y in yes])
    return np.array(rows)
