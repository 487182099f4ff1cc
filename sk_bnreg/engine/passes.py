"""What stands between the matrix products of a batch: passes over the rows of a feature, a unit or an output.

They are compiled into the kernel. Units are given as from and to, `start` and `stop`, and `n` is the number of rows B.
"""

from typing import Any

import numba
import numpy as np

from sk_bnreg.engine.elementary import cos_sin, exp, log1p_of_fraction, logistic, normal_cdf, normal_density, tanh
from sk_bnreg.engine.embedding import N_FUNCTIONS, SIZE
from sk_bnreg.engine.simd import copy_row

ACTIVATIONS = ("identity", "logistic", "tanh", "relu", "gelu", "silu")
IDENTITY, LOGISTIC, TANH, RELU, GELU, SILU = range(6)
LOSSES = ("binary", "multiclass", "squared")
BINARY, MULTICLASS, SQUARED = range(3)

MATH: dict[str, Any] = {
    "nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp", "afn"},
}  # fmt: skip
# a call hands over every field of every array: as costly as a pass over a row
INSIDE = MATH | {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@numba.njit(**INSIDE)
def weigh(weight, rows, share):
    """Write each row's share of the batch's weight; return that weight.

    Parameters
    ----------
    weight : ndarray of shape (R,) or (0,)
        Without entries all are one.
    rows : ndarray of shape (B,)
    share : ndarray of shape (B,)
    """
    n, total = len(rows), 0.0
    if len(weight) == 0:
        total += n
        for b in range(n):
            share[b] = 1 / total
    else:
        for b in range(n):
            total += weight[rows[b]]
        for b in range(n):
            share[b] = weight[rows[b]] / total
    return total


@numba.njit(**INSIDE)
def gather(data, rows, flipped):
    """Write the features of rows.

    Parameters
    ----------
    data : kernel.Data
    rows : ndarray of shape (B,)
        Places among its rows.
    flipped : ndarray of shape (B, D)
    """
    n_features = data.dense.shape[1]
    for b in range(len(rows)):
        row = data.table_rows[rows[b]]
        if n_features:
            copy_row(data.dense, row, flipped, b, n_features)
        else:
            for d in range(flipped.shape[1]):
                flipped[b, d] = 0
            # added, since a row of compressed sparse rows may have a column twice
            for place in range(data.starts[row], data.starts[row + 1]):
                flipped[b, data.columns[place]] += data.values[place]


@numba.njit(**INSIDE)
def function(piecewise, z):
    """Return an embedding's function and minus its derivative: a piece of a line from 0 to 1, or a cosine."""
    if piecewise:
        zero, one = type(z)(0), type(z)(1)
        return zero if z < zero else (one if z > one else z), -one if (z >= zero) and (z <= one) else zero
    return cos_sin(z)


@numba.njit(**INSIDE)
def embed(x, parameters, piecewise, features, n_features, start, stop, n):
    """Write the embeddings of some of the features below all features of x.

    Parameters
    ----------
    x : ndarray of shape (D + 3 E, B)
    parameters : ndarray of shape (E * F, 5)
        Of each of the F functions of a feature its slope, shift and weights.
    piecewise : bool
        Whether the functions are pieces of lines, or cosines.
    features : ndarray of shape (E,)
        The features that have an embedding, of which `start` to `stop` are meant.
    n_features : int
        D.
    """
    for e in range(start, stop):
        feature, row = features[e], n_features + SIZE * e
        for k in range(SIZE):
            for b in range(n):
                x[row + k, b] = 0
        for f in range(N_FUNCTIONS):
            p = parameters[e * N_FUNCTIONS + f]
            slope, shift, w_0, w_1, w_2 = p[0], p[1], p[2], p[3], p[4]
            for b in range(n):
                value, _ = function(piecewise, slope * x[feature, b] + shift)
                x[row, b] += w_0 * value
                x[row + 1, b] += w_1 * value
                x[row + 2, b] += w_2 * value


@numba.njit(**INSIDE)
def embed_backward(x, delta, parameters, grad, piecewise, features, n_features, start, stop, n):
    """Write the gradient of the embeddings' parameters, given that at x.

    Values are computed again: to keep them would take more memory than a cache has.

    Parameters
    ----------
    x, delta : ndarray of shape (D + 3 E, B)
        The first layer's inputs and the gradient at them.
    parameters, grad : ndarray of shape (E * F, 5)
    piecewise, features, n_features, start, stop, n
        As for `embed`.
    """
    zero = delta.dtype.type(0)
    for e in range(start, stop):
        feature, row = features[e], n_features + SIZE * e
        for f in range(N_FUNCTIONS):
            p, g = parameters[e * N_FUNCTIONS + f], grad[e * N_FUNCTIONS + f]
            slope, shift, w_0, w_1, w_2 = p[0], p[1], p[2], p[3], p[4]
            of_slope = of_shift = of_0 = of_1 = of_2 = zero
            for b in range(n):
                value, fall = function(piecewise, slope * x[feature, b] + shift)
                d_0, d_1, d_2 = delta[row, b], delta[row + 1, b], delta[row + 2, b]
                fall *= w_0 * d_0 + w_1 * d_1 + w_2 * d_2
                of_slope -= fall * x[feature, b]
                of_shift -= fall
                of_0 += value * d_0
                of_1 += value * d_1
                of_2 += value * d_2
            g[0], g[1], g[2], g[3], g[4] = of_slope, of_shift, of_0, of_1, of_2


@numba.njit(**INSIDE)
def activate(kind, z, scales, shifts, a, start, stop, n):
    """Write the activations of scale * z + shift; relu keeps nan.

    Parameters
    ----------
    kind : int
        A place in `ACTIVATIONS`.
    z, a : ndarray of shape (H, B)
    scales, shifts : ndarray of shape (H,)
    """
    # the choice stands outside of the loops: within, LLVM would make no vectors of them
    zero = z.dtype.type(0)
    if kind == RELU:
        for h in range(start, stop):
            for b in range(n):
                u = scales[h] * z[h, b] + shifts[h]
                a[h, b] = zero if u < zero else u
    elif kind == IDENTITY:
        for h in range(start, stop):
            for b in range(n):
                a[h, b] = scales[h] * z[h, b] + shifts[h]
    elif kind == LOGISTIC:
        for h in range(start, stop):
            for b in range(n):
                a[h, b] = logistic(scales[h] * z[h, b] + shifts[h])
    elif kind == TANH:
        for h in range(start, stop):
            for b in range(n):
                a[h, b] = tanh(scales[h] * z[h, b] + shifts[h])
    elif kind == GELU:
        for h in range(start, stop):
            for b in range(n):
                u = scales[h] * z[h, b] + shifts[h]
                a[h, b] = u * normal_cdf(u)
    else:
        for h in range(start, stop):
            for b in range(n):
                u = scales[h] * z[h, b] + shifts[h]
                a[h, b] = u * logistic(u)


@numba.njit(**INSIDE)
def activate_backward(kind, delta, z, scales, shifts, a, kept, sums, start, stop, n):
    """Turn the gradient at activations into that at scale * z + shift, and write its sums over rows.

    Parameters
    ----------
    kind : int
    delta : ndarray of shape (H, B)
    z, scales, shifts
        As for `activate`.
    a : ndarray of shape (H, B)
        Activations, which dropout has divided by `kept`.
    kept : float
        The share of units that dropout keeps.
    sums : ndarray of shape (H,)
    """
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for h in range(start, stop):
        total = zero  # beta's gradient, or the bias's, on the way
        if kind == RELU:
            for b in range(n):
                delta[h, b] = delta[h, b] if a[h, b] > zero else zero
                total += delta[h, b]
        elif kind == IDENTITY:
            for b in range(n):
                total += delta[h, b]
        elif kind == LOGISTIC:
            for b in range(n):
                p = a[h, b] * kept
                delta[h, b] *= p * (one - p)
                total += delta[h, b]
        elif kind == TANH:
            for b in range(n):
                t = a[h, b] * kept
                delta[h, b] *= one - t * t
                total += delta[h, b]
        elif kind == GELU:
            for b in range(n):
                u = scales[h] * z[h, b] + shifts[h]
                delta[h, b] *= normal_cdf(u) + u * normal_density(u)
                total += delta[h, b]
        else:
            for b in range(n):
                u = scales[h] * z[h, b] + shifts[h]
                p = logistic(u)
                delta[h, b] *= p * (one + u * (one - p))
                total += delta[h, b]
        sums[h] = total


@numba.njit(**INSIDE)
def key_of_step(seed, step):
    """Return the words of `sk_bnreg.engine.dropout.key_of_step`: a step's two words of 32 bits."""
    # numba takes an integer that meets another type for a float, so every one is told its type
    z = np.uint64(seed) + np.uint64(step) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.uint32(z), np.uint32(z >> np.uint64(32))


@numba.njit(**INSIDE)
def drop(values, key, n_kept, first_unit, n_units, start, stop, n):
    """Zero a share of the values and scale the others up, as `sk_bnreg.engine.dropout.Dropout` does.

    Parameters
    ----------
    values : ndarray of shape (H, B)
    key : (uint32, uint32)
    n_kept : int
        Of 2**16.
    first_unit, n_units : int
        The place of the layer's first unit among those of all hidden layers, and their number.
    """
    zero, scale = values.dtype.type(0), values.dtype.type(2**16 / n_kept)
    for h in range(start, stop):
        u = np.uint32(first_unit + h)
        for b in range(n):
            # 32 bits all along: twice as many to a vector as of 64
            x = np.uint32(np.uint32(b) * np.uint32(n_units) + u) ^ key[0]
            x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)) ^ key[1]
            x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
            values[h, b] = scale * values[h, b] if np.uint32(x >> np.uint32(16)) < np.uint32(n_kept) else zero


