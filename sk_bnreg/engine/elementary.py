"""exp, tanh, cos and their like for compiled loops.

In float32 they are short polynomials, which LLVM turns into vector instructions (without a vector library it calls
libm for one number after the other); in float64 they are libm's, but for the cosines of embeddings, to which most of
the time would go. Nan goes through.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import overload

from sk_bnreg.engine.simd import float_of

OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "fastmath": {"contract"},
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
f32 = np.float32
ZERO, HALF, ONE, TWO = f32(0), f32(0.5), f32(1), f32(2)
# ln 2 and pi in parts, of which the first have so few bits that a multiple of them is exact
LOG2_E, LN_2_HIGH, LN_2_LOW = f32(1.44269504), f32(0.693359375), f32(-2.12194440e-4)
LEAST_EXP, MOST_EXP = f32(-87.3), f32(88.7)  # 2**n is a normal number up to 88.3, and infinite from there
PER_PI, PI_1, PI_2, PI_3 = f32(1 / math.pi), f32(3.1415927), f32(-8.7422777e-8), f32(-3.430249e-15)
DOUBLE_PI_1, DOUBLE_PI_2, DOUBLE_PI_3 = 3.14159250259399414062, 1.50995788317231927067e-7, 1.07806057163162381058e-14
# from the highest power of x**2 on; written out below, since a loop is no vector instruction
_C = tuple((-1) ** k / math.factorial(2 * k) for k in range(11, -1, -1))
_S = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(11, -1, -1))
PER_ROOT_2, PER_ROOT_2_PI = f32(math.sqrt(0.5)), 1 / math.sqrt(2 * math.pi)


def _by_type(single: Callable[..., Any], double: Callable[..., Any]) -> Any:
    """Return a function for compiled code that depends on its argument's type.

    Parameters
    ----------
    single, double : callable
        For float32 and for float64.
    """

    def function(x):
        raise NotImplementedError("only compiled code calls this")

    @overload(function, jit_options=OPTIONS)  # type: ignore[arg-type]
    def choose(x):
        return (lambda x: single(x)) if x == types.float32 else (lambda x: double(x))

    return function


@numba.njit(**OPTIONS)
def _exp(x):
    """From 1e-38 on; 2**n times a polynomial of degree 6 (Cephes' expf)."""
    x = LEAST_EXP if x < LEAST_EXP else x
    x = MOST_EXP if x > MOST_EXP else x
    # x = n ln 2 + r, |r| < 0.35
    n = np.floor(x * LOG2_E + HALF)
    r = (x - n * LN_2_HIGH) - n * LN_2_LOW
    p = ((f32(1.9875691e-4) * r + f32(1.3981999e-3)) * r + f32(8.3334519e-3)) * r
    p = ((p + f32(4.1665796e-2)) * r + f32(1.6666667e-1)) * r + HALF
    return (p * (r * r) + r + ONE) * float_of((np.int32(n) + np.int32(127)) << np.int32(23))


@numba.njit(**OPTIONS)
def _log1p_of_fraction(x):
    """For x in [0, 1]: log(1 + x) = 2 artanh(x / (2 + x))."""
    s = x / (TWO + x)
    q = s * s
    p = ((f32(0.12150453) * q + f32(0.10713833)) * q + f32(0.14308442)) * q
    return TWO * s * (((p + f32(0.19999439)) * q + f32(0.33333337)) * q + ONE)


@numba.njit(**OPTIONS)
def _tanh(x):
    """Cephes' tanhf: a polynomial below 0.625, by exp above."""
    size = abs(x)
    e = _exp(-TWO * size)
    far = math.copysign((ONE - e) / (ONE + e), x)
    q = x * x
    p = ((f32(-5.7049887e-3) * q + f32(2.0639088e-2)) * q + f32(-5.3739715e-2)) * q
    near = ((p + f32(1.3331442e-1)) * q + f32(-3.3333282e-1)) * q * x + x
    return near if size < f32(0.625) else far


@numba.njit(**OPTIONS)
def _normal_cdf(x):
    """erfc(-x / sqrt 2) / 2, erfc as in Numerical Recipes (erfcc), of relative error below 1.2e-7."""
    z = abs(x) * PER_ROOT_2
    t = ONE / (ONE + HALF * z)
    p = ((f32(0.17087277) * t + f32(-0.82215223)) * t + f32(1.48851587)) * t + f32(-1.13520398)
    p = ((p * t + f32(0.27886807)) * t + f32(-0.18628806)) * t + f32(0.09678418)
    p = ((p * t + f32(0.37409196)) * t + f32(1.00002368)) * t + f32(-1.26551223)
    tail = HALF * t * _exp(p - z * z)
    return tail if x < ZERO else ONE - tail


@numba.njit(**OPTIONS)
def _cos_sin(x):
    """Accurate for up to some ten thousand periods; beyond, somewhere in [-1, 1]."""
    # x = n pi + r: an odd n turns both signs
    n = np.floor(x * PER_PI + HALF)
    r = ((x - n * PI_1) - n * PI_2) - n * PI_3
    # of a huge x nothing of r is right, and its powers could be infinite
    r = -TWO if r < -TWO else r
    r = TWO if r > TWO else r
    q = r * r
    c = ((f32(-2.604813e-7) * q + f32(2.4760304e-5)) * q + f32(-1.3888374e-3)) * q
    s = ((f32(2.6060602e-6) * q + f32(-1.980991e-4)) * q + f32(8.333073e-3)) * q
    sign = ONE - TWO * (n - TWO * np.floor(n * HALF))
    return sign * (((c + f32(4.1666638e-2)) * q - HALF) * q + ONE), sign * ((s + f32(-1.6666660e-1)) * q * r + r)


@numba.njit(**OPTIONS)
def _normal_cdf_by_libm(x):
    """By erfc, which keeps its digits where the result is small."""
    return 0.5 * math.erfc(-x * math.sqrt(0.5))


@numba.njit(**OPTIONS)
def _cos_sin_double(x):
    """Taylor's series as far as pi / 2 asks for: accurate to 1e-15 for up to some million periods."""
    n = np.floor(x * (1 / math.pi) + 0.5)
    r = ((x - n * DOUBLE_PI_1) - n * DOUBLE_PI_2) - n * DOUBLE_PI_3
    r = -2.0 if r < -2.0 else r
    r = 2.0 if r > 2.0 else r
    q = r * r
    c = ((((_C[0] * q + _C[1]) * q + _C[2]) * q + _C[3]) * q + _C[4]) * q + _C[5]
    c = (((((c * q + _C[6]) * q + _C[7]) * q + _C[8]) * q + _C[9]) * q + _C[10]) * q + _C[11]
    s = ((((_S[0] * q + _S[1]) * q + _S[2]) * q + _S[3]) * q + _S[4]) * q + _S[5]
    s = (((((s * q + _S[6]) * q + _S[7]) * q + _S[8]) * q + _S[9]) * q + _S[10]) * q + _S[11]
    sign = 1.0 - 2.0 * (n - 2.0 * np.floor(n * 0.5))
    return sign * c, sign * s * r


exp = _by_type(_exp, math.exp)
log1p_of_fraction = _by_type(_log1p_of_fraction, math.log1p)
tanh = _by_type(_tanh, math.tanh)
normal_cdf = _by_type(_normal_cdf, _normal_cdf_by_libm)
cos_sin = _by_type(_cos_sin, _cos_sin_double)


@numba.njit(**OPTIONS)
def logistic(x):
    """Return 1 / (1 + exp(-x)), by the exponential of a number that is not positive: it cannot overflow."""
    e = exp(-abs(x))
    return (e if x < ZERO else ONE) / (ONE + e)


@numba.njit(**OPTIONS)
def normal_density(x):
    """Return the density of the standard normal distribution."""
    half = x * x
    half = -HALF * half
    return exp(half) * type(x)(PER_ROOT_2_PI)
