"""What the subcommands share: tables, errors, options; and tune."""

import re
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

from sk_bnreg import load_model, save_model
from sk_bnreg.cli.runner import without_password
from sk_bnreg.study.tables import BUILT_IN, network_pipeline, read_table


def test_a_process_ends_with_the_same_words_and_exit_code(call, start):
    here, there = call("nowhere.csv"), start("nowhere.csv")
    assert there.communicate(timeout=60) == (here.stdout, here.stderr)
    assert there.returncode == here.returncode == 2


def test_tune_of_one_scheme_saves_the_model_and_says_why_there_is_no_report(tmp_path, call):
    few = ("wine", "--trials", 1, "--folds", 2, "--space", "regularization", "--out", tmp_path)
    done = call(*few, command="tune")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert re.search("no report: it would compare schemes, and the study has complete trials of '[^']+' alone", said)
    assert "To look around in the study: optuna-dashboard" in said
    assert {path.name for path in tmp_path.iterdir()} >= {"best_estimator.safetensors", "study.journal"}
    assert not (tmp_path / "report.html").exists()


def test_a_saved_model_predicts_a_table(tmp_path, call):
    table = pd.DataFrame({"a": range(60), "b": [i * i % 7 for i in range(60)], "city": ["Ulm", "Köln"] * 30})
    table["label"] = ["yes" if i % 2 else "no" for i in range(60)]
    model = network_pipeline("classification").set_params(bnmlpclassifier__max_iter=2, bnmlpclassifier__random_state=0)
    X = table[["a", "b", "city"]]
    joblib.dump(model.fit(X, table["label"]), tmp_path / "model.joblib")
    save_model(model, tmp_path / "model.safetensors")
    table[["city", "label", "b", "a"]].to_csv(tmp_path / "new.csv", sep=";", index=False)  # in another order
    done = call(tmp_path / "model.joblib", tmp_path / "new.csv", "--out", tmp_path / "p.csv", command="predict")
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "p.csv")
    assert found["prediction"].tolist() == model.predict(X).tolist()
    assert list(found) == ["prediction", "probability of no", "probability of yes"]
    np.testing.assert_allclose(found.iloc[:, 1:], model.predict_proba(X), atol=1e-7)
    printed = call(tmp_path / "model.safetensors", tmp_path / "new.csv", command="predict").stdout
    assert printed == (tmp_path / "p.csv").read_text()
    table[["a", "label"]].to_csv(tmp_path / "less.csv", index=False)
    done = call(tmp_path / "model.joblib", tmp_path / "less.csv", command="predict")
    assert done.returncode == 2
    assert "needs columns ['b', 'city'], which less.csv lacks" in " ".join(done.stderr.split())
    (tmp_path / "broken.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-9])
    done = call(tmp_path / "broken.safetensors", tmp_path / "new.csv", command="predict")
    assert done.returncode == 2
    assert "is no model file of save_model, or a damaged one" in " ".join(done.stderr.split())


def test_a_saved_model_is_exported(tmp_path, call):
    onnxruntime = pytest.importorskip("onnxruntime")
    X, y = load_wine(return_X_y=True, as_frame=True)
    model = network_pipeline("classification").set_params(bnmlpclassifier__max_iter=2, bnmlpclassifier__random_state=0)
    save_model(model.fit(X, y), tmp_path / "m.safetensors")
    done = call(tmp_path / "m.safetensors", tmp_path / "m.onnx", command="export")
    assert done.returncode == 0, done.stderr
    assert f"from {', '.join(X)} to label and probabilities, opset 18." in " ".join(done.stdout.split())
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    _, probability = session.run(None, {name: X[[name]].to_numpy(np.float64) for name in X})
    np.testing.assert_allclose(probability, model.predict_proba(X), atol=1e-5)


def test_the_version_is_told(call):
    assert re.fullmatch(r"sk-bnreg \d+\.\d+\S*\n", call(command="--version").stdout)


def test_tables_are_read_for_what_they_are(mixed, tmp_path):
    table = read_table(str(mixed / "mixed.parquet"))
    assert (table.target, table.task, table.X.shape) == ("target", "classification", (240, 4))
    for values, task in (
        ([1, 2] * 30, "classification"),
        (list(range(60)), "regression"),
        ([0.5, 1.5] * 30, "regression"),
        (["a", "b"] * 30, "classification"),
        ([True, False] * 30, "classification"),
    ):
        pd.DataFrame({"x": range(60), "y": values}).to_csv(tmp_path / "t.csv", index=False)
        assert read_table(str(tmp_path / "t.csv")).task == task


def test_tune_saves_an_ensemble_of_the_trials_that_it_names(tmp_path, call):
    done = call("wine", "--trials", 3, "--folds", 2, "--ensemble", "--out", tmp_path, command="tune")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ensemble of")]
    named = [int(n) for n in re.findall(r"\d+ \((\d+)\)", done.stdout)]
    network = load_model(tmp_path / "best_estimator.safetensors")[-1]
    assert len(network.members) == len(network.nets_) == sum(named) == int(line.split()[2])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"the mean of {len(network.members)} networks with the parameters of several trials" in page
    assert all(f"learning_rate_init = {m['learning_rate_init']:.4g}" in page for m in network.members)


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_the_help_names_the_built_in_tables(command, call):
    said = " ".join(call("--help", command=command).stdout.split())
    assert f"A file, such as .csv, .xlsx or .parquet, or {', '.join(BUILT_IN)}." in said


def test_a_target_that_is_not_there_is_refused(mixed):
    with pytest.raises(ValueError, match="The table has no column 'price' to predict"):
        read_table(str(mixed / "mixed.csv"), target="price")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tune a.csv --storage=postgresql://me:se:cret@host/db", "tune a.csv --storage=postgresql://me:***@host/db"),
        ("postgresql+psycopg2://me@host:5432/db", "postgresql+psycopg2://me@host:5432/db"),
        ("sqlite:///study.db", "sqlite:///study.db"),
    ],
)
def test_passwords_are_not_shown(text, shown):
    assert without_password(text) == shown


@pytest.mark.parametrize(
    ("missing", "arguments", "extras"),
    [("optuna", ("tune",), "study,optuna"), ("distributed", ("compare", "--dask", "localhost:1"), "dask")],
)
def test_a_missing_extra_is_named(call, monkeypatch, missing, arguments, extras):
    monkeypatch.setitem(sys.modules, missing, None)
    command, *options = arguments
    done = call("wine", *options, command=command)
    assert done.returncode == 2
    assert f"pip install 'sk_bnreg[{extras}]'" in done.stderr


def test_a_memory_that_a_table_fills_is_told(mixed, call, monkeypatch):
    def full(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("sk_bnreg.study.tables.read_frame", full)
    done = call(mixed / "mixed.csv")
    assert (done.returncode, done.stderr.strip()) == (2, "The memory was full: give it more, or take fewer rows.")
