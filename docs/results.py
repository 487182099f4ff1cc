"""Write docs/results.md and its figures from a saved survey.

sk-bnreg survey TABLES --out DIR && python docs/results.py DIR/survey.parquet

docs/survey.parquet is the survey that docs/results.md tells of; docs/survey_plain.parquet is one of weaker networks,
beside which it puts the answers.
"""

import sys
from pathlib import Path

import pandas as pd

from sk_bnreg import CriticalDifferenceDisplay, SurveyDisplay
from sk_bnreg.study.survey import FIXED, Survey

DOCS = Path(__file__).parent


def main(path):
    survey = Survey.load(path)
    answers, tables, scores = survey.answers(), survey.tables(), survey.scores()
    by_task = {task: survey.answers(task) for task in ("classification", "regression")}
    overall = "\n".join(f"* {answer.summary()}" for answer in survey.overall())
    text = [TITLE.format(n_tables=len(tables), answers=overall)]
    network = survey.settings["network"]
    text += [SETTING.format(
        **survey.settings, layers=network["hidden_layer_sizes"], epochs=network["max_iter"], solver=network["solver"],
        schedule=network["learning_rate"], Ds=", ".join(f"{D:g}" for D in survey.settings["budgets"]),
        n_tables=len(tables), n_classification=(tables["task"] == "classification").sum(),
        n_regression=(tables["task"] == "regression").sum(), least=tables["n_used"].min(), most=tables["n_used"].max(),
        n_fits=tables["n_fits"].sum(), n_schemes=scores.shape[1], rope=survey.rope,
    )]  # fmt: skip
    rows = []
    for i, answer in enumerate(answers):
        test, words = answer.test, answer.answers
        rows.append({
            "what, given what": f"{answer.question.subject}, given {answer.question.given}",
            "schemes": f"{answer.question.scheme} - {answer.question.against}",
            "all": f"{test.median:+z.4f}",
            **{task: f"{found[i].test.median:+z.4f}" for task, found in by_task.items()},
            "P(worse)": f"{test.p_worse:.2f}", "P(same)": f"{test.p_equivalent:.2f}",
            "P(better)": f"{test.p_better:.2f}", "word": f"**{test.verdict}**", "p (Holm)": f"{answer.p_holm:.2g}",
            " / ".join(words): " / ".join(str(n) for n in words.values()),
        })  # fmt: skip
    SurveyDisplay.from_survey(survey).figure_.savefig(DOCS / "questions.svg")
    text += ["## The questions\n", "![Differences on each table, question by question](questions.svg)\n"]
    text += [QUESTIONS, markdown(pd.DataFrame(rows))]

    extremes = []
    for answer in answers:
        ordered = answer.differences.sort_values()
        best, worst = ordered.index[-1], ordered.index[0]
        extremes.append({
            "question": f"{answer.question.scheme} - {answer.question.against}",
            "largest gain": f"{ordered.iloc[-1]:+.4f} ({best})", "largest loss": f"{ordered.iloc[0]:+.4f} ({worst})",
            "tables beyond the rope, better": (ordered > survey.rope).sum(), "worse": (ordered < -survey.rope).sum(),
        })  # fmt: skip
    text += ["\nThe extremes, mean differences over the folds of one table:\n", markdown(pd.DataFrame(extremes))]

    text += ["\n## Does it change with the network?\n", *compared(survey, Survey.load(DOCS / "survey_plain.parquet"))]

    ranking = survey.ranking()
    CriticalDifferenceDisplay.from_scores(scores).figure_.savefig(DOCS / "ranks.svg")
    text += [
        "\n## All schemes\n",
        f"![Mean ranks of {len(ranking.mean_ranks)} schemes](ranks.svg)\n",
        ranking.summary(),
    ]

    budgets = survey.frame[survey.frame["scheme"].isin(["l2", "bn+l2", "bn+l2+gamma+beta", "l2" + FIXED,
                                                        "bn+l2" + FIXED])]  # fmt: skip
    shares = budgets.assign(
        chosen=pd.cut(budgets["budget"], [-1, 0, 0.2, 2, 100], labels=["D = 0", "to 0.2", "0.2 to 2", "over 2"])
    )
    shares = pd.crosstab(shares["scheme"], shares["chosen"], normalize="index").mul(100).round().astype(int)
    text += ["\n## What tuning chose\n", BUDGETS, markdown(shares.astype(str).add(" %").reset_index())]

    winners = scores.drop(columns=[name for name in scores if name.endswith(FIXED)])
    each = pd.DataFrame({
        "table": scores.index, "score": tables["metric"], "rows": tables["n_used"],
        **{name: scores[name].map("{:.4f}".format) for name in ("plain", "l2", "bn", "bn+l2", "bn+l2+gamma+beta")},
        "best of all (tuned rate)": winners.idxmax(axis=1),
    })  # fmt: skip
    text += ["\n## Table by table\n", markdown(each), LIMITS]
    if survey.skipped:
        text += ["Left out: " + "; ".join(f"{name} ({why})" for name, why in survey.skipped.items())]
    (DOCS / "results.md").write_text("\n".join(text) + "\n")


