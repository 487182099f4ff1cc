"""The pages say what the comparison says, and need nothing but themselves."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import optuna
import pytest

from sk_bnreg.study.schemes import SCHEMES


class Page(HTMLParser):
    """The tables of a page as lists of rows, its tags and its text."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.tags, self.text, self.in_cell = [], [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data.strip()


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    comparison.report(path, table="customers.csv", command="sk-bnreg compare customers.csv")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def survey_page(made_up_survey, tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "survey.html"
    made_up_survey.report(path, command="sk-bnreg survey tables")
    return path.read_text(encoding="utf-8")


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-").replace("±", "").replace(" %", ""))


def test_tables_show_the_comparisons_figures(page, comparison):
    answers, schemes, *_ = Page(page).tables
    for row, answer in zip(answers[1:], comparison.verdicts(), strict=True):
        assert row[1] == answer.contrast.verdict
        assert number(row[2]) == pytest.approx(answer.contrast.mean, abs=5e-5)
        c = answer.contrast
        expected = [100 * c.p_worse, 100 * c.p_equivalent, 100 * c.p_better]
        assert [number(cell) for cell in row[4:7]] == pytest.approx(expected, abs=0.05)
        assert number(row[8]) == pytest.approx(answer.contrast.resolution, abs=5e-5)
    expected = comparison.table()
    assert [row[0] for row in schemes[1:]] == list(expected.index)
    assert [number(row[1]) for row in schemes[1:]] == pytest.approx(list(expected["score"]), abs=5e-5)
    others = [row for row in schemes[1:] if row[0] != comparison.best_scheme]
    assert [number(row[2]) for row in others] == pytest.approx(
        [expected.loc[row[0], "difference"] for row in others], abs=5e-5
    )


def test_it_begins_with_the_answer_and_ends_with_how_to_repeat_it(page, comparison):
    text = " ".join(Page(page).text.split())
    headline = re.search(r"<h1>(.*?)</h1>", page, flags=re.S).group(1)
    for answer in comparison.verdicts():
        assert answer.question.subject in headline
        assert answer.contrast.verdict in headline
    assert "sk-bnreg compare customers.csv" in text
    assert "random_state" in text
    assert "torch 2.6.0" in text
    assert 'joblib.load("best_estimator.joblib")' in text


@pytest.mark.parametrize("kind", ["comparison", "survey"])
def test_nothing_is_fetched_and_it_is_small(kind, page, survey_page):
    page = survey_page if kind == "survey" else page
    assert len(page.encode()) < 1_500_000
    without_namespaces = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert not re.search(r"https?://|<script|<link|@import|url\((?!#)", without_namespaces)
    figures = [attrs for tag, attrs in Page(page).tags if tag == "svg"]
    assert figures
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in figures)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_names_are_escaped(make_comparison, survey_page, tmp_path):
    make_comparison(rename=lambda name: f"<b>{name}</b> & $x$").report(tmp_path / "report.html")
    assert "<b>" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in survey_page


def test_what_is_not_known_is_left_out(comparison, tmp_path):
    bare = replace(
        comparison, plan=None, tuning=None, best_estimator_=None, diagnosis=None, caveat="Chosen on the same folds."
    )
    bare = replace(bare, frame=bare.frame[["scheme", "repeat", "fold", "seed", "score"]])
    bare.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Chosen on the same folds." in page
    assert "What was tuned" not in page
    assert "joblib.load" not in page
    assert len(Page(page).tables) == 2


def test_all_built_in_schemes_fit_on_it(make_comparison, tmp_path):
    make_comparison(names=tuple(SCHEMES)).report(tmp_path / "report.html")
    _, schemes, *_ = Page((tmp_path / "report.html").read_text(encoding="utf-8")).tables
    assert [row[0] for row in schemes[1:]] == list(SCHEMES)


def test_a_survey_shows_every_question_and_every_table(made_up_survey, survey_page):
    tables = Page(survey_page)
    questions, *_, wins = tables.tables
    for row, answer in zip(questions[1:], made_up_survey.answers(), strict=True):
        assert row[1] == answer.test.verdict
        assert number(row[2]) == pytest.approx(answer.test.median, abs=5e-5)
        assert row[7] == " / ".join(map(str, answer.answers.values()))
    scores = made_up_survey.scores()
    assert wins[0][3:] == list(scores.columns)
    assert np.array([[number(cell) for cell in row[3:]] for row in wins[1:]]) == pytest.approx(
        scores.to_numpy(), abs=5e-5
    )
    assert "broken (it has no target)" in tables.text


def test_the_package_has_the_templates():
    assert {path.name for path in (files("sk_bnreg.report") / "templates").iterdir()} == {
        "comparison.html.jinja", "page.html.jinja", "survey.html.jinja"
    }  # fmt: skip


def test_what_l2_did_in_the_best_model_is_told(comparison, tmp_path):
    comparison.report(tmp_path / "with.html")
    page = unescape((tmp_path / "with.html").read_text(encoding="utf-8"))
    section = page[page.index('<section aria-labelledby="diagnosis">') :]
    section = section[: section.index("</section>")]
    assert all(f"<li>{sentence}</li>" in section for sentence in comparison.diagnosis.sentences)
    assert section.count("<svg") == 3
    for name, row in comparison.diagnosis.invariances.iterrows():
        assert name in section
        assert f"{row['change']:.4g}" in section
    replace(comparison, diagnosis=None).report(tmp_path / "without.html")
    assert 'aria-labelledby="diagnosis"' not in (tmp_path / "without.html").read_text(encoding="utf-8")


def test_an_optuna_study_is_told_with_the_importance_of_its_parameters(comparison, made_up_study, tmp_path):
    replace(comparison, study=made_up_study).report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<section aria-labelledby="study">') :]
    section = section[: section.index("</section>")]
    best = max(made_up_study.trials[:30], key=lambda trial: trial.value)
    assert f"30 complete, 1 pruned; the best is trial {best.number}, {best.value:.4g}:" in section
    assert f"<dt>l2_budget</dt><dd>{best.params['l2_budget']:.4g}</dd>" in section
    assert section.count("<svg") == 2
    shares = {name: float(value) for name, value in optuna.importance.get_param_importances(made_up_study).items()}
    assert shares["l2_budget"] > 0.9
    assert f"{shares['l2_budget']:.2f}" in section
    comparison.report(tmp_path / "without.html")
    assert 'aria-labelledby="study"' not in (tmp_path / "without.html").read_text(encoding="utf-8")
