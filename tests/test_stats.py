"""The corrected and Bayesian t-tests against published numbers."""

import numpy as np
import pytest
from scipy import stats

from sk_bnreg._stats import contrast

# sonar, the first ten of the accuracies in the documentation of baycomp
NBC = [94.203, 92.754, 95.652, 91.176, 92.647, 91.176, 92.647, 92.647, 86.765, 91.176]
J48 = [92.754, 92.754, 89.855, 89.706, 95.588, 89.706, 95.588, 94.118, 91.176, 92.647]


def test_bayesian_correlated_t_equals_baycomps_documentation():
    differences = np.subtract(J48, NBC)
    no_rope = contrast(differences, test_ratio=1 / 9, rope=0.0)
    assert no_rope.p_worse == pytest.approx(0.4145119975061462, abs=1e-13)
    assert no_rope.p_better == pytest.approx(0.5854880024938538, abs=1e-13)
    rope = contrast(differences, test_ratio=1 / 9, rope=0.5)
    assert (rope.p_worse, rope.p_equivalent, rope.p_better) == pytest.approx((0.285845, 0.269152, 0.445003), abs=1e-6)
    assert rope.verdict == "undecided"


def test_without_shared_rows_it_is_the_ordinary_t_test():
    differences = np.random.default_rng(0).normal(0.3, 1, 20)
    result, ordinary = contrast(differences, test_ratio=0.0, rope=0.1), stats.ttest_1samp(differences, 0)
    assert result.p_value == pytest.approx(ordinary.pvalue)
    interval = ordinary.confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("k", "r", "factor"), [(5, 1, 1.86), (5, 5, 1.11), (10, 1, 1.04), (10, 10, 0.69)])
def test_resolution_in_units_of_the_spread(k, r, factor):
    """t(.975, kr - 1) * sqrt(1 / kr + 1 / (k - 1)), by hand with a t table."""
    differences = np.random.default_rng(0).normal(size=k * r)
    result = contrast(differences, test_ratio=1 / (k - 1), rope=0.1)
    assert result.resolution / differences.std(ddof=1) == pytest.approx(factor, abs=0.005)
    at_best = contrast(differences - differences.mean(), test_ratio=1 / (k - 1), rope=result.resolution)
    assert at_best.p_equivalent == pytest.approx(0.95)


@pytest.mark.parametrize(("shift", "word"), [(0.5, "helps"), (-0.5, "hurts"), (0.0, "redundant"), (0.1, "undecided")])
def test_words(shift, word):
    noise = np.array([-1, 1, 0, 0.5, -0.5]) * 0.02
    assert contrast(noise + shift, test_ratio=0.25, rope=0.1).verdict == word


def test_equal_scores_are_redundant():
    result = contrast(np.zeros(5), test_ratio=0.25, rope=0.01)
    assert (result.verdict, result.mean, result.p_value) == ("redundant", 0.0, 1.0)


def test_one_fold_is_refused():
    with pytest.raises(ValueError, match="at least 2 folds, got 1"):
        contrast([0.1], test_ratio=0.25, rope=0.01)
