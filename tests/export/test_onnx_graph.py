"""ONNX graphs: what onnxruntime computes of them is what the estimator predicts."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_linnerud,
    load_wine,
    make_classification,
    make_multilabel_classification,
    make_regression,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from skrub import TableVectorizer, tabular_pipeline

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, StackedOptunaSearchCV, search_space
from sk_bnreg.study.tables import network_pipeline

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
skl2onnx = pytest.importorskip("skl2onnx")

from sk_bnreg import to_onnx  # noqa: E402

TINY = {"hidden_layer_sizes": (8, 4), "max_iter": 4, "n_ensemble": 4, "random_state": 0}


def run(model, X):
    """Return the outputs by name; of a frame, each column is an input."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"X": X}
    if isinstance(X, pd.DataFrame):
        columns = {str(name): X[name].to_numpy()[:, None] for name in X}
        words = {name for name, column in columns.items() if column.dtype == object or column.dtype.kind in "UO"}
        feed = {
            own.name: np.where(pd.isna(columns[own.name]), "", columns[own.name]).astype(object)
            if own.name in words
            else columns[own.name].astype(np.float64)
            for own in session.get_inputs()
        }
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def assert_same(estimator, X, model=None):
    found = run(to_onnx(estimator) if model is None else model, X)
    if hasattr(estimator, "predict_proba"):
        probability = estimator.predict_proba(X)
        np.testing.assert_allclose(found["probabilities"], probability, atol=1e-5)
        ordered = np.sort(probability, axis=1)
        multilabel = np.ndim(found["label"]) == 2
        clear = np.abs(probability - 0.5) > 1e-5 if multilabel else ordered[:, -1] - ordered[:, -2:].mean(1) > 1e-5
        clear |= probability.shape[1] == 1
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(found["label"][clear], estimator.predict(X)[clear])
        assert found["probabilities"].dtype == np.float32
    else:
        expected = estimator.predict(X)
        scale = expected.std(axis=0)
        np.testing.assert_allclose(found["variable"] / scale, expected.reshape(len(X), -1) / scale, atol=1e-5)
        assert found["variable"].dtype == np.float64
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu", "gelu", "silu"])
def test_networks_of_every_kind(activation, dtype):
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    for params in (
        {},
        {"batch_norm": False, "n_ensemble": 1},
        {"numeric_embedding": None, "hidden_layer_sizes": 6},
        {"numeric_embedding": "piecewise-linear"},
        {"members": [{"batch_norm": False}, {"hidden_layer_sizes": ()}, {"l2": 0.0}]},
    ):
        net = BNMLPClassifier(**TINY | {"activation": activation, "dtype": dtype} | params)
        assert_same(net.fit(X, y), X)


