"""compare_schemes takes what a search takes: target transformers, routed metadata, failing candidates, Dask."""

import copy
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import EfficiencyWarning, UndefinedMetricWarning
from sklearn.metrics import accuracy_score, balanced_accuracy_score, get_scorer, make_scorer
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, compare_schemes
from sk_bnreg.study.schemes import SCHEMES

SCHEME_NAMES = ("bn", "bn+l2")
SMALL = {
    "hidden_layer_sizes": (8,), "max_iter": 6, "batch_size": 32, "learning_rate_init": 0.05, "n_ensemble": 1,
    "dtype": "float64", "numeric_embedding": None,
}  # fmt: skip
FEW = {
    "schemes": SCHEME_NAMES, "n_candidates": 2, "inner_cv": 2, "random_state": 0, "n_repeats": 1, "n_seeds": 1,
    "on_plan": None,
}  # fmt: skip


@pytest.fixture
def table():
    return make_classification(n_samples=150, n_features=8, n_informative=4, flip_y=0.1, random_state=0)


def refitted_score(model, path, row, X, y, train, test, **fit_params):
    """Score the chosen candidate of a fold by scikit-learn's own `fit` and `score`."""
    scheme = {**SCHEMES[row["scheme"]], "learning_rate_init": row["learning_rate_init"], "l2": row["l2"]}
    scheme["random_state"] = row["random_state"]
    chosen = clone(model).set_params(**{f"{path}__{name}": value for name, value in scheme.items()})
    chosen.fit(X[train], y[train], **fit_params)
    scorer = "accuracy" if is_classifier(model) else "r2"
    return get_scorer(scorer)(chosen, X[test], y[test])


@pytest.mark.parametrize("inside", [True, False])
def test_target_transformers_inside_and_outside_of_a_pipeline(inside):
    X, y = make_regression(n_samples=150, n_features=6, noise=5.0, random_state=0)
    y = np.sinh(y / 100)
    network, target = BNMLPRegressor(**SMALL), {"func": np.arcsinh, "inverse_func": np.sinh}
    if inside:
        model = make_pipeline(StandardScaler(), TransformedTargetRegressor(network, **target))
        path = "transformedtargetregressor__regressor"
    else:
        model = TransformedTargetRegressor(make_pipeline(StandardScaler(), network), **target)
        path = "regressor__bnmlpregressor"
    cv = KFold(3, shuffle=True, random_state=0)
    study = compare_schemes(model, X, y, cv=cv, **FEW)
    for _, row in study.frame.iterrows():
        train, test = list(cv.split(X))[row["fold"]]
        assert row["score"] == pytest.approx(refitted_score(model, path, row, X, y, train, test))
    assert isinstance(study.best_estimator_, type(model))
    assert "weights" in study.diagnosis.summary() or "no L2" in study.diagnosis.summary()


def test_metadata_goes_where_it_was_asked_for(table):
    """Weights that the scaler asks for and the network does not."""
    X, y = table
    weight = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    cv = KFold(3, shuffle=True, random_state=0)
    with config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=True)
        network = BNMLPClassifier(**SMALL).set_fit_request(sample_weight=False)
        model = make_pipeline(scaler, network)
        scoring = make_scorer(accuracy_score).set_score_request(sample_weight=False)
        study = compare_schemes(model, X, y, cv=cv, sample_weight=weight, scoring=scoring, rope=0.01, **FEW)
        for _, row in study.frame.iterrows():
            train, test = list(cv.split(X))[row["fold"]]
            score = refitted_score(model, "bnmlpclassifier", row, X, y, train, test, sample_weight=weight[train])
            assert row["score"] == pytest.approx(score)


