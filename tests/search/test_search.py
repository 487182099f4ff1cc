"""Stacked searches against scikit-learn's own over the same estimator."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.callback import ProgressBar
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import FitFailedWarning
from sklearn.feature_selection import SelectFromModel
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, QuantileTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from skrub import TableVectorizer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, StackedGridSearchCV

FORTY = {
    "learning_rate_init": [0.003, 0.01, 0.03, 0.1, 0.3],
    "l2": [0.0, 0.1, 1.0, 10.0],
    "batch_norm": [False, True],
}


def small(cls=BNMLPClassifier, **params):
    return cls((8,), **{"max_iter": 2, "n_ensemble": 1, "dtype": "float64", "random_state": 0, **params})


def mixed_table(X):
    """Return the columns of X as a table with a date, words and gaps in it."""
    table = pd.DataFrame(X.copy(), columns=[f"x{i}" for i in range(X.shape[1])])
    table["x0"] = pd.Timestamp("2024-01-01") + pd.to_timedelta((100 * table["x0"]).round(), unit="D")
    table["x1"] = np.where(table["x1"] > 0.5, "much", np.where(table["x1"] > -0.5, "some", "little"))
    table.loc[::7, "x2"] = np.nan
    return table


@pytest.fixture(scope="module")
def classes():
    return make_classification(203, 6, n_informative=4, n_classes=3, random_state=0)


@pytest.fixture(scope="module")
def numbers():
    return make_regression(203, 6, noise=5.0, random_state=0)


def assert_equal_results(stacked, plain):
    """Compare everything but the times with the results of scikit-learn's search."""
    ours, theirs = stacked.cv_results_, plain.cv_results_
    assert set(ours) == set(theirs)
    assert ours["params"] == theirs["params"]
    for name in theirs:
        if "time" in name or name == "params":
            continue
        if name.startswith("param_") or name.startswith("rank"):
            assert list(ours[name]) == list(theirs[name]), name
        else:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12, err_msg=name)
    for name in ("best_params_", "best_index_", "n_splits_", "multimetric_"):
        assert getattr(stacked, name, None) == getattr(plain, name, None), name


@pytest.mark.parametrize("front", ["bare", "scaler", "table"])
@pytest.mark.parametrize("task", ["classes", "numbers"])
def test_forty_candidates_score_as_in_scikit_learns_search(request, task, front):
    X, y = request.getfixturevalue(task)
    estimator, prefix = small(BNMLPClassifier if task == "classes" else BNMLPRegressor), ""
    if front != "bare":
        steps = [StandardScaler()]
        if front == "table":
            X, steps = mixed_table(X[:, :4]), [TableVectorizer(), FunctionTransformer(np.nan_to_num), *steps]
        estimator = make_pipeline(*steps, estimator)
        prefix = f"{estimator.steps[-1][0]}__"
    grid = {prefix + name: values for name, values in FORTY.items()}
    options = {"cv": 2 if front == "table" else 3}  # scikit-learn fits skrub's slow steps for every candidate and fold
    plain = GridSearchCV(estimator, grid, **options).fit(X, y)
    stacked = StackedGridSearchCV(estimator, grid, **options).fit(X, y)
    assert_equal_results(stacked, plain)
    np.testing.assert_allclose(stacked.best_score_, plain.best_score_, rtol=1e-9)
    np.testing.assert_allclose(stacked.predict(X[:5]), plain.predict(X[:5]), rtol=1e-9)


def test_candidates_that_differ_in_everything(classes, monkeypatch):
    """Other structures, another kind of model, other steps before the network."""
    pipeline = Pipeline([("scale", StandardScaler()), ("net", small())])
    grid = [
        {"net__hidden_layer_sizes": [(), 4, (5, 3)], "net__activation": ["relu", "tanh"]},
        {"net": [LogisticRegression()], "scale": ["passthrough", MinMaxScaler()]},
        {"scale": ["passthrough", MinMaxScaler()], "net__solver": ["sgd", "adam"], "net__n_ensemble": [1, 3]},
        {"scale__with_mean": [False, True], "net__early_stopping": [True]},
        {"net": [small(l2=3.0, batch_size=50)]},
    ]
    plain = GridSearchCV(pipeline, grid, cv=3).fit(*classes)
    assert_equal_results(StackedGridSearchCV(pipeline, grid, cv=3).fit(*classes), plain)
    monkeypatch.setattr("sk_bnreg.search.evaluation.AT_ONCE", 4)
    assert_equal_results(StackedGridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(*classes), plain)


