"""
How much L2: the score against the decay budget
===============================================

What a strength of L2 does depends on the learning rate and on the number of steps. Learning rate times strength, summed
over the steps, is the decay budget D: the e-folds by which decay alone would shrink a weight.
"""

from math import exp

from sklearn.datasets import load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPRegressor, L2PathDisplay, compare_schemes

X, y = load_diabetes(return_X_y=True)
settings = {"hidden_layer_sizes": (32, 32), "max_iter": 30, "n_ensemble": 1, "random_state": 0}

# %%
# ``l2_for_budget`` gives the strength for a budget, and ``exp(-D)`` is what decay alone would leave of a weight. At a
# tenth of the learning rate it takes ten times the strength.

fast, slow = (BNMLPRegressor(**settings, learning_rate_init=rate) for rate in (0.01, 0.001))
for D in (0.01, 0.1, 1, 3):
    at_fast, at_slow = (network.l2_for_budget(D, n_samples=len(X)) for network in (fast, slow))
    print(f"D = {D:<4} leaves {exp(-D):.2f}: l2 = {at_fast:.4f} at rate 0.01, {at_slow:.4f} at 0.001")

# %%
# ``l2_budget`` does the same within ``fit``. Afterwards ``l2_report_`` has the D of each kind of parameters up to the
# epoch that was kept: with early stopping it is less than was asked for.

fitted = BNMLPRegressor(**settings, l2_budget=3).fit(StandardScaler().fit_transform(X), y)
for report in fitted.l2_report_:
    print(f"{report.role:16}{report.n_parameters:5} parameters, D = {report.budget:.2f}")

# %%
# Every scheme with L2 tries the same budgets, each with several learning rates, and a point is the best of its rates.
# Schemes without L2, the horizontal lines, are the best of all rates, and by that a little too high: ``frame`` has the
# number of rates.

comparison = compare_schemes(
    make_pipeline(StandardScaler(), BNMLPRegressor(**settings)),
    X,
    y,
    schemes=["plain", "l2", "bn", "bn+l2"],
    cv=3,
    n_repeats=1,
    budgets=(0, 0.1, 0.3, 1, 3, 10),
    n_candidates=18,
    inner_cv=3,
    n_seeds=1,
    random_state=0,
    on_plan=None,
)
display = L2PathDisplay.from_comparison(comparison)
print(display.frame().round(3).to_string(index=False))