def test_each_score_gets_what_it_asks_for(table):
    """The same beside another score as alone."""
    X, y = table
    weight = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    with config_context(enable_metadata_routing=True):
        network = BNMLPClassifier(**SMALL).set_fit_request(sample_weight=True)
        plain = make_scorer(accuracy_score).set_score_request(sample_weight=False)
        balanced = make_scorer(balanced_accuracy_score)
        weighted, unweighted = (copy.deepcopy(balanced).set_score_request(sample_weight=asks) for asks in (True, False))

        def scores(*scoring):
            few = {**FEW, "n_candidates": 1, "scoring": list(scoring), "rope": 0.01, "sample_weight": weight}
            return dict(list(compare_schemes(network, X, y, cv=2, **few).frame.groupby("metric")["score"]))

        for of_scores in ((plain, weighted), (weighted, plain)):
            both = scores(*of_scores)
            for scorer in of_scores:
                np.testing.assert_array_equal(both[str(scorer)], scores(scorer)[str(scorer)])
        assert not np.array_equal(both[str(weighted)], scores(plain, unweighted)[str(unweighted)])


def test_groups_need_no_routing(table):
    """They are the splitters', which are the study's own."""
    X, y = table
    groups = np.repeat(np.arange(30), 5)
    study = {"cv": 3, "groups": groups, **FEW}
    plain = compare_schemes(BNMLPClassifier(**SMALL), X, y, **study)
    with config_context(enable_metadata_routing=True):
        routed = compare_schemes(BNMLPClassifier(**SMALL), X, y, **study)
    pd.testing.assert_series_equal(plain.frame["score"], routed.frame["score"])


def test_parameters_of_fit_reach_the_steps(table):
    X, y = table
    weight = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    model = make_pipeline(StandardScaler(), BNMLPClassifier(**SMALL))
    cv = KFold(3, shuffle=True, random_state=0)
    params = {"standardscaler__sample_weight": weight}
    study = compare_schemes(model, X, y, cv=cv, params=params, **FEW)
    for _, row in study.frame.iterrows():
        train, test = list(cv.split(X))[row["fold"]]
        fit_params = {"standardscaler__sample_weight": weight[train]}
        score = refitted_score(model, "bnmlpclassifier", row, X, y, train, test, **fit_params)
        assert row["score"] == pytest.approx(score)


class FailsOnFewRows(TransformerMixin, BaseEstimator):
    """Cannot be fitted to fewer rows than an outer fold has."""

    def fit(self, X, y=None):
        if len(X) < 90:
            raise ValueError("too few rows")
        return self

    def transform(self, X):
        return X


def test_a_step_that_fails_in_every_inner_fold_is_an_error(table):
    with pytest.raises(ValueError, match="too few rows"):
        compare_schemes(make_pipeline(FailsOnFewRows(), BNMLPClassifier(**SMALL)), *table, cv=3, **FEW)


def test_a_candidate_that_diverges_counts_as_error_score_says():
    """Plain gradient descent on a linear model diverges where the rate is above 2 over the largest curvature."""
    X, y = make_regression(n_samples=100, n_features=5, noise=1.0, random_state=0)
    network = BNMLPRegressor(
        (), solver="sgd", momentum=0.0, learning_rate="constant", learning_rate_init=1.0, batch_size=100, max_iter=300,
        early_stopping=False, n_ensemble=1, random_state=0,
    )  # fmt: skip
    schemes = {"one": {"l2": 0.0}, "two": {"l2": 0.01}}
    few = {**FEW, "schemes": schemes, "n_candidates": 4}
    study = compare_schemes(network, X, y, cv=2, **few)  # rates from 0.1 to 3.2
    assert study.tuning["inner_score"].isna().any()
    assert study.frame["score"].min() > 0.99
    with pytest.raises(ValueError, match="The training diverged"):
        compare_schemes(network, X, y, cv=2, error_score="raise", **few)
    with pytest.raises(
        ValueError, match=r"The 'error_score' parameter of compare_schemes must be a str among \{'raise'\}"
    ):
        compare_schemes(network, X, y, cv=2, error_score=0, **few)
    network.set_params(learning_rate_init=1e3)
    with pytest.raises(ValueError, match=r"Every candidate of scheme 'one' failed in an inner fold.*diverged"):
        compare_schemes(network, X, y, cv=2, **few)


class Warns(TransformerMixin, BaseEstimator):
    """Warns of what scikit-learn's encoders warn of, at every fit and for all rows that it is given."""

    def __init__(self, only_on=()):
        self.only_on = only_on

    def fit(self, X, y=None):
        if not self.only_on or len(X) in self.only_on:
            warnings.warn("odd rows", EfficiencyWarning, stacklevel=2)
        self.n_features_ = X.shape[1]
        return self

    def transform(self, X):
        return X


