"""Cases at the doors of the searches."""

import inspect
import tempfile
import warnings
from contextlib import chdir

import numpy as np
import optuna
from calls import TINY, TRUSTED, calls, table, tiny
from doors import Door
from optuna import pruners, samplers
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import loguniform
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn.model_selection import GroupKFold, KFold, LeaveOneOut, PredefinedSplit, ShuffleSplit, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import (
    BNMLPClassifier,
    BNMLPRegressor,
    StackedGridSearchCV,
    StackedOptunaSearchCV,
    StackedRandomizedSearchCV,
    search_space,
    suggest,
)

VALUES = [
    [0.1, 1.0], [], ["x"], "x", 0.1, [-1], [None], np.array([0.1, 0.2]), np.array([[0.1]]), {"a": 1}, [[0.1]],
    [float("nan")], loguniform(1e-3, 1), range(2), (0.1,), [True, False], [(2,), (3,)], [1, 2],
]  # fmt: skip
NAMES = [
    "l2", "nope", "batch_norm", "random_state", "hidden_layer_sizes", "n_ensemble", "dropout", "solver", "l2_targets",
    "members", "estimator__l2", "", 1,
]  # fmt: skip
GRIDS = [{name: VALUES[(3 * i + j) % len(VALUES)]} for i, name in enumerate(NAMES) for j in range(6)]
DISTRIBUTIONS = [
    FloatDistribution(0.1, 1), IntDistribution(1, 3), CategoricalDistribution(["x"]), FloatDistribution(-1, -0.5),
    CategoricalDistribution([True, False]), CategoricalDistribution([None]), [0.1], 0.1, loguniform(0.1, 1),
]  # fmt: skip
SPACES = [{name: DISTRIBUTIONS[(i + j) % 9]} for i, name in enumerate(NAMES) for j in range(4)]
FOLDS = [
    3, 0, 1, 41, KFold(2), GroupKFold(2), LeaveOneOut(), ShuffleSplit(2, random_state=0), TimeSeriesSplit(2),
    PredefinedSplit([0] * 20 + [1] * 20), [(np.arange(20), np.arange(20, 40))], [], [1, 2],
    [(np.arange(20), np.arange(20, 50))], [(np.arange(0), np.arange(20))], [(np.arange(20), np.arange(0))],
    [(np.arange(40) < 20, np.arange(40) >= 20)], [(np.arange(20), ["a"])], [(np.arange(20),)],
]  # fmt: skip
COMMON = {
    "estimator": [
        LogisticRegression(), make_pipeline(StandardScaler(), tiny()), StandardScaler(), BNMLPRegressor(**TINY),
        BNMLPClassifier, *(BNMLPClassifier(**TINY | bad) for bad in ({"max_iter": 0}, {"solver": "x"},
        {"batch_norm": 0.1}, {"n_ensemble": 0.5}, {"hidden_layer_sizes": "x"}, {"learning_rate_init": 1e30})),
    ],
    "X": [], "y": [], "sample_weight": [], "nope": [1], "groups": [np.arange(40) % 4, np.arange(39), ["a", None] * 20],
    "scoring": [
        "roc_auc", "nope", ["accuracy", "roc_auc"], ["accuracy", "nope"], {"a": "accuracy"}, f1_score,
        make_scorer(f1_score), "neg_log_loss", "r2",
    ],
    "refit": [False, "accuracy", "nope", "ensemble"], "cv": FOLDS, "error_score": ["raise", 0.5], "n_jobs": [1, 0],
    "return_train_score": [True], "verbose": [0],
}  # fmt: skip
GRID = {**COMMON, "param_grid": GRIDS, "racing": [True], "pre_dispatch": ["all", 0, -1]}
RANDOM = {**COMMON, "param_distributions": GRIDS, "n_iter": [1, 0], "racing": [True], "random_state": [1]}
OPTUNA = {
    **COMMON, "param_distributions": [*SPACES, search_space(tiny())], "n_trials": [1, 0], "timeout": [1e-9, 0, 30],
    "sampler": [samplers.RandomSampler(seed=0), samplers.GridSampler({"l2": [0.1]}), samplers.RandomSampler, "tpe"],
    "pruner": [pruners.MedianPruner(), pruners.HyperbandPruner(), pruners.MedianPruner, "median"],
    "report": ["epoch", "fold", "x"], "storage": ["/proc/x/y", "nope://x", ""], "study_name": ["a", ""],
    "load_if_exists": [True], "batch_size": [1, 0], "heartbeat_interval": [0.1, 0],
    "callbacks": [[lambda study, trial: study.stop()], [1], print], "catch": [(ValueError,), (1,), ValueError],
    "show_progress_bar": [False], "random_state": [1],
}  # fmt: skip
OF_FIT = {"X", "y", "sample_weight", "groups", "nope"}


def visitor(search, good):
    def visit(call):
        X, y, weight = table(call.given)
        extra = {name: call.given[name] for name in ("groups", "nope") if name in call.given}
        extra |= {"sample_weight": weight} if "sample_weight" in call.given else {}
        params = good | {name: value for name, value in call.given.items() if name not in OF_FIT}
        if params.get("random_state", 0) is None:
            params["random_state"] = 0  # with None, numpy's random numbers are drawn from, as by scikit-learn
        yield X, y, weight
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder, chdir(folder):
            warnings.simplefilter("ignore", FitFailedWarning)  # it is what error_score asks for
            found = search(**{"estimator": tiny()} | params).fit(X, y, **extra)
        yield
        assert len(found.cv_results_["params"]) > 0
        assert found.n_splits_ >= 1
        if found.refit and not callable(found.refit):
            assert len(found.predict(X)) == len(y)

    return visit


def visit_space(call):
    given = {"estimator": tiny()} | dict(call.given)
    space = given.pop("space", None)
    yield
    made = search_space(**given)
    trial = optuna.create_study(sampler=samplers.RandomSampler(seed=0)).ask()
    values = suggest(trial, made if space is None else space)
    yield
    assert values.keys() == (made if space is None else space).keys()


def door(name, search, good, pools):
    words = {*inspect.signature(search).parameters, *OF_FIT, *inspect.signature(BNMLPClassifier).parameters}
    more = {"path", "search", "searched", "training", "target", "score", "trial", "refit"}
    return Door(name, calls(pools), visitor(search, good), frozenset(words | more), TRUSTED)


DOORS = [
    door("grid search", StackedGridSearchCV, {"param_grid": {"l2": [0.1]}, "cv": 2}, GRID),
    door(
        "random search",
        StackedRandomizedSearchCV,
        {"param_distributions": {"l2": [0.1, 0.2]}, "n_iter": 1, "cv": 2, "random_state": 0},
        RANDOM,
    ),
    door(
        "Optuna search",
        StackedOptunaSearchCV,
        {"param_distributions": {"l2": FloatDistribution(0.1, 1)}, "n_trials": 2, "cv": 2, "random_state": 0},
        OPTUNA,
    ),
    Door(
        "search space",
        calls({"estimator": COMMON["estimator"], "preset": ["wide", "regularization"], "space": SPACES}),
        visit_space,
        frozenset({"estimator", "preset", "space", *inspect.signature(BNMLPClassifier).parameters}),
    ),
]
