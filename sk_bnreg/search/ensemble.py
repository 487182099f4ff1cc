"""greedy_selection: which models of a search make the best ensemble, by what they predicted for rows held out."""

from collections.abc import Callable, Sequence

import numpy as np

SIZE = 16  # networks


def greedy_selection(
    outputs: Sequence[np.ndarray], score: Callable[[int, np.ndarray], float], size: int = SIZE
) -> tuple[list[int], float]:
    """Choose models, with repetition, whose mean prediction scores best (Caruana et al. 2004).

    The first is the best by itself; then the one is added that makes the mean best, until there are `size`. What is
    returned is the beginning that scored best. On the rows on which it is chosen an ensemble looks better than it is.

    Parameters
    ----------
    outputs : sequence of ndarray of shape (n_models, n_test, n_columns)
        What an ensemble averages, of each model in each fold. Of models that are equally good the first is taken.
    score : callable
        ``score(fold, mean_output)``; greater is better.
    size : int

    Returns
    -------
    chosen : list of int
    best : float
        Mean score of their mean over the folds.

    Examples
    --------
    The best model is better still beside one that errs the other way:

    >>> import numpy as np
    >>> from sk_bnreg.search.ensemble import greedy_selection
    >>> outputs = np.array([[[3.0], [1.0]], [[-3.1], [-0.9]], [[2.0], [0.0]]])
    >>> chosen, best = greedy_selection([outputs], lambda fold, mean: -np.abs(mean).sum(), size=4)
    >>> chosen, round(best, 2)
    ([2, 1, 2], -0.6)
    """
    sums = [np.zeros(fold.shape[1:]) for fold in outputs]
    chosen: list[int] = []
    scores: list[float] = []
    while len(chosen) < size:
        n = len(chosen) + 1
        means = [
            np.mean([score(i, (sums[i] + fold[model]) / n) for i, fold in enumerate(outputs)])
            for model in range(len(outputs[0]))
        ]
        best = int(np.argmax(np.nan_to_num(means, nan=-np.inf)))
        chosen.append(best)
        scores.append(float(means[best]))
        sums = [total + fold[best] for total, fold in zip(sums, outputs, strict=True)]
    n_kept = int(np.argmax(np.nan_to_num(scores, nan=-np.inf))) + 1
    return chosen[:n_kept], scores[n_kept - 1]
