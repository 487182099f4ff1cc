"""Displays of one comparison and of trained networks."""

from collections.abc import Mapping
from textwrap import fill

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.utils.validation import check_is_fitted

from sk_bnreg.estimators.pipelines import network_in
from sk_bnreg.report.results import Comparison, check_kind

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # of Okabe & Ito's, those with contrast on white and on black
_MARKERS = ("o", "s", "^", "D", "v", "P")


class Display:
    """What displays share.

    A display's constructor takes computed numbers; ``from_...`` computes them and plots; `plot` leaves `ax_` and
    `figure_` beside the artists that `_draw` leaves; `frame` gives back what is plotted. `_draw` returns the height, in
    inches, that its rows need.
    """

    width = 4.6  # inches: on a phone its text is still legible

    def plot(self, ax=None):
        """Draw.

        Parameters
        ----------
        ax : Axes, default=None
            None makes a new figure, as wide as a column of text.

        Returns
        -------
        self : object
        """
        import matplotlib as mpl
        from matplotlib import pyplot as plt
        from matplotlib.axes import Axes

        check_kind(ax, "ax", "matplotlib Axes", ax is None or isinstance(ax, Axes))
        self.ax_ = plt.subplots(figsize=(self.width, 3), layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        self.ax_.spines[["top", "right"]].set_visible(False)
        # lines and greys are in the style's colour of text, so that a dark style stays legible
        height = self._draw(self.ax_, ink=mpl.rcParams["text.color"])
        if ax is None:  # a user's own figure keeps its size
            self.figure_.set_figheight(height)
        return self

    def _legend(self, ax, **layout):
        """Draw the legend above the axes, on the left: within, it would hide what is plotted."""
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0, **layout)


class SchemeComparisonDisplay(Display):
    """How far is each scheme from another one, and can so many folds tell?

    A row per scheme: the mean difference with its corrected 95 % interval, the differences of single folds beneath it,
    the mean score beside it. Differences in the shaded region (the rope) do not matter.

    Parameters
    ----------
    estimates : DataFrame of shape (n_schemes, 4)
        `score`, `difference`, `low` and `high` of each scheme, by name.
    differences : DataFrame of shape (n_folds, n_schemes)
        Difference of each scheme on each fold.
    against : str
        The scheme from which differences are taken.
    metric : str
        Name of the score.
    rope : float
        Half-width of the rope, in units of the score.
    folds : str
        The number of folds, in words.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
    rope_ : Rectangle
    intervals_ : LineCollection
        An interval per scheme, the first scheme on top.
    means_, points_ : Line2D
        Mean differences; differences of single folds, scheme after scheme.
    scores_ : list of Text

    Examples
    --------
    >>> import pandas as pd
    >>> from sk_bnreg import SchemeComparison, SchemeComparisonDisplay
    >>> scores = {"scheme": ["old", "new"] * 3, "score": [0.70, 0.80, 0.72, 0.81, 0.71, 0.82]}
    >>> frame = pd.DataFrame({**scores, "fold": [0, 0, 1, 1, 2, 2], "repeat": 0})
    >>> comparison = SchemeComparison(frame, {"old": {}, "new": {}}, "accuracy", rope=0.01, test_ratio=0.5)
    >>> SchemeComparisonDisplay.from_comparison(comparison, against="old").frame().loc["new"].round(3).to_dict()
    {'score': 0.81, 'difference': 0.1, 'low': 0.061, 'high': 0.139}
    """

    def __init__(self, estimates, differences, *, against, metric, rope, folds):
        self.estimates = estimates
        self.differences = differences
        self.against = against
        self.metric = metric
        self.rope = rope
        self.folds = folds
        self.width = max(self.width, 2.8 + 0.09 * max(map(len, estimates.index)))

    @classmethod
    def from_comparison(cls, comparison: Comparison, against=None, *, ax=None):
        """How far is each scheme of a comparison from another one?

        Parameters
        ----------
        comparison : SchemeComparison
        against : str, default=None
            The scheme from which differences are taken; None is the one with the best mean score.
        ax : Axes, default=None

        Returns
        -------
        SchemeComparisonDisplay
        """
        check_kind(comparison, "comparison", "SchemeComparison", hasattr(comparison, "contrast"))
        against = comparison.best_scheme if against is None else against
        rows, differences = {}, {}
        for name, score in zip(comparison.schemes, comparison.table()["score"], strict=True):
            c = comparison.contrast(name, against)
            rows[name] = {"score": score, "difference": c.mean, "low": c.low, "high": c.high}
            differences[name] = comparison.differences(name, against)
        estimates = pd.DataFrame.from_dict(rows, orient="index").rename_axis("scheme")
        about = {"metric": comparison.metric, "rope": comparison.rope, "folds": folds_in_words(comparison.frame)}
        return cls(estimates, pd.DataFrame(differences), against=against, **about).plot(ax)

    def frame(self):
        """Return the plotted scores, differences and intervals, a row per scheme."""
        return self.estimates.copy()

    def _draw(self, ax, ink):
        names, rows = self.estimates.index, np.arange(len(self.estimates))
        self.rope_ = ax.axvspan(-self.rope, self.rope, color=ink, alpha=0.12, linewidth=0)
        ax.axvline(0, color=ink, alpha=0.5, linewidth=1)
        single = self.differences[names.drop(self.against)].melt(var_name="scheme")
        places = names.get_indexer(single["scheme"])
        # folds lie beneath their mean, or they would hide the interval
        (self.points_,) = ax.plot(single["value"], places + 0.25, "o", color=ink, alpha=0.4, markersize=3.5, mew=0)
        self.intervals_ = ax.hlines(rows, self.estimates["low"], self.estimates["high"], COLOURS[0], linewidth=2.5)
        (self.means_,) = ax.plot(self.estimates["difference"], rows, "o", color=COLOURS[0], markersize=7)
        beside = {"transform": ax.get_yaxis_transform(), "va": "center"}
        # scores are numbers and not a second axis: schemes differ by far less than scores do from 0
        self.scores_ = [ax.text(1.03, i, f"{score:.4f}", **beside) for i, score in enumerate(self.estimates["score"])]
        ax.text(1.03, -0.9, "score", **beside)
        ax.set_yticks(rows, names)
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        label = fill(f"difference in {self.metric} to {self.against}", 48)
        label += f"\n95 % interval, {self.folds}; shaded: ±{self.rope:g}"
        ax.set_xlabel(label, loc="right", multialignment="left")
        return 1.1 + 0.34 * len(rows)


