"""``sk-bnreg compare`` and ``sk-bnreg rescore``: what they say is what the folder holds."""

import errno
import json
import os
import re
import signal
import warnings
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pandas as pd
import pytest
from loops import mean_of_members
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_diabetes
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from small_command import run_here, small_pipeline

from sk_bnreg import SchemeComparison, load_model
from sk_bnreg.stats.folds import WORDS, contrast
from sk_bnreg.study.schemes import QUESTIONS

ASKED = QUESTIONS[:3]  # of the default schemes
TINY = ("--folds", 2, "--candidates", 1, "--quick")


def words(text):
    return " ".join(text.split())


def begun(clause):
    return clause[0].upper() + clause[1:]


def in_words(c):
    return f"{c.verdict}{c.hint} ({c.mean:+z.4f}, {c.low:+z.4f} to {c.high:+z.4f})"


def judged(results, question, metric, n_networks):
    """Judge a question by the rows of results.parquet, of two folds."""
    rows = results[(results["metric"] == metric) & (results["n_networks"] == n_networks)]
    scores = rows.groupby(["repeat", "fold", "scheme"])["score"].mean().unstack("scheme")
    differences = (scores[question.scheme] - scores[question.against]).to_numpy()
    return contrast(differences, test_ratio=1.0, rope=0.01)


@pytest.mark.filterwarnings("error", "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")  # as users see
def test_a_mixed_table_as_it_comes_and_what_is_saved(mixed, call, monkeypatch):
    monkeypatch.chdir(mixed)  # paths are given as people give them
    arguments = ("mixed.csv", *TINY, "--schemes", "bn, bn+l2", "--seeds", 8, "--out", "out")
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    said = words(done.stdout)
    assert "classification of 'label', 240 rows, 4 columns (--quick: fewer rows, folds and candidates" in said
    assert "2 schemes x 1 candidates x 2 inner folds in 2 outer folds, then 8 seeds: 40 network fits a repeat" in said
    results = pd.read_parquet(mixed / "out" / "results.parquet")
    assert set(results["metric"]) == {"accuracy", "d2_log_loss_score"}
    assert results.value_counts("n_networks").to_dict() == {1: 2 * 2 * 2 * 8, 8: 2 * 2 * 2}
    n_fits = results.drop_duplicates(["fold", "elapsed"])["n_fits"].sum()
    assert "1 repeat of the folds, 8 seeds: as many as were asked for. Seeds have at most" in said
    assert f"{n_fits} network fits stand behind these scores" in said
    model = load_model(mixed / "out" / "best_estimator.safetensors")
    frame = pd.read_csv(mixed / "mixed.csv")
    assert model.score(frame.drop(columns="label"), frame["label"]) > 0.8
    assert len(model[-1].net_.members) == 8
    best = SchemeComparison.load(mixed / "out").best_scheme
    assert f"best_estimator.safetensors: {best}, the mean of 8 networks." in said
    page = (mixed / "out" / "report.html").read_text()
    means = results[results["n_networks"] == 8].groupby(["metric", "scheme"])["score"].mean()["accuracy"]
    assert all(f"{score:.4f}" in page for score in means)
    again = call(*arguments)
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(mixed / "out" / "results.parquet"), results)


