"""What a network is trained to give: targets encoded for the loss, with the facts that predictions need."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from torch import Tensor

LARGEST = 1e150  # its square is a number


class ClassTarget:
    """Classes, or 0/1 labels.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_labels)
    classes : ndarray or None
        All that will ever come, where `y` is not all rows.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
        In order; of labels their numbers.
    multilabel : bool
    stratified : bool
        Whether rows set aside should keep the proportions of classes.
    loss : str
    n_outputs : int
        One logit for two classes, one per class or label for more.
    """

    def __init__(self, y: NDArray[Any], classes: NDArray[Any] | None = None):
        with np.errstate(invalid="ignore"):  # it compares numbers with themselves as integers
            kind = type_of_target(y, input_name="y")
            if kind not in ("binary", "multiclass", "multilabel-indicator"):
                check_classification_targets(y)
                raise ValueError("y must have one column or be 0/1 labels, got several columns of classes.")
        multilabel = kind == "multilabel-indicator"
        own = np.arange(y.shape[1]) if multilabel else np.unique(y)
        self._settle(own if classes is None else np.asarray(classes), multilabel)

    @classmethod
    def of(cls, classes: NDArray[Any], multilabel: bool) -> "ClassTarget":
        """Return what was learned from a target with these classes."""
        self = cls.__new__(cls)
        self._settle(classes, multilabel)
        return self

    def _settle(self, classes: NDArray[Any], multilabel: bool) -> None:
        self.classes, self.multilabel, self.stratified = classes, multilabel, not multilabel
        # two classes need one logit, as in scikit-learn's MLP: a second would be penalised for the same function
        one_logit = len(classes) <= 2 and not multilabel
        self.loss = "binary" if multilabel or one_logit else "multiclass"
        self.n_outputs = 1 if one_logit else len(classes)

    def go_on(self) -> None:
        """Do nothing: classes are those of the first fit."""

    def is_known(self, y: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell of which rows there is a loss."""
        return np.ones(len(y), dtype=bool) if self.multilabel else np.isin(y, self.classes)

    def encode(self, y: NDArray[Any]) -> Tensor:
        """Return class numbers ``(n_samples,)``, or 0 and 1 for each logit ``(n_samples, n_outputs)``."""
        if self.multilabel:
            _check_columns(y, len(self.classes))
            return torch.from_numpy(y.astype(np.float64))
        codes = torch.as_tensor(self._numbers(y), dtype=torch.int64)
        return codes if self.loss == "multiclass" else codes[:, None].double()

    def _numbers(self, y: NDArray[Any]) -> NDArray[np.int64]:
        _check_columns(y, 1)
        if not self.is_known(y).all():
            unknown = sorted(set(np.unique(y)) - set(self.classes))
            raise ValueError(f"y has classes {unknown} that are not in classes_={self.classes}.")
        return np.searchsorted(self.classes, y)

    def weigher(self, class_weight: Any, y: NDArray[Any], weight: Any) -> Callable[[NDArray[Any], Any], Any]:
        """Return what gives rows their weights, those of their classes in them, as these training rows determine."""
        by_class = None
        _check_columns(y, len(self.classes) if self.multilabel else 1)  # a fit that goes on may be given others
        if self.multilabel and class_weight == "balanced":
            class_weight = [_balanced(label, weight) for label in y.T]
        if not self.multilabel:
            try:
                by_class = compute_class_weight(class_weight, classes=self.classes, y=y, sample_weight=weight)
            except TypeError as error:  # scikit-learn looks up classes as numbers or text
                raise ValueError(
                    f"class_weight must be None or 'balanced' for classes that are neither numbers nor text, such as "
                    f"{self.classes[0]!r}, got {class_weight!r}."
                ) from error

        def weigh(y: NDArray[Any], weight: Any) -> Any:
            by_row = compute_sample_weight(class_weight, y) if by_class is None else by_class[self._numbers(y)]
            return by_row if weight is None else by_row * weight

        return weigh