@numba.njit(**INSIDE)
def loss_and_gradient(kind, outputs, target, rows, share, rooms, n):
    """Return the batch's loss, each row by its share, and turn the outputs into the gradient at them.

    Parameters
    ----------
    kind : int
        A place in `LOSSES`.
    outputs : ndarray of shape (C, B)
    target : ndarray of shape (R, C) or (R, 1)
    rows, share : ndarray of shape (B,)
    rooms : ndarray of shape (2, B)
    """
    if kind == MULTICLASS:
        return _softmax_loss(outputs, target, rows, share, rooms[0], rooms[1], n)
    zero, one, n_outputs, loss, y = outputs.dtype.type(0), outputs.dtype.type(1), len(outputs), 0.0, rooms[0]
    for c in range(n_outputs):
        of_output = zero
        for b in range(n):
            y[b] = target[rows[b], c]
        if kind == BINARY:
            for b in range(n):
                t = outputs[c, b]
                e = exp(-abs(t))
                # max(t, 0) - t y + log(1 + exp(-|t|)): no exponential of a large number
                of_output += share[b] * ((zero if t < zero else t) - t * y[b] + log1p_of_fraction(e))
                outputs[c, b] = share[b] * ((e if t < zero else one) / (one + e) - y[b])
            loss += of_output
        else:
            for b in range(n):
                distance = outputs[c, b] - y[b]
                of_output += share[b] * distance * distance
                outputs[c, b] = share[b] * distance / n_outputs
            loss += of_output / (2.0 * n_outputs)
    return loss