class PosteriorDisplay(Display):
    """How probable is it that one scheme is worse than another, the same, or better?

    A row per pair of schemes: the posterior density of their mean difference, scaled to its peak, and the probabilities
    of lying below, within and above the shaded rope.

    Parameters
    ----------
    posteriors : DataFrame
        A row per pair, named by the index: `mean`, `scale` and `df` of the t distribution,
        and `p_worse`, `p_equivalent`, `p_better`.
    metric : str
        Name of the score.
    rope : float
        Half-width of the rope, in units of the score.
    folds : str
        The number of folds, in words.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
    rope_ : Rectangle
    densities_ : list of Line2D
        A density per pair, the first pair on top.
    probabilities_ : list of list of Text

    Examples
    --------
    >>> import pandas as pd
    >>> from sk_bnreg import PosteriorDisplay, SchemeComparison
    >>> scores = {"scheme": ["old", "new"] * 3, "score": [0.70, 0.80, 0.72, 0.81, 0.71, 0.82]}
    >>> frame = pd.DataFrame({**scores, "fold": [0, 0, 1, 1, 2, 2], "repeat": 0})
    >>> comparison = SchemeComparison(frame, {"old": {}, "new": {}}, "accuracy", rope=0.01, test_ratio=0.5)
    >>> PosteriorDisplay.from_comparison(comparison).frame()[["mean", "df", "p_better"]].round(3)
                   mean  df  p_better
    new minus old   0.1   2     0.995
    """

    def __init__(self, posteriors, *, metric, rope, folds):
        self.posteriors = posteriors
        self.metric = metric
        self.rope = rope
        self.folds = folds
        self.width = max(self.width, 0.2 + 0.105 * max(map(len, "\n".join(self._names()).split("\n"))))

    @classmethod
    def from_comparison(cls, comparison: Comparison, questions=None, *, ax=None):
        """How probable is each answer to what a comparison asks?

        Parameters
        ----------
        comparison : SchemeComparison
        questions : list of (str, str), default=None
            Pairs of schemes, the first minus the second; None are those of the verdicts.
        ax : Axes, default=None

        Returns
        -------
        PosteriorDisplay
        """
        check_kind(comparison, "comparison", "SchemeComparison", hasattr(comparison, "contrast"))
        if questions is None:
            questions = [answer.question[2:] for answer in comparison.verdicts()]
        pairs = questions if isinstance(questions, list | tuple) else ()
        if not pairs or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"questions must be one or more pairs of names of schemes, got {questions!r}.")
        rows = {}
        for scheme, against in questions:
            c = comparison.contrast(scheme, against)
            rows[f"{scheme} minus {against}"] = {
                "mean": c.mean,
                "scale": c.scale,
                "df": c.n_folds - 1,
                "p_worse": c.p_worse,
                "p_equivalent": c.p_equivalent,
                "p_better": c.p_better,
            }
        about = {"metric": comparison.metric, "rope": comparison.rope, "folds": folds_in_words(comparison.frame)}
        return cls(pd.DataFrame(list(rows.values()), index=list(rows)), **about).plot(ax)

    def frame(self):
        """Return the plotted posteriors and their probabilities, a row per pair."""
        return self.posteriors.copy()

    def _draw(self, ax, ink):
        self.rope_ = ax.axvspan(-self.rope, self.rope, color=ink, alpha=0.12, linewidth=0)
        ax.axvline(0, color=ink, alpha=0.5, linewidth=1)
        # the axis reaches well beyond the rope, however narrow the densities
        self.densities_, self.probabilities_, ends = [], [], [2.5 * self.rope]
        across = {"transform": ax.get_yaxis_transform(), "va": "center"}
        floors = range(len(self.posteriors))[::-1]
        names = self._names()
        for floor, name, (_, row) in zip(floors, names, self.posteriors.iterrows(), strict=True):
            z = np.linspace(-1, 1, 201) * stats.t.ppf(0.995, row["df"])
            # the tails hold one per cent; scaled to the peak, as narrow ones would dwarf the others
            x, height = row["mean"] + z * row["scale"], stats.t.pdf(z, row["df"]) / stats.t.pdf(0, row["df"])
            ax.axhline(floor, color=ink, alpha=0.5, linewidth=0.8)
            ax.fill_between(x, floor, floor + 0.42 * height, color=COLOURS[0], alpha=0.25, linewidth=0)
            self.densities_ += ax.plot(x, floor + 0.42 * height, color=COLOURS[0], linewidth=2)
            ax.text(0, floor + 0.97, name, weight="bold", **{**across, "va": "top"})
            words = (
                (0, "left", f"worse {100 * row['p_worse']:.1f} %"),
                (0.5, "center", f"same {100 * row['p_equivalent']:.1f} %"),
                (1, "right", f"better {100 * row['p_better']:.1f} %"),
            )
            self.probabilities_.append([ax.text(at, floor + 0.52, word, ha=ha, **across) for at, ha, word in words])
            ends += [abs(x[0]), abs(x[-1])]
        ax.set_xlim(-1.03 * max(ends), 1.03 * max(ends))  # 0 in the middle, under "same"
        ax.set_ylim(0, len(floors))
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(fill(f"difference in {self.metric}; {self.folds}; shaded: ±{self.rope:g}", 60))
        return 0.7 + (1.2 if "\n" in "".join(names) else 0.95) * len(floors)

    def _names(self):
        """Return the names of the pairs, long ones in two lines."""
        return [name if len(name) <= 40 else name.replace(" minus ", " minus\n") for name in self.posteriors.index]