@pytest.mark.parametrize(
    "target",
    [
        {"func": np.arcsinh, "inverse_func": np.sinh},
        {"transformer": QuantileTransformer(n_quantiles=20, output_distribution="normal")},
    ],
)
def test_transformed_targets_inside_and_outside_of_a_pipeline(numbers, target):
    inside = make_pipeline(StandardScaler(), TransformedTargetRegressor(small(BNMLPRegressor), **target))
    outside = TransformedTargetRegressor(make_pipeline(StandardScaler(), small(BNMLPRegressor)), **target)
    for estimator, name in (
        (inside, "transformedtargetregressor__regressor__l2"),
        (outside, "regressor__bnmlpregressor__l2"),
    ):
        plain = GridSearchCV(estimator, {name: [0.0, 1.0]}, cv=3, return_train_score=True).fit(*numbers)
        stacked = StackedGridSearchCV(estimator, {name: [0.0, 1.0]}, cv=3, return_train_score=True).fit(*numbers)
        assert_equal_results(stacked, plain)


@pytest.mark.filterwarnings("ignore:One or more of the")
def test_a_target_that_cannot_be_transformed_fails_alone(numbers):
    estimator = TransformedTargetRegressor(make_pipeline(StandardScaler(), small(BNMLPRegressor)))
    grid = {"transformer": [None, FunctionTransformer(np.linalg.inv)]}
    with pytest.warns(FitFailedWarning, match="3 fits failed out of a total of 6"):
        plain = GridSearchCV(estimator, grid, cv=3).fit(*numbers)
    with pytest.warns(FitFailedWarning, match="3 fits failed out of a total of 6"):
        stacked = StackedGridSearchCV(estimator, grid, cv=3).fit(*numbers)
    assert_equal_results(stacked, plain)


def test_a_frozen_step_stays_as_it_was(classes):
    """Cloning a FrozenEstimator gives the user's own object, which a search must not touch."""
    X, y = classes
    frozen = FrozenEstimator(StandardScaler().fit(X))
    before = set(vars(frozen)), set(vars(frozen.estimator))
    pipeline = make_pipeline(frozen, small())
    grid = {"bnmlpclassifier__l2": [0.0, 1.0]}
    stacked = StackedGridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert_equal_results(stacked, GridSearchCV(pipeline, grid, cv=3).fit(X, y))
    assert (set(vars(frozen)), set(vars(frozen.estimator))) == before


