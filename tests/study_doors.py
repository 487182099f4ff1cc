"""Cases at the doors of the study: compare_schemes, survey, SchemeComparison and its displays."""

import inspect
import shutil
import tempfile
import warnings
from contextlib import chdir
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from calls import TINY, TRUSTED, calls, table, tiny
from doors import Door
from matplotlib import pyplot as plt
from search_doors import FOLDS
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, LeaveOneOut, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import (
    BNMLPClassifier,
    BNMLPRegressor,
    CriticalDifferenceDisplay,
    InvarianceDisplay,
    L2PathDisplay,
    LearningCurvesDisplay,
    NormRecorder,
    NormTrajectoryDisplay,
    PosteriorDisplay,
    SchemeComparison,
    SchemeComparisonDisplay,
    StackedGridSearchCV,
    StackedOptunaSearchCV,
    SurveyDisplay,
    TunedL2,
    compare_schemes,
    diagnose,
    search_space,
    survey,
)
from sk_bnreg.study.survey import Survey

FEW = {
    "schemes": ["plain", "bn"], "cv": 2, "n_repeats": 1, "n_seeds": 1, "n_candidates": 1, "inner_cv": 2,
    "random_state": 0, "on_plan": None,
}  # fmt: skip
BAD_PARAMS = [
    {"l2": -1}, {"nope": 1}, {1: 2}, {"l2_targets": "x"}, {"l2_targets": 3}, {"batch_norm": "x"}, {"dropout": "tuned"},
    {"dropout": "x"}, {"random_state": -1}, {"random_state": 0.5}, {"learning_rate_init": 0}, {"n_ensemble": 2},
    {"members": [{}]}, {"solver": "x"}, {"l2_mode": "loss"}, {"hidden_layer_sizes": (0,)}, {"l2": TunedL2("b", 2)},
    {"l2": TunedL2("a", 1)}, {"l2": TunedL2("c", 1)}, {"l2": TunedL2(1, 1)}, {"l2": TunedL2("b", "x")},
    {"l2": TunedL2("b", -1)}, {"l2": TunedL2("b", float("nan"))}, {"dropout": TunedL2("b", 1)}, None, "x", [], 3,
]  # fmt: skip
SCORES = [
    "roc_auc", "nope", ["accuracy", "roc_auc"], ["accuracy"] * 2, ["accuracy", "nope"], [], {"a": "accuracy"}, "r2",
    {"accuracy"}, f1_score, make_scorer(f1_score), "neg_log_loss", "d2_log_loss_score", "f1_samples",
    lambda estimator, X, y: float("nan"), lambda estimator, X, y: 0.5, lambda estimator, X, y: "x",
]  # fmt: skip
COMPARE = {
    "estimator": [
        LogisticRegression(), make_pipeline(StandardScaler(), tiny()), StandardScaler(), BNMLPRegressor(**TINY),
        *(BNMLPClassifier(**TINY | bad) for bad in ({"max_iter": 0}, {"solver": "x"}, {"batch_norm": 0.1},
        {"n_ensemble": 0}, {"n_ensemble": 2}, {"members": [{}]}, {"hidden_layer_sizes": "x"})),
    ],
    "X": [], "y": [], "sample_weight": [], "out": ["new", "file", "results", "damaged", "earlier", "/proc/x"],
    "schemes": [
        ["plain"], "plain", ["plain", "nope"], ("bn", "bn+l2"), ["l2 (loss)", "dropout"], {}, {"a": {}},
        {1: {}, "b": {}},
        *({"a": params, "b": {"batch_norm": False}} for params in BAD_PARAMS),
    ],
    "cv": FOLDS, "n_repeats": [2, 0, "many"], "minutes": [0, 1e-9], "n_seeds": [2, 0, "auto"], "scoring": SCORES,
    "groups": [np.arange(40) % 4, np.arange(39), [None] * 40, np.zeros(40)],
    "params": [{"nope": 1}, {"X_val": [[1, 2, 3]]}, {1: 2}, {"sample_weight": np.ones(40)}], "n_candidates": [2, 0],
    "inner_cv": [1, 40, LeaveOneOut(), GroupKFold(2), TimeSeriesSplit(2), [(np.arange(9), np.arange(9, 18))]],
    "budgets": [[1], [], [-1], ["x"], [float("nan")], 0.1], "learning_rate": ["fixed", "x"],
    "error_score": ["raise", 0],
    "rope": [0.1, 0, {"accuracy": 0.1}, {"nope": 0.1}, {"accuracy": "x"}, {}],
    "random_state": [1, -1, 2**32 - 1, 2**40],
    "n_jobs": [1, 0], "on_plan": [str, 1], "on_progress": [1], "on_look": [1],
}  # fmt: skip


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@cache
def _earlier():
    """Return the folder of a finished study."""
    folder = Path(tempfile.mkdtemp())
    X, y, _ = table({})
    compare_schemes(tiny(), X, y, out=folder, **FEW)
    return folder


