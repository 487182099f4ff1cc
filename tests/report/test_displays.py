"""What the displays draw, against numbers worked out here."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from scipy import stats
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sk_bnreg import (
    CriticalDifferenceDisplay,
    L2PathDisplay,
    LearningCurvesDisplay,
    PosteriorDisplay,
    SchemeComparisonDisplay,
    SurveyDisplay,
)
from sk_bnreg.study.held_out import HeldOut
from sk_bnreg.study.questions import SURVEY_QUESTIONS
from sk_bnreg.study.schemes import SCHEMES


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def posterior(comparison, scheme, against):
    """Mean and corrected standard error of a difference, in Nadeau and Bengio's formula."""
    rows = comparison.frame
    d = rows[rows.scheme == scheme]["score"].to_numpy() - rows[rows.scheme == against]["score"].to_numpy()
    n = len(d)
    return d, d.mean(), np.sqrt(np.sum((d - d.mean()) ** 2) / (n - 1) * (1 / n + comparison.test_ratio))


def test_intervals_and_points_are_the_differences_of_the_folds(comparison):
    display = SchemeComparisonDisplay.from_comparison(comparison, against="bn")
    names = [name for name in comparison.schemes if name != "bn"]
    points = display.points_.get_xdata().reshape(len(names), 6)
    for name, drawn in zip(names, points, strict=True):
        d, mean, se = posterior(comparison, name, "bn")
        half = stats.t.ppf(0.975, 5) * se
        row = list(comparison.schemes).index(name)
        np.testing.assert_allclose(drawn, d)
        np.testing.assert_allclose(display.intervals_.get_segments()[row], [[mean - half, row], [mean + half, row]])
        np.testing.assert_allclose(display.means_.get_xydata()[row], [mean, row])
        np.testing.assert_allclose(
            display.frame().loc[name, ["difference", "low", "high"]], [mean, mean - half, mean + half]
        )
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == list(comparison.schemes)
    low, high = display.ax_.get_ylim()
    assert low > high  # the first scheme on top


def test_rope_scores_and_n_are_shown(comparison):
    display = SchemeComparisonDisplay.from_comparison(comparison)
    assert (display.rope_.get_x(), display.rope_.get_width()) == (-0.01, 0.02)
    rows = comparison.frame
    means = [np.mean(rows.score[rows.scheme == name]) for name in comparison.schemes]
    assert [text.get_text() for text in display.scores_] == [f"{mean:.4f}" for mean in means]
    assert display.against == list(comparison.schemes)[int(np.argmax(means))]
    assert "3 folds x 2 repeats" in display.ax_.get_xlabel()


def test_densities_and_probabilities_are_those_of_the_correlated_t_test(comparison):
    display = PosteriorDisplay.from_comparison(comparison)
    pairs = [("bn+l2", "bn"), ("bn+l2", "l2"), ("bn+l2+gamma+beta", "bn+l2")]
    assert list(display.frame().index) == [f"{scheme} minus {against}" for scheme, against in pairs]
    for i, pair in enumerate(pairs):
        _, mean, se = posterior(comparison, *pair)
        t = stats.t(5, mean, se)
        x, y = display.densities_[i].get_data()
        np.testing.assert_allclose(y - (2 - i), 0.42 * t.pdf(x) / t.pdf(mean), atol=1e-12)
        np.testing.assert_allclose(t.cdf(x[[0, -1]]), [0.005, 0.995])
        parts = [t.cdf(-0.01), t.cdf(0.01) - t.cdf(-0.01), t.sf(0.01)]
        shown = [text.get_text() for text in display.probabilities_[i]]
        assert shown == [f"{word} {100 * p:.1f} %" for word, p in zip(("worse", "same", "better"), parts, strict=True)]
    np.testing.assert_allclose(np.sum(display.ax_.get_xlim()), 0, atol=1e-15)  # "same" stands over the rope


def test_questions_of_ones_own(comparison):
    display = PosteriorDisplay.from_comparison(comparison, [("l2", "plain")])
    assert display.frame().loc["l2 minus plain", "mean"] == pytest.approx(posterior(comparison, "l2", "plain")[1])


