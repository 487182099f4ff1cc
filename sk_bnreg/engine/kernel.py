"""The compiled engine: one function that trains one network for one epoch, and one that evaluates it.

Activations are features-first, ``(H, B)``: a unit's rows are contiguous, so that moments, activation and gradients are
passes over a row in the first-level cache. Beside its inputs ``(D, B)`` each layer keeps them rows-first, ``(B, D)``,
which the product for the gradient of its weights needs. Several threads may train one network as a team: each
computes some units of every layer, all in the same way, so that no bit depends on their number.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from sk_bnreg.engine.embedding import N_COSINES, SIZE
from sk_bnreg.engine.passes import (
    ACTIVATIONS,
    IDENTITY,
    INSIDE,
    LOSSES,
    MATH,
    RELU,
    activate,
    activate_backward,
    drop,
    embed,
    embed_backward,
    gather,
    key_of_step,
    loss_and_gradient,
    moments,
    normalise_backward,
    row_sums,
    weigh,
)
from sk_bnreg.engine.simd import atomic_load, block, meet, multiply, transpose
from sk_bnreg.engine.solvers import SOLVERS, StackedSolver

__all__ = [
    "ACTIVATIONS",
    "COMPILED_SOLVERS",
    "FACTS",
    "LAYER",
    "LOSSES",
    "Data",
    "Member",
    "Network",
    "evaluate",
    "train_epoch",
]

COMPILED_SOLVERS = [solver for solver in SOLVERS.values() if solver.compiled_step is not None]
_CONSTANTS = dict.fromkeys(name for solver in COMPILED_SOLVERS for name in solver.constants)
ALIGNED = 16  # units of a thread start at multiples of it, so that no two write to one tile of a transpose
UNITS = 64  # go from pass to pass at once, a multiple of ALIGNED
LEAST = -np.inf

_COUNTS = ["n_in", "n_out"]
_PARAMETERS = ["weight_at", "shift_at", "gamma_at", "unit_at"]
_BUFFERS = ["input_at", "flipped_at", "flipped_width", "linear_at", "delta_at"]
# A layer: its inputs (of the first, embeddings included) and units; where in theta its parameters begin (the shift is
# its biases or beta); where its units begin among all hidden ones; and its buffers: inputs (D, B), inputs (B, D) with
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
    """What a network is made of, and where its parameters and its buffers are."""

    layers: NDArray[Any]  # of LAYER
    facts: NDArray[Any]  # one of FACTS
    embedded: NDArray[np.int64]  # features
    role_ends: NDArray[np.int64]  # where roles begin and end in theta


class Data(NamedTuple):
    """Rows of a table, which is `dense` or, where that has no columns, compressed sparse rows."""

    dense: NDArray[Any]  # (N, D)
    values: NDArray[Any]
    columns: NDArray[np.int32]
    starts: NDArray[np.int64]
    table_rows: NDArray[np.int64]  # (R,)
    target: NDArray[Any]  # (R, C), or (R, 1) with class numbers
    weight: NDArray[Any]  # (R,), or (0,) for ones


class Member(NamedTuple):
    """What training changes of a member, and its L2 by role."""

    theta: NDArray[Any]  # (P,)
    moment_1: NDArray[Any]
    moment_2: NDArray[Any]
    running_mean: NDArray[Any]  # of all normalised units
    running_var: NDArray[Any]
    coupled: NDArray[np.float64]  # (roles,)
    decoupled: NDArray[np.float64]
    n_kept: int  # of 2**16 values of dropout's hash


class Team(NamedTuple):
    """A thread's number among those that train a network, and the count of those that have arrived."""

    rank: int
    size: int
    arrivals: NDArray[np.int64]  # (1,)


def _kept(function: Any) -> Any:
    """Compile a function at its first call, and keep it on disk where there is any folder to write in."""
    try:
        return numba.njit(function, cache=True, **MATH)
    except RuntimeError:
        return numba.njit(function, **MATH)


