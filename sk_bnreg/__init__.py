"""Batch-normalised, L2-regularised MLPs for tables, trained hundreds at a time."""

from typing import Any

from sk_bnreg._estimators import BNMLPClassifier, BNMLPRegressor
from sk_bnreg._fit import fit_stack
from sk_bnreg._search import StackedGridSearchCV, StackedRandomizedSearchCV

__all__ = [
    "BNMLPClassifier",
    "BNMLPRegressor",
    "SchemeComparison",
    "StackedGridSearchCV",
    "StackedRandomizedSearchCV",
    "compare_schemes",
    "fit_stack",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the study when it is asked for: it needs pandas, the estimators do not."""
    if name in ("SchemeComparison", "compare_schemes"):
        from sk_bnreg import _study

        return getattr(_study, name)
    raise AttributeError(f"module 'sk_bnreg' has no attribute {name!r}")
