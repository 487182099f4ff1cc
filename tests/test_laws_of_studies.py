"""Laws of studies, searches and exports, on random cases; benchmarks/laws.py asks fifty times as many."""

import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from cases import CLASSES, NUMBERS, OF_STUDIES, SEEDS, any_of, cases, predicted
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import loguniform
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RandomizedSearchCV,
    ShuffleSplit,
    cross_validate,
)  # fmt: skip
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import StackedGridSearchCV, StackedRandomizedSearchCV, compare_schemes, to_onnx
from sk_bnreg.study import store

pytestmark = pytest.mark.filterwarnings("ignore")  # settings without effect, few epochs, rare classes
CLOCKS = ["seconds", "elapsed", "n_fits"]  # these tell how the work was divided
GRIDS = (
    {"batch_norm": [True, False], "l2": [0.0, 1.0]},
    {"hidden_layer_sizes": [(3,), (2, 2)], "dropout": [0.0, 0.2]},
    {"solver": ["adam", "sgd"], "random_state": [0, 1], "n_ensemble": [1, 2]},
    {"batch_size": [4, 5], "members": [None, [{"l2": 0.3}, {"hidden_layer_sizes": (2,)}]]},
)


class Stopped(Exception):
    """Stands for a kill."""


class Kill:
    """Ends the process, so to say, at the last of so many moments."""

    def __init__(self, n_moments=np.inf):
        self.left, self.n_passed = n_moments, 0

    def __call__(self, *about):
        del about
        self.n_passed, self.left = self.n_passed + 1, self.left - 1
        if not self.left:
            raise Stopped

    def study(self, case, out, **settings):
        """Compare, with a moment after each network and before and after each file is put in its place."""
        write = store.write_whole

        def around(*arguments):
            self()
            write(*arguments)
            self()

        with patch.object(store, "write_whole", around):
            weight = {"sample_weight": case.weight}
            return compare_schemes(case.network, case.X, case.y, out=out, on_progress=self, **settings, **weight)


STUDIES = any_of(
    schemes=[["bn", "bn+l2"], ["plain", "l2"]], n_repeats=[1], n_seeds=[1, 2], cv=[2], n_candidates=[1, 1, 2],
    inner_cv=[2], rope=[0.01], on_plan=[None],
)  # fmt: skip


STUDIED = cases(
    (*CLASSES[:2], "number"), n_ensemble=1, early_stopping=False, solver="adam", l2_mode="decoupled", l2=0.1
)


@OF_STUDIES
@given(STUDIED, STUDIES, SEEDS, st.floats(0, 1, exclude_max=True))
def test_a_resumed_study_is_an_uninterrupted_one(case, settings, seed, place):
    settings = settings | {"random_state": seed, "cv": KFold(settings["cv"], shuffle=True, random_state=0)}
    with tempfile.TemporaryDirectory() as folder:
        moments = Kill()
        whole = moments.study(case, Path(folder) / "whole", **settings)
        with pytest.raises(Stopped):
            Kill(1 + int(place * moments.n_passed)).study(case, Path(folder) / "killed", **settings)
        again = Kill().study(case, Path(folder) / "killed", **settings)
    for one, other in ((whole.frame, again.frame), (whole.tuning, again.tuning)):
        one, other = (frame.drop(columns=CLOCKS, errors="ignore") for frame in (one, other))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert again.best_scheme == whole.best_scheme
    np.testing.assert_array_equal(
        predicted(again.best_estimator_, case.X), predicted(whole.best_estimator_, case.X)
    )  # fmt: skip


