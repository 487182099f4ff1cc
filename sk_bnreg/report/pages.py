"""Reports: a comparison, or a survey, as one HTML page that needs nothing else."""

import re
import warnings
from io import StringIO
from pathlib import Path

import numpy as np

from sk_bnreg.estimators.pipelines import network_in
from sk_bnreg.report.diagnosis_displays import InvarianceDisplay, NormTrajectoryDisplay
from sk_bnreg.report.displays import (
    L2PathDisplay,
    LearningCurvesDisplay,
    PosteriorDisplay,
    SchemeComparisonDisplay,
)
from sk_bnreg.report.survey_displays import CriticalDifferenceDisplay, SurveyDisplay

_INK = "#010203"  # stands for the page's colour of text while a figure is drawn
_STYLE = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "axes.facecolor": "none",
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "sk_bnreg",
    "text.parse_math": False,  # a scheme's name may hold dollars
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_ABOUT = ("command", "model", "table", "target", "task")
_TUNED = ("batch_norm", "l2", "l2_targets", "learning_rate_init")


def write_report(comparison, path, about):
    """Write a comparison as one self-contained HTML page.

    Parameters
    ----------
    comparison : SchemeComparison
        Without `plan`, `tuning` or `best_estimator_` the page lacks what they would tell.
    path : path
    about : dict of str to str
        What the page says of its origin: `table`, `target`, `task`, `command`, and `model`,
        the file that holds the best estimator.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from sk_bnreg import SchemeComparison
    >>> scores = {"scheme": ["old", "new"] * 3, "score": [0.70, 0.80, 0.72, 0.81, 0.71, 0.82]}
    >>> frame = pd.DataFrame({**scores, "fold": [0, 0, 1, 1, 2, 2], "repeat": 0})
    >>> comparison = SchemeComparison(frame, {"old": {}, "new": {}}, "accuracy", rope=0.01, test_ratio=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     comparison.report(f"{folder}/report.html", table="customers.csv")
    ...     "customers.csv" in Path(f"{folder}/report.html").read_text(encoding="utf-8")
    True
    """
    network, _ = network_in(comparison.best_estimator_)
    with_interaction = {"plain", "l2", "bn", "bn+l2"} <= set(comparison.schemes)
    _write_page(
        path,
        "comparison.html.jinja",
        about,
        answers=comparison.verdicts(),
        best_against=_is_best_against(comparison),
        comparison=comparison,
        figures=_figures(comparison, network),
        diagnosis=comparison.diagnosis,
        diagnosis_figures=[] if comparison.diagnosis is None else _diagnosis_figures(comparison.diagnosis),
        study=None if comparison.study is None else _study(comparison.study),
        headline=_headline(comparison),
        interaction=comparison.interaction() if with_interaction else None,
        params={} if network is None else _params(network),
        plan=comparison.plan,
        scores=comparison.table(),
    )


def write_survey(survey, path, about):
    """Write a survey as one self-contained HTML page.

    Parameters
    ----------
    survey : Survey
    path : path
    about : dict of str to str
        `command`, by which the survey was made.
    """
    import matplotlib as mpl

    answers, ranking = survey.answers(), survey.ranking()
    tasks = survey.tables()["task"]
    by_task = {f"all {len(tasks)} tables": answers}
    if tasks.nunique() > 1:
        by_task |= {f"{n} tables, {task}": survey.answers(task) for task, n in tasks.value_counts().items()}
    with mpl.rc_context(_STYLE):
        figures = [
            {
                "svg": _svg(SurveyDisplay.from_survey(survey).figure_, "questions"),
                "question": "What do the tables say of each question?",
                "reading": "A dot is a table: the mean score of the first scheme less that of the second. Diamonds are "
                "medians over tables. Differences in the shaded region do not matter.",
                "wide": True,
            },
            {
                "svg": _svg(CriticalDifferenceDisplay.from_scores(survey.scores()).figure_, "ranks"),
                "question": "Which schemes differ over these tables?",
                "reading": "Mean ranks, the best on the left. A bar joins the schemes under its dots, of which no two "
                "differ by Wilcoxon's signed-rank test, adjusted by Holm's method for all pairs.",
                "wide": True,
            },
        ]
    _write_page(
        path,
        "survey.html.jinja",
        about,
        by_task=by_task,
        figures=figures,
        overall=survey.overall(),
        ranking=ranking,
        scores=survey.scores(),
        survey=survey,
        tables=survey.tables(),
        words={"helps": "helps", "hurts": "hurts", "redundant": "is redundant", "undecided": "is undecided"},
    )