class L2PathDisplay(Display):
    """How much decay is best, once the learning rate has been chosen for it?

    A line per scheme with L2: for each fold and decay budget the best inner score over the learning rates that were
    tried with it, averaged over folds; the band is one standard error. Inner scores are those that tuning went by,
    whatever score the comparison is of. Schemes without L2 are horizontal lines. A best of more learning rates is more
    optimistic, and a scheme without L2 spends all its candidates on them: `frame` says how many each point had. Where
    all of a fold's candidates diverged, the point is left out.

    Parameters
    ----------
    paths : DataFrame
        A row per scheme and strength: `scheme`, the strength (`budget` or `l2`),
        `inner_score`, its standard error `se`, and `n_rates` tried.
    strength : {"budget", "l2"}
        The horizontal axis.
    metric : str
        Name of the inner score.
    folds : str
        The number of folds, in words.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
    lines_ : dict of str to Line2D
    bands_ : dict of str to PolyCollection
    zeros_ : dict of str to ErrorbarContainer
        The points of no decay, set apart from the lines of their schemes.

    Examples
    --------
    >>> import pandas as pd
    >>> from sk_bnreg import L2PathDisplay
    >>> path = {"scheme": "l2", "budget": [0, 0.1, 1], "inner_score": [0.8, 0.9, 0.85], "se": 0.01, "n_rates": 4}
    >>> display = L2PathDisplay(pd.DataFrame(path), strength="budget", metric="R2", folds="5 folds").plot()
    >>> [float(D) for D in display.lines_["l2"].get_xdata()]  # 0 is apart
    [0.1, 1.0]
    """

    def __init__(self, paths, *, strength, metric, folds):
        self.paths = paths
        self.strength = strength
        self.metric = metric
        self.folds = folds

    @classmethod
    def from_comparison(cls, comparison: Comparison, *, strength="budget", ax=None):
        """How much decay was best for each scheme of a comparison?

        Parameters
        ----------
        comparison : SchemeComparison
            One with `tuning`.
        strength : {"budget", "l2"}, default="budget"
            "l2" plots the schemes for which no decay budget exists (Adam with ``l2_mode="loss"``), "budget" all others.
        ax : Axes, default=None

        Returns
        -------
        L2PathDisplay

        Raises
        ------
        ValueError
            If the comparison has no `tuning`, or no scheme for this axis.
        """
        check_kind(comparison, "comparison", "SchemeComparison", hasattr(comparison, "contrast"))
        if not isinstance(strength, str) or strength not in ("budget", "l2"):
            raise ValueError(f"strength must be 'budget' or 'l2', got {strength!r}.")
        if comparison.tuning is None:
            raise ValueError("comparison.tuning must hold the scores of all candidates, got None.")
        # l2 and budgets do not share an axis: a budget is l2 times the learning rates of all steps
        has_budget = comparison.tuning["budget"].notna()
        tuning = comparison.tuning[has_budget if strength == "budget" else ~has_budget]
        if tuning.empty:
            raise ValueError(f"strength={strength!r} is of no scheme of this comparison; take the other one.")
        # the best rate of each fold, as tuning chooses it there
        by = tuning.groupby(["scheme", strength, "repeat", "fold"], sort=False)["inner_score"]
        best = by.max().unstack(["repeat", "fold"])
        score = {"inner_score": best.mean(axis=1, skipna=False), "se": best.sem(axis=1, skipna=False)}
        paths = pd.DataFrame({**score, "n_rates": by.size().groupby(["scheme", strength]).max()}).sort_index()
        found = [name for name in comparison.schemes if name in paths.index]
        paths = paths.loc[found].reset_index()
        metric = comparison.held_out.proper if comparison.held_out else "score"
        return cls(paths, strength=strength, metric=metric, folds=folds_in_words(comparison.frame)).plot(ax)

    def frame(self):
        """Return the plotted scores and standard errors, a row per scheme and strength."""
        return self.paths.copy()

    def _draw(self, ax, ink):
        self.lines_, self.bands_, self.zeros_ = {}, {}, {}
        for name, path in self.paths.groupby("scheme", sort=False):
            # a scheme without L2 has one level, whatever the axis
            if (path[self.strength] == 0).all():
                dashes = ("--", ":", "-.", "-")[(len(self.lines_) - len(self.bands_)) % 4]
                level = path["inner_score"].iloc[0]
                self.lines_[name] = ax.axhline(level, color=ink, linestyle=dashes, linewidth=1.6, label=name)
                continue
            i = len(self.bands_)
            style = {"color": COLOURS[i % len(COLOURS)], "marker": _MARKERS[i % len(_MARKERS)], "markersize": 5}
            zero, rest = path[path[self.strength] == 0], path[path[self.strength] > 0]
            x, score, se = rest[self.strength], rest["inner_score"], rest["se"]
            (self.lines_[name],) = ax.plot(x, score, **style, linewidth=2, label=name)
            band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
            self.bands_[name] = ax.fill_between(x, score - se, score + se, **band)
            if len(zero):
                self.zeros_[name] = ax.errorbar(0, zero["inner_score"], zero["se"], **style)
        # 0 has no place on a logarithmic axis, so the axis is linear below the smallest strength
        values = np.unique(self.paths[self.strength])
        ax.set_xscale("symlog", linthresh=values[values > 0].min(initial=1), linscale=0.5)
        if len(values) <= 8:
            ax.set_xticks(values if self.strength == "budget" else values[::2])  # powers of ten need room
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        name = "decay budget D" if self.strength == "budget" else "l2"
        apart = ", 0 apart" if 0 in values else ""
        ax.set_xlabel(f"{name} (logarithmic{apart})\nbest learning rate, mean of {self.folds}")
        ax.set_ylabel(fill(f"{self.metric} on inner folds (cut axis)", 30))
        n_columns = 2 if max(map(len, self.lines_)) < 20 else 1
        self._legend(ax, ncols=n_columns, alignment="left")
        return 2.8 + 0.22 * -(-len(self.lines_) // n_columns)


class LearningCurvesDisplay(Display):
    """Did the networks train long enough, and did they overfit?

    The training loss of each network per epoch, the validation loss where early stopping watched one, and the epoch
    whose weights were kept. Of several members the first is shown.

    Parameters
    ----------
    curves : DataFrame
        A row per network and epoch: `network`, `epoch` (from 1), `loss`, `validation_loss`
        (nan without) and `kept`, true where the weights are from.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
    lines_, validation_lines_, kept_ : dict of str to Line2D

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_bnreg import BNMLPClassifier, LearningCurvesDisplay
    >>> net = BNMLPClassifier((8,), max_iter=5, random_state=0).fit(*load_iris(return_X_y=True))
    >>> LearningCurvesDisplay.from_estimators({"iris": net}).frame()["epoch"].tolist()
    [1, 2, 3, 4, 5]
    """

    def __init__(self, curves):
        self.curves = curves

    @classmethod
    def from_estimators(cls, estimators, *, ax=None):
        """Did these networks train long enough, and did they overfit?

        Parameters
        ----------
        estimators : dict of str to estimator
            Fitted networks, or pipelines that end in one, by name.
        ax : Axes, default=None

        Returns
        -------
        LearningCurvesDisplay

        Raises
        ------
        ValueError
            If an estimator does not end in a network.
        NotFittedError
        """
        check_kind(estimators, "estimators", "dict of networks", isinstance(estimators, Mapping) and estimators)
        curves = []
        for name, estimator in estimators.items():
            network, _ = network_in(estimator)
            if network is None:
                raise ValueError(f"estimators must be or end in BNMLP networks, got {estimator!r} for {name!r}.")
            check_is_fitted(network)
            epoch = np.arange(1, len(network.loss_curve_) + 1)
            curve = pd.DataFrame({"network": name, "epoch": epoch, "loss": network.loss_curve_})
            curve["validation_loss"] = network.validation_loss_curve_ or np.nan  # none without early stopping
            curves.append(curve.assign(kept=epoch == network.best_iter_))
        return cls(pd.concat(curves, ignore_index=True)).plot(ax)

    def frame(self):
        """Return the plotted losses, a row per network and epoch."""
        return self.curves.copy()

    def _draw(self, ax, ink):
        self.lines_, self.validation_lines_, self.kept_ = {}, {}, {}
        for i, (name, curve) in enumerate(self.curves.groupby("network", sort=False)):
            colour, kept, shown = COLOURS[i % len(COLOURS)], curve[curve["kept"]], "loss"
            (self.lines_[name],) = ax.plot(curve["epoch"], curve["loss"], color=colour, label=f"{name}: training")
            if curve["validation_loss"].notna().any():
                shown, losses = "validation_loss", curve["validation_loss"]
                line = ax.plot(curve["epoch"], losses, "--", color=colour, label=f"{name}: validation")
                (self.validation_lines_[name],) = line
            # on the curve that decided which epoch is kept
            (self.kept_[name],) = ax.plot(kept["epoch"], kept[shown], _MARKERS[i % len(_MARKERS)], color=colour)
            self.kept_[name].set_label(f"{name}: weights kept")
        ax.set_ylim(bottom=0)  # a loss has a natural zero, and a cut axis would make noise of the end look large
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss")
        self._legend(ax)
        return 2.4 + 0.6 * len(self.lines_)


def folds_in_words(frame):
    """Return the number of folds in words."""
    n_repeats = frame["repeat"].nunique()
    return f"{frame['fold'].nunique()} folds" + (f" x {n_repeats} repeats" if n_repeats > 1 else "")
