"""Predictions without the model that made them: kept, averaged and scored as if it were there."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier

from sk_bnreg.borrowed import num_samples
from sk_bnreg.estimators.targets import squared


def classes_of(y: Any, classifier: bool) -> np.ndarray | None:
    """Return all classes of a target; None for several labels, and for numbers."""
    y = np.asarray(y)
    return np.unique(y) if classifier and (y.ndim == 1 or y.shape[1] == 1) else None


def outputs_of(estimator: Any, X: Any, classes: np.ndarray | None) -> np.ndarray:
    """Predict rows as what scores are computed from.

    Parameters
    ----------
    estimator : fitted estimator
    X : array-like of shape (n_samples, n_features)
    classes : ndarray or None
        All classes, also those that the estimator has not seen; None for several labels, and for numbers.

    Returns
    -------
    ndarray of shape (n_samples, n_columns)
        Probabilities in single precision, or predicted numbers.
    """
    if not is_classifier(estimator):
        return np.asarray(estimator.predict(X), dtype=float).reshape(num_samples(X), -1)
    probability = estimator.predict_proba(X).astype(np.float32)
    if classes is None:
        return probability
    known = np.zeros((len(probability), len(classes)), np.float32)
    known[:, np.searchsorted(classes, estimator.classes_)] = probability
    return known


def before_mean(outputs: np.ndarray, classes: np.ndarray | None, classifier: bool) -> np.ndarray:
    """Return what is averaged to predict as an ensemble of networks does (`mean_of_roots`).

    Parameters
    ----------
    outputs : ndarray of shape (..., n_columns)
        As `outputs_of` returns them.
    classes : ndarray or None
    classifier : bool

    Returns
    -------
    ndarray of shape (..., n_columns), of several labels (..., n_columns, 2)
    """
    outputs = outputs.astype(float)
    if not classifier:
        return outputs
    return np.sqrt(np.stack([1 - outputs, outputs], axis=-1) if classes is None else outputs)


def after_mean(mean: np.ndarray, classes: np.ndarray | None, classifier: bool) -> np.ndarray:
    """Return the outputs of which `before_mean` makes this."""
    if not classifier:
        return mean
    return squared(mean)[..., 1] if classes is None else squared(mean)


def predicted(outputs: np.ndarray, classes: np.ndarray | None, classifier: bool, flat: bool) -> Any:
    """Return what a scorer takes for a fitted estimator that predicts so.

    Parameters
    ----------
    outputs : ndarray of shape (n_samples, n_columns)
        As `outputs_of` returns them.
    classes : ndarray or None
    classifier : bool
    flat : bool
        Whether there is one target, of shape (n_samples,).

    Returns
    -------
    estimator
    """
    if not classifier:
        return _PredictedNumbers(outputs[:, 0] if flat else outputs)
    if classes is not None:  # in single precision they sum to 1 but for rounding, of which scores warn
        outputs = outputs / np.maximum(outputs.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return _PredictedClasses(outputs, classes)


class _PredictedNumbers(RegressorMixin, BaseEstimator):
    """Stands where a scorer asks a fitted regressor for its predictions."""

    def __init__(self, outputs: np.ndarray):
        self.outputs = outputs

    def fit(self, X: Any, y: Any) -> "_PredictedNumbers":
        """Do nothing; scikit-learn's checks ask that there be such a method."""
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predictions, of rows that are known beforehand."""
        return self.outputs


class _PredictedClasses(ClassifierMixin, BaseEstimator):
    """Stands where a scorer asks a fitted classifier for its predictions."""

    def __init__(self, outputs: np.ndarray, classes: np.ndarray | None):
        self.outputs = outputs
        self.classes = classes
        self.classes_ = np.arange(outputs.shape[1]) if classes is None else classes

    def fit(self, X: Any, y: Any) -> "_PredictedClasses":
        """Do nothing; scikit-learn's checks ask that there be such a method."""
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class, or each label with a probability over 1/2."""
        if self.classes is None:
            return (self.outputs > 0.5).astype(np.int64)
        return self.classes[self.outputs.argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities."""
        return self.outputs
