"""The command on tables as people have them."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes

from sk_bnreg.cli.runner import without_password
from sk_bnreg.study.tables import BUILT_IN, read_table

COMMAND = [sys.executable, "-m", "sk_bnreg", "compare"]


def run(*arguments):
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment)


@pytest.fixture
def mixed(tmp_path):
    """Numbers with gaps, words, booleans, a date; the target depends on a number and a word."""
    rng = np.random.default_rng(0)
    size, colour = rng.normal(10, 3, 240), rng.choice(["red", "green", "blue", None], 240)
    frame = pd.DataFrame(
        {
            "size": np.where(rng.random(240) < 0.1, np.nan, size),
            "colour": colour,
            "new": rng.random(240) < 0.5,
            "day": pd.date_range("2024-01-01", periods=240).astype(str),
            "label": np.where(size + 3 * (colour == "red") + rng.normal(size=240) > 10, "good", "bad"),
        }
    )
    frame.to_csv(tmp_path / "mixed.csv", index=False)
    frame.rename(columns={"label": "target"}).to_parquet(tmp_path / "mixed.parquet")
    return tmp_path


@pytest.mark.filterwarnings("error", "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")  # as users see
def test_compare_a_mixed_table_and_load_what_it_saved(mixed, call):
    done = call(mixed / "mixed.csv", "--quick", "--candidates", 1, "--folds", 3, "--out", mixed / "out", "--jobs", 1)
    assert done.returncode == 0, done.stderr
    assert "classification of 'label', 240 rows, 4 columns" in done.stdout
    assert "--quick: fewer rows, folds and candidates" in done.stdout
    assert re.search(r"L2 on the weights (is redundant|helps|hurts|is undecided)\s+given\s+batch\s+norm", done.stdout)
    assert "Warning" not in done.stderr
    results = pd.read_parquet(mixed / "out" / "results.parquet")
    assert len(results) == 15
    plan = " ".join(done.stdout.split())
    assert "5 schemes x 1 candidates x 2 inner folds in 3 outer folds: at most 45 network fits, about" in plan
    n_fits = results.drop_duplicates("fold")["n_fits"].sum()
    assert f"{n_fits} network fits stand behind these scores" in plan
    page = (mixed / "out" / "report.html").read_text()
    assert all(f"{score:.4f}" in page for score in results.groupby("scheme")["score"].mean())
    import joblib

    model = joblib.load(mixed / "out" / "best_estimator.joblib")
    frame = pd.read_csv(mixed / "mixed.csv")
    assert set(model.predict(frame.drop(columns="label"))) == {"good", "bad"}
    assert results["score"].mean() > 0.6
    again = call(mixed / "mixed.csv", "--quick", "--candidates", 1, "--folds", 3, "--out", mixed / "out")
    assert again.returncode == 0, again.stderr
    assert len(pd.read_parquet(mixed / "out" / "results.parquet")) == 15


def test_task_target_scoring_and_seed_do_what_they_say(tmp_path, call):
    load_diabetes(as_frame=True).frame[:150].to_csv(tmp_path / "d.csv", index=False)
    settings = ("--candidates", 1, "--folds", 2, "--quick", "--scoring", "neg_mean_absolute_error", "--rope", 1)
    settings += ("--schemes", "plain, bn+l2", "--target", "bmi", "--task", "regression", "--jobs", 1)
    arguments = (tmp_path / "d.csv", *settings)
    done = run(*arguments, "--seed", 4)
    assert done.returncode == 0, done.stderr
    assert "regression of 'bmi', 150 rows, 10 columns" in done.stdout
    assert "neg_mean_absolute_error" in done.stdout
    outputs = (done, *(call(*arguments, "--seed", seed) for seed in (4, 5)))
    scores = [re.findall(r"(plain|bn\+l2) +(-?\d\.\d+)", output.stdout) for output in outputs]
    assert [name for name, _ in scores[0]] == ["plain", "bn+l2"]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "There is no file 'nowhere.csv'"),
        (["digits", "--task", "ranking"], "task must be one of"),
        (["digits", "--scoring", "neg_log_loss"], "rope must be given for scoring='neg_log_loss'"),
        (["digits", "--scoring", "acuracy"], "acuracy"),
    ],
)
def test_bad_arguments_end_in_one_sentence(arguments, message, call):
    done = call(*arguments, "--quick")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_process_ends_with_the_same_words_and_exit_code(call):
    here, there = call("nowhere.csv"), run("nowhere.csv")
    assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)
    assert here.returncode == 2


def test_ctrl_c_keeps_what_is_finished(mixed, call):
    # two workers: with one for each of the five folds, all would be finished at once
    arguments = [mixed / "mixed.csv", "--quick", "--candidates", 1, "--schemes", "plain, bn+l2"]
    arguments += ["--out", mixed / "out", "--jobs"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments), "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (mixed / "out" / "results.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # to the workers too, as a terminal does
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in " ".join(stdout.split())
    assert "Traceback" not in stderr
    before = pd.read_parquet(mixed / "out" / "results.parquet")
    assert len(before) < 10
    assert call(*arguments, 1).returncode == 0
    after = pd.read_parquet(mixed / "out" / "results.parquet")
    both = after.merge(before, on=["scheme", "repeat", "fold", "seed"], suffixes=("", "_before"))
    assert len(both) == len(before)
    assert (both["seconds"] == both["seconds_before"]).all()
    assert len(after) == 10


def test_schemes_rates_repeats_and_seeds_reach_the_study(tmp_path, call):
    few = ("wine", "--quick", "--candidates", 2, "--folds", 2, "--repeats", 2, "--seeds", 2, "--jobs", 1)
    few += ("--out", tmp_path)
    done = call(*few, "--schemes", "bn, bn+l2 (loss)", "--learning-rate", "fixed")
    assert done.returncode == 0, done.stderr
    results = pd.read_parquet(tmp_path / "results.parquet")
    assert len(results) == 2 * 2 * 2 * 2
    assert set(results["scheme"]) == {"bn", "bn+l2 (loss)"}
    assert results["learning_rate_init"].nunique() == 1
    assert "learning rate 0.01 in every scheme, not tuned" in " ".join(done.stdout.split())
    done = call(*few, "--schemes", "bm")
    assert done.returncode == 2
    assert "schemes must be a mapping of names to parameters, or names from" in " ".join(done.stderr.split())


def test_survey_of_a_folder(mixed, call):
    (mixed / "mixed.csv").unlink()
    load_diabetes(as_frame=True).frame.to_csv(mixed / "diabetes.csv", index=False)
    settings = ("--rows", 100, "--folds", 2, "--candidates", 1, "--jobs", 1)
    done = call(mixed, "--out", mixed / "out", *settings, command="survey")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "diabetes: finished" in said
    assert "mixed: finished" in said
    assert "over 2 tables" in said
    assert "<h1" in (mixed / "out" / "survey.html").read_text()
    assert set(pd.read_parquet(mixed / "out" / "survey.parquet")["table"]) == {"diabetes", "mixed"}


def test_tune_of_one_scheme_saves_the_model_and_says_why_there_is_no_report(tmp_path, call):
    few = ("wine", "--trials", 1, "--folds", 2, "--space", "regularization", "--out", tmp_path)
    done = call(*few, command="tune")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert re.search("no report: it would compare schemes, and the study has complete trials of '[^']+' alone", said)
    assert "To look around in the study: optuna-dashboard" in said
    assert {path.name for path in tmp_path.iterdir()} >= {"best_estimator.joblib", "study.journal"}
    assert not (tmp_path / "report.html").exists()


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


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_the_help_names_the_built_in_tables(command, call):
    said = " ".join(call("--help", command=command).stdout.split())
    assert f"A .csv or .parquet file, or {', '.join(BUILT_IN)}." in said


def test_a_target_with_gaps_or_missing_is_refused(mixed):
    with pytest.raises(ValueError, match=r"The target 'size' is missing in \d+ of 240 rows"):
        read_table(str(mixed / "mixed.csv"), target="size")
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


def test_a_missing_extra_is_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = call("wine", command="tune")
    assert done.returncode == 2
    assert "pip install 'sk_bnreg[study,optuna]'" in done.stderr