class NumberTarget:
    """Numbers, standardised inside: the loss and its L2 then mean the same in any unit.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
    weight : ndarray of shape (n_samples,) or None
    final : bool
        Whether these are all rows: then a constant target is predicted as it is.

    Attributes
    ----------
    mean, scale : ndarray of shape (n_targets,)
    single : bool
        Whether y has one dimension.
    loss, n_outputs, stratified
        As for `ClassTarget`.
    """

    loss, stratified = "squared", False

    def __init__(self, y: NDArray[Any], weight: Any, final: bool):
        self.single = y.ndim == 1
        y = y.reshape(len(y), -1).astype(np.float64)  # in single precision a mean of many loses digits
        self.n_outputs = y.shape[1]
        size = np.abs(y).max(axis=0)  # whose square may be too small a number
        if size.max() > LARGEST:
            raise ValueError(f"y must be at most {LARGEST:g} in size, or squared errors overflow, got {size.max():g}.")
        size[size == 0] = 1.0
        # divided by its size first, so that no square overflows or is lost
        mean = np.average(y / size, axis=0, weights=weight)
        self.mean = mean * size
        scale = np.sqrt(np.average((y / size - mean) ** 2, axis=0, weights=weight)) * size
        constant = scale <= 10 * np.finfo(float).eps * np.abs(self.mean)
        # scale 0 predicts the mean; in a partial_fit other values may come
        self.scale = np.where(constant, 0.0 if final else 1.0, scale)

    @classmethod
    def of(cls, mean: NDArray[np.float64], scale: NDArray[np.float64], single: bool) -> "NumberTarget":
        """Return what was learned from targets with this mean and scale."""
        self = cls.__new__(cls)
        self.mean, self.scale, self.single, self.n_outputs = mean, scale, single, len(mean)
        return self

    def go_on(self) -> None:
        """Expect other values after a constant target, of which predictions must be able to leave the mean."""
        self.scale = np.where(self.scale > 0, self.scale, 1.0)

    @property
    def in_single_precision(self) -> bool:
        """Whether single precision tells targets apart: it has seven digits."""
        return bool((np.abs(self.mean) <= 1e3 * self.scale).all())

    def is_known(self, y: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell of which rows there is a loss: all."""
        return np.ones(len(y), dtype=bool)

    def encode(self, y: NDArray[Any]) -> Tensor:
        """Return standardised targets, ``(n_samples, n_targets)``."""
        _check_columns(y, self.n_outputs)
        scale = np.where(self.scale > 0, self.scale, 1.0)
        with np.errstate(over="ignore"):
            standardised = (y.reshape(len(y), -1).astype(np.float64) - self.mean) / scale
        if not np.isfinite(standardised).all():
            raise ValueError(f"y must be of about the size of the first targets, whose scale is {scale}: fit anew.")
        return torch.from_numpy(standardised)

    def decode(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return predictions from outputs ``(n_targets, n_samples)``."""
        prediction = outputs.T * self.scale + self.mean
        return prediction[:, 0] if self.single else prediction


def mean_of_roots(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over networks of what each says of all classes, in their square roots (a power mean).

    The plain mean of many networks that were stopped early is less certain than it is right; the geometric mean of
    networks that overfit is more certain. This mean is between them (docs/accuracy.md).

    Parameters
    ----------
    probability : ndarray of shape (M, ..., n_classes)

    Returns
    -------
    ndarray of shape (..., n_classes)

    Examples
    --------
    >>> from sk_bnreg.estimators.targets import mean_of_roots
    >>> import numpy as np
    >>> mean_of_roots(np.array([[0.64, 0.36], [0.04, 0.96]])).round(3).tolist()
    [0.286, 0.714]
    """
    return squared(np.sqrt(probability).mean(axis=0))


def squared(roots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of which these are mean square roots."""
    squares = roots**2
    return squares / squares.sum(axis=-1, keepdims=True)


def _balanced(label: NDArray[Any], weight: Any) -> dict[int, float]:
    """Return the weights of 0 and 1 that balance a label; a value that no row has is left as it is."""
    values = np.unique(label)
    found = compute_class_weight("balanced", classes=values, y=label, sample_weight=weight)
    return {0: 1.0, 1: 1.0} | dict(zip(values.astype(int).tolist(), found.tolist(), strict=True))


def _check_columns(y: NDArray[Any], n_columns: int) -> None:
    given = 1 if y.ndim == 1 else y.shape[1]
    if given != n_columns:
        raise ValueError(f"y must have {n_columns} columns as in the first fit, got {given}.")