def test_l2_path_is_the_best_rate_of_each_fold_averaged(comparison):
    display = L2PathDisplay.from_comparison(comparison)
    tuning, folds = comparison.tuning, list(np.ndindex(2, 3))
    for name in ("l2", "bn+l2", "bn+l2+gamma+beta"):
        means, errors = [], []
        for D in (0.0, 0.1, 1.0, 10.0):
            rows = tuning[(tuning.scheme == name) & (tuning.budget == D)]
            best = [max(rows[(rows.repeat == r) & (rows.fold == f)].inner_score) for r, f in folds]
            means.append(np.mean(best))
            errors.append(np.std(best, ddof=1) / np.sqrt(6))
        line = display.lines_[name]
        np.testing.assert_allclose(line.get_xydata(), np.column_stack([(0.1, 1.0, 10.0), means[1:]]))
        np.testing.assert_allclose(display.zeros_[name].lines[0].get_xydata(), [[0, means[0]]])
        band = display.bands_[name].get_paths()[0].vertices
        for D, mean, error in list(zip((0.0, 0.1, 1.0, 10.0), means, errors, strict=True))[1:]:
            edges = band[band[:, 0] == D, 1]
            np.testing.assert_allclose([edges.min(), edges.max()], [mean - error, mean + error])
    rows = tuning[tuning.scheme == "plain"]
    level = np.mean([max(rows[(rows.repeat == r) & (rows.fold == f)].inner_score) for r, f in folds])
    np.testing.assert_allclose(display.lines_["plain"].get_ydata(), [level, level])
    n_rates = display.frame().groupby("scheme")["n_rates"].max()
    assert (n_rates["plain"], n_rates["l2"]) == (12, 3)
    assert "0 apart" in display.ax_.get_xlabel()


def test_l2_path_names_the_score_that_tuning_went_by(comparison):
    assert "score on inner folds" in L2PathDisplay.from_comparison(comparison).ax_.get_ylabel()
    y = np.array([0, 1])
    for classifier, name in ((True, "minus log loss"), (False, "R2")):
        held_out = HeldOut(None, y, y if classifier else None, classifier, list(comparison.schemes))
        display = L2PathDisplay.from_comparison(replace(comparison, held_out=held_out))
        assert f"{name} on inner folds" in display.ax_.get_ylabel().replace("\n", " ")


def test_one_score_and_number_of_networks_is_drawn_of_several(comparison):
    rows = comparison.frame
    several = [
        rows.assign(metric=metric, n_networks=size, score=rows["score"] if (metric, size) == ("accuracy", 2) else 0.5)
        for metric in ("d2", "accuracy")
        for size in (1, 2)
    ]
    whole = replace(comparison, frame=pd.concat(several), n_networks=2)
    for kind in (SchemeComparisonDisplay, PosteriorDisplay):
        pd.testing.assert_frame_equal(
            kind.from_comparison(whole).frame(), kind.from_comparison(comparison).frame(), check_exact=True
        )


def test_schemes_without_a_budget_are_drawn_by_l2(make_comparison):
    comparison = make_comparison(["l2", "bn", "bn+l2 (loss)"])
    assert list(L2PathDisplay.from_comparison(comparison).lines_) == ["l2", "bn"]
    display = L2PathDisplay.from_comparison(comparison, strength="l2")
    assert list(display.lines_) == ["bn+l2 (loss)"]
    np.testing.assert_allclose(display.lines_["bn+l2 (loss)"].get_xdata(), [0.02, 0.2, 2.0])


def test_a_budget_at_which_a_fold_diverged_is_left_out(comparison):
    tuning = comparison.tuning.copy()
    lost = (tuning.scheme == "l2") & (tuning.budget == 10.0) & (tuning.fold == 1)
    tuning.loc[lost, "inner_score"] = np.nan
    paths = L2PathDisplay.from_comparison(replace(comparison, tuning=tuning)).frame().set_index(["scheme", "budget"])
    assert np.isnan(paths.loc[("l2", 10.0), "inner_score"])
    assert np.isfinite(paths.loc[("l2", 1.0), "inner_score"])


def test_l2_path_asks_for_the_tuning(comparison):
    with pytest.raises(ValueError, match=r"comparison\.tuning must hold the scores of all candidates, got None"):
        L2PathDisplay.from_comparison(replace(comparison, tuning=None))


def test_learning_curves_are_the_history_of_the_net(comparison):
    network = comparison.best_estimator_
    display = LearningCurvesDisplay.from_estimators({"a": make_pipeline(FunctionTransformer(), network)})
    history = network.net_.history
    epochs = np.arange(1, 13)
    np.testing.assert_allclose(display.lines_["a"].get_xydata(), np.column_stack([epochs, history[:, "train_loss"]]))
    losses = np.array(history[:, "valid_loss"])
    np.testing.assert_allclose(display.validation_lines_["a"].get_ydata(), losses)
    np.testing.assert_allclose(display.kept_["a"].get_xydata(), [[1 + losses.argmin(), losses.min()]])
    assert display.ax_.get_ylim()[0] == 0
    with pytest.raises(ValueError, match="estimators must be or end in BNMLP networks, got FunctionTransformer"):
        LearningCurvesDisplay.from_estimators({"b": FunctionTransformer()})