@OF_STUDIES
@given(cases(), st.sampled_from(GRIDS), SEEDS, any_of(
    pipeline=[False, True], weighted=[False, True], random=[False, True], return_train_score=[False, True],
    cv=[KFold(2), 3, ShuffleSplit(2, random_state=1)], scored=[False, True],
))  # fmt: skip
def test_a_search_is_scikit_learns(case, grid, seed, how):
    estimator, prefix, fit_params = case.network, "", {}
    if how["pipeline"]:
        estimator = make_pipeline(StandardScaler(), estimator)
        prefix = f"{estimator.steps[-1][0]}__"
    if how["weighted"]:
        fit_params[f"{prefix}sample_weight"] = case.weight
    grid = {prefix + name: values for name, values in grid.items()}
    scoring = "neg_log_loss" if case.kind in CLASSES[:2] else None
    options = {"cv": how["cv"], "return_train_score": how["return_train_score"]}
    options |= {"scoring": scoring if how["scored"] else None}
    searches = GridSearchCV, StackedGridSearchCV
    if how["random"]:
        searches = RandomizedSearchCV, StackedRandomizedSearchCV
        options |= {"n_iter": 3, "random_state": seed}
        grid[f"{prefix}learning_rate_init"] = loguniform(1e-3, 1e-2)
    theirs, ours = (search(clone(estimator), grid, **options).fit(case.X, case.y, **fit_params) for search in searches)
    assert ours.best_params_ == theirs.best_params_
    assert ours.cv_results_.keys() == theirs.cv_results_.keys()
    for name, expected in theirs.cv_results_.items():
        if "time" not in name:
            np.testing.assert_array_equal(ours.cv_results_[name], expected, err_msg=name)
    np.testing.assert_array_equal(predicted(ours, case.X), predicted(theirs, case.X))


@OF_STUDIES
@given(cases(CLASSES[:2] + NUMBERS), any_of(scaler=[False, True], network=[True, False], score=[True, False]))
def test_routed_metadata_is_metadata_passed_directly(case, asks):
    """Weights that the scaler, the network and the score ask for or do not."""
    X, y = case.X, case.y
    weight = np.linspace(0.5, 2.0, len(X)) if case.weight is None else case.weight
    direct = make_pipeline(StandardScaler(), case.network)
    wanted = {
        f"{name}__sample_weight": weight for name, own in zip(direct.named_steps, asks, strict=False) if asks[own]
    }
    l2 = f"{direct.steps[-1][0]}__l2"
    cv = list(KFold(2).split(X))

    def score(value, train, test):
        model = clone(direct).set_params(**{l2: value})
        model.fit(X[train], y[train], **{name: own[train] for name, own in wanted.items()})
        return model.score(X[test], y[test], weight[test] if asks["score"] else None)

    with config_context(enable_metadata_routing=True):
        routed = clone(direct)
        routed[0].set_fit_request(sample_weight=asks["scaler"])
        routed[1].set_fit_request(sample_weight=asks["network"])
        scoring = get_scorer("accuracy" if case.kind in CLASSES else "r2").set_score_request(
            sample_weight=asks["score"]
        )
        params = {"sample_weight": weight} if any(asks.values()) else {}
        found = cross_validate(routed, X, y, cv=cv, scoring=scoring, params=params)["test_score"]
        search = StackedGridSearchCV(routed, {l2: [0.0, 1.0]}, cv=cv, scoring=scoring).fit(X, y, **params)
    np.testing.assert_array_equal(found, [score(case.network.l2, *split) for split in cv])
    for number, split in enumerate(cv):
        expected = [score(value, *split) for value in (0.0, 1.0)]
        np.testing.assert_array_equal(search.cv_results_[f"split{number}_test_score"], expected)
    expected = clone(direct).set_params(**search.best_params_).fit(X, y, **wanted)
    np.testing.assert_array_equal(predicted(search, X), predicted(expected, X))


@OF_STUDIES
@given(cases(), st.booleans())
def test_an_onnx_graph_predicts_the_same(case, scaled):
    onnxruntime = pytest.importorskip("onnxruntime")
    fitted = case.fitted()
    if scaled:
        fitted = make_pipeline(StandardScaler(), case.network).fit(case.X, case.y)
    session = onnxruntime.InferenceSession(to_onnx(fitted).SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(zip((output.name for output in session.get_outputs()), session.run(None, {"X": case.X}), strict=True))
    expected = predicted(fitted, case.X)
    # the graph computes in single precision: a few of its seven digits may differ
    if case.kind in NUMBERS:
        scale = case.y.std(axis=0)
        np.testing.assert_allclose(found["variable"] / scale, expected.reshape(len(case.X), -1) / scale, atol=1e-5)
    else:
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
        ordered = np.sort(expected, axis=1)
        clear = abs(expected - 0.5) > 1e-5 if case.kind == "multilabel" else ordered[:, -1] - ordered[:, -2] > 1e-5
        np.testing.assert_array_equal(found["label"][clear], fitted.predict(case.X)[clear])
