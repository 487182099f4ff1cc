"""Small inputs at which other libraries' users have stumbled: the right value, or a sentence with the remedy."""

import numpy as np
import optuna
import pandas as pd
import pytest
import sklearn
import torch
from imblearn.over_sampling import SMOTE
from imblearn.pipeline import make_pipeline as make_resampled_pipeline
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score, f1_score, make_scorer
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import BatchScoring, EpochScoring, LRScheduler

from sk_bnreg import (
    BNMLPClassifier,
    BNMLPRegressor,
    StackedGridSearchCV,
    StackedOptunaSearchCV,
    StackedRandomizedSearchCV,
    compare_schemes,
    search_space,
)
from sk_bnreg.study.tables import read_table

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 3, "n_ensemble": 1, "random_state": 0}
FAST = {
    "schemes": ("plain", "bn"), "cv": 2, "n_repeats": 1, "n_seeds": 1, "n_candidates": 1, "inner_cv": 2,
    "random_state": 0, "on_plan": None,
}  # fmt: skip


@pytest.fixture
def words():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(120, 4)), columns=list("abcd"))
    return X, pd.Series(np.where(X["a"] + X["b"] > 0, "yes", "no"), name="y")


def test_noise_beside_a_saved_index_of_sorted_rows_stays_noise(tmp_path):
    rng = np.random.default_rng(0)
    noise = pd.DataFrame(rng.normal(size=(200, 3)), columns=list("abc")).assign(y=np.sort(rng.integers(0, 2, 200)))
    noise.to_csv(tmp_path / "t.csv")
    assert list(read_table(str(tmp_path / "t.csv"), target="y").X) == ["a", "b", "c"]


@pytest.mark.parametrize("score", ["f1", "precision", "average_precision"])
def test_scores_of_a_positive_class_ask_which_it_is(score, words):
    with pytest.raises(ValueError, match=r"positive class: code them 0 and 1.*pos_label"):
        compare_schemes(BNMLPClassifier(**SMALL), *words, scoring=score, rope=0.01, **FAST)
    told = make_scorer(f1_score, pos_label="yes")
    assert compare_schemes(BNMLPClassifier(**SMALL), *words, scoring=told, rope=0.01, **FAST).n_fits


@pytest.mark.parametrize("cls", [StackedGridSearchCV, StackedRandomizedSearchCV])
def test_who_replaces_fit_of_scikit_learns_searches_does_not_replace_ours(cls, words, monkeypatch):
    base = next(c for c in cls.__mro__ if c.__module__.startswith("sklearn"))
    plain = GridSearchCV.fit
    monkeypatch.setattr(base, "fit", lambda self, *args, **kwargs: plain(self, *args, **kwargs), raising=False)
    options = {"n_iter": 2} if cls is StackedRandomizedSearchCV else {}
    found = cls(BNMLPClassifier(**SMALL), {"l2": [0.1, 1.0]}, cv=2, racing=True, **options).fit(*words)
    assert "n_splits_scored" in found.cv_results_


def test_functions_that_cannot_be_pickled(words, tmp_path):
    def local(truth, guess):
        return balanced_accuracy_score(truth, guess)

    doubled = make_pipeline(FunctionTransformer(lambda x: x * 2), BNMLPClassifier(**SMALL))
    assert compare_schemes(doubled, *words, **FAST).n_fits
    assert compare_schemes(BNMLPClassifier(**SMALL), *words, scoring=make_scorer(local), rope=0.01, **FAST).n_fits
    with pytest.raises(ValueError, match="give functions names in a module, not lambdas"):
        compare_schemes(doubled, *words, out=tmp_path / "out", **FAST)
    for n_jobs in (None, 2):
        found = StackedGridSearchCV(doubled, {"bnmlpclassifier__l2": [0.1, 1.0]}, cv=2, n_jobs=n_jobs).fit(*words)
        assert np.isfinite(found.best_score_)


@pytest.mark.parametrize("callback", [EpochScoring("accuracy", lower_is_better=False), BatchScoring("accuracy")])
def test_callbacks_that_need_predictions_of_batches_are_refused(callback, words):
    for given in (callback, ("named", callback)):
        with pytest.raises(ValueError, match="needs predictions for each batch"):
            BNMLPClassifier(callbacks=[given], **SMALL).fit(*words)
    assert BNMLPClassifier(callbacks=[LRScheduler("CosineAnnealingLR", T_max=5)], **SMALL).fit(*words).n_iter_ == 3