@_kept
def train_epoch(
    net, data, member, order, bounds, rates, clocks, seed, chosen, seen, work, flags, stop, n_threads, rank
):
    """Train a network for an epoch; return its rows' mean loss, penalty included.

    Parameters
    ----------
    net : Network
    data : Data
    member : Member
    order : ndarray of shape (R,)
        Places among the rows of `data`.
    bounds : ndarray of shape (S + 1,)
        Where batches begin and end in `order`.
    rates : ndarray of shape (S,)
    clocks : tuple of int
        Steps behind: of the running statistics, the solver and dropout.
    seed : int
        Of dropout.
    chosen, seen : int, ndarray of shape (3, P) or (0, 0)
        A step of which the parameters before it, their gradient and the parameters after it are written to `seen`.
    work : ndarray
        Room for the buffers, at the start of a cache line.
    flags : ndarray of shape (2,)
        Zeros, for the team's use: threads that have arrived, and whether the team is to stop.
    stop : ndarray of shape (1,)
        Not 0 if all work is to end.
    n_threads, rank : int
        The size of the team, and a thread's number in it.
    """
    total = mass = weight = 0.0
    team = Team(rank, n_threads, flags[:1])
    if rank == 0:
        clear(net, work)
    for step in range(len(rates)):
        if rank == 0:
            flags[1] = atomic_load(stop, 0)
        rows, key = order[bounds[step] : bounds[step + 1]], key_of_step(seed, clocks[2] + step)
        load_inputs(net, data, member, rows, work, team)
        if flags[1]:
            break
        if rank == 0:
            weight = weigh(data.weight, rows, row_values(net, work, 0))
            mass += weight
        meet(team.arrivals, n_threads)
        forward(net, member, work, len(rows), key, max(0.1, 1 / (clocks[0] + step + 1)), team)
        if rank == 0:
            total += weight * compare(net, data, rows, work)
        meet(team.arrivals, n_threads)
        backward(net, member, work, len(rows), key, team)
        if step == chosen:
            look(net, member.theta, work, seen, 0, team)
        update(net, member, work, rates[step], clocks[1] + step + 1, team)
        if step == chosen:
            look(net, member.theta, work, seen, 2, team)
    meet(team.arrivals, n_threads)
    penalty = 0.0
    for role in range(len(net.role_ends) - 1):
        if member.coupled[role]:
            for p in range(net.role_ends[role], net.role_ends[role + 1]):
                penalty += member.coupled[role] / 2 * member.theta[p] * member.theta[p]
    return total / mass + penalty


@_kept
def evaluate(net, data, member, rows, n_at_once, work, outputs):
    """Return the mean loss over rows, with the running statistics, and write the outputs, ``(C, R)`` or ``(0, 0)``."""
    total = mass = 0.0
    alone = Team(0, 1, np.zeros(1, np.int64))
    last = len(net.layers) - 1
    clear(net, work)
    if net.facts[0].normalised:
        use_running_statistics(net, member, work)
    for first in range(0, len(rows), n_at_once):
        part = rows[first : first + n_at_once]
        n = len(part)
        load_inputs(net, data, member, part, work, alone)
        for layer in range(last + 1):
            n_out = net.layers[layer].n_out
            connect(net, member.theta, work, layer, 0, n_out, n)
            if layer < last and not is_piecewise(net):
                scales, shifts = unit_values(net, work, layer, 2), unit_values(net, work, layer, 3)
                z, a = linear(net, work, layer), inputs(net, work, layer + 1)
                activate(net.facts[0].activation, z, scales, shifts, a, 0, n_out, n)
        if len(outputs):
            z = linear(net, work, last)
            for c in range(len(z)):
                for b in range(n):
                    outputs[c, first + b] = z[c, b]
        weight = weigh(data.weight, part, row_values(net, work, 0))
        total += weight * compare(net, data, part, work)
        mass += weight
    return total / mass


@numba.njit(**INSIDE)
def clear(net, work):
    """Write the constants among the buffers."""
    facts = net.facts[0]
    for unit in range(facts.widest):
        work[facts.zeros_at + unit] = 0
    for unit in range(facts.n_units):
        work[facts.unit_values_at + 2 * facts.n_units + unit] = 1
        work[facts.unit_values_at + 3 * facts.n_units + unit] = 0


