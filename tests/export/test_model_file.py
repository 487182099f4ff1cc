"""Model files: the same predictions to the bit, and no code, whatever is in them."""

import io
import json
import os
import resource
import subprocess
import sys
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification, make_regression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skrub import tabular_pipeline

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, StackedOptunaSearchCV, load_model, save_model, search_space
from sk_bnreg.export.model_file import _digest

TINY = {"hidden_layer_sizes": (4,), "max_iter": 2, "n_ensemble": 2, "random_state": 0}


def outputs(estimator, X):
    return estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else estimator.predict(X)


def assert_comes_back(estimator, X, path):
    save_model(estimator, path)
    loaded = load_model(path)
    np.testing.assert_array_equal(outputs(loaded, X), outputs(estimator, X))
    np.testing.assert_array_equal(loaded.predict(X), estimator.predict(X))
    return loaded


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "size": np.where(rng.random(150) < 0.1, np.nan, rng.normal(10, 3, 150)),
            "colour": rng.choice(["red", "green", "blue", None], 150),
            "day": pd.date_range("2024-01-01", periods=150),
            "note": [f"words {i} of {i % 7}" for i in range(150)],
        }
    )
    return X, np.where(X["size"].fillna(9) > 10, "large", "small")


def test_the_pipeline_for_mixed_tables(table, tmp_path):
    X, y = table
    pipeline = tabular_pipeline(BNMLPClassifier(**TINY)).fit(X, y)
    loaded = assert_comes_back(pipeline, X, tmp_path / "m.safetensors")
    assert list(loaded.feature_names_in_) == list(X)
    assert (tmp_path / "m.safetensors").stat().st_size < 1e6
    assert list(tmp_path.iterdir()) == [tmp_path / "m.safetensors"]


def test_the_ensemble_of_a_study(tmp_path):
    X, y = make_classification(120, random_state=0)
    pipeline = make_pipeline(StandardScaler(), BNMLPClassifier(**TINY | {"n_ensemble": 1}))
    search = StackedOptunaSearchCV(
        pipeline, search_space(pipeline), n_trials=6, cv=2, refit="ensemble", random_state=0
    ).fit(X, y)
    assert_comes_back(search.best_estimator_, X, tmp_path / "m.safetensors")


