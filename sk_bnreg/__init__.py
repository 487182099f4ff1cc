"""Batch-normalised, L2-regularised MLPs for tables, trained hundreds at a time."""

from sk_bnreg._estimators import BNMLPClassifier, BNMLPRegressor
from sk_bnreg._fit import fit_stack

__all__ = ["BNMLPClassifier", "BNMLPRegressor", "fit_stack"]
__version__ = "0.1.0"
