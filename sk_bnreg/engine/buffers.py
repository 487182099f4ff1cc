"""A network as the kernel sees it: what it is made of, and where its parameters and its buffers are.

Activations are features-first, ``(H, B)``: a unit's rows are contiguous, so that moments, activation and gradients are
passes over a row in the first-level cache. Beside its inputs ``(D, B)`` each layer keeps them rows-first, ``(B, D)``,
which the product for the gradient of its weights needs. All buffers are parts of one array, `work`.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from sk_bnreg.engine.passes import IDENTITY, INSIDE, RELU
from sk_bnreg.engine.simd import block
from sk_bnreg.engine.solvers import SOLVERS

COMPILED_SOLVERS = [solver for solver in SOLVERS.values() if solver.compiled_step is not None]
_CONSTANTS = dict.fromkeys(name for solver in COMPILED_SOLVERS for name in solver.constants)
ALIGNED = 16  # units of a thread start at multiples of it, so that no two write to one tile of a transpose

_COUNTS = ["n_in", "n_out"]
_PARAMETERS = ["weight_at", "shift_at", "scale_at", "unit_at"]
_BUFFERS = ["input_at", "flipped_at", "flipped_width", "linear_at", "delta_at"]
# A layer: its inputs (of the first, embeddings included) and units; where in theta its parameters begin (a shift is
# a bias or a beta); where its units begin among all hidden ones; and its buffers: inputs (D, B), inputs (B, D) with
# their row length, what the weights make of them (H, B), and the gradient at that.
LAYER = np.dtype([(name, np.int64) for name in _COUNTS + _PARAMETERS + _BUFFERS])
# A network: so many units go from pass to pass at once; activation and loss are places in the tuples of names, the
# solver is one in `COMPILED_SOLVERS`; rows of buffers (., B) are `stride` long. Then the constants of all solvers.
FACTS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "n_features", "n_units", "widest", "units_at_once", "activation", "loss", "solver", "normalised",
            "embeddings_at", "stride", "unit_values_at", "row_values_at", "inputs_delta_at", "grad_at", "zeros_at",
        )
    ]
    + [(name, np.float64) for name in ("eps", *_CONSTANTS)]
)  # fmt: skip


class Network(NamedTuple):
    """What a network is made of, and where its parameters and its buffers are.

    Attributes
    ----------
    layers : ndarray of LAYER
        An entry per layer, the output layer last.
    facts : ndarray of FACTS
        One entry.
    embedded : ndarray of shape (E,)
        Features that have an embedding.
    role_ends : ndarray of shape (roles + 1,)
        Where roles begin and end in theta.
    """

    layers: NDArray[Any]  # of LAYER
    facts: NDArray[Any]  # one of FACTS
    embedded: NDArray[np.int64]  # features
    role_ends: NDArray[np.int64]  # where roles begin and end in theta


class Data(NamedTuple):
    """Rows of a table, which is `dense` or, where that has no columns, compressed sparse rows.

    Attributes
    ----------
    dense : ndarray of shape (N, D) or (0, 0)
    values, columns, starts : ndarray
        The table's numbers, their columns, and where rows begin among them.
    table_rows : ndarray of shape (R,)
        The rows that are meant.
    target : ndarray of shape (R, C)
        Or ``(R, 1)`` with class numbers.
    weight : ndarray of shape (R,) or (0,)
        Without entries all weights are one.
    """

    dense: NDArray[Any]  # (N, D)
    values: NDArray[Any]
    columns: NDArray[np.int32]
    starts: NDArray[np.int64]
    table_rows: NDArray[np.int64]  # (R,)
    target: NDArray[Any]  # (R, C), or (R, 1) with class numbers
    weight: NDArray[Any]  # (R,), or (0,) for ones


class Member(NamedTuple):
    """What training changes of a member, and its L2 by role.

    Attributes
    ----------
    theta, moment_1, moment_2 : ndarray of shape (P,)
        Parameters and the solver's moments, the second the first again where there is but one.
    running_mean, running_var : ndarray
        Of all normalised units, layer by layer.
    coupled, decoupled : ndarray of shape (roles,)
        Strengths of L2 in the loss and beside the step.
    n_kept : int
        Of 2**16 values of dropout's hash those that keep a unit.
    piecewise : bool
        Whether embeddings are piecewise-linear, or periodic.
    """

    theta: NDArray[Any]  # (P,)
    moment_1: NDArray[Any]
    moment_2: NDArray[Any]
    running_mean: NDArray[Any]  # of all normalised units
    running_var: NDArray[Any]
    coupled: NDArray[np.float64]  # (roles,)
    decoupled: NDArray[np.float64]
    n_kept: int  # of 2**16 values of dropout's hash
    piecewise: bool


class Team(NamedTuple):
    """A thread's number among those that train a network, and the count of those that have arrived."""

    rank: int
    size: int
    arrivals: NDArray[np.int64]  # (1,)


