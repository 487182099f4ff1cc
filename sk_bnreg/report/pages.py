"""Reports: a comparison, or a survey, as one HTML page that needs nothing else.

The words stand in the templates; what is drawn and computed for them, here.
"""

import re
import warnings
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sk_bnreg.estimators.pipelines import network_in
from sk_bnreg.estimators.preparation import n_networks
from sk_bnreg.report.diagnosis_displays import InvarianceDisplay, NormTrajectoryDisplay
from sk_bnreg.report.displays import (
    L2PathDisplay,
    LearningCurvesDisplay,
    PosteriorDisplay,
    SchemeComparisonDisplay,
    folds_in_words,
)
from sk_bnreg.report.results import Comparison, TableSurvey
from sk_bnreg.report.survey_displays import CriticalDifferenceDisplay, SurveyDisplay
from sk_bnreg.stats.looks import EARLY
from sk_bnreg.stats.tables import counted

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


class _ToBest(NamedTuple):
    """What the best scheme is to another one by a verdict, and what to do."""

    relation: str
    to_do: str


# "hurts" and "dispensable" alone can't be: no scheme has a better mean than the best
_TO_BEST = {
    "helps": _ToBest("better than", "take the best"),
    "redundant": _ToBest("no different from", "take either: no difference that matters"),
    "harmless": _ToBest("at least as good as", "take the best: no loss that matters"),
    "undecided": _ToBest("undecided against", "this table does not tell"),
}


def write_report(comparison: Comparison, path, about):
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
    answers = comparison.verdicts()
    # for want of a question, the best scheme is set against each other one
    best_against = answers[0].question.subject == f"scheme {comparison.best_scheme!r}"
    advice = [_TO_BEST[a.contrast.verdict].to_do if best_against else a.contrast.advice for a in answers]
    sizes = {f"Mean of {comparison.n_networks}": comparison, "One network": comparison.single}
    sizes = _views(answers, sizes) if comparison.n_networks > 1 else {}
    figures = _figures(_comparison_displays(comparison, network))
    trials = []
    if comparison.study is not None:
        figures |= _study_figures(comparison.study)
        states = Counter(trial.state.name.lower() for trial in comparison.study.trials)
        trials = [f"{states[state]} {state}" for state in ("complete", "pruned", "fail") if states[state]]
    _write_page(
        path,
        "comparison.html.jinja",
        about,
        answers=list(zip(answers, advice, strict=True)),
        best_against=best_against,
        comparison=comparison,
        differ=_differing(answers, *sizes.values()) if sizes else [],
        early=EARLY,
        figures=figures,
        folds=folds_in_words(comparison.frame),
        headline=_best_headline(comparison.best_scheme, answers) if best_against else _headline(answers),
        interaction=comparison.interaction() if comparison.has_interaction else None,
        metrics=_metric_views(comparison, answers),
        n_members=0 if network is None else n_networks(network),
        params={} if network is None else _params(network),
        plan=comparison.plan,
        unlike=network is not None and network.members is not None,
        scores=comparison.table(),
        sizes=sizes,
        trials=", ".join(trials),
        tuned_by=comparison.held_out.proper if comparison.held_out else "the inner score",
    )


def write_survey(survey: TableSurvey, path, about):
    """Write a survey as one self-contained HTML page.

    Parameters
    ----------
    survey : Survey
    path : path
    about : dict of str to str
        `command`, by which the survey was made.
    """
    tables, scores = survey.tables(), survey.scores()
    # a classification's accuracy and a regression's R2 are different things: each task has answers of its own too
    by_task = {f"all {counted(len(tables), 'table')}": survey.answers()}
    if tables["task"].nunique() > 1:
        counts = tables["task"].value_counts().items()
        by_task |= {f"{counted(n, 'table')}, {task}": survey.answers(str(task)) for task, n in counts}
    _write_page(
        path,
        "survey.html.jinja",
        about,
        by_task=by_task,
        figures=_figures(_survey_displays(survey)),
        overall=survey.overall(),
        ranking=survey.ranking(),
        scores=scores,
        survey=survey,
        tables=tables,
    )


def _headline(answers):
    """Return the verdicts without figures.

    Returns
    -------
    list of (str, str, str, str)
        Clauses: a subject, a verdict, what it is given, and what to do.
    """
    found = [(answer.question, answer.contrast) for answer in answers]
    return [(_sentence(q.subject), c.verb, f"given {q.given}{c.hint}", c.advice) for q, c in found]


def _sentence(text):
    return text[:1].upper() + text[1:]


def _best_headline(best, answers):
    """Return clauses that count what the best scheme is to the others."""
    counts = Counter(answer.contrast.verdict for answer in answers)
    clauses = [
        ("", _TO_BEST[word].relation, f"{counts[word]} of {len(answers)} others", "")
        for word in _TO_BEST
        if counts[word]
    ]
    return [(best, "scores best", "", ""), *clauses]


def _views(answers, comparisons):
    """Return what other comparisons of the same schemes say of each question, by their names."""
    pairs = [(answer.question.scheme, answer.question.against) for answer in answers]
    return {name: [other.contrast(*pair) for pair in pairs] for name, other in comparisons.items()}


def _metric_views(comparison, answers):
    """Return what each score says of each question; nothing where there is one."""
    others = [comparison.rescore(metric) for metric in comparison.metrics if metric != comparison.metric]
    found = {f"{other.metric}, rope ±{other.rope:g}": other for other in [comparison, *others]}
    return _views(answers, found) if others else {}


