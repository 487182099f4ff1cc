"""The survey over a folder of small tables, against the comparison of each table by itself."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import make_classification, make_regression
from small_command import small_pipeline
from statsmodels.stats.multitest import multipletests

from sk_bnreg import compare_schemes
from sk_bnreg.stats.folds import contrast
from sk_bnreg.study.questions import SURVEY_QUESTIONS, survey_schemes
from sk_bnreg.study.survey import Survey, survey

SMALL = {"max_rows": 80, "n_folds": 2, "n_seeds": 2, "n_candidates": 1, "inner_cv": 2, "random_state": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classifications, a regression, a table that cannot be used, and a file that is no table."""
    folder = tmp_path_factory.mktemp("tables")
    for seed, name in enumerate(("first", "second")):
        X, y = make_classification(n_samples=90 + 30 * seed, n_features=5, random_state=seed)
        pd.DataFrame(X).assign(target=y).to_csv(folder / f"{name}.csv", index=False)
    X, y = make_regression(n_samples=70, n_features=4, random_state=2)
    pd.DataFrame(X).add_prefix("x").assign(target=y).to_parquet(folder / "third.parquet")
    pd.DataFrame({"x": [1.0, 2.0], "target": ["a", None]}).to_csv(folder / "broken.csv", index=False)
    (folder / "notes.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sk_bnreg.study.survey.network_pipeline", small_pipeline)
        result = survey(folder, tmp_path_factory.mktemp("out") / "survey", on_table=seen.__setitem__, **SMALL)
    assert set(seen) == {"first", "second", "third", "broken"}
    return result


def test_each_table_has_what_its_own_comparison_finds(found, folder):
    assert list(found.tables().index) == ["first", "second", "third"]
    assert list(found.tables()["n_used"]) == [80, 80, 70]
    assert list(found.tables()["task"]) == ["classification", "classification", "regression"]
    frame = pd.read_parquet(folder / "third.parquet")
    pipeline = small_pipeline("regression")
    alone = compare_schemes(
        pipeline, frame.drop(columns="target"), frame["target"],
        schemes=survey_schemes(pipeline[-1].learning_rate_init),
        cv=2, n_repeats=1, n_seeds=2, n_candidates=1, inner_cv=2, random_state=0, on_plan=None,
    )  # fmt: skip
    np.testing.assert_allclose(found.scores().loc["third"], alone.table()["score"][found.schemes], rtol=1e-6)
    assert found.comparison("third").interaction().mean == pytest.approx(alone.interaction().mean, abs=1e-6)


def test_a_table_that_cannot_be_used_is_left_out_and_told(found):
    assert list(found.skipped) == ["broken"]
    assert "y must have at least 2 different values" in found.skipped["broken"]


def test_answers_are_signed_rank_tests_over_tables(found):
    """Of nine tables, which have the three's scores, noise, and a little more for L2 on the weights."""
    copies = [found.frame.assign(table=found.frame["table"] + str(i)) for i in range(3)]
    frame = pd.concat(copies, ignore_index=True)
    frame["score"] += np.random.default_rng(0).normal(0, 0.02, len(frame)) + 0.05 * (frame["scheme"] == "bn+l2")
    found = replace(found, frame=frame)
    scores = found.scores()
    answers = found.answers()
    assert [answer.question for answer in answers] == list(SURVEY_QUESTIONS)
    rows = found.frame.query("n_networks == 2 and metric == headline")
    folds = rows.pivot_table(index=["table", "repeat", "fold"], columns="scheme", values="score")
    p_values = []
    for answer in answers:
        differences = scores[answer.question.scheme] - scores[answer.question.against]
        np.testing.assert_allclose(answer.differences, differences, atol=1e-12)
        assert answer.test.p_value == pytest.approx(stats.wilcoxon(differences, zero_method="zsplit").pvalue)
        p_values.append(answer.test.p_value)
        by_themselves = (folds[answer.question.scheme] - folds[answer.question.against]).groupby("table")
        words = [contrast(table.to_numpy(), test_ratio=1.0, rope=0.01).verdict for _, table in by_themselves]
        every = ("helps", "hurts", "redundant", "dispensable", "harmless", "undecided")
        assert answer.answers == {word: words.count(word) for word in every}
    np.testing.assert_allclose([answer.p_holm for answer in answers], multipletests(p_values, method="holm")[1])
    assert [len(answer.differences) for answer in found.answers("regression")] == [3] * len(SURVEY_QUESTIONS)
    l2 = found.overall()[0]
    verb = l2.test.verdict if l2.test.verdict in ("helps", "hurts") else f"is {l2.test.verdict}"
    said = f"L2 on the weights {verb} given batch norm: median difference {l2.test.median:+.4f} over 9 tables"
    assert l2.summary().startswith(said)
    np.testing.assert_allclose(
        found.ranking().mean_ranks, scores.rank(axis=1, ascending=False).mean()[found.ranking().mean_ranks.index]
    )


def test_a_survey_is_saved_and_goes_on(found, folder, tmp_path):
    found.save(tmp_path / "one.parquet")
    loaded = Survey.load(tmp_path / "one.parquet")
    pd.testing.assert_frame_equal(loaded.frame, found.frame)
    assert (loaded.skipped, loaded.settings["max_rows"]) == (found.skipped, 80)


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No table in .* could be used"):
        survey(tmp_path, tmp_path / "out")
