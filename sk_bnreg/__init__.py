"""Batch-normalised, L2-regularised MLPs for tables, trained hundreds at a time."""

from importlib import import_module
from typing import Any

from sk_bnreg.estimators.fit_stack import fit_stack
from sk_bnreg.estimators.networks import BNMLPClassifier, BNMLPRegressor
from sk_bnreg.search.grid import StackedGridSearchCV, StackedRandomizedSearchCV

# the study and its plots need pandas, the estimators do not: imported when they are asked for
_LATER = {
    "StackedOptunaSearchCV": "search.tuning",
    "search_space": "search.space",
    "suggest": "search.space",
    "load_model": "export.model_file",
    "save_model": "export.model_file",
    "to_onnx": "export.onnx_graph",
    "NormRecorder": "theory.rotation",
    "Diagnosis": "theory.diagnosis",
    "diagnose": "theory.diagnosis",
    "L2PathDisplay": "report.displays",
    "LearningCurvesDisplay": "report.displays",
    "PosteriorDisplay": "report.displays",
    "SchemeComparisonDisplay": "report.displays",
    "InvarianceDisplay": "report.diagnosis_displays",
    "NormTrajectoryDisplay": "report.diagnosis_displays",
    "CriticalDifferenceDisplay": "report.survey_displays",
    "SurveyDisplay": "report.survey_displays",
    "SchemeComparison": "study.comparison",
    "TunedL2": "study.schemes",
    "compare_schemes": "study.compare",
    "survey": "study.survey",
}
__all__ = [
    "BNMLPClassifier",
    "BNMLPRegressor",
    "StackedGridSearchCV",
    "StackedRandomizedSearchCV",
    "fit_stack",
    *_LATER,
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"sk_bnreg.{_LATER[name]}"), name)
    raise AttributeError(f"module 'sk_bnreg' has no attribute {name!r}")