def visit_compare(call):
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "out"
        given = dict(call.given)
        kind = given.get("out") if isinstance(given.get("out"), str) else ""
        if kind == "file":
            folder.write_text("x")
        elif kind in ("earlier", "damaged"):
            shutil.copytree(_earlier(), folder)
        elif kind == "results":
            folder.mkdir()
            (folder / "results.parquet").write_text("x")
        if kind == "damaged":
            (folder / "study.json").write_text('{"a":')
        if kind and not kind.startswith("/"):
            given["out"] = folder
        before = _files(Path(temporary))
        X, y, weight = table(given)
        rows = {"estimator": given.pop("estimator", tiny()), "X": X, "y": y}
        given |= {"sample_weight": weight} if "sample_weight" in given else {}
        yield X, y, weight
        done = False
        try:
            with warnings.catch_warnings(), chdir(temporary):
                warnings.simplefilter("ignore", UserWarning)
                found = compare_schemes(**FEW | given | rows)
            done = True
        finally:
            after = _files(Path(temporary))
            assert done or all(after.get(path) == content for path, content in before.items()), "results lost"
        yield
        scores = found.table()
        assert np.isfinite(scores[["score", "difference"]]).all(axis=None)
        assert found.sentence().endswith("count as none.")
        assert len(found.best_estimator_.predict(X)) == len(y)


@cache
def _found():
    """Return what displays and readers are given: comparisons, searches, diagnoses, a survey."""
    X, y, _ = table({})
    recorded = BNMLPClassifier(**TINY | {"callbacks": [NormRecorder()]}).fit(X, y)
    grid = {"batch_norm": [True, False]}
    rng = np.random.default_rng(0)
    rows = [
        {
            "table": name, "task": task, "metric": "accuracy", "headline": "accuracy", "n_networks": 1, "rope": 0.01,
            "n_rows": 50, "n_used": 50, "n_features": 3, "scheme": scheme, "repeat": 0, "fold": fold, "seed": 0,
            "score": rng.normal(0.8, 0.01), "n_train": 40, "n_test": 10, "n_fits": 10,
        }
        for name, task in (("a", "classification"), ("b", "classification"), ("c", "regression"))
        for scheme in ("plain", "bn", "bn+l2")
        for fold in range(3)
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "comparison": compare_schemes(tiny(), X, y, **FEW | {"schemes": ["plain", "bn", "bn+l2"]}),
            "network": tiny().fit(X, y),
            "diagnosis": diagnose(recorded, X),
            "plain": diagnose(tiny().fit(X, y), X),
            "search": StackedGridSearchCV(tiny(), grid, cv=2).fit(X, y),
            "scores": GridSearchCV(tiny(), grid, cv=2, scoring=["accuracy", "roc_auc"], refit=False).fit(X, y),
            "fold": GridSearchCV(tiny(), grid, cv=[(np.arange(20), np.arange(20, 40))]).fit(X, y),
            "optuna": StackedOptunaSearchCV(tiny(), search_space(tiny()), n_trials=6, cv=2, random_state=0).fit(X, y),
            "survey": Survey(pd.DataFrame(rows), {"cv": 3, "network": {}}, {}),
        }


