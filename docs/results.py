"""Write docs/results.md and its figures from saved surveys.

sk-bnreg survey TABLES --out DIR && python docs/results.py DIR/survey.parquet [LARGER/survey.parquet]

The first is what the page tells of, the second one of the same tables with more rows: docs/survey.parquet and
docs/survey_large.parquet. docs/survey_single.parquet and docs/survey_plain.parquet are of the surveys before, of single
networks, beside which the page puts the answers.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from sk_bnreg import CriticalDifferenceDisplay, SurveyDisplay
from sk_bnreg.stats.folds import STRONG, WORDS
from sk_bnreg.study.questions import FIXED
from sk_bnreg.study.survey import Survey

DOCS = Path(__file__).parent
FIRST = {
    ("bn+l2", "bn"): "L2 on the weights, given batch norm",
    ("bn+l2", "l2"): "batch norm, given L2 on the weights",
    ("bn+l2+gamma+beta", "bn+l2"): "L2 on gamma and beta, given both",
    ("bn+l2+dropout", "bn+l2"): "dropout, given both",
}
FOUND = {}  # by view
BEFORE = {"survey_single.parquet": "single", "survey_plain.parquet": "plain"}  # files of earlier surveys


def main(path, larger=None, out=DOCS):
    survey = Survey.load(path)
    large = None if larger is None else Survey.load(larger)
    parts = [first(survey, large), *by_loss(survey), setting(survey), *questions(survey, out), *ensemble(survey, out)]
    parts += [*more_rows(survey, large)] if large else []
    parts += [*changed(survey), *ranks(survey, out), *tuning(survey), *tables(survey), LIMITS]
    if survey.skipped:
        parts += ["Left out: " + "; ".join(f"{name} ({why})" for name, why in survey.skipped.items())]
    (out / "results.md").write_text("\n".join(parts) + "\n")


def first(survey, large):
    """The first screen: how many tables have which word."""
    views = {f"{survey.settings['max_rows']:,}": survey}
    if large:
        views[f"{large.settings['max_rows']:,}"] = large
    rows = [
        {"what, given what": name, "rows up to": size, **counted(view, key)}
        for key, name in FIRST.items()
        for size, view in views.items()
    ]
    return TITLE.format(
        n=len(survey.tables()), networks=survey.n_networks, rope=survey.rope, counts=markdown(pd.DataFrame(rows)),
        larger="" if large is None else LARGER.format(n=len(large.tables()), rows=large.settings["max_rows"]),
    )  # fmt: skip


def by_loss(survey):
    """The same counts by log loss, and what all tables say together."""
    view = survey.by(next(name for name in survey.metrics if "log_loss" in name))
    yield BY_LOSS.format(n=len(view.tables()))
    yield markdown(pd.DataFrame([{"what, given what": name, **counted(view, key)} for key, name in FIRST.items()]))
    yield TOGETHER + "\n".join(f"* {by_schemes(survey)[key].summary()}" for key in FIRST) + "\n"


def setting(survey):
    tables, network = survey.tables(), survey.settings["network"]
    of_task, n_used = tables["task"].value_counts(), tables["n_used"]
    return SETTING.format(
        **survey.settings | {"rope": survey.rope}, n_schemes=len(survey.schemes), n_networks=survey.n_networks,
        n_tables=len(tables), n_classification=of_task["classification"], n_regression=of_task["regression"],
        least=n_used.min(), most=n_used.max(), n_fits=tables["n_fits"].sum(), layers=network["hidden_layer_sizes"],
        epochs=network["max_iter"], solver=network["solver"], schedule=network["learning_rate"],
        Ds=", ".join(f"{D:g}" for D in survey.settings["budgets"]),
    )  # fmt: skip


def questions(survey, out):
    """Every question: all tables together, and how many say what by themselves."""
    by_task = {task: survey.answers(task) for task in ("classification", "regression")}
    rows, extremes = [], []
    for i, answer in enumerate(survey.answers()):
        test, schemes = answer.test, f"{answer.question.scheme} - {answer.question.against}"
        rows.append({
            "what, given what": f"{answer.question.subject}, given {answer.question.given}",
            "schemes": schemes,
            "all": f"{test.median:+z.4f}",
            **{task: f"{found[i].test.median:+z.4f}" for task, found in by_task.items()},
            "P(worse)": f"{test.p_worse:.2f}", "P(same)": f"{test.p_equivalent:.2f}",
            "P(better)": f"{test.p_better:.2f}", "word": f"**{test.verdict}**", "p (Holm)": f"{answer.p_holm:.2g}",
            " / ".join(WORDS): " / ".join(str(n) for n in answer.answers.values()),
        })  # fmt: skip
        ordered = answer.differences.sort_values()
        extremes.append({
            "question": schemes,
            "largest gain": f"{ordered.iloc[-1]:+.4f} ({ordered.index[-1]})",
            "largest loss": f"{ordered.iloc[0]:+.4f} ({ordered.index[0]})",
            "tables beyond the rope, better": (ordered > survey.rope).sum(), "worse": (ordered < -survey.rope).sum(),
        })  # fmt: skip
    SurveyDisplay.from_survey(survey).figure_.savefig(out / "questions.svg")
    yield "## The questions\n"
    yield "![Differences on each table, question by question](questions.svg)\n"
    yield QUESTIONS
    yield markdown(pd.DataFrame(rows))
    yield "The extremes, mean differences over the folds of one table:\n"
    yield markdown(pd.DataFrame(extremes))


def ensemble(survey, out):
    """What a regulariser is worth to one network, and to the mean of several."""
    one, mean = survey.single, survey
    gains = {name: mean.scores()[name] - one.scores()[name] for name in ("plain", "l2", "bn", "bn+l2", "bn+l2+dropout")}
    single, several = by_schemes(one), by_schemes(mean)
    rows = [
        {
            "what, given what": name,
            "one network": f"{single[key].test.median:+z.4f}", "word": single[key].test.verdict,
            f"mean of {survey.n_networks}": f"{several[key].test.median:+z.4f}",
            "its word": several[key].test.verdict,
            "nearer to 0 on": int((several[key].differences.abs() < single[key].differences.abs()).sum()),
            "another word on": differing(one, mean, key)[0],
        }
        for key, name in FIRST.items()
    ]  # fmt: skip
    figure, axes = plt.subplots(1, len(FIRST), figsize=(10, 3.2), layout="constrained")
    for ax, (key, name) in zip(axes, FIRST.items(), strict=True):
        x, y = single[key].differences, several[key].differences
        most = 1.1 * max(x.abs().max(), y.abs().max(), 2 * survey.rope)
        ax.axvspan(-survey.rope, survey.rope, color="0.5", alpha=0.15, linewidth=0)
        ax.axhspan(-survey.rope, survey.rope, color="0.5", alpha=0.15, linewidth=0)
        ax.plot([-most, most], [-most, most], color="0.5", linewidth=1)
        ax.plot(x, y[x.index], "o", markersize=4.5, alpha=0.6, mew=0)
        ax.set(xlim=(-most, most), ylim=(-most, most), title=name.replace(", given", ",\ngiven"))
        ax.set_xlabel("to one network")
        ax.locator_params(nbins=4)
    axes[0].set_ylabel(f"to the mean of {survey.n_networks}")
    figure.savefig(out / "ensemble.svg", metadata={"Date": None})
    plt.close(figure)
    helped, n = min((gain > 0).sum() for gain in gains.values()), len(mean.tables())
    yield ENSEMBLE.format(
        networks=survey.n_networks,
        gains=", ".join(f"{name} {gain.median():+.4f}" for name, gain in gains.items()),
        helped=f"all {n}" if helped == n else f"{helped} of {n}",
    )  # fmt: skip
    yield markdown(pd.DataFrame(rows))


def more_rows(survey, large):
    """On how many tables the word is another with more rows."""
    common = [name for name in large.tables().index if large.tables()["n_used"][name] > survey.tables()["n_used"][name]]
    rows = []
    for n_networks, (few, many) in {survey.n_networks: (survey, large), 1: (survey.single, large.single)}.items():
        for key, name in FIRST.items():
            if key not in by_schemes(many):
                continue
            other, opposed = differing(few, many, key, common)
            rows.append({
                "what, given what": name, "networks": n_networks, "another word on": f"{other} of {len(common)}",
                "another strong word on": opposed,
                "median difference, fewer rows": f"{by_schemes(few)[key].differences[common].median():+z.4f}",
                "more rows": f"{by_schemes(many)[key].differences[common].median():+z.4f}",
            })  # fmt: skip
    yield MORE_ROWS.format(rows=large.settings["max_rows"], n=len(common), **settings_of(large))
    yield markdown(pd.DataFrame(rows))


def differing(one, other, key, names=None):
    """Count the tables on which two surveys have different words, and those where both are strong."""
    names = list(one.tables().index) if names is None else names
    pairs = [tuple(view.comparison(name).contrast(*key).verdict for view in (one, other)) for name in names]
    return sum(a != b for a, b in pairs), sum(a != b and {a, b} <= set(STRONG) for a, b in pairs)


def changed(survey):
    """The answers beside those of the surveys before."""
    now = by_schemes(survey.single)
    before = {name: by_schemes(Survey.load(DOCS / file)) for file, name in BEFORE.items()}
    rows, n_other = [], dict.fromkeys(before, 0)
    for key in before["single"]:
        then = {name: answers[key] for name, answers in before.items()}
        for name, answer in then.items():
            n_other[name] += answer.test.verdict != now[key].test.verdict
        all_of = {"here": now[key], **then}
        rows.append({
            "schemes": " - ".join(key),
            **{f"{name}: median": f"{answer.test.median:+z.4f}" for name, answer in all_of.items()},
            **{f"{name}: undecided": answer.answers["undecided"] for name, answer in all_of.items()},
        })  # fmt: skip
    yield CHANGED.format(n=len(rows), **n_other, **settings_of(survey))
    yield markdown(pd.DataFrame(rows))


def ranks(survey, out):
    scores = survey.scores()
    found = survey.ranking()
    CriticalDifferenceDisplay.from_scores(scores).figure_.savefig(out / "ranks.svg")
    yield "## All schemes\n"
    yield f"![Mean ranks of {len(found.mean_ranks)} schemes](ranks.svg)\n"
    yield found.summary() + "\n"


def tuning(survey):
    """Which budgets tuning chose."""
    of_l2 = ["l2", "bn+l2", "bn+l2+gamma+beta", "l2" + FIXED, "bn+l2" + FIXED]
    chosen = survey.frame[survey.frame["scheme"].isin(of_l2)]
    labels = ["D = 0", "to 0.2", "0.2 to 2", "over 2"]
    chosen = chosen.assign(chosen=pd.cut(chosen["budget"], [-1, 0, 0.2, 2, 100], labels=labels))
    shares = pd.crosstab(chosen["scheme"], chosen["chosen"], normalize="index").mul(100).round().astype(int)
    yield BUDGETS
    yield markdown(shares.astype(str).add(" %").reset_index())


def tables(survey):
    scores, about = survey.scores(), survey.tables()
    tuned = scores.drop(columns=[name for name in scores if name.endswith(FIXED)])
    names = ("plain", "l2", "bn", "bn+l2", "bn+l2+gamma+beta", "bn+l2+dropout")
    words = {key: {name: survey.comparison(name).contrast(*key).verdict for name in scores.index} for key in FIRST}
    yield "## Table by table\n"
    yield markdown(pd.DataFrame({
        "table": scores.index, "score": about["metric"], "rows": about["n_used"],
        **{name: scores[name].map("{:.4f}".format) for name in names if name in scores},
        "best of all (tuned rate)": tuned.idxmax(axis=1),
    }))  # fmt: skip
    yield "What each says by itself:\n"
    yield markdown(pd.DataFrame({"table": scores.index, **{FIRST[key]: of.values() for key, of in words.items()}}))


def by_schemes(survey):
    """Return the answers by the two schemes that they compare; each view of a survey is asked once."""
    view = id(survey.frame), survey.n_networks, survey.metric
    if view not in FOUND:
        answers = {(answer.question.scheme, answer.question.against): answer for answer in survey.answers()}
        FOUND[view] = survey.frame, answers  # the frame too, so that no other gets its id
    return FOUND[view][1]


def counted(survey, key):
    """Count tables by word, for means of networks and in brackets for one."""
    several, one = (dict(by_schemes(view)[key].answers) for view in (survey, survey.single))
    return {name: f"{several[name]} ({one[name]})" for name in WORDS}


def settings_of(survey):
    return {name: survey.settings[name] for name in ("cv", "n_repeats", "n_seeds", "n_candidates", "inner_cv")}


def markdown(frame):
    lines = [frame.columns, ["---"] * frame.shape[1], *frame.astype(str).itertuples(index=False)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


TITLE = """# Batch norm, L2, or both? What {n} tables say