def compared(survey, plain):
    """Put the answers beside those of plain networks."""
    before = {(answer.question.scheme, answer.question.against): answer for answer in plain.answers()}
    rows, changed = [], 0
    for answer in survey.answers():
        question, now = answer.question, answer.test
        then = before[question.scheme, question.against].test
        changed += now.verdict != then.verdict
        rows.append({
            "schemes": f"{question.scheme} - {question.against}",
            **{f"{name}: median": f"{test.median:+z.4f}" for name, test in (("here", now), ("plain", then))},
            **{f"{name}: word": test.verdict for name, test in (("here", now), ("plain", then))},
        })  # fmt: skip
    scores = pd.DataFrame({"here": survey.scores().mean(), "plain": plain.scores().mean()})
    means = ", ".join(f"{name} {scores.loc[name, 'here']:.4f} ({scores.loc[name, 'plain']:.4f})" for name in MEANS)
    yield PLAIN.format(means=means, changed=changed, n=len(rows))
    yield markdown(pd.DataFrame(rows))


def markdown(frame):
    lines = [frame.columns, ["---"] * frame.shape[1], *frame.astype(str).itertuples(index=False)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


MEANS = ("plain", "l2", "bn", "bn+l2", "bn+l2+gamma+beta")

PLAIN = """The same survey of the same rows was made before of plain networks: without embeddings of numeric features,
trained to the last epoch. Mean scores here, and of plain networks in brackets: {means}.
Of {n} words {changed} are others.

All of this is of tuned networks. Left at the defaults, on up to 5,000 rows and with eight networks, a model without
batch norm loses more than one without L2 ([accuracy.md](accuracy.md#what-each-choice-is-worth)); but the defaults were
chosen with both.
"""

TITLE = """# Batch norm, L2, or both? What {n_tables} tables say

{answers}
"""

SETTING = """## What was done

`sk-bnreg survey` ran {n_schemes} schemes on {n_tables} tables ({n_classification} classifications, scored by
accuracy, and {n_regression} regressions, scored by R2) of {least:,} to {most:,} rows; larger tables were cut to
{max_rows:,} random rows. Each scheme was tuned with {n_candidates} candidates on {inner_cv} inner folds inside each of
{cv} x {n_repeats} outer folds: {n_fits:,} network fits, with hidden layers of {layers} units, {epochs} epochs of
{solver} on the {schedule} schedule, embeddings of numeric features, and the best of these epochs on a tenth of the
training rows; single networks, behind skrub's steps for mixed tables. Decay budgets D tried: {Ds}.

A scheme "fixed rate" keeps the default learning rate and tunes its L2 alone; the others tune both. "A fifth" is
the rule of Ioffe & Szegedy 2015 (section 4.2.1): with batch norm, a fifth of the L2 that is best without.
Differences within {rope:g} count as none.
"""

QUESTIONS = """Medians over tables are Hodges-Lehmann estimates. P(worse), P(same) and P(better) are of the Bayesian
signed-rank test (Benavoli et al. 2017) over tables, with that rope; p is Wilcoxon's, adjusted by Holm's method for
all questions. "Redundant" with a small p is a difference that is real and, on most tables, too small to matter. The
last column counts the tables whose own folds decide, by the Bayesian correlated t-test.
"""

BUDGETS = """How often tuning on inner folds chose a decay budget, in per cent of all outer folds. L2 that was chosen
at D far below 1 was as good as none.
"""

LIMITS = """
## What this cannot say

* A word over tables is about most tables, not about each: "redundant" leaves room for the extremes above. On your own
  table, `sk-bnreg compare` tells.
* The tables are small or were made small, and most are old benchmarks. With more rows, regularisation matters less.
* One architecture, one schedule, one solver. On a network that overfits more, L2 has more to give.
* A scheme with L2 spends its candidates on pairs of learning rate and budget, one without on the rate alone: equal
  effort, not equal resolution.
* The folds of one table decide little by themselves: most tables end undecided. The statement is about the tables
  together, and they are not a random sample of anybody's.
* Accuracy and R2 have different scales; the columns for the two tasks are the cleaner reading.
"""


if __name__ == "__main__":
    main(sys.argv[1])
