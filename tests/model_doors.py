"""Cases at the doors of fitted networks, stacks and files."""

import os
import pickle
import warnings
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnxruntime
import pandas as pd
import polars as pl
from doors import Door
from estimator_doors import TARGETS, WORDS, Case, cases, check_network, outputs
from hypothesis import strategies as st
from odd_things import WEIGHTS, X_CHANGES, Y_CHANGES
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, NormRecorder, diagnose, fit_stack, load_model, save_model, to_onnx

ALL_TARGETS = [(kind, target) for kind, targets in TARGETS.items() for target in targets]
# sums of weights of 1e308, and squares of 1e200, overflow in scikit-learn's scores
ODD_WEIGHTS = st.sampled_from(sorted(set(WEIGHTS) - {"1e308"}))
ODD_X, ODD_Y = st.sampled_from(sorted(X_CHANGES)), st.sampled_from(sorted(Y_CHANGES))


@cache
def fitted(kind, target, framed, dtype="float32"):
    case = Case(kind, target, 24, 3, 0, {"dtype": dtype, "n_ensemble": 2}, "DataFrame" if framed else "")
    X, y, _ = case.data()
    return case.network().fit(X, y)


@st.composite
def questions(draw):
    kind, target = draw(st.sampled_from(ALL_TARGETS))
    methods = ["predict", "score"] + ["predict_proba", "predict_log_proba"] * (kind == "classifier")
    case = Case(
        kind, target, draw(st.sampled_from([5, 1, 2, 12])), draw(st.sampled_from([3, 3, 3, 2, 4])), X=draw(ODD_X)
    )
    if draw(st.booleans()):
        case.y, case.weight = draw(ODD_Y.filter(lambda change: change != "1e200")), draw(ODD_WEIGHTS)
    dtype = draw(st.sampled_from(["float32", "float64"]))
    return case, draw(st.booleans()), dtype, draw(st.sampled_from(methods))


def visit_predict(question):
    """Predictions and scores of odd tables, by a network that was fitted to a good one."""
    case, framed, dtype, method = question
    X, y, weight = case.data()
    network = fitted(case.kind, case.target, framed, dtype)
    good = Case(case.kind, case.target, 24, 3, 0, X="DataFrame" if framed else "").data()[0]
    before = outputs(network, good)
    yield X, y, weight
    found = getattr(network, method)(X, *((y, weight) if method == "score" else ()))
    yield
    if method == "score":
        predicted, scores = network.predict(X), {"classifier": accuracy_score, "regressor": r2_score}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # R2 of one row, or of sums beyond float64, is not finite
            expected = scores[case.kind](y, predicted, sample_weight=weight)
        assert np.array_equal(found, expected, equal_nan=True)
        assert case.kind == "classifier" or np.isfinite(predicted).all()
    else:
        assert len(found) == (X.shape[0] if hasattr(X, "shape") else len(X))
        assert found.dtype.kind in "OU" or not np.isnan(found).any()
        assert method == "predict_log_proba" or found.dtype.kind in "OU" or np.isfinite(found).all()
    if method == "predict_proba" and case.target != "labels":
        assert np.allclose(found.sum(axis=1), 1)
    assert np.array_equal(outputs(network, good), before)


@st.composite
def tables_in_pipelines(draw):
    kind, target = draw(st.sampled_from(ALL_TARGETS))
    case = Case(kind, target, draw(st.sampled_from([12, 30, 2, 1])), 3, draw(st.integers(0, 9)))
    case.y = draw(st.sampled_from([""] * 3 + sorted(Y_CHANGES)))
    changes = st.sampled_from(
        ["", "gaps", "new words", "dates", "fewer", "more", "swapped", "all gaps", "renamed", "empty"]
    )
    return case, draw(st.sampled_from(["pandas", "polars", "scaled", "target"])), draw(changes), draw(changes)


def _mixed(X, change, polars):
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "word": np.array(["p", "q", "r"])[np.arange(len(X)) % 3]})
    if change == "gaps":
        frame.loc[0, "a"] = np.nan
    elif change == "new words":
        frame["word"] = "s"
    elif change == "dates":
        frame["b"] = pd.Timestamp("2020")
    elif change == "fewer":
        frame = frame[["a", "word"]]
    elif change == "more":
        frame["c"] = 1.0
    elif change == "swapped":
        frame = frame[["word", "b", "a"]]
    elif change == "all gaps":
        frame["a"] = np.nan
    elif change == "renamed":
        frame.columns = ["a", "B", "word"]
    elif change == "empty":
        frame = frame[:0]
    return pl.from_pandas(frame) if polars else frame