@pytest.mark.parametrize(
    "classes",
    [
        ["b", "a", "c, of course"],
        np.array([5, -1, 2]),
        [2.0**24 + 1, 0.0, 4.0],
        ["yes", "no"],
        [False, True],
        [0, 1],
        [7],
    ],
    ids=str,
)
def test_labels_of_every_type(classes):
    X, y = make_classification(90, 5, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
    y = np.array(classes)[y % len(classes)]
    labels = run(to_onnx(net := BNMLPClassifier(**TINY).fit(X, y)), X)["label"]
    assert_same(net, X)
    assert labels.dtype == (object if isinstance(classes[0], str) else {7: np.int64}.get(classes[0], labels.dtype))


def test_several_labels_and_several_targets():
    X, y = make_multilabel_classification(90, 6, n_classes=3, random_state=0)
    assert_same(BNMLPClassifier(**TINY).fit(X, y), X)
    assert_same(make_pipeline(StandardScaler(), BNMLPClassifier(**TINY)).fit(X, y), X)
    X, y = load_linnerud(return_X_y=True)
    assert_same(make_pipeline(StandardScaler(), BNMLPRegressor(**TINY)).fit(X, y), X)


def test_targets_and_features_far_from_zero_lose_no_digits():
    X, y = make_regression(90, 4, random_state=0)
    far = make_pipeline(StandardScaler(), BNMLPRegressor(**TINY)).fit(X + 1e6, y + 1e8)
    assert_same(far, X + 1e6)


@pytest.fixture
def mixed():
    rng = np.random.default_rng(0)
    n = 240
    X = pd.DataFrame(
        {
            "gaps": np.where(rng.random(n) < 0.2, np.nan, rng.lognormal(3, 2, n)),
            "count": rng.integers(0, 1000, n),
            "flag": rng.random(n) < 0.5,
            "two": rng.choice(["u", "v"], n),
            "colour": rng.choice(["red", "green", None], n),
            "size": pd.Categorical(rng.choice(["S", "M", "L"], n)),
            "grade": pd.Categorical(rng.integers(1, 4, n)).rename_categories(str),
            "mostly": np.where(rng.random(n) < 0.9, 3.0, rng.normal(size=n)),
            "nothing": np.full(n, np.nan),
        }
    )
    y = np.where((X["count"] > 500) ^ (X["two"] == "u"), "yes", "no")
    return X, y


@pytest.mark.parametrize("make", [tabular_pipeline, lambda net: network_pipeline("classification").set_params(
    bnmlpclassifier=net)], ids=["skrub's", "the command's"])  # fmt: skip
def test_numbers_and_categories_behind_skrubs_steps(mixed, make):
    X, y = mixed
    model = make(BNMLPClassifier(**TINY)).fit(X, y)
    assert_same(model, X)
    new = X.assign(two="w", colour="blue", gaps=-1e6).iloc[:9]  # what was never seen
    with pytest.warns(UserWarning, match="unknown categories") if make is tabular_pipeline else _nothing():
        assert_same(model, new)
    inputs = {own.name for own in to_onnx(model).graph.input}
    assert inputs == set(X) - {"nothing"}


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_regressions_of_tables_and_the_ensemble_of_a_study(mixed):
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    assert_same(tabular_pipeline(BNMLPRegressor(**TINY)).fit(X, y), X)
    X, y = mixed
    model = network_pipeline("classification").set_params(bnmlpclassifier=BNMLPClassifier(**TINY | {"n_ensemble": 1}))
    search = StackedOptunaSearchCV(model, search_space(model), n_trials=5, cv=2, refit="ensemble", random_state=0)
    assert_same(search.fit(X, y).best_estimator_, X)


def test_pipelines_whose_steps_skl2onnx_knows(mixed):
    X, y = load_breast_cancer(return_X_y=True)
    with pytest.raises(ValueError, match="skl2onnx cannot convert"):
        to_onnx(make_pipeline(FunctionTransformer(np.sin), BNMLPClassifier(**TINY)).fit(X, y))
    model = make_pipeline(StandardScaler(), BNMLPClassifier(**TINY)).fit(X, y)
    assert_same(model, X)
    # by skl2onnx itself, in single precision and with its own names of classes
    single = X.astype(np.float32)
    assert_same(model, single, skl2onnx.to_onnx(model, single[:1], options={"zipmap": False}, target_opset=18))
    zipped = run(skl2onnx.to_onnx(model, single[:1], target_opset=18), single)["output_probability"]
    np.testing.assert_allclose([row[1] for row in zipped], model.predict_proba(single)[:, 1], atol=1e-5)
    X, y = mixed
    columns = make_column_transformer((OneHotEncoder(), ["two"]), (StandardScaler(), ["count"]))
    model = make_pipeline(columns, BNMLPClassifier(**TINY)).fit(X[["two", "count"]].astype({"count": float}), y)
    X = X[["two", "count"]].astype({"count": float})
    assert_same(model, X, to_onnx(model, X))


def test_what_cannot_be_converted_is_named(mixed):
    X, y = mixed
    net = BNMLPClassifier(**TINY)
    days = X.assign(day=pd.date_range("2024-01-01", periods=len(X)), text=[f"words {i}" for i in range(len(X))])
    with pytest.raises(ValueError, match=r"not the columns 'day' \(datetime\), 'text' \(high cardinality\)"):
        to_onnx(tabular_pipeline(clone(net)).fit(days, y))
    with pytest.raises(ValueError, match="got StandardScaler"):
        to_onnx(StandardScaler().fit(X[["count"]]))
    few = tabular_pipeline(clone(net)).set_params(tablevectorizer__low_cardinality=OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=100, sparse_output=False))  # fmt: skip
    with pytest.raises(ValueError, match="column 'two' cannot be converted to ONNX: its OneHotEncoder must be of text"):
        to_onnx(few.fit(X, y))
    with pytest.raises(ValueError, match="The step 'standardscaler', a StandardScaler, cannot be converted"):
        to_onnx(make_pipeline(TableVectorizer(), StandardScaler(), clone(net)).fit(X[["count"]], y))


def test_columns_may_be_called_as_parts_of_a_graph_but_not_as_its_outputs():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 3)), columns=["c0", "n1", "X"])
    model = tabular_pipeline(BNMLPClassifier((4,), max_iter=2, random_state=0)).fit(X, np.arange(30) % 2)
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: X[[name]].to_numpy() for name in X})[1]
    np.testing.assert_allclose(found, model.predict_proba(X), atol=1e-5)
    model.fit(X.rename(columns={"X": "label"}), np.arange(30) % 2)
    with pytest.raises(ValueError, match="X has the column 'label', which is what an output of the graph is called"):
        to_onnx(model)
