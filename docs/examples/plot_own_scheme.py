"""
A regularisation of your own, compared
======================================

:func:`sk_bnreg.compare_schemes` takes names of built-in schemes, or a mapping of your own names to parameters of the
network. Each scheme is tuned with the same effort, on inner folds, and scored on outer folds.
"""

from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, SchemeComparisonDisplay, TunedL2, compare_schemes

# %%
# What a scheme names is kept, the rest is tuned: the learning rate in all schemes, ``l2`` where something is penalised
# and no ``l2`` is named, a dropout rate that is "tuned". A :class:`sk_bnreg.TunedL2` follows another scheme's choice.

schemes = {
    "L2 on all weights": {"batch_norm": True, "l2_targets": "weights"},
    "L2 on hidden weights": {"batch_norm": True, "l2_targets": ("hidden_weights",)},
    "a tenth of that L2": {"batch_norm": True, "l2": TunedL2("L2 on all weights", 0.1)},
    "more L2 on the output": {"batch_norm": True, "l2": {"hidden_weights": 0.1, "output_weights": 3.0}},
    "dropout instead": {"batch_norm": True, "l2_targets": "none", "dropout": "tuned"},
    "half the units instead": {"batch_norm": True, "l2_targets": "none", "hidden_layer_sizes": (32, 32)},
}

# %%
# Every third of the digits, and few candidates and seeds of a small network, so that the study ends soon. As it comes,
# means of eight networks are compared, and the folds are drawn again until the answers are settled.

X, y = load_digits(return_X_y=True)
network = BNMLPClassifier((64, 64), max_iter=20, n_ensemble=1, numeric_embedding=None)
comparison = compare_schemes(
    make_pipeline(StandardScaler(), network),
    X[::3],
    y[::3],
    schemes=schemes,
    cv=5,
    n_repeats=1,
    n_candidates=5,
    inner_cv=2,
    n_seeds=4,
    random_state=0,
    on_plan=None,
)
print(comparison.table()[["score", "learning_rate_init", "l2", "dropout"]].round(3))

# %%
# The differences to one scheme, with corrected intervals. What lies in the shaded region does not matter.

display = SchemeComparisonDisplay.from_comparison(comparison, against="L2 on all weights")
