"""The pages say what the comparison says, and need nothing but themselves."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from inspect import signature
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from sk_bnreg import BNMLPClassifier, SchemeComparison, compare_schemes
from sk_bnreg.stats.folds import CONFIDENCE, WORDS
from sk_bnreg.stats.looks import EARLY, MOST_REPEATS, MOST_SEEDS, PILOT_SEEDS
from sk_bnreg.study.held_out import HeldOut
from sk_bnreg.study.plan import Course
from sk_bnreg.study.schemes import QUESTIONS, SCHEMES


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


def read(comparison, folder, **about):
    comparison.report(folder / "report.html", **about)
    return (folder / "report.html").read_text(encoding="utf-8")


def section(page, name):
    """Return the text of a section of a page."""
    found = re.search(f'<section aria-labelledby="{name}">.*?</section>', page, flags=re.S)
    return " ".join(Page(found.group()).text.split())


def of_scores(scores, **about):
    """Return a comparison of schemes with these scores, on 5 folds x 2 repeats."""
    rows = [
        {"scheme": name, "repeat": i // 5, "fold": i % 5, "seed": 0, "score": score}
        for name, values in scores.items()
        for i, score in enumerate(values)
    ]
    frame = pd.DataFrame(rows).assign(**about)
    return SchemeComparison(frame, {name: {} for name in scores}, "accuracy", rope=0.01, test_ratio=0.25)


def spread(mean, sd):
    """Return ten numbers of this mean and standard deviation."""
    pattern = np.array([-1, 1] * 5) / np.sqrt(10 / 9)
    return mean + sd * pattern


# the standard error of ten folds is .59 of their standard deviation, and the t distribution's 95 % quantile 1.83
WORD_OF = {
    "helps": spread(0.03, 0.005),
    "hurts": spread(-0.03, 0.005),
    "redundant": spread(0, 0.003),
    "dispensable": spread(-0.012, 0.005),
    "harmless": spread(0.012, 0.005),
    "undecided": spread(0, 0.05),
}


def of_word(word, **about):
    """Return a comparison in which L2 given batch norm has a word, and L2 without batch norm does nothing."""
    bn, plain = spread(0.8, 0.02), np.full(10, 0.7)
    return of_scores({"plain": plain, "l2": plain, "bn": bn, "bn+l2": bn + WORD_OF[word]}, **about)


def test_tables_show_the_comparisons_figures(page, comparison):
    answers, *_, schemes = Page(page).tables[:2]
    for row, answer in zip(answers[1:], comparison.verdicts(), strict=True):
        c = answer.contrast
        assert row[1] == f"{c.verdict}{c.hint}"
        assert row[2] == WORDS[c.verdict]
        assert number(row[3]) == pytest.approx(c.mean, abs=5e-5)
        assert [number(end) for end in row[4].split(" to ")] == pytest.approx([c.low, c.high], abs=5e-5)
        not_worse, not_better = c.p_equivalent + c.p_better, c.p_equivalent + c.p_worse
        assert [number(cell) for cell in row[5:7]] == pytest.approx([100 * not_worse, 100 * not_better], abs=0.05)
    expected = comparison.table()
    assert [row[0] for row in schemes[1:]] == list(expected.index)
    assert [number(row[1]) for row in schemes[1:]] == pytest.approx(list(expected["score"]), abs=5e-5)
    others = [row for row in schemes[1:] if row[0] != comparison.best_scheme]
    assert [number(row[2]) for row in others] == pytest.approx(
        [expected.loc[row[0], "difference"] for row in others], abs=5e-5
    )
    confirmable = Page(page[page.index('<section aria-labelledby="resolution">') :]).tables[0]
    for row, answer in zip(confirmable[1:], comparison.verdicts(), strict=True):
        assert number(row[1]) == pytest.approx(answer.contrast.sd, abs=5e-5)
        assert number(row[2]) == pytest.approx(answer.contrast.resolution, abs=5e-5)


@pytest.mark.parametrize("word", WORDS)
def test_every_word_comes_with_what_to_do(word, tmp_path):
    page = read(of_word(word), tmp_path)
    little = {"harmless": ", and probably helps by a little", "dispensable": ", and probably hurts by a little"}
    hint = little.get(word, "")
    row = Page(page).tables[0][1]
    assert row[1:3] == [f"{word}{hint}", WORDS[word]]
    headline = " ".join(Page(re.search(r"<h1>.*?</h1>", page, flags=re.S).group()).text.split())
    verb = word if word in ("helps", "hurts") else f"is {word}"
    advice = WORDS[word][0].upper() + WORDS[word][1:]
    assert headline.startswith(f"L2 on the weights {verb} given batch norm{hint}. {advice}. Batch norm helps given L2.")
    # as L2 does nothing without batch norm, the interaction is what it does with it
    interaction = {
        "helps": "does more", "hurts": "does less", "redundant": "does the same", "dispensable": "does no more",
        "harmless": "does no less", "undecided": "is undecided",
    }  # fmt: skip
    assert interaction[word] in section(page, "interaction")


@pytest.mark.parametrize("word", WORDS)
def test_what_it_would_take_is_told_where_a_question_is_open(word, tmp_path):
    comparison = of_word(word, n_train=160, n_test=40)
    text = section(read(comparison, tmp_path), "answers")
    told = "What a definite answer would take" in text
    assert told == (word in ("dispensable", "harmless", "undecided"))
    assert f"L2 on the weights, given batch norm: {comparison.verdicts()[0].outlook}." in text or not told
    assert "batch norm, given L2: " not in text  # that helps


def test_one_network_stands_beside_the_mean_of_several(tmp_path):
    one, mean = of_word("helps"), of_word("harmless")
    frame = pd.concat([one.frame.assign(n_networks=1), mean.frame.assign(n_networks=8)])
    page = read(replace(mean, frame=frame, n_networks=8), tmp_path)
    head, *rows = Page(page[page.index('<section aria-labelledby="sizes">') :]).tables[0]
    assert head == ["Question", "Mean of 8", "One network"]
    for row, of_mean, of_one in zip(rows, mean.verdicts(), one.verdicts(), strict=True):
        for cell, contrast in ((row[1], of_mean.contrast), (row[2], of_one.contrast)):
            assert cell.startswith(f"{contrast.verdict}{contrast.hint}")
            mean_difference = re.search(r"[+\N{MINUS SIGN}]0\.\d{4}", cell).group()
            assert number(mean_difference) == pytest.approx(contrast.mean, abs=5e-5)
    text = section(page, "sizes")
    assert "differ: L2 on the weights, given batch norm, is harmless for the mean and helps for one." in text
    same = replace(mean, frame=pd.concat([mean.frame.assign(n_networks=n) for n in (1, 8)]), n_networks=8)
    assert "Here the words are the same." in section(read(same, tmp_path), "sizes")
    assert 'aria-labelledby="sizes"' not in read(mean, tmp_path)


def test_every_score_has_its_words(comparison, tmp_path):
    first, second = of_word("hurts"), of_word("redundant")
    frame = pd.concat([first.frame.assign(metric="accuracy"), second.frame.assign(metric="d2_log_loss_score")])
    held_out = HeldOut(None, np.array([0, 1]), np.array([0, 1]), True, list(first.schemes))
    ropes = {"accuracy": 0.01, "d2_log_loss_score": 0.015}
    page = read(replace(first, frame=frame, held_out=held_out, ropes=ropes), tmp_path)
    head, row, *_ = Page(page[page.index('<section aria-labelledby="metrics">') :]).tables[0]
    assert head == ["Question", "accuracy, rope ±0.01", "d2_log_loss_score, rope ±0.015"]
    assert row[1].startswith("hurts")
    assert row[2].startswith("redundant")
    assert "tuning went by minus log loss" in section(page, "metrics")
    assert 'aria-labelledby="metrics"' not in read(comparison, tmp_path)


def test_how_the_study_went_is_told(comparison, tmp_path):
    """Two schemes on two folds with two seeds: a question's variance of folds, and what of it seeds have, by hand."""
    scores = {"bn+l2": [0.90, 0.92, 0.80, 0.82], "bn": [0.80, 0.80, 0.80, 0.80]}
    frame = pd.DataFrame(
        [
            {"scheme": name, "repeat": 0, "fold": i // 2, "seed": i % 2, "score": score, "n_fits": 7, "elapsed": 1.0}
            for name, values in scores.items()
            for i, score in enumerate(values)
        ]
    )
    course = Course(n_repeats=1, n_seeds=2, ended="time")
    study = replace(comparison, frame=frame, schemes={name: {} for name in scores}, course=course, tuning=None)
    page = read(study, tmp_path)
    assert course.summary() in " ".join(Page(page).text.split())
    # differences .11 and .01 have the variance .005; those of seeds, .10 and .12, the variance .0002, halved by two
    text = section(page, "tuning")
    assert "2 networks of each tuned scheme in each fold. " in text
    assert "seeds have at most 2.0 %" in text
    assert "14 networks were trained" in text
    assert "looked at after each repeat" not in page
    auto = replace(study, plan=replace(study.plan, n_repeats="auto", n_seeds="auto"))
    page = read(auto, tmp_path)
    assert "a pilot in the first repeat told how many, 32 at most." in section(page, "tuning")
    assert "takes a probability of 99.9 %" in section(page, "resolution")


@pytest.mark.parametrize("n_members", [1, 3])
def test_the_saved_model_is_named(n_members, comparison, tmp_path):
    best = BNMLPClassifier((4,), max_iter=2, n_ensemble=n_members, random_state=0).fit([[0.0], [1.0]] * 10, [0, 1] * 10)
    text = section(read(replace(comparison, best_estimator_=best), tmp_path), "model")
    what = "one network" if n_members == 1 else "the mean of 3 networks"
    assert f"It is {what} of scheme {comparison.best_scheme}, tuned and fitted on all rows." in text


def test_schemes_of_ones_own_are_set_against_the_best(tmp_path):
    base = spread(0.8, 0.02)
    own = {word: base - WORD_OF[word] for word in ("helps", "redundant", "harmless", "undecided")}
    page = read(of_scores({"the best": base + 1e-9, **own}), tmp_path)
    headline = " ".join(Page(re.search(r"<h1>.*?</h1>", page, flags=re.S).group()).text.split())
    assert headline == (
        "the best scores best ; better than 1 of 4 others; no different from 1 of 4 others; "
        "at least as good as 1 of 4 others; undecided against 1 of 4 others."
    )
    rows = Page(page).tables[0][1:]
    assert [row[1].partition(",")[0] for row in rows] == list(own)
    assert rows[1][2] == "take either: no difference that matters"


def test_it_begins_with_the_answer_and_ends_with_how_to_repeat_it(page, comparison):
    text = " ".join(Page(page).text.split())
    headline = re.search(r"<h1>(.*?)</h1>", page, flags=re.S).group(1)
    for answer in comparison.verdicts():
        assert answer.question.subject.lower() in headline.lower()
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
    assert "How the study went" not in page
    assert "joblib.load" not in page
    assert len(Page(page).tables) == 3


def test_all_built_in_schemes_fit_on_it(make_comparison, tmp_path):
    make_comparison(names=tuple(SCHEMES)).report(tmp_path / "report.html")
    _, schemes, *_ = Page((tmp_path / "report.html").read_text(encoding="utf-8")).tables
    assert [row[0] for row in schemes[1:]] == list(SCHEMES)


def test_a_survey_shows_every_question_and_every_table(made_up_survey, survey_page):
    tables = Page(survey_page)
    questions, *_, wins = tables.tables
    _, words, *rows = questions  # the head has two rows
    for row, answer in zip(rows, made_up_survey.answers(), strict=True):
        assert row[1] == answer.test.verdict
        assert number(row[2]) == pytest.approx(answer.test.median, abs=5e-5)
        test = answer.test
        not_worse, not_better = test.p_equivalent + test.p_better, test.p_equivalent + test.p_worse
        assert [number(cell) for cell in row[3:5]] == pytest.approx([100 * not_worse, 100 * not_better], abs=0.05)
        assert dict(zip(words, map(int, row[6:]), strict=True)) == answer.answers
    scores = made_up_survey.scores()
    assert wins[0][3:] == list(scores.columns)
    assert np.array([[number(cell) for cell in row[3:]] for row in wins[1:]]) == pytest.approx(
        scores.to_numpy(), abs=5e-5
    )
    assert "broken (it has no target)" in tables.text


def test_the_guide_has_the_words_the_questions_and_the_numbers():
    chapters = (Path(__file__).parents[2] / f"docs/guide/{name}.md" for name in ("comparing", "verdicts"))
    guide = "\n".join(chapter.read_text(encoding="utf-8") for chapter in chapters)
    rows = re.findall(r"^\| (\w+) \| .* \| (.*) \|$", guide, flags=re.M)
    assert [row for row in rows if row[0] in WORDS] == list(WORDS.items())
    for subject, given, scheme, against in QUESTIONS:
        assert f"| {subject}, given {given} | `{scheme}` against `{against}` |" in guide
    guide = " ".join(guide.split())
    assert f"a pilot of {PILOT_SEEDS} in the first repeat" in guide
    assert f"at most {MOST_SEEDS}." in guide
    assert f"after {MOST_REPEATS} repeats" in guide
    assert f"takes a probability of {EARLY}, the last look {CONFIDENCE}," in guide
    minutes = signature(compare_schemes).parameters["minutes"].default
    assert f"when `--minutes` are over ({minutes:g} if not said)" in guide


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
