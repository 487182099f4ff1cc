"""The compiled engine: one function that trains one network for one epoch, and one that evaluates it.

Several threads may train one network as a team: each computes some units of every layer, all in the same way, so that
no bit depends on their number. The arguments `net`, `data`, `member` and `team` are those of `buffers`, `work` is the
room for all buffers, `n` the number of rows B.
"""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from sk_bnreg.engine.buffers import (
    COMPILED_SOLVERS,
    Team,
    activates_at_once,
    biases,
    clear,
    flipped_inputs,
    gammas,
    gradient,
    inputs,
    linear,
    row_values,
    running,
    share_of,
    unit_values,
    weights,
)
from sk_bnreg.engine.embedding import N_FUNCTIONS, SIZE
from sk_bnreg.engine.normalisation import NORMALISATIONS, momentum_at
from sk_bnreg.engine.passes import (
    INSIDE,
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
    row_sums,
    weigh,
)
from sk_bnreg.engine.simd import atomic_load, block, meet, multiply, transpose
from sk_bnreg.engine.solvers import StackedSolver

# of the one normalisation that has them; a second would need a choice as that of solvers
(_FORMS,) = (form.compiled for form in NORMALISATIONS.values() if form is not None and form.compiled is not None)
_normalise, _normalise_backward, _use_running, _momentum_at = (
    numba.njit(**INSIDE)(function) for function in (*_FORMS, momentum_at)
)
UNITS = 64  # so many go from pass to pass at once, a multiple of ALIGNED
LEAST = -np.inf


def _kept(function: Any) -> Any:
    """Compile a function at its first call, and keep it on disk where there is any folder to write in.

    numba keeps it until this file changes; it does not look at the other files whose functions are called here.
    """
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
        if rank == 0:  # one thread looks, so that all of the team stop at the same step
            flags[1] = atomic_load(stop, 0)
        rows, key = order[bounds[step] : bounds[step + 1]], key_of_step(seed, clocks[2] + step)
        load_inputs(net, data, member, rows, work, team)
        if flags[1]:  # it was written before the team met in `load_inputs`
            break
        if rank == 0:
            weight = weigh(data.weight, rows, row_values(net, work, 0))
            mass += weight
        meet(team.arrivals, n_threads)
        forward(net, member, work, len(rows), key, _momentum_at(clocks[0] + step + 1), team)
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
    # of the parameters as they are in the end, as torch's pass has it
    penalty = 0.0
    for role in range(len(net.role_ends) - 1):
        if member.coupled[role]:
            for p in range(net.role_ends[role], net.role_ends[role + 1]):
                penalty += member.coupled[role] / 2 * member.theta[p] * member.theta[p]
    return total / mass + penalty


@_kept
def evaluate(net, data, member, rows, n_at_once, work):
    """Return the mean loss over rows, with the running statistics.

    Parameters
    ----------
    net, data, member
        As for `train_epoch`.
    rows : ndarray of shape (R,)
        Places among the rows of `data`.
    n_at_once : int
        Rows that the buffers have room for.
    work : ndarray
        Room for the buffers, at the start of a cache line.
    """
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
            if layer < last and not activates_at_once(net):
                scales, shifts = unit_values(net, work, layer, 2), unit_values(net, work, layer, 3)
                z, a = linear(net, work, layer), inputs(net, work, layer + 1)
                activate(net.facts[0].activation, z, scales, shifts, a, 0, n_out, n)
        weight = weigh(data.weight, part, row_values(net, work, 0))
        total += weight * compare(net, data, part, work)
        mass += weight
    return total / mass


@numba.njit(**INSIDE)
def use_running_statistics(net, member, work):
    """Write by what to scale and shift each unit in evaluation."""
    for layer in range(len(net.layers) - 1):
        mean, var = running(net, member.running_mean, layer), running(net, member.running_var, layer)
        scales, shifts = unit_values(net, work, layer, 2), unit_values(net, work, layer, 3)
        _use_running(gammas(net, member.theta, layer), biases(net, member.theta, layer), mean, var, scales, shifts)