@numba.njit(**INSIDE)
def share_of(n, team):
    """Return the units of a thread, from and to."""
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
    return block(flat, net.layers[layer].gamma_at, 1, net.layers[layer].n_out)[0]


@numba.njit(**INSIDE)
def unit_values(net, work, layer, which):
    """Return the buffer of each unit's mean (0), 1 / deviation (1), scale (2) or shift (3), ``(H,)``."""
    facts = net.facts[0]
    at = facts.unit_values_at + which * facts.n_units + net.layers[layer].unit_at
    return block(work, at, 1, net.layers[layer].n_out)[0]


@numba.njit(**INSIDE)
def row_values(net, work, which):
    """Return the buffer of each row's share of the batch (0), or of something else (1, 2), ``(B,)``."""
    facts = net.facts[0]
    return block(work, facts.row_values_at + which * facts.stride, 1, facts.stride)[0]


@numba.njit(**INSIDE)
def is_piecewise(net):
    """Tell whether hidden activations are linear outputs or zero, which their product writes at once."""
    facts = net.facts[0]
    return not facts.normalised and (facts.activation == RELU or facts.activation == IDENTITY)


@numba.njit(**INSIDE)
def use_running_statistics(net, member, work):
    """Write by what to scale and shift each unit."""
    for layer in range(len(net.layers) - 1):
        gamma, beta = gammas(net, member.theta, layer), biases(net, member.theta, layer)
        scales, shifts = unit_values(net, work, layer, 2), unit_values(net, work, layer, 3)
        for h in range(len(gamma)):
            u = net.layers[layer].unit_at + h
            scales[h] = gamma[h] / np.sqrt(member.running_var[u])
            shifts[h] = beta[h] - member.running_mean[u] * scales[h]


@numba.njit(**INSIDE)
def load_inputs(net, data, member, rows, work, team):
    """Write the first layer's inputs, both ways round."""
    n, n_features, n_embedded = len(rows), net.facts[0].n_features, len(net.embedded)
    x, flipped = inputs(net, work, 0), flipped_inputs(net, work, 0, n)
    start, stop = n * team.rank // team.size, n * (team.rank + 1) // team.size
    gather(data, rows[start:stop], flipped[start:stop])
    meet(team.arrivals, team.size)
    start, stop = share_of(n_features, team)
    transpose(flipped, x, 0, n, start, stop)
    if n_embedded:
        meet(team.arrivals, team.size)
        parameters = block(member.theta, net.facts[0].embeddings_at, n_embedded * N_COSINES, 2 + SIZE)
        start, stop = n_embedded * team.rank // team.size, n_embedded * (team.rank + 1) // team.size
        embed(x, parameters, net.embedded, n_features, start, stop, n)
        meet(team.arrivals, team.size)
        start, stop = share_of(SIZE * n_embedded, team)
        transpose(x, flipped, n_features + start, n_features + stop, 0, n)


@numba.njit(**INSIDE)
def connect(net, theta, work, layer, start, stop, n):
    """Write some linear outputs of a layer, biases included, or at once the inputs of the next."""
    facts, hidden, least = net.facts[0], layer < len(net.layers) - 1, LEAST
    outputs, shift = linear(net, work, layer), biases(net, theta, layer)
    if hidden and facts.normalised:
        shift = block(work, facts.zeros_at, 1, facts.widest)[0]
    if hidden and is_piecewise(net):
        outputs = inputs(net, work, layer + 1)
        least = 0.0 if facts.activation == RELU else LEAST
    n_in = net.layers[layer].n_in
    multiply(weights(net, theta, layer), False, inputs(net, work, layer), outputs, shift, least, start, stop, n_in, n)


