"""Odd things to be given in place of good ones: values of parameters, and changes of tables, targets and weights."""

import datetime
import decimal
import fractions

import numpy as np
import pandas as pd
import polars as pl
from scipy import sparse

ODD = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1.0, 2.5, -0.0, float("nan"), float("inf"), -float("inf"), 1e300,
    1e-300, 1e30, 5e-324, 10**30, -(10**30), 10**400, 1 + 2j, "", "auto", "nonsense", "0.1", "4-", "4--4", "1e3",
    "²", "cuda", "meta", "mps", "cpu:7", "float16", b"adam", [], (), [1], [None], ["a"], [1.5], [[1, 2]], {}, {"a":
    1}, "lbfgs", {"weights": "a"}, {"weights": -1}, {"weights": float("nan")}, {1: 2}, {0: 0}, {0: -1.0}, {0:
    float("nan"), 1: 1}, [{"l2": -1}], [{"lr": 1}], [{"l2_targets": "x"}], [{"n_ensemble": 2}], [{"dropout": 2}],
    [1, 2], (0,), (4, -1), (2**20, 2**20), (4, 0), (4.0,), (4, "a"), ("weights", 3), {"weights"}, range(3),
    np.float32(0.5), np.float64("nan"), np.int64(3), np.uint8(2), np.bool_(True), np.array(1), np.array([1, 2]),
    np.array([]), np.array([[1]]), np.array(["a"]), np.float16(0.1), np.str_("adam"), pd.NA, pd.NaT, pd.Series([1]),
    decimal.Decimal("0.1"), fractions.Fraction(1, 3), datetime.date(2020, 1, 1), object, len, lambda: 1, Ellipsis,
    slice(1), "x" * 300,
]  # fmt: skip


def _some(X, share, value):
    X = X.copy()
    X[:: max(1, int(1 / share)), -1] = value
    return X


def _renamed(X, names):
    return pd.DataFrame(
        X, columns=names[: X.shape[1]] if not callable(names) else [names(i) for i in range(X.shape[1])]
    )


def _column(X, values):
    """Return a frame whose first column has other values."""
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(X.shape[1])])
    frame["c0"] = values(len(X))
    return frame


def _number(y, dtype):
    """Return a target as numbers, whatever it was."""
    return (np.unique(y, return_inverse=True)[1].reshape(y.shape) if y.dtype.kind in "UO" else y).astype(dtype)


def _first(y, value):
    y = y.astype(object)
    y.flat[0] = value
    return y.astype(float) if isinstance(value, float) and all(isinstance(one, (int, float)) for one in y.flat) else y


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def _wide(X):
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def _unsorted(X):
    for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True):
        X.indices[start:stop], X.data[start:stop] = X.indices[start:stop][::-1].copy(), X.data[start:stop][::-1].copy()
    X.has_sorted_indices = False
    return X


