"""Batch-normalised, L2-regularised MLPs for tables, trained hundreds at a time."""

from importlib import import_module
from typing import Any

from sk_bnreg._estimators import BNMLPClassifier, BNMLPRegressor
from sk_bnreg._fit import fit_stack
from sk_bnreg._search import StackedGridSearchCV, StackedRandomizedSearchCV

# the study and its plots need pandas, the estimators do not: imported when they are asked for
_LATER = {
    "Diagnosis": "_diagnostics",
    "InvarianceDisplay": "_diagnosis_displays",
    "NormTrajectoryDisplay": "_diagnosis_displays",
    "NormRecorder": "_rotation",
    "diagnose": "_diagnostics",
    "CriticalDifferenceDisplay": "_survey_displays",
    "L2PathDisplay": "_displays",
    "LearningCurvesDisplay": "_displays",
    "PosteriorDisplay": "_displays",
    "SchemeComparison": "_comparison",
    "SchemeComparisonDisplay": "_displays",
    "StackedOptunaSearchCV": "_tuning",
    "SurveyDisplay": "_survey_displays",
    "TunedL2": "_study",
    "compare_schemes": "_study",
    "search_space": "_space",
    "suggest": "_space",
    "survey": "_survey",
}
__all__ = [
    "BNMLPClassifier",
    "BNMLPRegressor",
    "CriticalDifferenceDisplay",
    "Diagnosis",
    "InvarianceDisplay",
    "L2PathDisplay",
    "LearningCurvesDisplay",
    "NormRecorder",
    "NormTrajectoryDisplay",
    "PosteriorDisplay",
    "SchemeComparison",
    "SchemeComparisonDisplay",
    "StackedGridSearchCV",
    "StackedOptunaSearchCV",
    "StackedRandomizedSearchCV",
    "SurveyDisplay",
    "TunedL2",
    "compare_schemes",
    "diagnose",
    "fit_stack",
    "search_space",
    "suggest",
    "survey",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"sk_bnreg.{_LATER[name]}"), name)
    raise AttributeError(f"module 'sk_bnreg' has no attribute {name!r}")