@numba.njit(**INSIDE)
def load_inputs(net, data, member, rows, work, team):
    """Write the first layer's inputs, both ways round, embeddings below the features.

    Parameters
    ----------
    rows : ndarray of shape (B,)
        Places among the rows of `data`.

    Threads divide the rows to gather them, and the features to turn them round.
    """
    n, n_features, n_embedded = len(rows), net.facts[0].n_features, len(net.embedded)
    x, flipped = inputs(net, work, 0), flipped_inputs(net, work, 0, n)
    start, stop = n * team.rank // team.size, n * (team.rank + 1) // team.size
    gather(data, rows[start:stop], flipped[start:stop])
    meet(team.arrivals, team.size)
    start, stop = share_of(n_features, team)
    transpose(flipped, x, 0, n, start, stop)
    if n_embedded:
        meet(team.arrivals, team.size)
        parameters = block(member.theta, net.facts[0].embeddings_at, n_embedded * N_FUNCTIONS, 2 + SIZE)
        start, stop = n_embedded * team.rank // team.size, n_embedded * (team.rank + 1) // team.size
        embed(x, parameters, member.piecewise, net.embedded, n_features, start, stop, n)
        meet(team.arrivals, team.size)
        start, stop = share_of(SIZE * n_embedded, team)
        transpose(x, flipped, n_features + start, n_features + stop, 0, n)


@numba.njit(**INSIDE)
def connect(net, theta, work, layer, start, stop, n):
    """Write some linear outputs of a layer, biases included, or at once the inputs of the next.

    Parameters
    ----------
    theta : ndarray of shape (P,)
    layer, start, stop : int
        The layer and its units, from and to.
    n : int
        Rows.
    """
    facts, hidden, least = net.facts[0], layer < len(net.layers) - 1, LEAST
    outputs, shift = linear(net, work, layer), biases(net, theta, layer)
    if hidden and facts.normalised:  # its shift comes after the normalisation
        shift = block(work, facts.zeros_at, 1, facts.widest)[0]
    if hidden and activates_at_once(net):
        outputs = inputs(net, work, layer + 1)
        least = 0.0 if facts.activation == RELU else LEAST
    n_in = net.layers[layer].n_in
    multiply(weights(net, theta, layer), False, inputs(net, work, layer), outputs, shift, least, start, stop, n_in, n)


@numba.njit(**MATH, inline="always")
def forward(net, member, work, n, key, momentum, team):
    """Write every layer's inputs and the outputs, with the moments of the batch, which move the running statistics.

    A thread takes its units of a layer through all passes, some at a time, so that they stay in the first-level cache;
    then it waits for the others, whose units the next layer needs.

    Parameters
    ----------
    key : (uint32, uint32)
        Of the step's dropout.
    momentum : float
        The batch's share in the running statistics.
    """
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
                if not activates_at_once(net):
                    activate(facts.activation, z, scales, shifts, a, unit, past, n)
                if member.n_kept < 2**16:  # otherwise all units are kept
                    drop(a, key, member.n_kept, net.layers[layer].unit_at, facts.n_units, unit, past, n)
                transpose(a, flipped, unit, past, 0, n)
        meet(team.arrivals, team.size)
    # the output layer is small, and its loss is one thread's
    if team.rank == 0:
        connect(net, member.theta, work, last, 0, net.layers[last].n_out, n)


@numba.njit(**INSIDE)
def normalise(net, member, work, layer, z, share, momentum, start, stop, n):
    """Write by what to scale and shift some units of z, and move their running statistics.

    Parameters
    ----------
    z : ndarray of shape (H, B)
        The layer's linear outputs, of which units `start` to `stop` are meant.
    share : ndarray of shape (B,)
    """
    means, rstds = unit_values(net, work, layer, 0), unit_values(net, work, layer, 1)
    scales, shifts = unit_values(net, work, layer, 2), unit_values(net, work, layer, 3)
    gamma, beta = gammas(net, member.theta, layer), biases(net, member.theta, layer)
    mean, var, eps = running(net, member.running_mean, layer), running(net, member.running_var, layer), net.facts[0].eps
    _normalise(z, share, eps, momentum, gamma, beta, mean, var, means, rstds, scales, shifts, start, stop, n)


@numba.njit(**INSIDE)
def compare(net, data, rows, work):
    """Return the loss of the outputs, and turn them into the gradient there.

    Parameters
    ----------
    rows : ndarray of shape (B,)
        Places among the rows of `data`.
    """
    outputs, n = linear(net, work, len(net.layers) - 1), len(rows)
    rooms = block(work, net.facts[0].row_values_at + net.facts[0].stride, 2, net.facts[0].stride)
    return loss_and_gradient(net.facts[0].loss, outputs, data.target, rows, row_values(net, work, 0), rooms, n)


