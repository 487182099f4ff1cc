"""The words for a difference and what each takes: at least 95 % of a t distribution on one side of an edge."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from sk_bnreg.stats.folds import WORDS, Judgement, contrast

ROPE, TEST_RATIO, N_FOLDS = 0.1, 0.25, 10


@dataclass
class Regions(Judgement):
    """Three probabilities, as they are."""

    p_worse: float
    p_better: float
    rope: float = ROPE

    @property
    def p_equivalent(self):
        return 1 - self.p_worse - self.p_better


def result(mean, reach):
    """Return the contrast of folds with this mean, of which 95 % of the posterior lie below mean + reach."""
    noise = np.random.default_rng(0).normal(size=N_FOLDS)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    scale = np.sqrt(1 / N_FOLDS + TEST_RATIO)  # Nadeau and Bengio's, of the mean, in standard deviations of a fold
    sd = reach / (stats.t.ppf(0.95, N_FOLDS - 1) * scale)
    return contrast(mean + sd * noise, test_ratio=TEST_RATIO, rope=ROPE)


@pytest.mark.parametrize(
    ("p_worse", "p_better", "word"),
    [
        (0.0, 0.951, "helps"),
        (0.0, 0.95, "harmless"),
        (0.951, 0.0, "hurts"),
        (0.95, 0.0, "dispensable"),
        (0.049, 0.049, "redundant"),  # 0.902 between the edges: either side is told by itself
        (0.05, 0.049, "dispensable"),
        (0.049, 0.05, "harmless"),
        (0.05, 0.05, "undecided"),
        (0.5, 0.5, "undecided"),
    ],
)
def test_a_word_takes_more_than_95_percent(p_worse, p_better, word):
    judgement = Regions(p_worse, p_better)
    assert judgement.verdict == word
    assert judgement.advice == WORDS[word]
    assert judgement.verb == (word if word in ("helps", "hurts") else f"is {word}")


def test_a_word_at_another_probability():
    judgement = Regions(0.0005, 0.02)
    words = [judgement.verdict_at(confidence) for confidence in (0.95, 0.99, 0.999, 0.9999)]
    assert words == ["redundant", "harmless", "harmless", "undecided"]


# where the posterior's 95 % begin and end, beside the edges of the rope: a little on either side
@pytest.mark.parametrize(
    ("mean", "reach", "inside", "outside"),
    [
        (ROPE + 0.3, 0.3, "helps", "harmless"),  # all above the upper edge, or nearly
        (-ROPE - 0.3, 0.3, "hurts", "dispensable"),
        (ROPE - 0.3, 0.3, "dispensable", "undecided"),  # wider than the rope: both cannot be
        (-ROPE + 0.3, 0.3, "harmless", "undecided"),
        (0.0, ROPE, "redundant", "undecided"),
        (ROPE - 0.05, 0.05, "redundant", "harmless"),
        (-ROPE + 0.05, 0.05, "redundant", "dispensable"),
    ],
)
def test_words_change_where_the_posterior_meets_an_edge(mean, reach, inside, outside):
    assert result(mean, reach * 0.999).verdict == inside
    assert result(mean, reach * 1.001).verdict == outside


@pytest.mark.parametrize(
    ("mean", "reach", "word", "hint"),
    [
        (0.2, 0.199, "harmless", ", and probably helps by a little"),
        (0.2, 0.201, "harmless", ""),
        (-0.2, 0.199, "dispensable", ", and probably hurts by a little"),
        (-0.2, 0.201, "dispensable", ""),
        (-0.01, 0.05, "redundant", ""),
        (0.05, 0.04, "redundant", ""),  # surely above 0, but strong words leave nothing out
        (0.5, 0.1, "helps", ""),
        (-0.5, 0.1, "hurts", ""),
        (0.0, 0.5, "undecided", ""),
    ],
)
def test_a_one_sided_word_hints_at_what_it_leaves_out(mean, reach, word, hint):
    found = result(mean, reach)
    assert (found.verdict, found.hint) == (word, hint)


def test_the_difference_of_equal_scores_has_a_word_and_no_hint():
    found = contrast(np.zeros(5), test_ratio=0.25, rope=0.01)
    assert (found.verdict, found.hint) == ("redundant", "")
    always = contrast(np.full(5, 0.02), test_ratio=0.25, rope=0.01)
    assert (always.verdict, always.verdict_at(0.9999)) == ("helps", "helps")