@numba.njit(**INSIDE)
def _softmax_loss(outputs, target, rows, share, most, total, n):
    """Do so for classes; each row's largest output is subtracted first, so that no exponential overflows."""
    n_outputs, loss = len(outputs), 0.0
    for b in range(n):
        most[b], total[b] = outputs[0, b], 0
    # a class's outputs are a row, so all loops run over rows of the batch within
    for c in range(1, n_outputs):
        for b in range(n):
            most[b] = most[b] if outputs[c, b] < most[b] else outputs[c, b]
    for b in range(n):
        loss -= share[b] * (outputs[int(target[rows[b], 0]), b] - most[b])
    for c in range(n_outputs):
        for b in range(n):
            outputs[c, b] = exp(outputs[c, b] - most[b])
            total[b] += outputs[c, b]
    for b in range(n):
        loss += share[b] * np.log(total[b])
        total[b] = share[b] / total[b]
    for c in range(n_outputs):
        for b in range(n):
            outputs[c, b] *= total[b]
    for b in range(n):
        outputs[int(target[rows[b], 0]), b] -= share[b]
    return loss


@numba.njit(**INSIDE)
def row_sums(values, sums, start, stop, n):
    """Write sums over rows."""
    for h in range(start, stop):
        total = values.dtype.type(0)
        for b in range(n):
            total += values[h, b]
        sums[h] = total
