"""What users give, parameters and data: checked once, and refused in a sentence that names the argument."""

import warnings
from collections.abc import Hashable, Mapping
from numbers import Integral, Number, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.utils import assert_all_finite, check_array, check_consistent_length, column_or_1d
from sklearn.utils.validation import validate_data
from skorch.callbacks import Callback
from skorch.callbacks.scoring import ScoringBase

from sk_bnreg.borrowed import check_sample_weight, validate_parameter_constraints
from sk_bnreg.engine.normalisation import NORMALISATIONS

MOST_UNITS = 2**20  # of a layer


def check_params(network: Any) -> None:
    """Refuse parameters that are not valid, or not together."""
    params = network.get_params(deep=False)
    strengths = (
        {f"l2[{role!r}]": value for role, value in network.l2.items()} if isinstance(network.l2, Mapping) else {}
    )
    check_numbers(params | strengths)
    network._validate_params()
    _check_callbacks(network.callbacks or ())
    if network.solver == "lbfgs":
        raise ValueError("solver must be 'adam' or 'sgd', got 'lbfgs', which has no counterpart for minibatches.")
    normalisation = NORMALISATIONS[network.batch_norm]
    if normalisation is not None and normalisation.of_rows and network.batch_size == 1:
        raise ValueError(f"batch_size must be at least 2 with batch_norm={network.batch_norm!r}, or 'auto', got 1.")
    if not all(0 < size <= MOST_UNITS for size in hidden_sizes(network)):
        raise ValueError(
            f"hidden_layer_sizes must be integers > 0, at most {MOST_UNITS}, got {network.hidden_layer_sizes!r}."
        )
    _check_device(network.device)


def check_arguments(constraints: Mapping[str, Any], arguments: Mapping[str, Any], caller: str) -> None:
    """Refuse arguments of a function that are not valid by scikit-learn's rules, or numbers without a type."""
    check_numbers({name: value for name, value in arguments.items() if name in constraints})
    validate_parameter_constraints(dict(constraints), dict(arguments), caller)


def check_numbers(params: Mapping[str, Any]) -> None:
    """Refuse numbers that numpy has no type for: a Fraction is a Real too, and an integer of a thousand digits."""
    for name, value in params.items():
        if isinstance(value, Real) and not is_number(value):
            raise ValueError(f"{name} must be a number that 64 bits hold, got {value!r}.")


def hidden_sizes(network: Any) -> tuple[int, ...]:
    """Return the units of each hidden layer; 0 for what is no number."""
    sizes = network.hidden_layer_sizes
    if isinstance(sizes, str):
        return tuple(int(size) if size.isdecimal() else 0 for size in sizes.split("-"))
    if isinstance(sizes, Integral):
        sizes = (sizes,)
    elif not isinstance(sizes, list | tuple | range) and np.ndim(sizes) != 1:
        return (0,)
    return tuple(int(size) if isinstance(size, Integral) else 0 for size in sizes)


def is_number(value: Any) -> bool:
    """Tell whether a value is a number that numpy has a type for."""
    return isinstance(value, float | np.number) or (isinstance(value, int) and abs(value) < 2**63)


def _check_callbacks(given: Any) -> None:
    callbacks = [callback[1] if isinstance(callback, tuple) and len(callback) == 2 else callback for callback in given]
    for callback in callbacks:
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, Callback):
            raise ValueError(f"callbacks must be skorch callbacks, or tuples of a name and one, got {callback!r}.")
        if issubclass(kind, ScoringBase):
            raise ValueError(
                f"callbacks must not have {kind.__name__}, which needs predictions for each batch: net.history has "
                "train_loss and valid_loss, and any score of another set of rows can be taken in on_epoch_end."
            )


def _check_device(device: Any) -> None:
    try:
        torch.empty(0, device=device).cpu()  # "meta" holds nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"device must be one that torch can use here, such as 'cpu', got {str(device)!r}: {reason}."
        ) from error