class _Later:
    """Stands for one of `_found`, which takes seconds to make."""

    def __init__(self, name, get=None):
        self.name, self.get = name, get

    def __repr__(self):
        return self.name

    def __call__(self):
        found = _found()[self.name]
        return found if self.get is None else self.get(found)


COMPARISON, SURVEY, NETWORK = _Later("comparison"), _Later("survey"), _Later("network")
FRAME = _Later("comparison", lambda found: found.frame)
PAIR = {"scheme": ["bn", "nope"], "against": ["bn+l2", "nope"]}
AX = {"ax": [lambda: plt.figure(), [1]]}
SCORE_TABLES = [
    _Later("survey", lambda found: found.scores().iloc[:, :2]), _Later("survey", lambda found: found.scores() * np.nan),
    _Later("survey", lambda found: found.scores().iloc[:0]), _Later("survey", lambda found: found.scores().astype(str)),
    pd.DataFrame(np.eye(4, 3)), pd.DataFrame(np.eye(4, 3), columns=list("aab")), pd.DataFrame(np.zeros((4, 3))),
]  # fmt: skip
READERS = {
    "SchemeComparison": (
        SchemeComparison,
        {"frame": FRAME, "schemes": {"plain": {}, "bn": {}}, "metric": "accuracy", "rope": 0.01, "test_ratio": 0.5},
        {
            "frame": [
                _Later("comparison", lambda found: found.frame.iloc[:0]),
                _Later("comparison", lambda found: found.frame.iloc[:3]),
                _Later("comparison", lambda found: found.frame.drop(columns="score")),
                _Later("comparison", lambda found: found.frame.assign(score=np.nan)),
            ],
            "schemes": [{"a": {}}, {"bn": {}}], "metric": ["r2"], "rope": [0.1, 0], "test_ratio": [0.1, 0],
            "n_networks": [2],
        },
    ),
    "from_cv_results": (
        SchemeComparison.from_cv_results,
        {"search": _Later("search")},
        {
            "search": [_Later("scores"), _Later("fold"), NETWORK, GridSearchCV(tiny(), {}), COMPARISON],
            "rope": [0.1, 0], "test_ratio": [0.5, 0],
        },
    ),
    "from_study": (
        SchemeComparison.from_study,
        {"study": _Later("optuna", lambda found: found.study_), "estimator": tiny(), "rope": 0.01},
        {"study": [COMPARISON], "estimator": [StandardScaler()], "rope": [0], "test_ratio": [1], "metric": ["r2"]},
    ),
    "from_skore": (SchemeComparison.from_skore, {"report": None}, {"report": [COMPARISON], "metric": [], "rope": []}),
    "load": (SchemeComparison.load, {"folder": "/nowhere"}, {"folder": ["/proc", __file__]}),
    "contrast": (lambda **given: _found()["comparison"].contrast(**given), {"scheme": "bn", "against": "plain"}, PAIR),
    "differences": (
        lambda **given: _found()["comparison"].differences(**given), {"scheme": "bn", "against": "plain"}, PAIR,
    ),
    "rescore": (
        lambda **given: _found()["comparison"].rescore(**given),
        {"scoring": "accuracy"},
        {"scoring": SCORES, "rope": [0.1, 0]},
    ),
    "Survey.load": (Survey.load, {"path": "/nowhere"}, {"path": ["/proc", __file__]}),
    "Survey.by": (lambda **given: _found()["survey"].by(**given), {"metric": "accuracy"}, {"metric": ["r2"]}),
    "Survey.comparison": (lambda **given: _found()["survey"].comparison(**given), {"table": "a"}, {"table": ["d"]}),
    "Survey.answers": (lambda **given: _found()["survey"].answers(**given), {}, {"task": ["regression", "x"]}),
    "survey": (
        survey,
        {"folder": "/proc/sys/kernel/random", "out": "/proc/x"},
        {
            "folder": ["/nowhere", __file__], "out": ["/proc/x"], "max_rows": [50, 0], "n_folds": [2, 1],
            "n_repeats": ["auto", 0], "minutes": [1, 0], "n_seeds": ["auto", 0], "scoring": [["accuracy"], ["nope"]],
            "schemes": [["plain", "bn", "bn+l2"], ["plain", "bn"], ["plain", "l2 (loss)", "dropout"], ["nope"], "bn"],
            "rope": [0.1, 0], "n_candidates": [1, 0], "inner_cv": [2, 1], "random_state": [0, -1], "n_jobs": [1],
            "on_table": [print, 1],
        },
    ),
}  # fmt: skip
DISPLAYS = {
    "SchemeComparisonDisplay": (
        SchemeComparisonDisplay.from_comparison, {"comparison": COMPARISON},
        {"comparison": [SURVEY], "against": ["bn", "nope"], **AX},
    ),
    "PosteriorDisplay": (
        PosteriorDisplay.from_comparison, {"comparison": COMPARISON},
        {"comparison": [SURVEY], "questions": [[("bn", "plain")], [("bn", "nope")], [("bn",)], [("bn", "bn")]], **AX},
    ),
    "L2PathDisplay": (
        L2PathDisplay.from_comparison, {"comparison": COMPARISON},
        {"comparison": [SURVEY], "strength": ["budget", "l2"], **AX},
    ),
    "LearningCurvesDisplay": (
        LearningCurvesDisplay.from_estimators, {"estimators": _Later("network", lambda net: {"a": net})},
        {
            "estimators": [
                {"a": tiny()}, {"a": None}, _Later("network", lambda net: {1: net, "b": net}), NETWORK,
                _Later("search", lambda found: {"a": found}),
            ], **AX,
        },
    ),
    "InvarianceDisplay": (
        InvarianceDisplay.from_diagnosis, {"diagnosis": _Later("diagnosis")}, {"diagnosis": [_Later("plain")], **AX},
    ),
    "NormTrajectoryDisplay": (
        NormTrajectoryDisplay.from_diagnosis, {"diagnosis": _Later("diagnosis")},
        {"diagnosis": [_Later("plain")], "quantity": ["angle", "effective_rate"], **AX},
    ),
    "CriticalDifferenceDisplay": (
        CriticalDifferenceDisplay.from_scores, {"scores": _Later("survey", lambda found: found.scores())},
        {"scores": SCORE_TABLES, "alpha": [0.1, 2], **AX},
    ),
    "SurveyDisplay": (SurveyDisplay.from_survey, {"survey": SURVEY}, {"survey": [COMPARISON], **AX}),
}  # fmt: skip