def test_steps_before_the_network_are_fitted_once_per_fold_and_setting(classes):
    fits, transforms = [], []

    class Counting(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            fits.append(len(X))
            return super().fit(X, y, sample_weight)

        def transform(self, X, copy=None):
            transforms.append(len(X))
            return super().transform(X, copy)

    pipeline = Pipeline([("scale", Counting()), ("net", small())])
    grid = {"net__l2": [0.0, 0.1, 1.0], "net__batch_norm": [False, True], "scale__with_mean": [False, True]}
    StackedGridSearchCV(pipeline, grid, cv=3, refit=False).fit(*classes)
    assert len(fits) == 3 * 2
    assert len(transforms) == 3 * 2 * 2  # training rows, test rows


def test_scoring_refit_and_train_scores_in_all_forms(classes):
    def several(estimator, X, y):
        right = estimator.predict(X) == y
        return {"share": float(right.mean()), "count": int(right.sum())}

    def second(results):
        return 1

    grid = {"l2": [0.0, 1.0, 30.0]}
    for options in (
        {"scoring": "neg_log_loss", "return_train_score": True},
        {"scoring": ["accuracy", "neg_log_loss"], "refit": "neg_log_loss", "return_train_score": True},
        {"scoring": {"a": make_scorer(accuracy_score), "b": "f1_macro"}, "refit": False},
        {"scoring": several, "refit": "share"},
        {"scoring": "accuracy", "refit": second},
        {"refit": False},
    ):
        plain = GridSearchCV(small(), grid, cv=3, **options).fit(*classes)
        stacked = StackedGridSearchCV(small(), grid, cv=3, **options).fit(*classes)
        assert_equal_results(stacked, plain)
        assert hasattr(stacked, "best_estimator_") == hasattr(plain, "best_estimator_")
        assert hasattr(stacked, "best_score_") == hasattr(plain, "best_score_")
        if options.get("refit", True) and not callable(options.get("refit")):
            assert stacked.score(*classes) == pytest.approx(plain.score(*classes), rel=1e-9)
    with pytest.raises(ValueError, match="refit must be set to a scorer key"):
        StackedGridSearchCV(small(), grid, scoring=["accuracy", "f1_macro"]).fit(*classes)


def test_groups_and_sample_weights_are_cut_to_the_fold(classes):
    """Weights of zero, another scale of weights, and a splitter that asks for groups."""
    X, y = classes
    rng = np.random.default_rng(0)
    weight, groups = rng.integers(0, 3, len(y)).astype(float), rng.integers(0, 7, len(y))
    grid = {"l2": [0.0, 1.0]}
    options = {"cv": GroupKFold(3)}
    plain = GridSearchCV(small(), grid, **options).fit(X, y, sample_weight=weight, groups=groups)
    stacked = StackedGridSearchCV(small(), grid, **options).fit(X, y, sample_weight=weight, groups=groups)
    assert_equal_results(stacked, plain)
    pipeline = make_pipeline(StandardScaler(), small())
    grid = {"bnmlpclassifier__l2": [0.0, 1.0]}
    params = {"bnmlpclassifier__sample_weight": weight, "groups": groups}
    plain = GridSearchCV(pipeline, grid, **options).fit(X, y, **params)
    assert_equal_results(StackedGridSearchCV(pipeline, grid, **options).fit(X, y, **params), plain)


@pytest.mark.filterwarnings("ignore:One or more of the")
def test_failed_candidates_get_the_error_score_and_take_no_other_with_them(classes):
    """A value that is no parameter's, a training that diverges, a step that fails on one setting."""
    pipeline = Pipeline([("scale", FunctionTransformer()), ("net", small(solver="sgd"))])
    grid = [
        {"net__learning_rate_init": [0.01, 1e300], "net__dropout": [0.0, 0.5]},
        {"net__l2_targets": ["weights", "nothing"]},
        {"scale": [FunctionTransformer(np.linalg.inv)]},
        {"net__activation": ["sine"]},
    ]
    for error_score in (np.nan, -1.0):
        with pytest.warns(FitFailedWarning, match="15 fits failed out of a total of 24"):
            plain = GridSearchCV(pipeline, grid, cv=3, error_score=error_score).fit(*classes)
        with pytest.warns(FitFailedWarning, match="15 fits failed out of a total of 24"):
            stacked = StackedGridSearchCV(pipeline, grid, cv=3, error_score=error_score).fit(*classes)
        assert_equal_results(stacked, plain)
    for bad, message in (
        ({"net__learning_rate_init": [0.01, 1e300]}, "The training diverged"),
        ({"net__l2_targets": ["weights", "nothing"]}, "l2_targets"),
        ({"net__activation": ["sine"]}, "activation"),
        ({"scale": [FunctionTransformer(np.linalg.inv)]}, "square"),
    ):
        with pytest.raises((ValueError, np.linalg.LinAlgError), match=message):
            StackedGridSearchCV(pipeline, bad, error_score="raise").fit(*classes)
    with pytest.raises(ValueError, match="All the 15 fits failed"):
        StackedGridSearchCV(pipeline, {"net__l2": [-1.0, -2.0, "x"]}).fit(*classes)


def test_a_full_memory_is_no_failure_of_a_candidate(classes):
    """With more of it the candidate would have a score, and might be the best."""

    def fill(X):
        raise MemoryError

    pipeline = make_pipeline(FunctionTransformer(fill), small())
    with pytest.raises(MemoryError):
        StackedGridSearchCV(pipeline, {"bnmlpclassifier__l2": [0.0, 1.0]}, cv=3).fit(*classes)


def test_an_empty_grid_cross_validates(classes):
    expected = cross_val_score(small(), *classes, cv=4)
    found = StackedGridSearchCV(small(), {}, cv=4, refit=False).fit(*classes).cv_results_
    np.testing.assert_allclose([found[f"split{i}_test_score"][0] for i in range(4)], expected, rtol=1e-12)


def test_nested_pickled_and_with_a_progress_bar(classes, capsys):
    search = StackedGridSearchCV(small(), {"l2": [0.0, 1.0]}, cv=3)
    nested = cross_val_score(search, *classes, cv=2)
    np.testing.assert_allclose(nested, cross_val_score(GridSearchCV(small(), {"l2": [0.0, 1.0]}, cv=3), *classes, cv=2))
    search.set_callbacks(ProgressBar()).fit(*classes)
    assert "StackedGridSearchCV - fit" in capsys.readouterr().out
    again = pickle.loads(pickle.dumps(search.set_callbacks()))
    np.testing.assert_array_equal(again.predict(classes[0]), search.predict(classes[0]))
    assert len(pickle.dumps(again)) < 200_000  # no training data


def test_verbose_prints_what_it_fits(classes, capsys):
    StackedGridSearchCV(small(), {"l2": [0.0, 1.0]}, cv=3, verbose=2, refit=False).fit(*classes)
    printed = capsys.readouterr().out
    assert "Fitting 3 folds for each of 2 candidates, totalling 6 fits" in printed
    assert printed.count("END l2=") == 6


def test_racing_gives_survivors_the_scores_of_the_whole_search(classes):
    grid = {"learning_rate_init": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3], "l2": [0.0, 1.0, 100.0]}
    whole = GridSearchCV(small(), grid, return_train_score=True).fit(*classes).cv_results_
    search = StackedGridSearchCV(small(), grid, racing=True, return_train_score=True).fit(*classes)
    raced, scored = search.cv_results_, search.cv_results_["n_splits_scored"]
    assert sorted(scored, reverse=True) == [5] * 2 + [2] * 4 + [1] * 12
    for kind in ("test", "train"):
        ours, theirs = (np.array([r[f"split{i}_{kind}_score"] for i in range(5)]) for r in (raced, whole))
        for candidate, n in enumerate(scored):
            np.testing.assert_allclose(ours[:n, candidate], theirs[:n, candidate], rtol=1e-9)
            assert np.isnan(ours[n:, candidate]).all()
            assert raced[f"mean_{kind}_score"][candidate] == pytest.approx(theirs[:n, candidate].mean())
            assert raced[f"std_{kind}_score"][candidate] == pytest.approx(theirs[:n, candidate].std())
    best_first = sorted(range(18), key=lambda c: (-scored[c], -raced["mean_test_score"][c]))
    assert [raced["rank_test_score"][c] for c in best_first] == sorted(raced["rank_test_score"])
    first = np.argsort(-whole["split0_test_score"], kind="stable")
    assert set(np.flatnonzero(scored > 1)) == set(first[:6])
    assert search.best_index_ in first[:6]