@numba.njit(**MATH, inline="always")
def backward(net, member, work, n, key, team):
    """Write the gradient of all parameters, given that at the outputs.

    From the last layer to the first a thread takes its units from the gradient at the layer above to that at their
    linear outputs, and then to that of their weights, which the buffer of inputs ``(B, D)`` makes a plain product.

    Parameters
    ----------
    key : (uint32, uint32)
        Of the step's dropout, whose masks are drawn again.
    """
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
                    if member.n_kept < 2**16:  # the masks are drawn again, so that they need no room
                        drop(delta, key, member.n_kept, net.layers[layer].unit_at, facts.n_units, unit, past, n)
                    activate_backward(facts.activation, delta, z, scales, shifts, a, kept, of_shift, unit, past, n)
                    if facts.normalised:
                        means, rstds = unit_values(net, work, layer, 0), unit_values(net, work, layer, 1)
                        of_gamma = gammas(net, grad, layer)
                        _normalise_backward(delta, z, share, means, rstds, scales, of_gamma, of_shift, unit, past, n)
            multiply(delta, False, flipped, of_weights, zeros, LEAST, start, stop, n, n_in)
        meet(team.arrivals, team.size)
    if len(net.embedded):
        backward_of_embeddings(net, member, grad, zeros, work, n, team)


@numba.njit(**MATH, inline="always")
def backward_of_embeddings(net, member, grad, zeros, work, n, team):
    """Write the gradient of the embeddings' parameters, given that at the first layer's linear outputs.

    Parameters
    ----------
    grad : ndarray of shape (P,)
    zeros : ndarray
        As many as the widest layer has units.
    """
    n_embedded, first, facts, theta = len(net.embedded), net.facts[0].n_features, net.facts[0], member.theta
    delta = gradient(net, work, 0)
    before = block(work, facts.inputs_delta_at, net.layers[0].n_in, facts.stride)
    start, stop = share_of(SIZE * n_embedded, team)
    multiply(weights(net, theta, 0), True, delta, before, zeros, LEAST, first + start, first + stop, len(delta), n)
    meet(team.arrivals, team.size)
    start, stop = n_embedded * team.rank // team.size, n_embedded * (team.rank + 1) // team.size
    parameters = block(theta, facts.embeddings_at, n_embedded * N_FUNCTIONS, 2 + SIZE)
    of_parameters = block(grad, facts.embeddings_at, n_embedded * N_FUNCTIONS, 2 + SIZE)
    x, piecewise = inputs(net, work, 0), member.piecewise
    embed_backward(x, before, parameters, of_parameters, piecewise, net.embedded, first, start, stop, n)
    meet(team.arrivals, team.size)


def _step_of(solvers: Sequence[type[StackedSolver]], number: int = 0) -> Any:
    """Compile the steps of some solvers to one that chooses by ``facts.solver``: numba has no table of functions.

    Parameters
    ----------
    solvers : sequence of StackedSolver classes
    number : int
        The value of ``facts.solver`` that means the first of them.
    """
    options = INSIDE | {"fastmath": MATH["fastmath"] | solvers[0].fastmath}
    first = numba.njit(**options)(solvers[0].compiled_step)
    if len(solvers) == 1:
        return first
    other = _step_of(solvers[1:], number + 1)

    @numba.njit(**MATH, inline="always")  # as a call it would be another order of operations to LLVM
    def step(theta, grad, moment_1, moment_2, facts, rate, clock, coupled, decoupled):
        if facts.solver == number:
            first(theta, grad, moment_1, moment_2, facts, rate, clock, coupled, decoupled)
        else:
            other(theta, grad, moment_1, moment_2, facts, rate, clock, coupled, decoupled)

    return step


_step = _step_of(COMPILED_SOLVERS)


@numba.njit(**MATH, inline="always")
def update(net, member, work, rate, clock, team):
    """Take a step of the solver on a thread's share of the parameters.

    Parameters
    ----------
    rate : float
    clock : int
        The number of the step, from 1.
    """
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
    """Write a thread's share of the parameters to a row of `seen`, and of the gradient to row 1.

    Parameters
    ----------
    theta : ndarray of shape (P,)
    seen : ndarray of shape (3, P)
    row : int
        0 before the step, 2 after it.
    """
    start, stop = share_of(len(theta), team)
    for p in range(start, stop):
        seen[row, p], seen[1, p] = theta[p], work[net.facts[0].grad_at + p]
