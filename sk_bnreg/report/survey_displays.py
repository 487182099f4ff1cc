"""Displays of scores on many tables."""

from numbers import Real

import numpy as np
import pandas as pd

from sk_bnreg.report.displays import COLOURS, Display
from sk_bnreg.report.results import TableSurvey, check_kind
from sk_bnreg.stats.tables import counted, ranking


class CriticalDifferenceDisplay(Display):
    """Which schemes differ over many tables?

    Mean ranks on a line, the best on the left; a bar joins the schemes under its dots, of
    which no two differ at the level `alpha`.

    Parameters
    ----------
    ranks : Series
        Mean rank of each scheme, by name; 1 is best.
    p_values : DataFrame of shape (n_schemes, n_schemes)
        Adjusted p-value of each pair.
    n_tables : int
        Tables over which the ranks are means.
    alpha : float, default=0.05
        Level of significance.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
    markers_, crossbars_, labels_ : list
        As `scikit_posthocs.critical_difference_diagram` returns them.

    References
    ----------
    Demsar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7.
    Benavoli, Corani & Mangili 2016, "Should we really use post-hoc tests based on
    mean-ranks?", JMLR 17.

    Examples
    --------
    >>> import pandas as pd
    >>> from sk_bnreg import CriticalDifferenceDisplay
    >>> scores = pd.DataFrame({"bn": [0.9, 0.8, 0.7, 0.6], "plain": [0.8, 0.7, 0.5, 0.3], "l2": [0.7, 0.75, 0.2, 0.1]})
    >>> CriticalDifferenceDisplay.from_scores(scores).frame()["rank"].to_dict()
    {'bn': 1.0, 'plain': 2.25, 'l2': 2.75}
    """

    def __init__(self, ranks, p_values, n_tables, *, alpha=0.05):
        self.ranks = ranks
        self.p_values = p_values
        self.n_tables = n_tables
        self.alpha = alpha
        self.width = 4 + 0.16 * max(map(len, ranks.index))  # names on both sides

    @classmethod
    def from_scores(cls, scores, *, alpha=0.05, ax=None):
        """Which schemes differ by Wilcoxon's signed-rank tests, adjusted by Holm's method?

        Parameters
        ----------
        scores : DataFrame of shape (n_tables, n_schemes)
            Mean score of each scheme on each table; greater is better.
        alpha : float, default=0.05
            Level of significance.
        ax : Axes, default=None

        Returns
        -------
        CriticalDifferenceDisplay
        """
        check_kind(scores, "scores", "DataFrame", isinstance(scores, pd.DataFrame))
        if not isinstance(alpha, Real) or not 0 < alpha < 1:
            raise ValueError(f"alpha must be a number between 0 and 1, got {alpha!r}.")
        found = ranking(scores.rename(columns=str))
        return cls(found.mean_ranks, found.pairs, found.n_tables, alpha=float(alpha)).plot(ax)

    def frame(self):
        """Return the mean ranks and the p-value of each pair, a row per scheme."""
        return self.p_values.assign(rank=self.ranks)[["rank", *self.p_values.columns]]

    def _draw(self, ax, ink):
        from scikit_posthocs import critical_difference_diagram

        styles = {
            "elbow_props": {"color": ink, "linewidth": 1},
            "marker_props": {"color": COLOURS[0]},
            "crossbar_props": {"color": COLOURS[0], "linewidth": 2, "marker": "o", "markersize": 6},
            "label_fmt_left": "{label} ({rank:.1f})",
            "label_fmt_right": "({rank:.1f}) {label}",
        }
        # its bars come from the pairs' p-values, and not from one critical difference of mean ranks
        drawn = critical_difference_diagram(self.ranks, self.p_values, alpha=self.alpha, ax=ax, **styles)
        self.markers_, self.crossbars_, self.labels_ = drawn["markers"], drawn["crossbars"], drawn["labels"]
        ax.spines["top"].set_visible(True)
        ax.set_xlim(1, len(self.ranks))
        ax.xaxis.set_label_position("top")
        ax.set_xlabel(f"mean rank, {counted(self.n_tables, 'table')}; bars join p ≥ {self.alpha:g} (Holm)")
        return 1.6 + 0.22 * len(self.ranks)


