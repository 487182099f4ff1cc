"""What other packages keep private, and this one calls: all of it stands here, so that one file tells what may go.

Checked with scikit-learn 1.9.1. If one of these goes, its name here is where to put another.
"""

# scikit-learn
from sklearn.base import BaseEstimator
from sklearn.model_selection._validation import _fit_and_score as fit_and_score
from sklearn.model_selection._validation import _score as score
from sklearn.model_selection._validation import _warn_or_raise_about_fit_failures as warn_or_raise_about_fit_failures
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils.validation import _check_method_params as check_method_params

__all__ = [
    "check_method_params",
    "fit_and_score",
    "has_callbacks",
    "safe_indexing",
    "score",
    "warn_or_raise_about_fit_failures",
]


def has_callbacks(estimator: BaseEstimator) -> bool:
    """Tell whether an estimator has been given callbacks of scikit-learn's."""
    return hasattr(estimator, "_skl_callbacks")
