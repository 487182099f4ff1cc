"""The network at the end of an estimator: found, taken out and put back."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.feature_selection import SelectFromModel
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, StackedGridSearchCV, borrowed
from sk_bnreg.estimators.pipelines import Front, fit_parameter, network_in, rows_at_network

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 3, "n_ensemble": 1, "dtype": "float64", "random_state": 0}
NETWORK = BNMLPRegressor(**SMALL)


@pytest.mark.parametrize(
    ("estimator", "path", "weight"),
    [
        (NETWORK, "", "sample_weight"),
        (make_pipeline(StandardScaler(), NETWORK), "bnmlpregressor", "bnmlpregressor__sample_weight"),
        (TransformedTargetRegressor(NETWORK), "regressor", "sample_weight"),
        (
            TransformedTargetRegressor(make_pipeline(NETWORK)),
            "regressor__bnmlpregressor",
            "bnmlpregressor__sample_weight",
        ),
        (Pipeline([("t", TransformedTargetRegressor(NETWORK))]), "t__regressor", "t__sample_weight"),
    ],
)
def test_the_network_is_found_and_its_weights_reach_it(estimator, path, weight):
    network, found = network_in(estimator)
    assert network is (estimator.get_params()[path] if path else estimator)
    assert found == path
    assert fit_parameter(estimator, "sample_weight") == weight
    rng = np.random.default_rng(0)
    X, y, w = rng.standard_normal((40, 3)), rng.standard_normal(40), np.repeat([1.0, 0.0], 20)
    spoiled = np.where(w > 0, y, 1e6)
    predictions = [estimator.fit(X, target, **{weight: w}).predict(X) for target in (y, spoiled)]
    if "t" not in path.split("__")[0]:  # a target transformer sees all rows
        np.testing.assert_allclose(*predictions)


def test_there_is_no_network_in_other_estimators():
    for estimator in (
        StandardScaler(),
        make_pipeline(NETWORK, StandardScaler()),
        Pipeline([("p", "passthrough")]),
        None,
    ):
        assert network_in(estimator)[0] is None


class Doubler(TransformerMixin, BaseEstimator):
    """Keeps nothing of its fit, so that scikit-learn calls it not fitted."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return 2 * X


@pytest.mark.parametrize("last", [Doubler(), "passthrough"])
def test_the_step_before_the_network_may_keep_nothing_of_its_fit(last):
    X, y = np.arange(20.0).reshape(10, 2), np.arange(10.0)
    estimator = make_pipeline(Doubler(), last, NETWORK).fit(X, y)
    np.testing.assert_array_equal(rows_at_network(estimator, X)[0], 2 * X if last == "passthrough" else 4 * X)


def test_a_front_gives_rows_as_the_fitted_pipeline_does():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 4)) * 7, rng.standard_normal(50)
    estimator = make_pipeline(
        StandardScaler(), TransformedTargetRegressor(NETWORK, func=np.cbrt, inverse_func=lambda z: z**3)
    )
    front = Front(estimator, X, y, {})
    scaled = StandardScaler().fit_transform(X)
    np.testing.assert_array_equal(front.fit.X, scaled)
    np.testing.assert_array_equal(front.fit.y, np.cbrt(y))
    for rows in (rows_at_network(front.estimator, X, y), rows_at_network(estimator.fit(X, y), X, y)):
        np.testing.assert_array_equal(rows[0], scaled)
        np.testing.assert_array_equal(rows[1], np.cbrt(y))
    joined = front.join(BNMLPRegressor(**SMALL).fit(front.fit.X, front.fit.y))
    np.testing.assert_array_equal(joined.predict(X), estimator.predict(X))


class Embedded(TransformerMixin, BaseEstimator):
    """Trains a network of ours and gives its probabilities."""

    def fit(self, X, y):
        self.network_ = BNMLPClassifier(**SMALL).fit(X, y)
        return self

    def transform(self, X):
        return np.hstack([X, self.network_.predict_proba(X)])


class Importances(BNMLPClassifier):
    """What SelectFromModel asks for."""

    @property
    def feature_importances_(self):
        return np.abs(self.coefs_[0][: self.n_features_in_]).sum(axis=1)


@pytest.mark.parametrize("step", [Embedded(), SelectFromModel(Importances(**SMALL), threshold="median")])
def test_a_step_before_the_network_may_train_one_of_ours(step):
    X, y = make_classification(120, 6, random_state=0)
    model = Pipeline([("scale", StandardScaler()), ("step", step), ("net", BNMLPClassifier(**SMALL))])
    grid = {"net__l2": [0.0, 1.0]}
    plain = GridSearchCV(model, grid, cv=3, error_score="raise").fit(X, y)
    stacked = StackedGridSearchCV(model, grid, cv=3, error_score="raise").fit(X, y)
    for split in range(3):
        np.testing.assert_array_equal(
            stacked.cv_results_[f"split{split}_test_score"], plain.cv_results_[f"split{split}_test_score"]
        )


@pytest.mark.parametrize("published", ["", "https://example.org"])
def test_representations_link_to_their_pages_where_these_are_published(published, monkeypatch):
    monkeypatch.setattr(borrowed, "DOCUMENTATION", published)
    search = StackedGridSearchCV(BNMLPClassifier(), {"batch_norm": [True, False]})
    html = search._repr_html_()
    links = {f"{published}/api/sk_bnreg.{name}.html" for name in ("StackedGridSearchCV", "BNMLPClassifier")}
    assert {link for link in links if f'href="{link}' in html} == (links if published else set())
    assert ("dropout,-float" in html) == bool(published)  # a parameter's place on the page