def visit_pipeline(question):
    """Fits and predictions behind scikit-learn's transformers."""
    case, form, first, second = question
    X, y, _ = case.data()
    network = case.network()
    if form in ("pandas", "polars"):
        train, other = _mixed(X, first, form == "polars"), _mixed(X, second, form == "polars")
        mixed = make_column_transformer(
            (StandardScaler(), ["a", "b"]),
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["word"]),
        )
        model = make_pipeline(mixed, network)
    else:
        train, other = X, X[::-1]
        model = make_pipeline(StandardScaler(), network)
        if form == "target" and case.kind == "regressor":
            model = TransformedTargetRegressor(model, transformer=StandardScaler())
    yield train, y, other
    predicted = model.fit(train, y).predict(other)
    yield
    assert len(predicted) == len(X)
    if case.kind == "regressor":
        assert np.isfinite(predicted).all()


@st.composite
def stacks(draw):
    kind = draw(st.sampled_from(sorted(TARGETS)))
    case = draw(cases(kinds=[kind], n_odd=draw(st.sampled_from([0, 0, 1]))))
    others = draw(st.lists(cases(kinds=[kind], n_odd=draw(st.sampled_from([0, 0, 1]))), max_size=2))
    stranger = draw(st.sampled_from([""] * 12 + ["None", "pipeline", "class", "no sequence", "nobody"]))
    form = draw(st.sampled_from(["one", "one", "list", "list", "short list"]))
    rows = st.sampled_from(["none"] * 9 + sorted(ROWS))
    hooks = ["none"] * 6 + ["watch", "stop all", "stop one", "stop wrong", "a word", "no callable", "stop a number"]
    hook = draw(st.sampled_from(hooks))
    return case, others, stranger, form, draw(rows), draw(rows), hook


ROWS = {
    "half": lambda n: np.arange(0, n, 2),
    "mask": lambda n: np.arange(n) % 2 == 0,
    "one": lambda n: [0],
    "empty": lambda n: [],
    "too far": lambda n: [n],
    "negative": lambda n: [-1],
    "floats": lambda n: [0.5],
    "words": lambda n: ["a"],
    "short": lambda n: [0],
    "a number": lambda n: 1,
    "short mask": lambda n: [True],
    "twice": lambda n: [0, 0, 0, n - 1],
    "list": lambda n: list(range(n)),
    "huge": lambda n: [10**30],
}


def _rows(how, n, n_rows):
    return None if how == "none" else [ROWS[how](n_rows)] * (n - 1 if how == "short" else n)


def visit_stack(question):
    """fit_stack of some networks, of which a few parameters, rows and hooks are odd."""
    case, others, stranger, form, rows, monitor_rows, hook = question
    X, y, weight = case.data()
    networks = [one.network() for one in [case, *others]] if stranger != "nobody" else []
    strange = {
        "None": [None],
        "pipeline": [make_pipeline(StandardScaler(), BNMLPClassifier())],
        "class": [BNMLPClassifier],
    }
    estimators = 3 if stranger == "no sequence" else [*networks, *strange.get(stranger, [])]
    n = len(networks) + (stranger in strange)
    seen = []
    hooks = {
        "watch": lambda epoch, scores: seen.append(scores), "stop all": lambda epoch, scores: range(n),
        "stop one": lambda epoch, scores: [0], "stop wrong": lambda epoch, scores: [99],
        "a word": lambda epoch, scores: "ab", "no callable": 3, "stop a number": lambda epoch, scores: 0,
    }  # fmt: skip
    given = (X, y, weight)
    if form != "one":
        given = tuple([part] * (n if form == "list" else n - 1) for part in given)
        given = (*given[:2], None if weight is None else given[2])
    n_rows = X.shape[0] if hasattr(X, "shape") and np.ndim(X) else case.n_rows
    options = {"rows": _rows(rows, n, n_rows), "monitor_rows": _rows(monitor_rows, n, n_rows)}
    yield X, y, weight
    stack = fit_stack(estimators, given[0], given[1], sample_weight=given[2], on_epoch_end=hooks.get(hook), **options)
    yield
    assert stack is estimators
    for network in stack:
        if hasattr(network, "nets_"):
            shown = given[0] if form == "short list" else X  # a list of one row is a table
            assert np.isfinite(outputs(network, shown)).all()
            if form != "short list" and rows == "none" and hook in ("none", "watch"):
                check_network(network, X, y, weight)