class SurveyDisplay(Display):
    """What do many tables say of each question?

    A row per question: the mean difference between its two schemes on each table, and their
    median. Differences in the shaded region (the rope) do not matter; the axis is
    logarithmic beyond it.

    Parameters
    ----------
    differences : DataFrame of shape (n_tables, n_questions)
        Difference on each table; the columns name the questions.
    medians : Series
        Median difference of each question.
    rope : float
        Half-width of the rope, in units of the score.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
    rope_ : Rectangle
    points_, medians_ : Line2D
        Differences of single tables, question after question, the first on top; medians.

    Examples
    --------
    >>> import pandas as pd
    >>> from sk_bnreg import SurveyDisplay
    >>> differences = pd.DataFrame({"bn+l2 - bn": [0.002, 0.03, -0.001]}, index=["iris", "wine", "digits"])
    >>> SurveyDisplay(differences, differences.median(), rope=0.01).plot().frame().loc["wine"].to_dict()
    {'bn+l2 - bn': 0.03}
    """

    def __init__(self, differences, medians, *, rope):
        self.differences = differences
        self.medians = medians
        self.rope = rope
        self.width = 4.5 + 0.08 * max(map(len, differences.columns))

    @classmethod
    def from_survey(cls, survey: TableSurvey, *, ax=None):
        """What do the tables of a survey say of its questions?

        Parameters
        ----------
        survey : Survey
        ax : Axes, default=None

        Returns
        -------
        SurveyDisplay
        """
        check_kind(survey, "survey", "Survey", hasattr(survey, "answers"))
        found = {f"{a.question.scheme} - {a.question.against}": a for a in survey.answers()}
        differences = pd.DataFrame({name: answer.differences for name, answer in found.items()})
        medians = pd.Series({name: answer.test.median for name, answer in found.items()})
        return cls(differences, medians, rope=survey.rope).plot(ax)

    def frame(self):
        """Return the plotted differences, a row per table and a column per question."""
        return self.differences.copy()

    def _draw(self, ax, ink):
        # the rope takes a third or so of the width: what matters most is on which side of it a table lies
        names, rows = self.differences.columns, np.arange(len(self.differences.columns))
        ax.set_xscale("symlog", linthresh=self.rope, linscale=1.5)
        self.rope_ = ax.axvspan(-self.rope, self.rope, color=ink, alpha=0.12, linewidth=0)
        ax.axvline(0, color=ink, alpha=0.5, linewidth=1)
        places = np.repeat(rows, len(self.differences))
        (self.points_,) = ax.plot(self.differences.T.to_numpy().ravel(), places, "o", color=ink, alpha=0.4, mew=0)
        self.points_.set_markersize(4.5)
        (self.medians_,) = ax.plot(self.medians[names], rows, "D", color=COLOURS[0], markersize=7)
        most = max(self.differences.abs().to_numpy().max(), 2 * self.rope)
        # by itself the axis would have powers of ten alone, and none at the rope
        ticks = [tick for tick in (0, self.rope / 2, self.rope, 0.1, 1) if tick <= most]
        ax.set_xticks(sorted({*ticks, *(-tick for tick in ticks)}))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set_xlim(-1.1 * most, 1.1 * most)
        ax.set_yticks(rows, names)
        ax.set_ylim(len(names) - 0.5, -0.5)  # the first on top
        ax.set_xlabel(
            f"difference of mean scores, {counted(len(self.differences), 'table')}\n"
            f"shaded: ±{self.rope:g}, logarithmic beyond; ◆ median"
        )
        return 1.2 + 0.3 * len(rows)