def _differing(answers, *contrasts):
    """Return the answers whose word is not the same in all of these lists, each with its contrasts."""
    rows = zip(answers, *contrasts, strict=True)
    return [(answer, *found) for answer, *found in rows if len({c.verdict for c in found}) > 1]


def _params(network):
    """Return the parameters of a network that were tuned or are not the defaults; of members that differ, theirs."""
    if network.members is not None:
        numbers: dict[str, list[str]] = {}
        for number, one in enumerate(network.members, 1):
            params = ", ".join(f"{name} = {_short(value)}" for name, value in one.items())
            numbers.setdefault(params, []).append(str(number))
        return {f"network{'s' * (len(alike) > 1)} {', '.join(alike)}": params for params, alike in numbers.items()}
    # the tuned ones also where they happen to be the default: that is an answer too
    defaults = type(network)().get_params()
    return {name: value for name, value in network.get_params().items() if name in _TUNED or value != defaults[name]}


def _comparison_displays(comparison, network):
    """Yield the displays of what is known, each with its name on the page."""
    yield "schemes", SchemeComparisonDisplay.from_comparison(comparison)
    yield "posteriors", PosteriorDisplay.from_comparison(comparison)
    if comparison.tuning is not None:
        budgets = comparison.tuning["budget"]
        if (budgets > 0).any():
            yield "budget", L2PathDisplay.from_comparison(comparison)
        if budgets.isna().any():
            yield "l2", L2PathDisplay.from_comparison(comparison, strength="l2")
    if network is not None:
        yield "curves", LearningCurvesDisplay.from_estimators({"best model": network})
    diagnosis = comparison.diagnosis
    if diagnosis is not None:
        yield "invariances", InvarianceDisplay.from_diagnosis(diagnosis)
        for quantity in ("norm", "angle"):
            # only batch norm makes weights rotate
            if diagnosis.trajectory is not None and diagnosis.trajectory[quantity].notna().any():
                yield quantity, NormTrajectoryDisplay.from_diagnosis(diagnosis, quantity=quantity)


def _survey_displays(survey):
    yield "questions", SurveyDisplay.from_survey(survey)
    yield "ranks", CriticalDifferenceDisplay.from_scores(survey.scores())


def _figures(displays):
    """Return each display's SVG and data by its name, drawn in the style of a page."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        return {name: {"svg": _svg(display.figure_, name), "data": display.frame()} for name, display in displays}


def _study_figures(study):
    """Return Optuna's own figures of a study, by name.

    They are those that a user of Optuna knows; only their colours become the page's.
    """
    import matplotlib as mpl
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

    values = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    plots = {"history": plot_optimization_history}
    if np.ptp(values) > 0:  # importances are shares of the variance
        plots["importances"] = plot_param_importances
    # Optuna's plots set a style for the whole process, and warn that they are experimental
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return {name: {"svg": _svg(_recoloured(plot(study).figure), name)} for name, plot in plots.items()}


def _recoloured(figure):
    """Give a figure that another library drew the page's background and colour of text."""
    from matplotlib.text import Text

    figure.set_size_inches(8, 4)  # as wide as the page: names of parameters are long
    for text in figure.findobj(Text):
        text.set_color(_INK)
    for axes in figure.axes:
        axes.set_facecolor("none")
        # the question stands beside the figure; Optuna has its title in the middle, the style on the left
        axes.set_title("")
        axes.set_title("", loc="left")
        if axes.get_legend():
            axes.get_legend().get_frame().set(facecolor="none", edgecolor="none")
        axes.grid(color=_INK, alpha=0.15)
        axes.tick_params(color=_INK)
    figure.tight_layout()
    return figure


def _svg(figure, name):
    """Return a figure as SVG that stands in a page.

    It has the page's colour of text, light or dark, the page's font, ids of its own, and no
    style that would leak into the page.

    Parameters
    ----------
    figure : Figure
        It is closed.
    name : str
        Unlike those of the page's other figures.

    Returns
    -------
    Markup
        From the attributes of the ``svg`` element on; the template has its beginning.
    """
    from markupsafe import Markup
    from matplotlib import pyplot as plt

    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=_NO_METADATA)
    plt.close(figure)
    svg = file.getvalue()
    svg = svg[svg.index("<g ") : svg.rindex("</svg>")]  # within are drawings alone, the names in them escaped
    # groups need no ids, and what refers to an id must find the one of its own figure
    svg = re.sub(
        r' id="(figure|axes|patch|text|line2d|\w*Collection|matplotlib\.axis|xtick|ytick|legend)_\d+"', "", svg
    )
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", svg)
    width, height = (72 * inches for inches in figure.get_size_inches())
    return Markup(f'viewBox="0 0 {width:g} {height:g}">{svg.replace(_INK, "currentColor")}</svg>')


def _write_page(path, template, about, **context):
    """Render a template; a name that it lacks is an error and not a gap in the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("sk_bnreg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(
        signed=_signed, percent=_percent, p_value=_p_value, sentence=_sentence, short=_short, counted=counted
    )
    page = pages.get_template(template).render(about={**dict.fromkeys(_ABOUT, ""), **about}, **context)
    Path(path).write_text(page, encoding="utf-8")


def _signed(value):
    # a hyphen is shorter than a plus, and columns of differences would not align
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