X_CHANGES = {
    "list": lambda X: X.tolist(),
    "tuple": lambda X: tuple(map(tuple, X.tolist())),
    "DataFrame": lambda X: _renamed(X, lambda i: f"c{i}"),
    "numbered DataFrame": lambda X: pd.DataFrame(X),
    "DataFrame of text index": lambda X: _renamed(X, lambda i: f"c{i}").set_axis([f"r{i}" for i in range(len(X))]),
    "equal names": lambda X: _renamed(X, lambda i: "same"),
    "mixed names": lambda X: _renamed(X, lambda i: i if i else "a"),
    "two levels of names": lambda X: _renamed(X, lambda i: ("a", str(i))),
    "polars": lambda X: pl.DataFrame({f"c{i}": column for i, column in enumerate(X.T)}),
    "lazy polars": lambda X: pl.DataFrame({f"c{i}": column for i, column in enumerate(X.T)}).lazy(),
    "csr": sparse.csr_array,
    "csc matrix": sparse.csc_matrix,
    "coo": sparse.coo_array,
    "dok": sparse.dok_array,
    "csr of int64": lambda X: _wide(sparse.csr_array(X)),
    "unsorted csr": lambda X: _unsorted(sparse.csr_array(X)),
    "csr with nan": lambda X: sparse.csr_array(_some(X, 1, np.nan)),
    "Fortran": np.asfortranarray,
    "every second": lambda X: np.repeat(X, 2, axis=0)[::2],
    "reversed": lambda X: X[::-1, ::-1],
    "read-only": lambda X: _read_only(X),
    "masked": lambda X: np.ma.masked_array(X, mask=X > 1),
    "matrix": lambda X: np.asmatrix(X),
    "big-endian": lambda X: X.astype(">f8"),
    "float16": lambda X: X.astype(np.float16),
    "float32": lambda X: X.astype(np.float32),
    "longdouble": lambda X: X.astype(np.longdouble),
    "int8": lambda X: (10 * X).astype(np.int8),
    "uint64": lambda X: abs(X * 1e18).astype(np.uint64),
    "bool": lambda X: X > 0,
    "complex": lambda X: X + 1j,
    "object": lambda X: X.astype(object),
    "text": lambda X: X.astype(str),
    "words": lambda X: np.full(X.shape, "a"),
    "objects": lambda X: np.full(X.shape, object()),
    "None": lambda X: np.full(X.shape, None),
    "bytes": lambda X: X.astype("S"),
    "big ints": lambda X: np.full(X.shape, 10**30, object),
    "dates": lambda X: X.astype("M8[s]"),
    "durations": lambda X: X.astype("m8[s]"),
    "structured": lambda X: np.zeros(len(X), [("a", float), ("b", float)]),
    "nan": lambda X: _some(X, 0.5, np.nan),
    "all nan": lambda X: X * np.nan,
    "inf": lambda X: _some(X, 0.5, np.inf),
    "-inf": lambda X: _some(X, 1, -np.inf),
    "1e300": lambda X: _some(X, 0.5, 1e300),
    "1e30": lambda X: X * 1e30,
    "1e18": lambda X: X * 1e18,
    "1e15": lambda X: _some(X, 0.5, 1e15),
    "1e-300": lambda X: X * 1e-300,
    "1e-30": lambda X: X * 1e-30,
    "far from 0": lambda X: X + 1e9,
    "milliseconds": lambda X: X + 1.7e12,
    "constant": lambda X: np.ones_like(X),
    "zeros": lambda X: np.zeros_like(X),
    "constant column": lambda X: _some(X, 1, 3.0),
    "huge constant": lambda X: np.full(X.shape, 1e18),
    "equal rows": lambda X: np.repeat(X[:1], len(X), axis=0),
    "no rows": lambda X: X[:0],
    "no columns": lambda X: X[:, :0],
    "one row": lambda X: X[:1],
    "two rows": lambda X: X[:2],
    "one column": lambda X: X[:, :1],
    "a row less": lambda X: X[:-1],
    "flat": lambda X: X.ravel(),
    "a vector": lambda X: X[:, 0],
    "three axes": lambda X: X[:, :, None],
    "a number": lambda X: 3.0,
    "absent": lambda X: None,
    "a word": lambda X: "table",
    "a dict": lambda X: {"a": X},
    "ragged": lambda X: [*X.tolist()[:-1], [1.0]],
    "Series": lambda X: pd.Series(X[:, 0]),
    "generator": lambda X: (row for row in X),
    "a column of words": lambda X: _column(X, lambda n: ["a"] * n),
    "a column of dates": lambda X: _column(X, lambda n: pd.date_range("2020", periods=n)),
    "a column of categories": lambda X: _column(X, lambda n: pd.Categorical(["a", "b"] * n)[:n]),
    "a column of number categories": lambda X: _column(X, lambda n: pd.Categorical([1, 2] * n)[:n]),
    "a column of bool": lambda X: _column(X, lambda n: np.arange(n) % 2 == 0),
    "a column of Int64": lambda X: _column(X, lambda n: pd.array(np.arange(n), "Int64")),
    "a column of missing Int64": lambda X: _column(X, lambda n: pd.array([None, *range(1, n)], "Int64")),
    "a column of objects": lambda X: _column(X, lambda n: [{}] * n),
    "a column of None": lambda X: _column(X, lambda n: [None] * n),
    "a column of sparse": lambda X: _column(X, lambda n: pd.arrays.SparseArray(np.zeros(n))),
    "a column of strings": lambda X: _column(X, lambda n: pd.array(["1"] * n, "string")),
    "a column of complex": lambda X: _column(X, lambda n: np.full(n, 1j)),
}
Y_CHANGES = {
    "list": lambda y: y.tolist(),
    "Series": lambda y: pd.Series(y.tolist()),
    "frame": lambda y: pd.DataFrame(y),
    "column": lambda y: y.reshape(-1, 1),
    "polars": lambda y: pl.Series("y", y.tolist()),
    "read-only": lambda y: _read_only(y),
    "reversed": lambda y: y[::-1],
    "object": lambda y: y.astype(object),
    "text": lambda y: y.astype(str),
    "bytes": lambda y: y.astype("S"),
    "float": lambda y: _number(y, float),
    "float16": lambda y: _number(y, np.float16),
    "float32": lambda y: _number(y, np.float32),
    "longdouble": lambda y: _number(y, np.longdouble),
    "int8": lambda y: _number(y, np.int8),
    "bool": lambda y: _number(y, float) > 0,
    "complex": lambda y: _number(y, complex),
    "sparse": lambda y: sparse.csr_array(_number(y, float)),
    "categories": lambda y: pd.Series(y.ravel()).astype("category"),
    "Int64": lambda y: pd.Series(_number(y, np.int64).ravel()).astype("Int64"),
    "missing Int64": lambda y: pd.Series([None, *_number(y, np.int64).ravel()[1:].tolist()], dtype="Int64"),
    "string": lambda y: pd.Series(y.ravel().astype(str)).astype("string"),
    "dates": lambda y: _number(y, np.int64).astype("M8[D]"),
    "durations": lambda y: _number(y, np.int64).astype("m8[D]"),
    "big ints": lambda y: np.full(y.shape, 10**30, object),
    "masked": lambda y: np.ma.masked_array(_number(y, float), mask=_number(y, float) > 0),
    "big-endian": lambda y: _number(y, float).astype(">f8"),
    "nan": lambda y: _first(y, np.nan),
    "None": lambda y: _first(y, None),
    "NA": lambda y: _first(y, pd.NA),
    "inf": lambda y: _first(y, np.inf),
    "mixed": lambda y: _first(y, "other"),
    "a number among": lambda y: _first(y, 3),
    "1e20": lambda y: _number(y, float) * 1e20,
    "1e200": lambda y: _number(y, float) * 1e200,
    "1e-200": lambda y: _number(y, float) * 1e-200,
    "far from 0": lambda y: _number(y, float) + 1e12,
    "one 1e140": lambda y: _first(_number(y, float), 1e140),
    "subnormal": lambda y: _number(y, float) * 5e-324,
    "constant": lambda y: np.repeat(y[:1], len(y), axis=0),
    "zeros": lambda y: np.zeros(y.shape),
    "one other": lambda y: np.concatenate([y[:1], np.repeat(y[-1:], len(y) - 1, axis=0)]),
    "all different": lambda y: np.arange(len(y)),
    "fractions": lambda y: _number(y, float) + 0.5,
    "negative": lambda y: -_number(y, float),
    "no rows": lambda y: y[:0],
    "a row less": lambda y: y[:-1],
    "two columns": lambda y: np.column_stack([y.ravel()[: len(y)], y.ravel()[: len(y)]]),
    "no columns": lambda y: np.empty((len(y), 0)),
    "three axes": lambda y: y.reshape(len(y), -1, 1),
    "a number": lambda y: 1.0,
    "absent": lambda y: None,
    "a word": lambda y: "target",
    "ragged": lambda y: [[1], *([1, 2] for _ in y[1:])],
    "lists": lambda y: [[i] for i in range(len(y))],
    "tuples": lambda y: np.fromiter([(1, 2)] * len(y), object),
    "structured": lambda y: np.zeros(len(y), [("a", float)]),
    "generator": lambda y: (one for one in y),
}
WEIGHTS = {
    "none": lambda n: None,
    "ones": np.ones,
    "random": lambda n: np.linspace(0.1, 2, n),
    "half zero": lambda n: np.arange(n) % 2.0,
    "one row": lambda n: np.eye(1, n)[0],
    "list": lambda n: [1.0] * n,
    "ints": lambda n: np.arange(1, n + 1),
    "Series": lambda n: pd.Series(np.arange(1.0, n + 1)),
    "float16": lambda n: np.ones(n, np.float16),
    "bool": lambda n: np.arange(n) % 2 == 0,
    "read-only": lambda n: _read_only(np.arange(1.0, n + 1)),
    "zeros": np.zeros,
    "negative": lambda n: np.linspace(-1, 1, n),
    "all negative": lambda n: -np.ones(n),
    "nan": lambda n: np.full(n, np.nan),
    "one nan": lambda n: np.array([np.nan, *[1.0] * (n - 1)]),
    "inf": lambda n: np.array([np.inf, *[1.0] * (n - 1)]),
    "1e300": lambda n: np.full(n, 1e300),
    "1e308": lambda n: np.full(n, 1.7e308),
    "1e-300": lambda n: np.full(n, 1e-300),
    "subnormal": lambda n: np.full(n, 5e-324),
    "far apart": lambda n: np.logspace(-300, 300, n),
    "one 1e300": lambda n: np.array([1e300, *[1.0] * (n - 1)]),
    "short": lambda n: np.ones(n - 1),
    "long": lambda n: np.ones(n + 1),
    "column": lambda n: np.ones((n, 1)),
    "a number": lambda n: 2.0,
    "a zero": lambda n: 0,
    "a word": lambda n: "balanced",
    "words": lambda n: ["a"] * n,
    "empty": lambda n: [],
    "complex": lambda n: np.full(n, 1j),
    "None among": lambda n: [None] * n,
    "dict": lambda n: {0: 1.0},
    "dates": lambda n: np.ones(n, "M8[D]"),
    "objects": lambda n: np.ones(n, object),
    "text": lambda n: np.full(n, "1.5"),
}