def test_each_question_is_told_for_both_sizes_and_scores_with_what_to_do(two_columns, tmp_path, call, small_networks):
    done = call(two_columns, *TINY, "--seeds", 4, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "For the mean of 2 networks, by accuracy; differences within 0.01 count as none:" in done.stdout
    results = pd.read_parquet(tmp_path / "out" / "results.parquet")
    told = [words(paragraph) for paragraph in done.stdout.split("\n\n")]
    for question in ASKED:
        c, of_one = (judged(results, question, "accuracy", size) for size in (2, 1))
        verb = c.verdict if c.verdict in ("helps", "hurts") else f"is {c.verdict}"
        answer = f"{question.subject} {verb} given {question.given}{c.hint} ({c.mean:+z.4f}, "
        answer += f"95 % interval {c.low:+z.4f} to {c.high:+z.4f}). {begun(WORDS[c.verdict])}."
        (about,) = [text for text in told if text.startswith(begun(answer))]
        in_one = f"For one network: {in_words(of_one)}; {WORDS[of_one.verdict]}."
        assert (in_one in about) == ("For one network" in about) == (of_one.verdict != c.verdict)
        assert f"By d2_log_loss_score: {in_words(judged(results, question, 'd2_log_loss_score', 2))}." in about
        is_open = c.verdict not in ("helps", "hurts", "redundant")
        assert ("The difference varies between folds with sd" in about) == is_open


@pytest.mark.parametrize("schemes", ["plain, bn+l2", "all"])
def test_every_line_has_at_most_80_columns(two_columns, call, small_networks, schemes):
    done = call(two_columns, *TINY, "--schemes", schemes, "--seeds", 2, columns=80)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_task_target_scores_ropes_and_seed_do_what_they_say(tmp_path, call, small_networks):
    load_diabetes(as_frame=True).frame[:150].to_csv(tmp_path / "d.csv", index=False)
    arguments = (tmp_path / "d.csv", *TINY, "--schemes", "plain, bn+l2", "--target", "bmi", "--task", "regression")
    arguments += ("--scoring", "neg_mean_absolute_error, r2", "--rope", "neg_mean_absolute_error=0.002, r2=0.02")
    outputs = [call(*arguments, "--seed", seed) for seed in (4, 4, 5)]
    assert outputs[0].returncode == 0, outputs[0].stderr
    assert "regression of 'bmi', 150 rows, 10 columns" in outputs[0].stdout
    said = words(outputs[0].stdout)
    assert "Differences in neg_mean_absolute_error within 0.002, r2 within 0.02 (the rope) count as none" in said
    assert "by neg_mean_absolute_error; differences within 0.002 count as none" in said
    assert "By r2: " in said
    scores = [re.findall(r"(plain|bn\+l2) +(-?\d\.\d+)", output.stdout) for output in outputs]
    assert [name for name, _ in scores[0]] == ["plain", "bn+l2"]
    assert scores[0] == scores[1] != scores[2]


def test_schemes_rates_repeats_and_seeds_reach_the_study(two_columns, tmp_path, call, small_networks):
    few = (two_columns, *TINY, "--repeats", 2, "--seeds", 2, "--out", tmp_path)
    done = call(*few, "--schemes", "bn, bn+l2 (loss)", "--learning-rate", "fixed")
    assert done.returncode == 0, done.stderr
    networks = pd.read_parquet(tmp_path / "networks.parquet")
    assert len(networks) == 2 * 2 * 2 * 2
    assert set(networks["scheme"]) == {"bn", "bn+l2 (loss)"}
    assert networks["learning_rate_init"].nunique() == 1
    said = words(done.stdout)
    assert "learning rate 0.01 in every scheme, not tuned" in said
    assert "2 repeats of the folds, 2 seeds: as many as were asked for." in said
    done = call(*few, "--schemes", "bm")
    assert done.returncode == 2
    assert "schemes must be a mapping of names to parameters, or names from" in words(done.stderr)


def test_when_the_time_is_up_no_repeat_begins_and_the_same_folder_goes_on(two_columns, tmp_path, call, small_networks):
    few = (two_columns, "--folds", 2, "--candidates", 1, "--schemes", "l2, bn+l2", "--out", tmp_path)
    done = call(*few, "--minutes", 1e-6)
    assert done.returncode == 0, done.stderr
    said = words(done.stdout)
    assert "after 0 seconds no more begin" in said
    assert (
        "1 repeat of the folds, 32 seeds: the time was up; with more --minutes and the same --out it goes on." in said
    )
    before = pd.read_parquet(tmp_path / "networks.parquet")
    assert set(before["repeat"]) == {0}
    done = call(*few, "--repeats", 2)
    assert "2 repeats of the folds, 32 seeds: as many as were asked for." in words(done.stdout)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "networks.parquet").iloc[: len(before)], before)