def _write_page(path, template, about, **context):
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("sk_bnreg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(signed=_signed, percent=_percent, p_value=_p_value, short=_short)
    page = pages.get_template(template).render(about={**dict.fromkeys(_ABOUT, ""), **about}, **context)
    Path(path).write_text(page, encoding="utf-8")


def _is_best_against(comparison):
    """Tell whether the verdicts set the best scheme against each other one, for want of a question."""
    return comparison.verdicts()[0].question.subject == f"scheme {comparison.best_scheme!r}"


def _headline(comparison):
    """Return the verdicts without figures: clauses of a subject, a verdict and what it is given."""
    answers = comparison.verdicts()
    if not _is_best_against(comparison):
        verbs = {"helps": "helps", "hurts": "hurts"}
        return [
            (question.subject, verbs.get(c.verdict, f"is {c.verdict}"), f"given {question.given}")
            for question, c in ((answer.question, answer.contrast) for answer in answers)
        ]
    found = [answer.contrast.verdict for answer in answers]
    words = {"helps": "better than", "redundant": "no different from", "undecided": "undecided against"}
    counts = [(word, sum(verdict == name for verdict in found)) for name, word in words.items()]
    clauses = [("", word, f"{n} of {len(answers)} others") for word, n in counts if n]
    return [(comparison.best_scheme, "scores best", ""), *clauses]


def _figures(comparison, network):
    """Return of each figure its SVG, its question, how to read it, and its data where no table has them."""
    import matplotlib as mpl

    n_folds = f"{comparison.n_folds} folds"
    with mpl.rc_context(_STYLE):
        figures = [
            {
                "svg": _svg(SchemeComparisonDisplay.from_comparison(comparison).figure_, "schemes"),
                "question": f"How far is each scheme from {comparison.best_scheme}?",
                "reading": f"Large dots are mean differences in {comparison.metric}, lines their corrected 95 % "
                f"intervals, small dots single folds ({n_folds}), numbers mean scores. Differences in the shaded "
                "region do not matter. The table of schemes has the figures.",
            },
            {
                "svg": _svg(PosteriorDisplay.from_comparison(comparison).figure_, "posteriors"),
                "question": "How probable is each answer?",
                "reading": "Each curve is the posterior density of a mean difference, scaled to its peak. Its parts "
                "left of, within and right of the shaded region are the probabilities of worse, same and better. "
                "The table of answers has the figures.",
            },
        ]
        for strength, name in (("budget", "decay budget D"), ("l2", "l2")):
            if comparison.tuning is None or not _has_path(comparison.tuning, strength):
                continue
            display = L2PathDisplay.from_comparison(comparison, strength=strength)
            reading = (
                f"Inner score at each {name}, with the best of the learning rates tried there in each fold; mean of "
                f"{n_folds} and one standard error. The vertical axis does not start at 0. A best of more rates is "
                "more optimistic: the data tell how many there were."
            )
            if strength == "budget":
                reading += " Schemes without L2 are horizontal lines; all their candidates are learning rates."
            question = f"Which {name} was best, once the learning rate had been chosen for it?"
            data = display.frame()
            figures.append(
                {"svg": _svg(display.figure_, strength), "question": question, "reading": reading, "data": data}
            )
        if network is not None:
            display = LearningCurvesDisplay.from_estimators({"best model": network})
            figures.append(
                {
                    "svg": _svg(display.figure_, "curves"),
                    "question": "Did the best model train long enough, and did it overfit?",
                    "reading": "Loss per epoch in training, and in validation where early stopping watched it; the "
                    "large dot marks the epoch whose weights were kept.",
                    "data": display.frame().drop(columns="network"),
                }
            )
    return figures


def _diagnosis_figures(diagnosis):
    """Return the figures of what L2 did in the best model."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        figures = [
            {
                "svg": _svg(InvarianceDisplay.from_diagnosis(diagnosis).figure_, "invariances"),
                "question": "What can L2 shrink for free?",
                "reading": "Groups of parameters multiplied or divided by 3, and the largest change of an output that "
                "this made. Left of the dashed line the function stays as it is: L2 can shrink the group "
                "without limiting the function. Colours and shapes are what theory says of each.",
                "data": diagnosis.invariances.reset_index(),
            }
        ]
        seen = diagnosis.trajectory
        for quantity, question, reading in (
            ("norm", "How did the norms move?", "Norm of each role's parameters in each layer after every epoch."),
            (
                "angle",
                "Did L2 set the pace of the weights?",
                "Angle by which a step turned the weights of the median unit. Dashed: where learning rate and L2 lead "
                "to, once decay and growth of the norm are balanced.",
            ),
        ):
            if seen is None or seen[quantity].isna().all():
                continue
            display = NormTrajectoryDisplay.from_diagnosis(diagnosis, quantity=quantity)
            figures.append(
                {
                    "svg": _svg(display.figure_, quantity),
                    "question": question,
                    "reading": reading,
                    "data": display.frame(),
                }
            )
    return figures


def _study(study):
    """Return how an Optuna study's trials ended, and Optuna's own figures of it."""
    import matplotlib as mpl
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

    states = [trial.state.name.lower() for trial in study.trials if trial.state.is_finished()]
    values = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    plots = {
        plot_optimization_history: (
            "Did the study still improve?",
            "The objective of each complete trial in their order, and the best so far.",
        )
    }
    if np.ptp(values) > 0:
        plots[plot_param_importances] = (
            "Which parameters mattered?",
            "The share of the variance of the objective, over the whole search space, that each parameter explains "
            "(fANOVA, over the complete trials).",
        )
    figures = []
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for plot, (question, reading) in plots.items():
            figure = plot(study).figure
            _recolour(figure)
            svg = _svg(figure, plot.__name__)
            figures.append({"svg": svg, "question": question, "reading": reading, "wide": True})
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "fail") if state in states)
    return {"name": study.study_name, "counts": counts, "best": study.best_trial, "figures": figures}


def _recolour(figure):
    """Give a figure that another library drew the page's background and colour of text."""
    from matplotlib.text import Text

    figure.set_size_inches(8, 4)
    for text in figure.findobj(Text):
        text.set_color(_INK)
    for axes in figure.axes:
        axes.set_facecolor("none")
        axes.set_title("")
        axes.set_title("", loc="left")
        if axes.get_legend():
            axes.get_legend().get_frame().set(facecolor="none", edgecolor="none")
        axes.grid(color=_INK, alpha=0.15)
        axes.tick_params(color=_INK)
    figure.tight_layout()


def _has_path(tuning, strength):
    return tuning["budget"].isna().any() if strength == "l2" else (tuning["budget"] > 0).any()


def _svg(figure, name):
    """Return a figure as SVG that stands in a page: its colour of text, its font, ids of its own, no style."""
    from markupsafe import Markup
    from matplotlib import pyplot as plt

    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    plt.close(figure)
    svg = file.getvalue()
    svg = svg[svg.index("<g ") : svg.rindex("</svg>")]  # within are drawings alone, the names in them escaped
    svg = re.sub(
        r' id="(figure|axes|patch|text|line2d|\w*Collection|matplotlib\.axis|xtick|ytick|legend)_\d+"', "", svg
    )
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", svg)
    width, height = (72 * inches for inches in figure.get_size_inches())
    return Markup(f'viewBox="0 0 {width:g} {height:g}">{svg.replace(_INK, "currentColor")}</svg>')


def _params(network):
    """Return the parameters of a network that were tuned or are not the defaults."""
    defaults = type(network)().get_params()
    return {name: value for name, value in network.get_params().items() if name in _TUNED or value != defaults[name]}


def _signed(value):
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _percent(value):
    return f"{100 * value:.1f} %"


def _p_value(value):
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _short(value):
    """Return a number with the digits that matter, or words where there is none."""
    if isinstance(value, float):
        return "none" if np.isnan(value) else f"{value:.4g}"
    return str(value)