@numba.njit(**INSIDE)
def clear(net, work):
    """Write the constants among the buffers: zeros in place of biases, scales of one and shifts of zero.

    With these `activate` is the same with and without a normalisation.
    """
    facts = net.facts[0]
    for unit in range(facts.widest):
        work[facts.zeros_at + unit] = 0
    for unit in range(facts.n_units):
        work[facts.unit_values_at + 2 * facts.n_units + unit] = 1
        work[facts.unit_values_at + 3 * facts.n_units + unit] = 0


@numba.njit(**INSIDE)
def share_of(n, team):
    """Return the units of a thread, from and to.

    Shares begin and end at whole tiles, so that a unit's sums do not depend on how many threads there are.

    Parameters
    ----------
    n : int
        Units, or features, or parameters, to be divided among all threads.
    team : Team
    """
    tiles = -(-n // ALIGNED)
    start, stop = tiles * team.rank // team.size, tiles * (team.rank + 1) // team.size
    return min(n, ALIGNED * start), min(n, ALIGNED * stop)


@numba.njit(**INSIDE)
def inputs(net, work, layer):
    """Return the buffer of a layer's inputs, ``(D, B)``."""
    return block(work, net.layers[layer].input_at, net.layers[layer].n_in, net.facts[0].stride)


@numba.njit(**INSIDE)
def flipped_inputs(net, work, layer, n):
    """Return the buffer of a layer's inputs, ``(B, D)``."""
    return block(work, net.layers[layer].flipped_at, n, net.layers[layer].flipped_width)


@numba.njit(**INSIDE)
def linear(net, work, layer):
    """Return the buffer of a layer's linear outputs, ``(H, B)``; of the last, the gradient at them comes there."""
    return block(work, net.layers[layer].linear_at, net.layers[layer].n_out, net.facts[0].stride)


@numba.njit(**INSIDE)
def gradient(net, work, layer):
    """Return the buffer of the gradient at a layer's linear outputs, ``(H, B)``."""
    return block(work, net.layers[layer].delta_at, net.layers[layer].n_out, net.facts[0].stride)


@numba.njit(**INSIDE)
def weights(net, flat, layer):
    """Return a layer's weights, or their gradient, ``(H, D)``."""
    return block(flat, net.layers[layer].weight_at, net.layers[layer].n_out, net.layers[layer].n_in)


@numba.njit(**INSIDE)
def biases(net, flat, layer):
    """Return a layer's biases or beta, or their gradient, ``(H,)``."""
    return block(flat, net.layers[layer].shift_at, 1, net.layers[layer].n_out)[0]


@numba.njit(**INSIDE)
def gammas(net, flat, layer):
    """Return a layer's gamma, or its gradient, ``(H,)``."""
    return block(flat, net.layers[layer].scale_at, 1, net.layers[layer].n_out)[0]


@numba.njit(**INSIDE)
def running(net, statistics, layer):
    """Return a running statistic of a layer's units, ``(H,)``."""
    return block(statistics, net.layers[layer].unit_at, 1, net.layers[layer].n_out)[0]


@numba.njit(**INSIDE)
def unit_values(net, work, layer, which):
    """Return the buffer of a value of each unit, ``(H,)``.

    Parameters
    ----------
    which : int
        Mean (0), 1 / deviation (1), scale (2) or shift (3).
    """
    facts = net.facts[0]
    at = facts.unit_values_at + which * facts.n_units + net.layers[layer].unit_at
    return block(work, at, 1, net.layers[layer].n_out)[0]


@numba.njit(**INSIDE)
def row_values(net, work, which):
    """Return the buffer of a value of each row of the batch, ``(B,)``.

    Parameters
    ----------
    which : int
        The row's share of the batch's weight (0), or room for something else (1, 2).
    """
    facts = net.facts[0]
    return block(work, facts.row_values_at + which * facts.stride, 1, facts.stride)[0]


@numba.njit(**INSIDE)
def activates_at_once(net):
    """Tell whether hidden activations are linear outputs or zero, which their product writes at once.

    Then a layer needs no pass for its activation.
    """
    facts = net.facts[0]
    return not facts.normalised and (facts.activation == RELU or facts.activation == IDENTITY)