On how many tables does it make a difference that matters, more than {rope:g} of accuracy or R2? For the estimator as it
comes, which predicts the mean of {networks} networks, and in brackets for one network:

{counts}
Read: *helps*: keep it. *Hurts*: leave it out. *Redundant*: surely no difference that matters. *Dispensable*: surely no
gain that matters, leave it out; *harmless*: surely no loss that matters, keep it if you like. "Surely": at more than
95 %, by the table's own folds; *undecided*: nothing is sure. Networks with and without were tuned with the same effort.
{larger}On your own table: `sk-bnreg compare`.
"""

LARGER = "{n} of the tables have more rows, and were asked again with up to {rows:,}. "

BY_LOSS = """## By log loss

Of {n} classifications, by D2, the share of the log loss that is explained:
"""

TOGETHER = """And what all tables say together, by accuracy or R2, for means of networks:

"""

SETTING = """## What was done

`sk-bnreg survey` ran {n_schemes} schemes on {n_tables} tables ({n_classification} classifications, scored by
accuracy, and {n_regression} regressions, scored by R2) of {least:,} to {most:,} rows; larger tables were cut to
{max_rows:,} random rows. Each scheme was tuned with {n_candidates} candidates on {inner_cv} inner folds inside each of
{cv} x {n_repeats} outer folds, and trained there from {n_seeds} seeds, which make means of {n_networks} networks:
{n_fits:,} network fits, with hidden layers of {layers} units, at most {epochs} epochs of {solver} on the {schedule}
schedule, embeddings of numeric features, and the best epoch on a tenth of the training rows, behind skrub's steps
for mixed tables. Decay budgets D tried: {Ds}.