def test_inner_folds_in_order_of_time():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"t": range(120), "walk": np.cumsum(rng.normal(size=120))})
    seen = []

    class Watched(TimeSeriesSplit):
        def split(self, X, y=None, groups=None):
            for train, test in super().split(X, y, groups):
                seen.append((train.max(), test.min()))
                yield train, test

    options = {**FAST, "cv": TimeSeriesSplit(3), "inner_cv": Watched(2)}
    found = compare_schemes(BNMLPRegressor(**SMALL), X, rng.normal(size=120), **options)
    assert len(seen) >= 3 * 2
    assert all(train < test for train, test in seen)
    assert found.plan.inner_cv == 2
    with pytest.raises(ValueError, match="The 'inner_cv' parameter of compare_schemes must be an int in the range"):
        compare_schemes(BNMLPRegressor(**SMALL), X, rng.normal(size=120), **{**FAST, "inner_cv": 1})


def test_times_in_milliseconds_are_warned_of(tmp_path):
    rng = np.random.default_rng(0)
    ms = 1_700_000_000_000 + rng.integers(0, 60_000, 100)
    X = pd.DataFrame({"ms": ms, "b": rng.normal(size=100)})
    with pytest.warns(UserWarning, match=r"values of \['ms'\] are hardly told apart.*subtract their smallest"):
        BNMLPRegressor(**SMALL).fit(X, ms - ms.min())
    X.assign(y=ms - ms.min()).to_csv(tmp_path / "t.csv", index=False)
    (note,) = read_table(str(tmp_path / "t.csv")).notes
    assert note.startswith("column 'ms' is around 1.7e+12 and varies by 6e+04")
    plain = X.assign(ms=X["ms"] - X["ms"].min())
    plain.assign(y=plain["ms"]).to_csv(tmp_path / "t.csv", index=False)
    assert not read_table(str(tmp_path / "t.csv")).notes


def test_tensors_with_and_without_array_api_dispatch(words):
    X, y = torch.tensor(words[0].to_numpy()), torch.tensor((words[1] == "yes").to_numpy().astype(int))
    found = []
    for on in (False, True):
        with sklearn.config_context(array_api_dispatch=on) if not on else _dispatch():
            found.append(make_pipeline(StandardScaler(), BNMLPClassifier(**SMALL)).fit(X, y).predict_proba(X))
    np.testing.assert_allclose(found[0], found[1])


def _dispatch():
    try:
        with sklearn.config_context(array_api_dispatch=True):
            pass
    except (ImportError, RuntimeError) as error:  # scipy must have been imported with SCIPY_ARRAY_API=1
        pytest.skip(str(error))
    return sklearn.config_context(array_api_dispatch=True)


@pytest.mark.parametrize("output", ["default", "pandas"])
def test_targets_that_a_transformer_makes_frames_of(output, words):
    X = words[0]
    model = TransformedTargetRegressor(BNMLPRegressor(**SMALL), transformer=StandardScaler())
    with sklearn.config_context(transform_output=output):
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler()).fit(X, X["a"])  # scikit-learn's takes it
        pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
        search = StackedOptunaSearchCV(
            model, search_space(model), n_trials=2, cv=2, random_state=0, pruner=pruner
        ).fit(X, X["a"])  # fmt: skip
        scores = model.fit(X, X["a"]).score(X, X["a"]), search.best_score_
    with sklearn.config_context(transform_output="default"):
        expected = model.fit(X, X["a"]).score(X, X["a"]), search.fit(X, X["a"]).best_score_
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize("first", [True, False])
def test_samplers_of_imbalanced_learn_resample_training_rows_alone(first, words):
    X, _ = words
    y = pd.Series(np.where(X["a"] + X["b"] > 1, "yes", "no"))
    steps = [SMOTE(random_state=0), StandardScaler()]
    pipeline = make_resampled_pipeline(*(steps if first else steps[::-1]), BNMLPClassifier(**SMALL))
    grid = {"bnmlpclassifier__l2": [0.1, 1.0]}
    ours = StackedGridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss").fit(X, y).cv_results_
    plain = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss").fit(X, y).cv_results_
    np.testing.assert_allclose(ours["mean_test_score"], plain["mean_test_score"])
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    space = search_space(pipeline)
    found = [
        StackedOptunaSearchCV(pipeline, space, n_trials=2, cv=2, pruner=given, random_state=0).fit(X, y).best_score_
        for given in (None, pruner)
    ]
    assert found[0] == found[1]
    study = compare_schemes(pipeline, X, y, **FAST)
    assert set(study.frame["n_test"]) == {60}
    assert len(study.best_estimator_.predict(X)) == 120


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_target_with_gaps_is_refused_in_one_sentence(missing):
    X = np.random.default_rng(0).normal(size=(40, 3))
    y = pd.Series(["a", "b"] * 20, dtype=object)
    y[3] = missing
    with pytest.raises(ValueError, match=r"y must not have missing values"):
        compare_schemes(BNMLPClassifier(), X, y)