def test_what_a_fit_left_comes_back_and_training_goes_on(tmp_path):
    X, y = make_classification(300, random_state=0)
    net = BNMLPClassifier(**TINY | {"max_iter": 12, "device": torch.device("cpu")}).fit(X, y)
    loaded = assert_comes_back(net, X, tmp_path / "m.safetensors")
    for name in ("loss_curve_", "validation_loss_curve_", "n_iter_", "best_iter_", "t_", "l2_report_", "n_layers_"):
        assert getattr(loaded, name) == getattr(net, name), name
    for one, other in zip(loaded.coefs_ + loaded.gammas_, net.coefs_ + net.gammas_, strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.net_.history[:, "train_loss"] == net.net_.history[:, "train_loss"]
    assert str(clone(loaded)) == str(clone(net).set_params(device="cpu"))
    # warm_start begins with a new solver, whether the network was in a file or not
    for one in (loaded, net):
        one.set_params(warm_start=True, random_state=1).fit(X, y)
    assert loaded.loss_curve_[:12] == net.loss_curve_[:12]
    np.testing.assert_allclose(loaded.loss_curve_[-1], net.loss_curve_[-1], rtol=0.2)
    assert len(loaded.partial_fit(X, y).loss_curve_) == 25


def test_a_network_of_sparse_rows(tmp_path):
    X, y = make_regression(80, 6, random_state=0)
    net = BNMLPRegressor(**TINY).fit(sparse.csr_array(X), y)
    assert_comes_back(net, sparse.csr_array(X), tmp_path / "m.safetensors")


def test_the_regressor_of_a_transformed_target_is_there_for_another_fit(tmp_path):
    X, y = make_regression(80, 6, random_state=0)
    model = TransformedTargetRegressor(BNMLPRegressor(**TINY), func=np.arcsinh, inverse_func=np.sinh).fit(X, y)
    loaded = assert_comes_back(model, X, tmp_path / "m.safetensors")
    np.testing.assert_array_equal(clone(loaded).fit(X, y).predict(X), clone(model).fit(X, y).predict(X))


class Mine(StandardScaler):
    """A step that only its author knows."""


class Own(BNMLPClassifier):
    """A network that predicts as only its author knows."""


def test_what_cannot_be_kept_is_refused_by_name(tmp_path):
    X, y = make_classification(60, random_state=0)
    path = tmp_path / "m.safetensors"
    net = BNMLPClassifier(**TINY)
    fitted = clone(net).fit(X, y)
    grid = GridSearchCV(net, {"l2": [0.1]}, cv=2).fit(X, y)
    for estimator, said in (
        (grid, "take its best_estimator_"),
        (make_pipeline(StandardScaler(), grid), "take its best_estimator_"),
        (StandardScaler().fit(X), "got StandardScaler"),
        (make_pipeline(Mine(), net).fit(X, y), r"no code: they have \['.*Mine'\]"),
        (make_pipeline(FunctionTransformer(os.path.normpath), net), "FunctionTransformer|not fitted|normpath"),
        (clone(fitted).set_params(class_weight={0: 1.0, 1: 2.0}).fit(X, y), None),
        (clone(fitted).set_params(class_weight={0: object()}), "not fitted"),
        (Own(**TINY).fit(X, y), "A Own cannot be in a model file"),
        (clone(fitted).fit(X, y).set_params(dtype="float64"), "have not the shapes of its layers"),
        (clone(fitted).fit(X, y).set_params(activation="sine"), "'activation' parameter"),
    ):
        if said is None:
            assert_comes_back(estimator, X, path)
            path.unlink()
            continue
        with pytest.raises(ValueError, match=said):
            save_model(estimator, path)
        assert not path.exists()
    (tmp_path / "x").write_bytes(b"\x80\x04K\x01.")
    for name, said in (("nowhere", "There is no file"), ("x", "no model file of save_model")):
        with pytest.raises(ValueError, match=said):
            load_model(tmp_path / name)


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    """Return the path of a pipeline's model file, rows, and what it predicts for them."""
    X, y = table
    X = X[["size", "colour"]]
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    pipeline = tabular_pipeline(BNMLPClassifier(**TINY)).fit(X, y)
    save_model(pipeline, path)
    return path, X, outputs(pipeline, X)


def opened(path):
    """Return the model in a file, or None if it is refused with a sentence that names the file."""
    try:
        return load_model(path)
    except ValueError as error:
        said = str(error)
    assert str(path) in said
    return None


def damaged(content, rng):
    """Return a file with something wrong in it."""
    content = bytearray(content)
    kind = rng.integers(5)
    if kind == 0:  # bits flip
        for place in rng.integers(len(content), size=rng.integers(1, 9)):
            content[place] ^= 1 << rng.integers(8)
    elif kind == 1:
        del content[rng.integers(len(content)) :]
    elif kind == 2:  # of the header alone, whose first bytes are its length
        content[rng.integers(8 + int.from_bytes(content[:8], "little"))] = rng.integers(256)
    elif kind == 3:  # two parts change places
        size = int(rng.integers(1, 500))
        a, b = sorted(rng.integers(len(content) - size, size=2))
        content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    else:
        content += rng.bytes(rng.integers(1, 100))
    return bytes(content)


def test_a_damaged_file_is_one_error_or_the_right_model(model, tmp_path):
    path, X, expected = model
    content, rng, n_refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(500):
        wrong = tmp_path / "wrong.safetensors"
        wrong.write_bytes(damaged(content, rng))
        loaded = opened(wrong)
        n_refused += loaded is None
        if loaded is not None:
            np.testing.assert_array_equal(outputs(loaded, X), expected)
    assert n_refused > 450


def resigned(path, out, change_text=lambda about: about, change_arrays=lambda arrays: arrays):
    """Write a model file with other content, and the digest that belongs to it, as somebody of bad will would."""
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["sk_bnreg"])
    text, arrays = json.dumps(change_text(about)), change_arrays(load_file(path))
    save_file(arrays, out, metadata={"sk_bnreg": text, "sha256": _digest(text, arrays)})
    return out


