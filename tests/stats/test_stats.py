"""The comparisons of models, on one and across data sets, against published numbers and other libraries."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from matplotlib.figure import Figure
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC
from statsmodels.stats.multitest import multipletests

from sk_bnreg.stats.folds import contrast, holm, resolution
from sk_bnreg.stats.tables import N_DRAWS, ranking, signed_rank

# sonar, the first ten of the accuracies in the documentation of baycomp
NBC = [94.203, 92.754, 95.652, 91.176, 92.647, 91.176, 92.647, 92.647, 86.765, 91.176]
J48 = [92.754, 92.754, 89.855, 89.706, 95.588, 89.706, 95.588, 94.118, 91.176, 92.647]

# depression before and after a treatment, Hollander & Wolfe 1973, p. 29f; in the examples of R's wilcox.test
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]

# seconds to round first base by three methods, Hollander & Wolfe 1973, p. 140ff; in the examples of R's friedman.test
ROUNDING = pd.DataFrame(
    [
        *([5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40], [5.90, 5.85, 5.70]),
        *([5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35], [5.25, 5.15, 5.00], [5.85, 5.80, 5.70]),
        *([5.25, 5.20, 5.10], [5.65, 5.55, 5.45], [5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40]),
        *([5.45, 5.55, 5.50], [5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40]),
        *([5.70, 5.65, 5.55], [6.30, 6.30, 6.25]),
    ],
    columns=["round out", "narrow angle", "wide angle"],
)


def test_bayesian_correlated_t_equals_baycomps_documentation():
    differences = np.subtract(J48, NBC)
    no_rope = contrast(differences, test_ratio=1 / 9, rope=0.0)
    assert no_rope.p_worse == pytest.approx(0.4145119975061462, abs=1e-13)
    assert no_rope.p_better == pytest.approx(0.5854880024938538, abs=1e-13)
    rope = contrast(differences, test_ratio=1 / 9, rope=0.5)
    assert (rope.p_worse, rope.p_equivalent, rope.p_better) == pytest.approx((0.285845, 0.269152, 0.445003), abs=1e-6)
    assert rope.verdict == "undecided"


def test_contrast_equals_scikit_learns_published_comparison_of_models():
    """Its example "Statistical comparison of models using grid search": the two best kernels on 10 x 10 folds."""
    X, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    cv = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    rbf, linear = (
        cross_val_score(SVC(kernel=kernel, random_state=0), X, y, scoring="roc_auc", cv=cv)
        for kernel in ("rbf", "linear")
    )
    result = contrast(rbf - linear, test_ratio=1 / 9, rope=0.01)
    assert result.p_value / 2 == pytest.approx(0.227, abs=5e-4)
    assert stats.t.isf(result.p_value / 2, 99) == pytest.approx(0.750, abs=5e-4)
    assert result.p_equivalent == pytest.approx(0.432, abs=5e-4)
    assert contrast(rbf - linear, test_ratio=1 / 9, rope=0.0).p_better == pytest.approx(0.773, abs=5e-4)


def test_without_shared_rows_it_is_the_ordinary_t_test():
    differences = np.random.default_rng(0).normal(0.3, 1, 20)
    result, ordinary = contrast(differences, test_ratio=0.0, rope=0.1), stats.ttest_1samp(differences, 0)
    assert result.p_value == pytest.approx(ordinary.pvalue)
    interval = ordinary.confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert result.scale == pytest.approx(stats.sem(differences))


def test_two_folds_have_cauchys_distribution():
    """t with one degree of freedom: 1/2 + arctan(x) / pi. Mean 0.2, variance 0.02 * (1 / 2 + 1 / 2)."""
    result = contrast([0.1, 0.3], test_ratio=0.5, rope=0.05)
    assert result.p_better == pytest.approx(0.5 + np.arctan((0.2 - 0.05) / np.sqrt(0.02)) / np.pi)
    assert resolution(2, 0.5) == pytest.approx(np.tan(0.45 * np.pi))


def test_differences_in_single_precision_are_judged_in_double():
    differences = np.float32(1) / np.arange(3, 23, dtype="float32")
    for judge in (partial(contrast, test_ratio=0.25), signed_rank):
        assert judge(differences, rope=0.1) == judge(differences.astype(float), rope=0.1)


@pytest.mark.parametrize(
    ("k", "r", "factor"), [(5, 1, 1.43), (5, 5, 0.92), (5, 10, 0.87), (10, 1, 0.84), (10, 3, 0.65), (10, 10, 0.58)]
)
def test_resolution_in_units_of_the_spread(k, r, factor):
    """t(.95, kr - 1) * sqrt(1 / kr + 1 / (k - 1)), by hand with a t table."""
    assert resolution(k * r, 1 / (k - 1)) == pytest.approx(factor, abs=0.005)
    differences = np.random.default_rng(0).normal(size=k * r)
    result = contrast(differences, test_ratio=1 / (k - 1), rope=0.1)
    assert result.resolution / differences.std(ddof=1) == pytest.approx(factor, abs=0.005)
    at_best = contrast(differences - differences.mean(), test_ratio=1 / (k - 1), rope=result.resolution)
    assert (at_best.p_worse, at_best.p_better) == pytest.approx((0.05, 0.05))


def test_equal_scores_are_redundant():
    result = contrast(np.zeros(5), test_ratio=0.25, rope=0.01)
    assert (result.verdict, result.mean, result.p_value) == ("redundant", 0.0, 1.0)


def test_one_fold_is_refused():
    with pytest.raises(ValueError, match="at least 2 folds, got 1"):
        contrast([0.1], test_ratio=0.25, rope=0.01)
    with pytest.raises(ValueError, match="at least 2 folds, got 1"):
        resolution(1, 0.25)


def test_summaries_of_a_contrast_are_one_sentence():
    noise = np.array([-1, 1, 0, 0.5, -0.5]) * 0.02
    half = 1.8624 * 0.02 * np.sqrt(2.5 / 4)  # resolution of 1 x 5 folds, sum of squares over df
    assert contrast(noise + 0.5, test_ratio=0.25, rope=0.1).summary() == (
        f"Mean difference +0.5000 over 5 folds, corrected 95 % interval +{0.5 - half:.4f} to +{0.5 + half:.4f}; "
        "P(worse) 0.000, P(equivalent) 0.000, P(better) 1.000 with rope 0.1: helps."
    )
    assert (
        contrast(noise + 0.1, test_ratio=0.25, rope=0.1)
        .summary()
        .endswith("P(worse) 0.000, P(equivalent) 0.500, P(better) 0.500 with rope 0.1: harmless.")
    )
    can = 1.4301 * 0.4 * np.sqrt(2.5 / 4)  # t(.95, 4) = 2.1318, times sqrt(0.45)
    # with 4 df, beyond 0.1 / (0.4 * sqrt(2.5 / 4 * 0.45)) = 0.4714 there is 0.331
    assert (
        contrast(noise * 20, test_ratio=0.25, rope=0.1)
        .summary()
        .endswith(
            "P(worse) 0.331, P(equivalent) 0.338, P(better) 0.331 with rope 0.1: undecided; "
            f"with this spread 5 folds can confirm {can:.4f}."
        )
    )


def test_wilcoxon_equals_rs_wilcox_test():
    """V = 40, one-sided p-value 0.01953; the median of the 45 averages of two differences by hand."""
    result = signed_rank(np.subtract(BEFORE, AFTER), rope=0.1)
    assert result.p_value / 2 == pytest.approx(0.01953, abs=5e-6)
    assert result.median == pytest.approx(0.46)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (0.01, (0.000004, 0.846488, 0.153508)),
        (0.005, (0.002064, 0.262144, 0.735792)),
        (0.0, (0.02433, 0.0, 0.97567)),
    ],
)
def test_bayesian_signed_rank_equals_baycomp(rope, expected):
    """Probabilities by SignedRankTest of baycomp 1.0.3, 500,000 draws; within four Monte Carlo standard errors."""
    differences = [0.012, -0.003, 0.021, 0.0, 0.005, -0.011, 0.034, 0.008, 0.002, 0.017, -0.006, 0.009]
    result = signed_rank(differences, rope=rope)
    p = np.array(expected)
    error = np.sqrt(p * (1 - p) * (1 / N_DRAWS + 1 / 500_000))
    found = np.array([result.p_worse, result.p_equivalent, result.p_better])
    assert (np.abs(found - p) <= 4 * error + 1 / N_DRAWS).all()
    assert found.sum() == pytest.approx(1)


def test_signed_rank_mirrors_and_repeats():
    differences = np.random.default_rng(0).normal(0.01, 0.02, 15)
    result, mirrored = signed_rank(differences, rope=0.005), signed_rank(-differences, rope=0.005)
    assert (mirrored.median, mirrored.p_value) == pytest.approx((-result.median, result.p_value))
    assert (mirrored.p_worse, mirrored.p_better) == (result.p_better, result.p_worse)
    assert signed_rank(differences, rope=0.005) == signed_rank(differences, rope=0.005, random_state=0) == result
    assert result.n_tables == 15


@pytest.mark.parametrize(
    ("shift", "width", "word"),
    [
        (0.5, 0.02, "helps"),
        (-0.5, 0.02, "hurts"),
        (0.0, 0.02, "redundant"),
        (-0.1, 0.02, "dispensable"),
        (0.1, 0.02, "harmless"),
        (0.0, 2.0, "undecided"),
    ],
)
def test_words_across_tables(shift, width, word):
    result = signed_rank(np.linspace(-width, width, 10) + shift, rope=0.1)
    assert result.verdict == word
    assert result.summary().startswith(f"Median difference {result.median:+z.4f} over 10 tables, Wilcoxon p = ")
    assert result.summary().endswith(f"with rope 0.1: {word}.")


@pytest.mark.parametrize("n_tables", [1, 8, 30])
def test_equal_tables_are_redundant(n_tables):
    result = signed_rank(np.zeros(n_tables), rope=0.01)
    assert (result.verdict, result.median, result.p_value) == ("redundant", 0.0, 1.0)
    no_rope = signed_rank(np.zeros(n_tables), rope=0.0)
    assert (no_rope.p_worse, no_rope.p_better) == (0.5, 0.5)


def test_zeros_take_part_in_the_ranks():
    """The others rank 3 to 6; 4 of their 16 signs give the minus side at most 5, so p = 8 / 16 (else 10 / 16)."""
    assert signed_rank([0.0, 0.0, 0.1, 0.2, -0.3, 0.4], rope=0.05).p_value == pytest.approx(0.5)


@pytest.mark.parametrize("differences", [[], [0.1, np.nan]])
def test_tables_without_a_difference_are_refused(differences):
    with pytest.raises(ValueError, match="finite numbers of at least 1 table"):
        signed_rank(differences, rope=0.01)


def test_holm_equals_rs_p_adjust():
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.04, 0.01, 0.5, 0.9]) == pytest.approx([0.12, 0.04, 1.0, 1.0])
    assert holm([]).tolist() == []


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_holm_equals_statsmodels(n):
    p_values = np.random.default_rng(n).uniform(0, 0.2, n).round(2)  # in part the same
    np.testing.assert_array_equal(holm(p_values), multipletests(p_values, method="holm")[1])


def test_friedman_equals_rs_friedman_test():
    """Chi-squared 11.143, p-value 0.003805; rank sums 53, 47 and 32 of 22 players, the fastest first."""
    result = ranking(-ROUNDING)
    assert (result.statistic, result.p_value) == pytest.approx((11.143, 0.003805), abs=5e-4)
    assert result.p_value == pytest.approx(0.003805, abs=5e-7)
    assert result.mean_ranks.to_dict() == pytest.approx(
        {"round out": 53 / 22, "narrow angle": 47 / 22, "wide angle": 32 / 22}
    )
    assert result.n_tables == 22
    assert ranking(-ROUNDING.convert_dtypes()).p_value == result.p_value  # whatever numbers pandas keeps them as


def test_pairs_equal_scikit_posthocs_paired_by_table():
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(rng.normal(0, 1, (20, 1)) + rng.normal([0, 0.1, 0.2], 0.05, (20, 3)), columns=list("abc"))
    expected = scikit_posthocs.posthoc_wilcoxon(
        scores.melt(), val_col="value", group_col="variable", zero_method="zsplit", p_adjust="holm"
    )
    pd.testing.assert_frame_equal(ranking(scores).pairs, expected, check_names=False)
    assert ranking(scores).pairs.loc["a", "b"] < 0.05 < stats.mannwhitneyu(scores["a"], scores["b"]).pvalue


def test_ranks_and_pairs_draw_a_critical_difference_diagram():
    """One bar joins b and c, equal but for noise; a is better on all of 20 tables: p = 2 / 2^20, times 3 by Holm."""
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(rng.normal([1.0, 0.0, 0.0], 0.1, (20, 3)), columns=["a", "b", "c"])
    result = ranking(scores)
    drawn = scikit_posthocs.critical_difference_diagram(result.mean_ranks, result.pairs, ax=Figure().add_subplot())
    assert len(drawn["crossbars"]) == 1
    p = f"p = {3 * 2 / 2**20:.3g}"
    assert result.summary().endswith(f"differ at 5 % after Holm's adjustment: a and b ({p}), a and c ({p}).")


def test_equal_schemes_rank_equally():
    result = ranking(pd.DataFrame(np.ones((15, 1)) * [0.7, 0.7, 0.7], columns=list("abc")))
    assert (result.statistic, result.p_value, set(result.mean_ranks)) == (0.0, 1.0, {2.0})
    assert (result.pairs == 1).all(axis=None)
    assert result.summary() == (
        "Mean ranks over 15 tables: a 2.00, b 2.00, c 2.00; Friedman chi-squared 0.00, p = 1; "
        "schemes that differ at 5 % after Holm's adjustment: none."
    )


def test_two_schemes_and_missing_scores_are_refused():
    with pytest.raises(ValueError, match="at least 3 schemes, got 2; for two, use signed_rank"):
        ranking(ROUNDING[["round out", "wide angle"]])
    with pytest.raises(ValueError, match="a finite number for every table and scheme"):
        ranking(ROUNDING.mask(ROUNDING > 6))
    for other in (ROUNDING.astype(str), ROUNDING.set_axis(["a", "a", "b"], axis=1)):
        with pytest.raises(ValueError, match="columns of numbers, each with a name of its own"):
            ranking(other)