def test_jobs_change_nothing(two_columns, call, small_networks):
    tables = []
    for jobs in (1, 2):
        done = call(two_columns, *TINY, "--seeds", 4, "--jobs", jobs)
        assert done.returncode == 0, done.stderr
        tables.append(done.stdout[done.stdout.index(" scheme ") :])
    assert tables[0] == tables[1]


class Grumbler(TransformerMixin, BaseEstimator):
    """Warns whenever it transforms."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        warnings.warn("These rows again!", stacklevel=1)
        return X


def test_what_transformers_warn_of_is_told_once_and_counted(two_columns, call, small_networks, monkeypatch):
    model = make_pipeline(Grumbler(), small_networks("classification"))
    monkeypatch.setattr("sk_bnreg.study.tables.network_pipeline", lambda task: model)
    done = call(two_columns, *TINY, "--schemes", "bn, bn+l2")
    assert done.returncode == 0, done.stderr
    assert words(done.stderr) == "Warning: These rows again! (in 2 outer folds)"
    assert "again" not in done.stdout


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_keeps_what_is_finished(two_columns, tmp_path, call, small_networks, start, wait_for, jobs):
    out = tmp_path / "out"
    arguments = [two_columns, "--quick", "--candidates", 1, "--schemes", "plain, bn+l2", "--seeds", 4]
    arguments += ["--folds", 3, "--repeats", 2, "--out", out]
    process = start(*arguments, "--jobs", jobs, networks="small")
    wait_for(out / "networks.parquet")
    os.killpg(process.pid, signal.SIGINT)  # to the workers too, as a terminal does
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"What is finished is in {out}; the same command goes on from there." in words(stdout)
    assert "Traceback" not in stderr
    before = pd.read_parquet(out / "networks.parquet")
    assert len(before) < 2 * 6 * 4
    assert call(*arguments, "--jobs", 1).returncode == 0
    after = pd.read_parquet(out / "networks.parquet")
    both = after.merge(before, on=["scheme", "repeat", "fold", "seed"], suffixes=("", "_before"))
    assert len(both) == len(before)
    assert (both["seconds"] == both["seconds_before"]).all()
    assert len(after) == 2 * 6 * 4


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. "),
        (ImportError("failed to map segment"), "failed to map segment. "),
        (MemoryError(), "The memory was full: give it more, or take fewer rows or --jobs. "),
        (BrokenProcessPool(), "A worker died, maybe of a full memory: give it more, or take fewer rows or --jobs. "),
    ],
)
def test_what_befalls_the_machine_is_told_in_one_sentence(
    two_columns, tmp_path, call, small_networks, monkeypatch, error, told
):
    """Here when the second fold is to be kept."""
    arguments = (two_columns, *TINY, "--schemes", "bn, bn+l2", "--seeds", 2, "--out", tmp_path / "out")

    move = os.replace

    def replace(part, whole):
        if whole.name == "0-1.npz":
            raise error
        move(part, whole)

    monkeypatch.setattr("sk_bnreg.study.store.os.replace", replace)
    done = call(*arguments)
    assert done.returncode == 2
    assert words(done.stderr).endswith(
        f"{told}What is finished is in {tmp_path}/out; the same command goes on from there."
    )
    assert set(pd.read_parquet(tmp_path / "out" / "networks.parquet")["fold"]) == {0}


@pytest.fixture(scope="module")
def finished(mixed_frame, tmp_path_factory):
    """Return the folder of a finished comparison, which `mixed.csv` is beside."""
    folder = tmp_path_factory.mktemp("finished")
    mixed_frame.to_csv(folder / "mixed.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sk_bnreg.study.tables.network_pipeline", small_pipeline)
        arguments = (folder / "mixed.csv", *TINY, "--seeds", 4, "--out", folder / "out")
        assert run_here(patch, "compare", *arguments) == 0
    return folder / "out"


def test_rescore_scores_the_predictions_that_are_kept(finished, call):
    """Against scikit-learn's roc_auc_score of each fold's mean of two networks, averaged as the table has it."""
    done = call(finished, "--scoring", "roc_auc", command="rescore")
    assert done.returncode == 0, done.stderr
    y = pd.read_parquet(finished / "target.parquet")["y"].to_numpy()
    schemes = json.loads((finished / "study.json").read_text())["schemes"]
    means = []
    for fold in range(2):
        with np.load(finished / "held_out" / f"0-{fold}.npz") as file:
            rows, outputs = file["rows"], file["outputs"].astype(float)  # (schemes, seeds, rows, classes)
        pairs = [
            [mean_of_members(scheme[seed : seed + 2])[:, 1] for scheme in outputs] for seed in (0, 2)
        ]  # classes: bad, good
        means.append([[roc_auc_score(y[rows] == "good", p) for p in of_pair] for of_pair in pairs])
    expected = np.mean(means, axis=(0, 1))
    table = dict(re.findall(r"^ (\S+) +(\d\.\d{4}) ", done.stdout, flags=re.M))
    assert table == {name: f"{score:.4f}" for name, score in zip(schemes, expected, strict=True)}
    said = words(done.stdout)
    assert "For the mean of 2 networks, by roc_auc; differences within 0.01 count as none:" in said
    assert "L2 on the weights " in said
    assert said.endswith("The schemes were tuned by the log loss of single networks, whatever the score.")


def test_rescore_by_a_score_of_the_study_says_what_the_study_said(finished, call, small_networks):
    first = call(finished.parent / "mixed.csv", *TINY, "--seeds", 4, "--out", finished)
    again = call(finished, "--scoring", "accuracy", command="rescore")
    end = "Interaction"
    answers = (done.stdout[done.stdout.index(" scheme ") : done.stdout.index(end)] for done in (first, again))
    assert next(answers) == next(answers)
    wide = call(finished, "--scoring", "accuracy", "--rope", 0.9, command="rescore")
    assert wide.stdout.count("is redundant given") == len(ASKED)


def test_what_cannot_be_rescored_ends_in_one_sentence(finished, call):
    for folder, *arguments, message in (
        ("out", "--scoring", "neg_log_loss", "rope must be given for scoring='neg_log_loss'"),
        ("out", "--scoring", "acuracy", "scoring must be a score in"),
        (
            "out",
            "--scoring",
            "neg_max_error",
            "--rope",
            1,
            "The score 'neg_max_error' is not defined for this target: ",
        ),
        ("nowhere", "--scoring", "roc_auc", "nowhere' holds no finished comparison: results.parquet is not there."),
    ):
        done = call(finished.parent / folder, *arguments, command="rescore")
        assert done.returncode == 2
        assert message in words(done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "There is no file 'nowhere.csv'"),
        (["digits", "--task", "ranking"], "task must be one of"),
        (["wine", "--scoring", "accuracy,neg_log_loss"], "rope must be given for scoring='neg_log_loss'"),
        (["wine", "--scoring", "acuracy"], "scoring must be a score in"),
        (["wine", "--scoring", "roc_auc"], "The score 'roc_auc' is not defined for this target: "),
        (["wine", "--rope", "small"], "--rope must be a number, or score=0.01 with commas between, got 'small'."),
        (["wine", "--rope", "accuracy=0.01,r2=0.1"], "rope must have names of the scores ['accuracy', "),
        (["wine", "--seeds", 4], "n_seeds must be at least the estimator's n_ensemble, 8, got 4."),
        (["wine", "--dask", "localhost:1", "--jobs", 2], "--jobs is of this machine alone, and must not be given"),
    ],
)
def test_bad_arguments_end_in_one_sentence(arguments, message, call):
    done = call(*arguments, "--quick")
    assert done.returncode == 2
    assert message in words(done.stderr)
    assert "Traceback" not in done.stderr