def test_without_validation_the_last_epoch_is_marked():
    curves = pd.DataFrame({"network": "a", "epoch": [1, 2], "loss": [0.5, 0.4], "validation_loss": np.nan})
    display = LearningCurvesDisplay(curves.assign(kept=[False, True])).plot()
    assert not display.validation_lines_
    np.testing.assert_allclose(display.kept_["a"].get_xydata(), [[2, 0.4]])


def test_a_bar_joins_what_differs_by_chance():
    """On 8 tables `good` always wins: p = 2 / 2**8, times 3 by Holm, is below 0.05; the others take turns."""
    n = np.arange(1, 9)
    scores = pd.DataFrame({"a": 0.5 + 0 * n, "good": 0.9 + n / 1000, "b": 0.5 + (-1.0) ** n * n / 100})
    display = CriticalDifferenceDisplay.from_scores(scores)
    frame = display.frame()
    assert frame["rank"].to_dict() == {"a": 2.5, "good": 1.0, "b": 2.5}
    assert frame.loc["good", "a"] == pytest.approx(3 * 2 / 2**8)
    ranks = sorted(marker.get_offsets()[0, 0] for marker in display.markers_)
    np.testing.assert_allclose(ranks, [1.0, 2.5, 2.5])
    ((bar,),) = display.crossbars_
    np.testing.assert_allclose(bar.get_xdata(), [2.5, 2.5])
    assert "8 tables" in display.ax_.get_xlabel()


def test_a_plot_stays_on_the_axes_it_is_given(comparison):
    _, ax = plt.subplots()
    params, size = dict(mpl.rcParams), ax.figure.get_size_inches()
    display = SchemeComparisonDisplay.from_comparison(comparison, ax=ax)
    L2PathDisplay.from_comparison(comparison, ax=ax)
    assert display.ax_ is ax
    assert len(plt.get_fignums()) == 1
    assert dict(mpl.rcParams) == params
    assert ax.figure.get_size_inches().tolist() == size.tolist()


def test_text_is_drawn_in_the_colour_of_the_style(comparison):
    with mpl.rc_context({"text.color": "#fedcba"}):
        display = L2PathDisplay.from_comparison(comparison)
    assert display.lines_["plain"].get_color() == "#fedcba"


def test_every_scheme_can_be_drawn_at_once(make_comparison):
    comparison = make_comparison(list(SCHEMES))
    display = PosteriorDisplay.from_comparison(comparison, [(name, "plain") for name in comparison.schemes][1:])
    assert len(display.densities_) == len(SCHEMES) - 1
    styles = {
        (line.get_color(), line.get_marker(), line.get_linestyle())
        for line in L2PathDisplay.from_comparison(comparison).lines_.values()
    }
    assert len(styles) == 7 + 4  # seven with a budget, four without L2


def test_survey_display_shows_every_table_and_the_median(made_up_survey):
    display = SurveyDisplay.from_survey(made_up_survey)
    scores = made_up_survey.scores()
    frame = display.frame()
    assert list(frame.index) == list(scores.index)
    x, y = display.points_.get_data()
    for row, question in enumerate(SURVEY_QUESTIONS):
        differences = (scores[question.scheme] - scores[question.against]).to_numpy()
        np.testing.assert_allclose(np.asarray(x)[np.asarray(y) == row], differences, atol=1e-12)
        # of three numbers: the median of the six averages of two of them, or of one with itself
        averages = (differences[:, None] + differences)[np.triu_indices(3)] / 2
        assert display.medians_.get_xdata()[row] == pytest.approx(np.median(averages), abs=1e-12)
    assert display.rope_.get_x() == -made_up_survey.rope
    assert display.ax_.yaxis_inverted()


def test_long_names_keep_the_posteriors_their_room(make_comparison):
    comparison = make_comparison(("l2", "plain"), rename=lambda name: f"a scheme of a rather long name, {name}")
    display = PosteriorDisplay.from_comparison(comparison)
    figure = display.figure_
    figure.canvas.draw()
    for text in display.ax_.texts:
        extent = text.get_window_extent()
        assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
    name, *probabilities = (text.get_window_extent() for text in display.ax_.texts)
    assert not any(name.overlaps(extent) for extent in probabilities)