def leaves(value, place=()):
    """Yield the place and value of all that is in JSON."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*place, key))
    else:
        yield place, value


def put(value, place, new):
    for key in place[:-1]:
        value = value[key]
    value[place[-1]] = new


ODD = [
    None,
    True,
    -1,
    0,
    2**40,
    10**30,
    0.5,
    float("nan"),
    "os.system",
    [],
    {},
    [[[]]],
    {"array": "steps"},
    {"dict": []},
]


def test_facts_that_do_not_fit_one_another_are_refused_before_anything_is_made_of_them(model, tmp_path):
    """Each leaf of the JSON in turn, by values of other kinds, sizes and names, with a digest that is right."""
    path = model[0]
    with safe_open(path, "numpy") as file:
        places = [place for place, _ in leaves(json.loads(file.metadata()["sk_bnreg"]))]
    rng, before = np.random.default_rng(0), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in rng.permutation(len(places))[:300]:
        new = ODD[rng.integers(len(ODD))]
        wrong = resigned(
            path, tmp_path / "w.safetensors", lambda about, new=new, n=number: put(about, places[n], new) or about
        )
        began = time.process_time()
        opened(wrong)
        assert time.process_time() - began < 2, (places[number], new)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_nothing_that_the_steps_name_is_imported_or_run(model, tmp_path):
    names = ["os.system", "builtins.eval", "subprocess.Popen", "antigravity.thing", "numpy.load"]
    for name in names:
        module, of = name.split(".")

        def change(arrays, module=module, of=of):
            packed = io.BytesIO()
            with zipfile.ZipFile(io.BytesIO(arrays["steps"].tobytes())) as old, zipfile.ZipFile(packed, "w", 8) as new:
                for part in old.namelist():
                    text = old.read(part)
                    if part == "schema.json":
                        text = text.replace(b"skrub._squashing_scaler", module.encode())
                        text = text.replace(b"SquashingScaler", of.encode())
                    new.writestr(part, text)
            return arrays | {"steps": np.frombuffer(packed.getvalue(), np.uint8)}

        resigned(model[0], tmp_path / name, change_arrays=change)
    code = (
        "import sys; from sk_bnreg import load_model\n"
        f"for name in {names}:\n"
        f"    try: load_model({str(tmp_path)!r} + '/' + name)\n"
        "    except ValueError as error: print('refused', error)\n"
        "print('antigravity' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *refused, imported = done.stdout.splitlines()
    assert imported == "False"
    said = " ".join(refused).split("refused")[1:]
    assert len(said) == len(names)
    assert all(name in own.partition("damaged one")[2] for name, own in zip(names, said, strict=True))


def test_a_bomb_is_not_unpacked(model, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", 8) as archive:
        archive.writestr("schema.json", b" " * 10**8)
    wrong = resigned(
        model[0], tmp_path / "w.safetensors",
        change_arrays=lambda arrays: arrays | {"steps": np.frombuffer(packed.getvalue(), np.uint8)},
    )  # fmt: skip
    with pytest.raises(ValueError, match="packed too tightly"):
        load_model(wrong)


def test_a_newer_format_says_so(model, tmp_path):
    wrong = resigned(model[0], tmp_path / "w.safetensors", lambda about: about | {"format": 2})
    with pytest.raises(ValueError, match="of format 2, of another version of sk_bnreg"):
        load_model(wrong)
