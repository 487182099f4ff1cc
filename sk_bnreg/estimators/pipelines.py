"""The network at the end of an estimator: found, taken out and put back. No other file knows how pipelines are made."""

import copy
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from sk_bnreg.estimators.base import BaseBNMLP


class Fit(NamedTuple):
    """What a network is to be fitted to: the first arguments of `make_task`."""

    X: Any
    y: Any
    sample_weight: Any
    validation: tuple[Any, Any, Any]


def network_in(estimator: Any) -> tuple[Any, str]:
    """Return the network at the end of an estimator, or None, and the name of the parameter that it is.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_bnreg import BNMLPClassifier
    >>> from sk_bnreg.estimators.pipelines import network_in
    >>> network_in(make_pipeline(StandardScaler(), BNMLPClassifier()))
    (BNMLPClassifier(), 'bnmlpclassifier')
    """
    name, inner = _inside(estimator)
    if inner is None:
        return (estimator if isinstance(estimator, BaseBNMLP) else None), ""
    network, path = network_in(inner)
    return network, f"{name}__{path}" if path else name


def fit_parameter(estimator: Any, name: str) -> str:
    """Return by what name `fit` of an estimator hands an argument on to the network at its end."""
    step, inner = _inside(estimator)
    if inner is None:
        return name
    name = fit_parameter(inner, name)
    return f"{step}__{name}" if isinstance(estimator, Pipeline) else name


def rows_at_network(estimator: Any, X: Any, y: Any = None) -> tuple[Any, Any]:
    """Return rows as a fitted estimator gives them to the network at its end."""
    _, inner = _inside(estimator)
    if inner is None:
        return X, y
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps[:-1]:  # a pipeline of them would refuse a last one that keeps nothing of its fit
            # a sampler of imbalanced-learn has its say in training alone
            X = X if step in (None, "passthrough") or hasattr(step, "fit_resample") else step.transform(X)
    if isinstance(estimator, TransformedTargetRegressor) and y is not None:
        y = np.asarray(estimator.transformer_.transform(np.asarray(y).reshape(len(y), -1)))  # set_output makes frames
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    return rows_at_network(inner, X, y)


class Front:
    """An estimator fitted up to the network at its end, for all networks that may stand there.

    The estimator fits itself, with its own routing of metadata: where its network was stands a place holder.

    Parameters
    ----------
    estimator : estimator
        Unfitted; it is not changed.
    X, y, params
        What its `fit` is given.

    Attributes
    ----------
    fit : Fit
        What the network is to be fitted to.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, params: dict[str, Any]):
        network, path = network_in(estimator)
        place = _Place(network)  # so a step that trains a network of its own fits it, and only the last is left out
        self.estimator = clone(estimator).set_params(**{path: place}) if path else place
        self.estimator.fit(X, y, **params)
        self.fit: Fit = _end(self.estimator).fit_

    def join(self, network: Any) -> Any:
        """Return the fitted estimator with a network, fitted to what `fit` tells, at its end."""
        return _with_network(self.estimator, network)

    def transform_once(self) -> None:
        """Let each step keep its output for a table, which every network asks for again."""
        _transform_once(self.estimator)


class _Place(BaseEstimator):
    """Stands where a network is to stand, and keeps what that would be fitted to."""

    def __init__(self, network: Any):
        self.network = network

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None,
        sample_weight_val: Any = None, **unknown: Any,
    ) -> "_Place":  # fmt: skip
        if unknown:
            raise TypeError(f"fit of a network takes no arguments {list(unknown)}.")
        self.fit_ = Fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))
        return self

    def predict(self, X: Any) -> Any:
        """Refuse; a TransformedTargetRegressor asks that there be such a method."""
        raise NotImplementedError("No network has been put here yet.")

    def get_metadata_routing(self) -> Any:
        """Ask for what the network asks for."""
        return self.network.get_metadata_routing()


def _inside(estimator: Any) -> tuple[str, Any]:
    """Return what an estimator ends in, fitted if it is, and the name of that parameter; None where it is the end."""
    if isinstance(estimator, Pipeline):
        return estimator.steps[-1]
    if isinstance(estimator, TransformedTargetRegressor):
        return "regressor", getattr(estimator, "regressor_", estimator.regressor)
    return "estimator", getattr(estimator, "best_estimator_", None)  # of a fitted search


def _end(estimator: Any) -> Any:
    _, inner = _inside(estimator)
    return estimator if inner is None else _end(inner)


def _with_network(estimator: Any, network: Any) -> Any:
    name, inner = _inside(estimator)
    if inner is None:
        return network
    joined = copy.copy(estimator)  # the steps themselves are shared: they are fitted, and nothing changes them
    if isinstance(estimator, Pipeline):
        joined.steps = [*estimator.steps[:-1], (name, _with_network(inner, network))]
    else:
        joined.regressor_ = _with_network(inner, network)
    return joined


def emptied(estimator: Any) -> Any:
    """Return a fitted estimator with nothing at its end, where its network was; `filled` puts one back.

    Raises
    ------
    ValueError
        If it is no network, and no pipeline or TransformedTargetRegressor that ends in one.
    """
    if isinstance(estimator, BaseBNMLP):
        return None
    if not isinstance(estimator, Pipeline | TransformedTargetRegressor):
        raise ValueError(
            "estimator must be a network, or a Pipeline or TransformedTargetRegressor that ends in one, got "
            f"{type(estimator).__name__}; of a search, take its best_estimator_."
        )
    name, inner = _inside(estimator)
    empty = copy.copy(estimator)
    if isinstance(estimator, Pipeline):
        empty.steps = [*estimator.steps[:-1], (name, emptied(inner))]
    else:
        empty.regressor, empty.regressor_ = None, emptied(inner)
    return empty


def filled(estimator: Any, network: Any) -> Any:
    """Return what `emptied` left with a fitted network at its end."""
    if estimator is None:
        return network
    name, inner = _inside(estimator)
    full = copy.copy(estimator)
    if isinstance(estimator, Pipeline):
        full.steps = [*estimator.steps[:-1], (name, filled(inner, network))]
    elif isinstance(estimator, TransformedTargetRegressor):
        full.regressor_ = filled(inner, network)
        full.regressor = clone(full.regressor_)
    else:
        raise ValueError(f"a {type(estimator).__name__} has no place for a network")
    return full


def _transform_once(estimator: Any) -> None:
    _, inner = _inside(estimator)
    if inner is None:
        return
    if isinstance(estimator, Pipeline):
        for i, (name, step) in enumerate(estimator.steps[:-1]):
            if hasattr(step, "transform") and not isinstance(step.transform, _Remembered):
                step = copy.copy(step)  # a FrozenEstimator is the user's own object
                step.transform = _Remembered(step.transform)
                estimator.steps[i] = (name, step)
    _transform_once(inner)


class _Remembered:
    """A transform that computes the output for a table object once."""

    def __init__(self, transform: Any):
        self.transform = transform
        self.outputs: dict[int, tuple[Any, Any]] = {}

    def __call__(self, X: Any, **params: Any) -> Any:
        if params:
            return self.transform(X, **params)
        if id(X) not in self.outputs:
            self.outputs[id(X)] = X, self.transform(X)  # with X itself, whose id must not be given away
        return self.outputs[id(X)][1]