def visitor(function, good):
    def visit(call):
        given = {name: value() if isinstance(value, _Later) else value for name, value in (good | call.given).items()}
        yield
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder, chdir(folder):
            warnings.simplefilter("ignore", UserWarning)
            found = function(**given)
            if isinstance(found, SchemeComparison):
                scores = found.table()["score"]  # its rows are looked at when they are asked for
        yield
        if hasattr(found, "figure_"):
            plt.close(found.figure_)
            assert len(found.frame()) > 0
        if isinstance(found, SchemeComparison):
            assert np.isfinite(scores).all()

    return visit


def door(name, function, good, pools, *more):
    words = {"path", *inspect.signature(function).parameters, *good, *pools, *more}
    return Door(name, calls(pools), visitor(function, good), frozenset(words), TRUSTED)


STUDY_WORDS = {"path", "score", "scores", "scheme", "training", "target", "results", "study", *COMPARE}
TOLD = ("score", "refit", "table", "trials", "metric", "comparison", "damaged")
DOORS = [
    Door(
        "compare_schemes",
        calls(COMPARE),
        visit_compare,
        frozenset(STUDY_WORDS | set(inspect.signature(BNMLPClassifier).parameters)),
        TRUSTED,
    ),
    *(
        door(name, *of, "score", "refit", "table", "trials", "metric", "comparison", "damaged")
        for name, of in READERS.items()
    ),
    *(door(name, *of, "trajectory", "tuning", "against") for name, of in DISPLAYS.items()),
]