def test_racing_with_failures_few_folds_and_several_scores(classes):
    grid = {"solver": ["sgd"], "learning_rate_init": [1e300, 0.01, 0.1]}
    with pytest.warns(FitFailedWarning):
        search = StackedGridSearchCV(small(), grid, cv=2, racing=True).fit(*classes)
    assert search.cv_results_["rank_test_score"][0] == 3
    assert np.isnan(search.cv_results_["mean_test_score"][0])
    several = {"scoring": ["accuracy", "neg_log_loss"], "racing": True, "cv": 3}
    raced = StackedGridSearchCV(small(), FORTY, refit="neg_log_loss", **several).fit(*classes)
    best = raced.cv_results_["rank_test_neg_log_loss"].argmin()
    assert raced.best_index_ == best
    assert raced.cv_results_["n_splits_scored"][best] == 3
    with pytest.raises(ValueError, match="racing needs refit to be the name"):
        StackedGridSearchCV(small(), FORTY, refit=False, **several).fit(*classes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cls", [BNMLPClassifier, BNMLPRegressor])
def test_check_estimator_nothing_fails_and_nothing_is_excused(cls):
    network = cls((32,), max_iter=20, n_ensemble=1, dtype="float64", random_state=0)
    results = check_estimator(StackedGridSearchCV(network, {"l2": [0.0, 1.0]}, cv=2), on_fail=None, on_skip=None)
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) > 45


def test_networks_that_only_their_own_fit_can_train(classes):
    """A subclass with a fit of its own, and a network that selects features before the network at the end."""

    class Doubled(BNMLPClassifier):
        def fit(self, X, y):
            super().fit(X, y)
            self.doubled_ = 2 * X.shape[1]
            return self

    grid = {"l2": [0.0, 1.0]}
    search = StackedGridSearchCV(Doubled((8,), max_iter=2, random_state=0), grid, cv=3).fit(*classes)
    assert search.best_estimator_.doubled_ == 12
    importance = {"importance_getter": lambda net: np.abs(net.coefs_[0]).sum(1)}
    plain = small().set_params(numeric_embedding=None)  # which has a weight for each feature and no more
    pipeline = make_pipeline(SelectFromModel(plain, max_features=3, **importance), small())
    grid = {"bnmlpclassifier__l2": [0.0, 1.0]}
    plain = GridSearchCV(pipeline, grid, cv=3).fit(*classes)
    assert_equal_results(StackedGridSearchCV(pipeline, grid, cv=3).fit(*classes), plain)
