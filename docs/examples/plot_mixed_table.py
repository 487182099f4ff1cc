"""
Words, dates and gaps: which columns count
==========================================

:func:`skrub.tabular_pipeline` makes a pipeline around :class:`sk_bnreg.BNMLPRegressor` that takes a table as it is.
scikit-learn's permutation importance then says how much the predictions for new rows owe to each column.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import skrub
from sklearn.inspection import permutation_importance
from sklearn.model_selection import cross_validate

from sk_bnreg import BNMLPRegressor

# %%
# Flats for rent, made up, so that it is known what the rent depends on: not on the agent, and not on the month in which
# the flat was offered. A fifth of the areas is missing, and the text says in words what no column says.

rng = np.random.default_rng(0)
n = 450
area = rng.gamma(9, 8, n)
town = rng.choice(["Ulm", "Bremen", "Bad Ems", "Jena"], n, p=[0.3, 0.4, 0.1, 0.2])
state = rng.choice(["renovated", "as it was", "to be renovated"], n)
outside = rng.choice(["with balcony", "with garden", "no balcony"], n)
flats = pd.DataFrame(
    {
        "area": np.where(rng.random(n) < 0.2, np.nan, area),
        "rooms": np.maximum(1, np.round(area / 28 + rng.normal(0, 0.5, n))),
        "town": town,
        "text": [f"{a}, {b}, floor {c}" for a, b, c in zip(state, outside, rng.integers(0, 9, n), strict=True)],
        "built": pd.Timestamp("1900-01-01") + pd.to_timedelta(rng.integers(0, 45000, n), unit="D"),
        "offered": pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 365, n), unit="D"),
        "agent": rng.choice(["Ahrens", "Beck", "Cordes"], n),
    }
)
per_metre = 8 + 3 * (town == "Ulm") + 2 * (state == "renovated") + (flats["built"].dt.year > 1990)
rent = area * per_metre + 60 * (outside == "with garden") + rng.normal(0, 30, n)
flats.head()

# %%
# The whole pipeline is cross-validated: the steps before the network see the training rows of a fold alone.

pipeline = skrub.tabular_pipeline(BNMLPRegressor(random_state=0))
result = cross_validate(pipeline, flats, rent, cv=3, return_estimator=True, return_indices=True)
print("R2 of each fold:", result["test_score"].round(3))

# %%
# What R2 loses on the test rows of a fold when the values of one column are shuffled. Columns are shuffled as the table
# has them, so that each has one bar, however many features are made of it.

losses = []
for model, test in zip(result["estimator"], result["indices"]["test"], strict=True):
    found = permutation_importance(model, flats.iloc[test], rent.iloc[test], n_repeats=3, random_state=0)
    losses.append(pd.Series(found.importances_mean, flats.columns))
losses = pd.DataFrame(losses)
order = losses.mean().sort_values().index
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.barh(order, losses[order].mean(), color="tab:blue", alpha=0.6)
ax.plot(losses[order].T, order, "o", color="black", alpha=0.5, markersize=4)
ax.axvline(0, color="black", linewidth=0.8)
_ = ax.set_xlabel("loss of R2 when shuffled; dots: 3 folds")
