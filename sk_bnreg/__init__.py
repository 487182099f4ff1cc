"""Batch-normalised, L2-regularised MLPs for tables, trained hundreds at a time."""

from importlib import import_module
from typing import Any

from sk_bnreg.estimators.fit_stack import fit_stack
from sk_bnreg.estimators.networks import BNMLPClassifier, BNMLPRegressor
from sk_bnreg.search.grid import StackedGridSearchCV, StackedRandomizedSearchCV

# the study and its plots need pandas, the estimators do not: imported when they are asked for
_LATER = {
    "Diagnosis": "theory.diagnosis",
    "InvarianceDisplay": "report.diagnosis_displays",
    "NormTrajectoryDisplay": "report.diagnosis_displays",
    "NormRecorder": "theory.rotation",
    "diagnose": "theory.diagnosis",
    "CriticalDifferenceDisplay": "report.survey_displays",
    "L2PathDisplay": "report.displays",
    "LearningCurvesDisplay": "report.displays",
    "PosteriorDisplay": "report.displays",
    "SchemeComparison": "study.comparison",
    "SchemeComparisonDisplay": "report.displays",
    "StackedOptunaSearchCV": "search.tuning",
    "SurveyDisplay": "report.survey_displays",
    "TunedL2": "study.schemes",
    "compare_schemes": "study.compare",
    "search_space": "search.space",
    "suggest": "search.space",
    "survey": "study.survey",
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