@numba.njit(**MATH, inline="always")
def forward(net, member, work, n, key, momentum, team):
    """Write every layer's inputs and the outputs, with the moments of the batch, which move the running statistics."""
    facts, last, share = net.facts[0], len(net.layers) - 1, row_values(net, work, 0)
    for layer in range(last):
        z, a, flipped = linear(net, work, layer), inputs(net, work, layer + 1), flipped_inputs(net, work, layer + 1, n)
        scales, shifts = unit_values(net, work, layer, 2), unit_values(net, work, layer, 3)
        first, end = share_of(net.layers[layer].n_out, team)
        for start in range(first, end, facts.units_at_once):
            stop = min(start + facts.units_at_once, end)
            connect(net, member.theta, work, layer, start, stop, n)
            for unit in range(start, stop, UNITS):
                past = min(unit + UNITS, stop)
                if facts.normalised:
                    normalise(net, member, work, layer, z, share, momentum, unit, past, n)
                if not is_piecewise(net):
                    activate(facts.activation, z, scales, shifts, a, unit, past, n)
                if member.n_kept < 2**16:
                    drop(a, key, member.n_kept, net.layers[layer].unit_at, facts.n_units, unit, past, n)
                transpose(a, flipped, unit, past, 0, n)
        meet(team.arrivals, team.size)
    if team.rank == 0:
        connect(net, member.theta, work, last, 0, net.layers[last].n_out, n)


@numba.njit(**INSIDE)
def normalise(net, member, work, layer, z, share, momentum, start, stop, n):
    """Write by what to scale and shift some units of z, and move their running statistics."""
    means, rstds = unit_values(net, work, layer, 0), unit_values(net, work, layer, 1)
    scales, shifts = unit_values(net, work, layer, 2), unit_values(net, work, layer, 3)
    gamma, beta, first_unit = (
        gammas(net, member.theta, layer),
        biases(net, member.theta, layer),
        net.layers[layer].unit_at,
    )
    part = z.dtype.type(momentum)
    moments(z, share, z.dtype.type(net.facts[0].eps), means, rstds, start, stop, n)
    for h in range(start, stop):
        u, var = first_unit + h, rstds[h]
        member.running_mean[u] += part * (means[h] - member.running_mean[u])
        member.running_var[u] += part * (var - member.running_var[u])
        rstds[h] = 1 / np.sqrt(var)
        scales[h] = gamma[h] * rstds[h]
        shifts[h] = beta[h] - means[h] * scales[h]


@numba.njit(**INSIDE)
def compare(net, data, rows, work):
    """Return the loss of the outputs, and turn them into the gradient there."""
    outputs, n = linear(net, work, len(net.layers) - 1), len(rows)
    rooms = block(work, net.facts[0].row_values_at + net.facts[0].stride, 2, net.facts[0].stride)
    return loss_and_gradient(net.facts[0].loss, outputs, data.target, rows, row_values(net, work, 0), rooms, n)


@numba.njit(**INSIDE)
def gradient(net, work, layer):
    """Return the buffer of the gradient at a layer's linear outputs, ``(H, B)``."""
    return block(work, net.layers[layer].delta_at, net.layers[layer].n_out, net.facts[0].stride)


@numba.njit(**MATH, inline="always")
def backward(net, member, work, n, key, team):
    """Write the gradient of all parameters, given that at the outputs."""
    facts, theta, last, share = net.facts[0], member.theta, len(net.layers) - 1, row_values(net, work, 0)
    grad, zeros = block(work, facts.grad_at, 1, len(theta))[0], block(work, facts.zeros_at, 1, facts.widest)[0]
    kept = work.dtype.type(member.n_kept / 2**16)
    for layer in range(last, -1, -1):
        delta, flipped = gradient(net, work, layer), flipped_inputs(net, work, layer, n)
        of_weights, of_shift, n_in = weights(net, grad, layer), biases(net, grad, layer), net.layers[layer].n_in
        first, end = share_of(net.layers[layer].n_out, team)
        for start in range(first, end, facts.units_at_once):
            stop = min(start + facts.units_at_once, end)
            if layer == last:
                row_sums(delta, of_shift, start, stop, n)
            else:
                above, n_above = gradient(net, work, layer + 1), net.layers[layer + 1].n_out
                z, a = linear(net, work, layer), inputs(net, work, layer + 1)
                scales, shifts = unit_values(net, work, layer, 2), unit_values(net, work, layer, 3)
                multiply(weights(net, theta, layer + 1), True, above, delta, zeros, LEAST, start, stop, n_above, n)
                for unit in range(start, stop, UNITS):
                    past = min(unit + UNITS, stop)
                    if member.n_kept < 2**16:
                        drop(delta, key, member.n_kept, net.layers[layer].unit_at, facts.n_units, unit, past, n)
                    activate_backward(facts.activation, delta, z, scales, shifts, a, kept, of_shift, unit, past, n)
                    if facts.normalised:
                        means, rstds = unit_values(net, work, layer, 0), unit_values(net, work, layer, 1)
                        of_gamma = gammas(net, grad, layer)
                        normalise_backward(delta, z, share, means, rstds, scales, of_gamma, of_shift, unit, past, n)
            multiply(delta, False, flipped, of_weights, zeros, LEAST, start, stop, n, n_in)
        meet(team.arrivals, team.size)
    if len(net.embedded):
        backward_of_embeddings(net, theta, grad, zeros, work, n, team)