@cache
def models():
    X, y, _ = Case("classifier", "binary", 30, 3).data()
    net = BNMLPClassifier((4,), max_iter=2, n_ensemble=2, random_state=0)
    search = GridSearchCV(net, {"l2": [0.1]}, cv=2).fit(X, y)
    recorded = BNMLPClassifier((4, 3), max_iter=3, callbacks=[NormRecorder()], random_state=0).fit(X, y)
    regressor = BNMLPRegressor((4,), max_iter=2, n_ensemble=1, random_state=0).fit(X, X[:, :2])
    good = {
        "network": fitted("classifier", "words", False),
        "labels": fitted("classifier", "labels", False, "float64"),
        "framed": fitted("regressor", "numbers", True),
        "two targets": regressor,
        "linear": BNMLPClassifier((), max_iter=2, random_state=0).fit(X, y),
        "no batch norm": BNMLPRegressor((4,), batch_norm=False, l2=0, max_iter=2, random_state=0).fit(X, y),
        "one class": BNMLPClassifier((4,), max_iter=2, random_state=0).fit(X, y * 0),
        "recorded": recorded,
        "pipeline": make_pipeline(StandardScaler(), net).fit(X, y),
        "transformed": TransformedTargetRegressor(make_pipeline(StandardScaler(), regressor)).fit(X, X[:, 0]),
        "members": BNMLPClassifier((4,), max_iter=2, members=[{}, {"batch_norm": False}], random_state=0).fit(X, y),
        "float classes": BNMLPClassifier((4,), max_iter=2, random_state=0).fit(X, y * 1.0),
        "bool classes": BNMLPClassifier((4,), max_iter=2, random_state=0).fit(X, y > 0),
        "object classes": BNMLPClassifier((4,), max_iter=2, random_state=0).fit(X, np.array(["p", "q"], object)[y]),
    }
    bad = {
        "search": search,
        "unfitted": BNMLPClassifier(),
        "unfitted pipeline": make_pipeline(StandardScaler(), BNMLPClassifier()),
        "other": LogisticRegression().fit(X, y),
        "unfitted other": LogisticRegression(),
        "other pipeline": make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y),
        "scaler": StandardScaler().fit(X),
        "class": BNMLPClassifier,
        "None": None,
        "word": "model.safetensors",
        "list": [fitted("classifier", "binary", False)],
        "array": X,
        "dict": {},
    }
    return good, bad


NAMES = ["network", "labels", "framed", "two targets", "linear", "no batch norm", "one class", "recorded", "pipeline",
         "transformed", "members", "float classes", "bool classes", "object classes", "search", "unfitted",
         "unfitted pipeline", "other", "unfitted other", "other pipeline", "scaler", "class", "None", "word", "list",
         "array", "dict"]  # fmt: skip


def model_of(name):
    good, bad = models()
    return (good | bad)[name]


def visit_diagnose(question):
    """diagnose, and what its answer has."""
    name, change, n_rows = question
    model = model_of(name)
    X, _, _ = Case("classifier", "binary", n_rows, 3, X=change).data()
    yield (X,)
    diagnosis = diagnose(model, X)
    yield
    assert diagnosis.summary() == str(diagnosis) == "\n".join(diagnosis.sentences)
    assert np.isfinite(diagnosis.layers[["norm", "l2", "share_of_penalty"]]).all(axis=None)
    assert not np.isnan(diagnosis.invariances["change"]).any()  # of equal outputs any change is infinite
    assert (diagnosis.units["dead"] <= diagnosis.units["units"]).all() if len(diagnosis.units) else True
    assert (diagnosis.trajectory is None) == (name != "recorded")


@cache
def paths():
    base = room()
    (base / "file").write_bytes(b"x")
    return {
        "good": base / "model.safetensors",
        "text": str(base / "model"),
        "missing folder": base / "no" / "model",
        "folder": base,
        "empty": "",
        "None": None,
        "a number": 3,
        "bytes": os.fsencode(base / "bytes"),
        "nul": f"{base}/a\0b",
        "long": base / ("x" * 300),
        "list": [base / "m"],
        "a class": Path,
        "dot": ".",
        "file as folder": base / "file" / "m",
        "missing": base / "absent",
    }


PATHS = ["good"] * 14 + ["text", "missing folder", "folder", "empty", "None", "a number", "bytes", "nul", "long",
         "list", "a class", "dot", "file as folder"]  # fmt: skip


@cache
def room():
    return Path(mkdtemp())


