"""``sk-bnreg survey``: every table of a folder, for means of networks and single ones, by every score."""

import os

import pytest
from sklearn.datasets import load_diabetes

from sk_bnreg.study.survey import Survey

TINY = ("--rows", 100, "--folds", 2, "--candidates", 1, "--seeds", 2)


@pytest.fixture
def folder(mixed):
    (mixed / "mixed.csv").unlink()
    load_diabetes(as_frame=True).frame.to_csv(mixed / "diabetes.csv", index=False)
    return mixed


def words(text):
    return " ".join(text.split())


def test_survey_of_a_folder(folder, call, small_networks):
    out = folder / "out"
    done = call(folder, "--out", out, *TINY, "--jobs", 1, command="survey")
    assert done.returncode == 0, done.stderr
    said = words(done.stdout)
    assert "21 schemes x 1 candidate x 3 inner folds in 2 outer folds x 1" in said
    assert "diabetes: finished" in said
    assert "mixed: finished" in said
    found = Survey.load(out / "survey.parquet")
    assert found.tables()["metric"].to_dict() == {"diabetes": "r2", "mixed": "accuracy"}
    views = {
        "For the mean of 2 networks:": found,
        "For one network:": found.single,
        "By d2_log_loss_score:": found.by("d2_log_loss_score"),
    }
    answers = [f"{name} {' '.join(answer.summary() for answer in view.overall())}" for name, view in views.items()]
    assert " ".join(answers) in said
    assert "over 1 table," in answers[2]
    assert "<h1" in (out / "survey.html").read_text()


def test_schemes_scores_ropes_and_minutes_reach_every_table(folder, call, small_networks):
    few = ("--out", folder / "out", *TINY, "--scoring", "balanced_accuracy", "--rope", 0.3, "--minutes", 1e-6)
    done = call(folder, *few, "--schemes", "plain,bn,bn+l2", "--jobs", 1, command="survey")
    assert done.returncode == 0, done.stderr
    said = words(done.stdout)
    assert "2 tables of at most 100 rows, 3 schemes x 1 candidate x 3 inner folds in 2 outer folds x as many" in said
    assert "x as many repeats as decide it" in said
    assert "diabetes: The score 'balanced_accuracy' is not defined for this target: " in said
    found = Survey.load(folder / "out" / "survey.parquet")
    assert found.schemes == ["plain", "bn", "bn+l2"]
    (answer,) = found.overall()
    assert answer.question[2:] == ("bn+l2", "bn")
    frame = found.frame
    assert set(frame["metric"]) == {"balanced_accuracy"}
    assert set(frame["rope"]) == {0.3}
    assert set(frame["repeat"]) == {0}


def test_schemes_that_answer_nothing_are_refused(folder, call):
    done = call(folder, "--out", folder / "out", *TINY, "--jobs", 1, "--schemes", "plain,bn", command="survey")
    assert done.returncode == 2
    assert "schemes must be at least 3, of which two answer a question" in words(done.stderr)


def test_a_folder_without_tables_ends_in_one_sentence(tmp_path, call):
    done = call(tmp_path, "--out", tmp_path / "out", command="survey")
    assert done.returncode == 2
    assert "could be used: there is no file of a table." in words(done.stderr)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone binds a process to cores")
def test_tables_at_a_time_are_the_cores_that_this_process_may_use(folder, call, monkeypatch):
    at_a_time = []
    monkeypatch.setattr("sk_bnreg.study.survey.survey", lambda *_, n_jobs, **__: at_a_time.append(n_jobs) or 1 / 0)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with pytest.raises(ZeroDivisionError):
            call(folder, "--out", folder / "out", command="survey")
    finally:
        os.sched_setaffinity(0, cores)
    assert at_a_time == [1]