@numba.njit(**MATH, inline="always")
def backward_of_embeddings(net, theta, grad, zeros, work, n, team):
    """Write the gradient of the embeddings' parameters, given that at the first layer's linear outputs."""
    n_embedded, first, facts = len(net.embedded), net.facts[0].n_features, net.facts[0]
    delta = gradient(net, work, 0)
    before = block(work, facts.inputs_delta_at, net.layers[0].n_in, facts.stride)
    start, stop = share_of(SIZE * n_embedded, team)
    multiply(weights(net, theta, 0), True, delta, before, zeros, LEAST, first + start, first + stop, len(delta), n)
    meet(team.arrivals, team.size)
    start, stop = n_embedded * team.rank // team.size, n_embedded * (team.rank + 1) // team.size
    parameters = block(theta, facts.embeddings_at, n_embedded * N_COSINES, 2 + SIZE)
    of_parameters = block(grad, facts.embeddings_at, n_embedded * N_COSINES, 2 + SIZE)
    embed_backward(inputs(net, work, 0), before, parameters, of_parameters, net.embedded, first, start, stop, n)
    meet(team.arrivals, team.size)


def _step_of(solvers: Sequence[type[StackedSolver]], number: int = 0) -> Any:
    """Compile the steps of some solvers, the first of this number, to one that chooses: numba has no table of them."""
    options = INSIDE | {"fastmath": MATH["fastmath"] | solvers[0].fastmath}
    first = numba.njit(**options)(solvers[0].compiled_step)
    if len(solvers) == 1:
        return first
    other = _step_of(solvers[1:], number + 1)

    @numba.njit(**INSIDE)
    def step(theta, grad, moment_1, moment_2, facts, rate, clock, coupled, decoupled):
        if facts.solver == number:
            first(theta, grad, moment_1, moment_2, facts, rate, clock, coupled, decoupled)
        else:
            other(theta, grad, moment_1, moment_2, facts, rate, clock, coupled, decoupled)

    return step


_step = _step_of(COMPILED_SOLVERS)


@numba.njit(**MATH, inline="always")
def update(net, member, work, rate, clock, team):
    """Take a step of the solver on a thread's share of the parameters."""
    n_parameters = len(member.theta)
    first, end = share_of(n_parameters, team)
    for role in range(len(net.role_ends) - 1):
        start, stop = max(first, net.role_ends[role]), min(end, net.role_ends[role + 1])
        if start < stop:
            grad = block(work, net.facts[0].grad_at + start, 1, stop - start)[0]
            theta, moment_1 = member.theta[start:stop], member.moment_1[start:stop]
            moment_2 = member.moment_2[start:stop]
            coupled, decoupled = member.coupled[role], member.decoupled[role]
            _step(theta, grad, moment_1, moment_2, net.facts[0], rate, clock, coupled, decoupled)


@numba.njit(**INSIDE)
def look(net, theta, work, seen, row, team):
    """Write a thread's share of the parameters to a row of `seen`, and of the gradient to row 1."""
    start, stop = share_of(len(theta), team)
    for p in range(start, stop):
        seen[row, p], seen[1, p] = theta[p], work[net.facts[0].grad_at + p]