def visit_save(question):
    """save_model, and the same model from its file."""
    name, how = question
    model, path = model_of(name), paths()[how]
    before = sorted(room().iterdir())
    yield ()
    try:
        save_model(model, path)
    except (OSError, ValueError, TypeError):
        assert sorted(room().iterdir()) == before, "a file is left behind"
        raise
    yield
    X, _, _ = Case("classifier", "binary", 9, 3, X="DataFrame" if name == "framed" else "").data()
    again = load_model(path)
    Path(path).unlink()
    assert np.array_equal(outputs(again, X), outputs(model, X))
    assert np.array_equal(again.predict(X), model.predict(X))


@st.composite
def files(draw):
    how = draw(st.sampled_from([*PATHS, "missing"]))
    kind = draw(
        st.sampled_from(
            [
                "bits",
                "truncated",
                "header",
                "longer",
                "garbage",
                "pickle",
                "nothing",
                "sound",
                "sound",
                "json",
                "swapped",
            ]
        )
    )
    return how, draw(st.sampled_from(["network", "pipeline", "two targets"])), kind, draw(st.integers(0, 2**32 - 1))


@cache
def _content(name):
    path = room() / "content"
    save_model(model_of(name), path)
    content = path.read_bytes()
    path.unlink()
    return content


def _damaged(content, kind, number):
    rng, content = np.random.default_rng(number), bytearray(content)
    if kind == "bits":
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    elif kind == "truncated":
        del content[rng.integers(len(content)) :]
    elif kind == "header":
        content[rng.integers(8 + int.from_bytes(content[:8], "little"))] = rng.integers(256)
    elif kind == "longer":
        content += rng.bytes(rng.integers(1, 50))
    elif kind == "swapped":
        a, b = rng.integers(len(content), size=2)
        content[a], content[b] = content[b], content[a]
    other = {"garbage": rng.bytes(200), "pickle": pickle.dumps([1]), "nothing": b"", "json": b"{}" * 20}
    return other.get(kind, bytes(content))


def visit_load(question):
    """load_model of damaged files and odd paths."""
    how, name, kind, number = question
    path = paths()[how]
    if how in ("good", "text"):
        Path(path).write_bytes(_damaged(_content(name), kind, number))
    yield ()
    model = load_model(path)
    yield
    X, _, _ = Case("classifier", "binary", 9, 3).data()
    assert np.array_equal(outputs(model, X), outputs(model_of(name), X))


def visit_onnx(question):
    """to_onnx, and what onnxruntime makes of the graph."""
    name, change = question
    model = model_of(name)
    X, _, _ = Case("classifier", "binary", 6, 3).data()
    example = None if change == "none" else X_CHANGES[change](X)
    yield (example,)
    graph = to_onnx(model, example)
    yield
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    if len(session.get_inputs()) > 1:  # one for each column of a frame
        return
    (own,) = session.get_inputs()
    found = session.run(None, {own.name: X.astype(np.float32 if own.type == "tensor(float)" else np.float64)})
    X = X_CHANGES["DataFrame"](X) if name == "framed" else X
    expected = outputs(model, X)
    close = found[-1].reshape(expected.shape)
    assert np.allclose(close, expected, atol=1e-4 * max(1, np.abs(expected).max()))


ABOUT_MODELS = WORDS | {"estimator", "estimators", "path"}
OF_STACKS = WORDS | {"estimators", "rows", "monitor_rows", "on_epoch_end"}
DIAGNOSES = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(["", "", *sorted(X_CHANGES)]), st.sampled_from([30, 2, 1])
).filter(lambda case: case[1] != "equal names" or case[0] not in ("pipeline", "transformed"))  # a scaler refuses them
SAVES = st.tuples(st.sampled_from(NAMES), st.sampled_from(PATHS))
GRAPHS = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(["none", "none", "", "float32", *sorted(X_CHANGES)][:2] + sorted(X_CHANGES))
)
DOORS = [
    Door("predict, score", questions(), visit_predict, WORDS, ("/sklearn/",)),
    Door("in pipelines", tables_in_pipelines(), visit_pipeline, WORDS, ("/sklearn/",)),
    Door("fit_stack", stacks(), visit_stack, OF_STACKS),
    Door("diagnose", DIAGNOSES, visit_diagnose, ABOUT_MODELS, ("/sklearn/",)),
    Door("save_model", SAVES, visit_save, ABOUT_MODELS),
    Door("load_model", files(), visit_load, ABOUT_MODELS | {"file"}),
    Door("to_onnx", GRAPHS, visit_onnx, ABOUT_MODELS),
]