A scheme "fixed rate" keeps the default learning rate and tunes its L2 alone; the others tune both. "A fifth" is
the rule of Ioffe & Szegedy 2015 (section 4.2.1): with batch norm, a fifth of the L2 that is best without.
Differences within {rope:g} count as none.
"""

QUESTIONS = """Of the means of networks. Medians over tables are Hodges-Lehmann estimates. P(worse), P(same) and
P(better) are of the Bayesian signed-rank test (Benavoli et al. 2017) over tables, with that rope; p is Wilcoxon's,
adjusted by Holm's method for all questions. "Redundant" with a small p is a difference that is real and, on most
tables, too small to matter. The last column counts the tables whose own folds decide, by the Bayesian correlated
t-test.
"""

ENSEMBLE = """## Is L2, or batch norm, redundant given an ensemble?

The mean of {networks} networks is itself a regulariser: beside one network it gains, in the median over tables,
{gains}; with each of these schemes it is better on {helped} tables. What is left for the others to do?

![What a regulariser adds to one network, and to the mean of several, table by table](ensemble.svg)

Points nearer to the horizontal axis than to the diagonal are tables on which the mean of networks makes up for the
regulariser; the shaded bands are differences too small to matter.
"""

MORE_ROWS = """## With up to {rows:,} rows

