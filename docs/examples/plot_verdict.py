"""
How to read a verdict
=====================

A comparison answers each question with one word: a regulariser helps, hurts, is redundant, dispensable, harmless or
undecided. The word follows from three probabilities, which the pictures show, and an answer that is not settled says
what it would take.
"""

from tempfile import mkdtemp

from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, PosteriorDisplay, compare_schemes

# %%
# Three questions on every third row of the digits, with the folds drawn once and few seeds.

X, y = load_digits(return_X_y=True)
network = BNMLPClassifier((32, 32), max_iter=15, n_ensemble=1, numeric_embedding=None)
study = {
    "estimator": make_pipeline(StandardScaler(), network),
    "X": X[::3],
    "y": y[::3],
    "schemes": ["l2", "bn", "bn+l2", "bn+l2+gamma+beta"],
    "n_candidates": 4,
    "inner_cv": 2,
    "random_state": 0,
    "out": mkdtemp(),
    "on_plan": None,
}
first = compare_schemes(**study, n_repeats=1, n_seeds=4)
print(first.sentence())

# %%
# Differences in the shaded region, the rope, count as none. The part of a density to its right is the probability of a
# gain that matters, the part to its left that of a loss. "Helps" and "hurts" need more than 95 % on one side.
# "Harmless" needs less than 5 % on the left, "dispensable" less than 5 % on the right, "redundant" both; "undecided" is
# the rest.

display = PosteriorDisplay.from_comparison(first)

# %%
# What would it take?


def tell(comparison):
    for answer in comparison.verdicts():
        print(f"{answer.question.subject}: {answer.contrast.verdict}", answer.outlook or "settled", sep="\n    ")


tell(first)

# %%
# More seeds and more folds. With the same folder the study goes on with what it has.

second = compare_schemes(**study, n_repeats=2, n_seeds=8)
tell(second)
display = PosteriorDisplay.from_comparison(second)

# %%
# What counts as none is for you to say. With another rope, or another score, the same predictions may get another word;
# nothing is trained for it.

for scoring, rope in (("accuracy", 0.02), ("accuracy", 0.005), ("roc_auc_ovr", 0.01)):
    words = [answer.contrast.verdict for answer in second.rescore(scoring, rope=rope).verdicts()]
    print(f"{scoring:12} ±{rope:<6}", *words)