def test_a_warning_of_many_folds_is_told_once_with_their_number(table):
    model = make_pipeline(Warns(), BNMLPClassifier(**SMALL))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        compare_schemes(model, *table, cv=3, **FEW | {"n_repeats": 2, "on_plan": str})
    odd = [warning for warning in caught if "odd rows" in str(warning.message)]
    assert [str(warning.message) for warning in odd] == ["odd rows (in 6 outer folds)"]
    assert (odd[0].category, odd[0].filename) == (EfficiencyWarning, __file__)


def test_warnings_that_are_ignored_or_that_no_outer_fold_had(table):
    """The best estimator alone is fitted to all 150 rows."""
    for only_on, told in (((), []), ((150,), ["odd rows"])):
        model = make_pipeline(Warns(only_on), BNMLPClassifier(**SMALL))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default" if told else "ignore", EfficiencyWarning)
            compare_schemes(model, *table, cv=3, **FEW)
        assert [str(warning.message) for warning in caught if "odd" in str(warning.message)] == told


def warned_accuracy(y, predicted):
    warnings.warn("a class has no rows", UndefinedMetricWarning, stacklevel=2)
    return accuracy_score(y, predicted)


def test_metrics_that_warn_are_told_once_too(table):
    scoring = make_scorer(warned_accuracy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        compare_schemes(BNMLPClassifier(**SMALL), *table, scoring=scoring, rope=0.01, cv=3, **FEW | {"n_seeds": "auto"})
    undefined = [str(warning.message) for warning in caught if warning.category is UndefinedMetricWarning]
    assert undefined == ["a class has no rows (in 3 outer folds)"]


class FittedAlone(BNMLPClassifier):
    """Has a `fit` of its own, so it is not trained together with others."""

    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y, sample_weight)


def test_a_network_that_is_fitted_by_itself_gives_the_same_study(table):
    together, alone = (
        compare_schemes(make_pipeline(StandardScaler(), kind(**SMALL)), *table, cv=3, **FEW | {"n_seeds": 2})
        for kind in (BNMLPClassifier, FittedAlone)
    )
    clocks = ["seconds", "elapsed"]
    pd.testing.assert_frame_equal(alone.frame.drop(columns=clocks), together.frame.drop(columns=clocks))
    pd.testing.assert_frame_equal(alone.tuning, together.tuning)


def test_equal_schemes_settle_at_the_first_look(table):
    """Whatever varies between folds, their differences are 0: every sentence is still there."""
    settings = FEW | {"schemes": {"one": {}, "two": {}}, "n_repeats": "auto", "n_seeds": "auto"}
    study = compare_schemes(BNMLPClassifier(**SMALL), *table, cv=3, **settings)
    assert study.course == (2, 4, "settled")
    (answer,) = study.verdicts()
    assert (answer.contrast.mean, answer.contrast.sd, answer.contrast.verdict) == (0.0, 0.0, "redundant")
    assert (answer.outlook, answer.p_holm, study.seed_deviation("one", "two")) == ("", 1.0, 0.0)
    assert np.isnan(study.seed_share())
    assert (study.table()[["difference", "low", "high"]].abs() < 1e-100).all(axis=None)


def test_outer_folds_on_dask_workers_are_the_same_study(table, dask_workers):
    model = make_pipeline(MinMaxScaler(), BNMLPClassifier(**SMALL))
    scoring = make_scorer(accuracy_score)
    here = compare_schemes(model, *table, cv=3, scoring=scoring, rope=0.01, **FEW)
    with joblib.parallel_config("dask"):
        there = compare_schemes(model, *table, cv=3, scoring=scoring, rope=0.01, n_jobs=2, **FEW)
    clocks = ["seconds", "elapsed"]
    pd.testing.assert_frame_equal(here.frame.drop(columns=clocks), there.frame.drop(columns=clocks), check_exact=True)
    pd.testing.assert_frame_equal(here.tuning, there.tuning, check_exact=True)