{n} tables have more rows than were used above. Here with {n_candidates} candidates, {cv} x {n_repeats} outer folds
and {n_seeds} seeds:
"""

CHANGED = """## What changed against the surveys before

Two surveys of the same tables and rows were made before: "single" of networks of two layers of 128 units, 30 epochs and
periodic embeddings, "plain" of the same without embeddings and trained to the last epoch; one network of each scheme
and fold, one repeat. Here are single networks too, for comparison. Of {n} words over tables {single} differ
from those of "single" and {plain} from those of "plain". Fewer tables are undecided, since a fold's score is the mean
over {n_seeds} seeds here, and the folds were drawn {n_repeats} times; medians differ since the networks do.
"""

BUDGETS = """## What tuning chose

How often tuning on inner folds chose a decay budget, in per cent of all rows of the survey. L2 that was chosen
at D far below 1 was as good as none.
"""

LIMITS = """## What this cannot say

* A word over tables is about most tables, not about each: "redundant" leaves room for the extremes above. On your own
  table, `sk-bnreg compare` tells.
* The tables are small or were made small, and most are old benchmarks.
* One architecture, one schedule, one solver. On a network that overfits more, L2 has more to give.
* A scheme with L2 spends its candidates on pairs of learning rate and budget, one without on the rate alone: equal
  effort, not equal resolution.
* The tables are not a random sample of anybody's.
* Accuracy and R2 have different scales; the columns for the two tasks are the cleaner reading.
"""


if __name__ == "__main__":
    main(*sys.argv[1:3])