def check_table(network: Any, X: Any, *, reset: bool, y: Any = "no_validation") -> Any:
    """Return features as an array or CSR in the network's precision, and learn or compare their number and names.

    Parameters
    ----------
    network : BaseBNMLP
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
    reset : bool
        Whether number and names are learned.
    y : None or object
        Of a fit, which needs one: None is refused.
    """
    names = list(X.columns) if hasattr(X, "columns") and hasattr(X, "shape") else []  # a LazyFrame has no columns yet
    twice = sorted({str(name) for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else ()
    if twice:
        raise ValueError(f"X must have a name for each column, but several are called {', '.join(twice)}: rename them.")
    _check_unmasked(X, "X")
    dtype = getattr(X, "dtype", None)
    if getattr(dtype, "kind", None) in ("m", "M", "V"):
        raise ValueError(f"X must be numbers, got {dtype}: encode them first, as skrub.tabular_pipeline does.")
    fills = [dtype.fill_value for dtype in getattr(X, "dtypes", ()) if hasattr(dtype, "fill_value")] if names else []
    if any(fill != 0 for fill in fills):
        raise ValueError(
            "X must have sparse columns with the fill value 0 alone: X.sparse.to_dense() is a plain frame."
        )
    try:
        # numbers too large for single precision are told of as infinities, with the argument's name
        with np.errstate(over="ignore"):
            given = () if y is not None else (y,)
            return validate_data(network, X, *given, reset=reset, **array_rules(network))
    except (TypeError, ValueError) as error:
        others = [name for name in names if not _is_numeric(X[name])]
        if not others:
            raise
        raise ValueError(
            f"X must be numbers, but {', '.join(map(str, others))} can't be made numbers: encode them first, as "
            "skrub.tabular_pipeline does."
        ) from error


def array_rules(network: Any) -> dict[str, Any]:
    """Return what `validate_data` has to know of the arrays that a network takes."""
    return {"dtype": getattr(np, network.dtype), "order": "C", "accept_sparse": "csr"}


def check_size(X: Any) -> None:
    """Refuse numbers whose squares overflow: no sum of products of them can be trusted."""
    values = X.data if sparse.issparse(X) else X  # type: ignore[attr-defined]
    largest = np.sqrt(np.finfo(X.dtype).max)
    size = max(abs(values.min()), abs(values.max())) if values.size else 0.0
    if size > largest:
        raise ValueError(f"X must be at most {largest:.1e} in size for dtype={X.dtype}, got {size:.1e}: scale it.")


def warn_of_coarse(checked: Any, X: Any) -> None:
    """Warn of features whose values single precision hardly tells apart, such as milliseconds since 1970."""
    if sparse.issparse(checked) or checked.dtype != np.float32:
        return
    low, high = checked.min(axis=0), checked.max(axis=0)
    size = np.maximum(np.abs(low), np.abs(high))
    coarse = np.flatnonzero((size >= 2**24) & (high - low <= 256 * np.spacing(size)))
    if len(coarse):
        names = list(getattr(X, "columns", range(len(size))))
        warnings.warn(
            f"In single precision the values of {[names[i] for i in coarse]} are hardly told apart, being as large as "
            f"{size[coarse].max():.2g}: subtract their smallest first, or set dtype='float64'.",
            stacklevel=5,
        )


def check_target(network: Any, y: Any, X: Any) -> NDArray[Any]:
    """Return targets as an array with one entry or row for each row of X."""
    _check_unmasked(y, "y")
    named: dict[str, Any] = {"ensure_2d": False, "input_name": "y", "estimator": network}
    dense = y.toarray() if sparse.issparse(y) else y  # type: ignore[attr-defined]
    y = check_array(dense, dtype=None, ensure_all_finite=False, **named)
    if y.dtype.kind in "cV":
        raise ValueError(f"y must be labels or numbers, got {y.dtype}.")
    check_one_kind(y)
    if is_classifier(network):
        assert_all_finite(y, estimator_name=type(network).__name__, input_name="y")
    else:
        y = check_array(y, dtype="numeric", **named)
        if y.dtype.kind not in "biuf":
            raise ValueError(f"y must be numbers, got {y.dtype}.")
    check_consistent_length(X, y)
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


def check_one_kind(y: Any) -> None:
    """Refuse a target of objects that cannot be put in order: with gaps, or words beside numbers."""
    if sparse.issparse(y) or getattr(y, "dtype", np.dtype(object)) != np.dtype(object):
        return
    values = np.asarray(y, dtype=object)
    kinds = set(map(type, values.flat))
    names = sorted(kind.__name__ for kind in kinds)
    if {"NoneType", "NAType", "NaTType"} & set(names):
        raise ValueError("y must not have missing values: leave out the rows that have no target.")
    # lists have an order too, but are no labels
    alike: list[Any] = [str, Number | np.bool_, *(kind for kind in kinds if issubclass(kind, Hashable))]
    if not any(all(issubclass(kind, one) for kind in kinds) for one in alike):
        raise ValueError(f"y must be labels of one kind, all words or all numbers, got {names}.")


def check_weight(weight: Any, X: Any, name: str = "sample_weight") -> Any:
    """Return weights of rows with the largest from 1/2 to 1, or None: only their ratios matter, so none is too large.

    They are divided by a power of two, which rounds nothing: for some rows the weights must be those of all rows.
    """
    if weight is None:
        return None
    _check_unmasked(weight, name)
    weight = check_sample_weight(weight, X, ensure_non_negative=True)
    scaled = np.ldexp(weight, -np.frexp(weight.max())[1])
    # a row of little weight is still there
    return np.where(weight > 0, np.maximum(scaled, np.finfo(np.float64).tiny), 0.0)


def _check_unmasked(given: Any, name: str) -> None:
    """Refuse masked arrays: as plain ones they have numbers where there are none."""
    if np.ma.is_masked(given):
        raise ValueError(f"{name} must not have masked values: fill them, or leave out their rows.")


def _is_numeric(column: Any) -> bool:
    try:
        return np.asarray(column).dtype.kind not in "mMc" and np.asarray(column, dtype=np.float64).ndim == 1
    except (TypeError, ValueError):
        return False
