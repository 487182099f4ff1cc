"""
A grid search with the same results, its networks trained together
==================================================================

:class:`sk_bnreg.StackedGridSearchCV` takes the arguments of scikit-learn's ``GridSearchCV`` and gives its results; the
networks of all candidates and folds are trained at once. Here both search the same grid: batch norm, L2 on which
parameters, and the learning rate.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, StackedGridSearchCV

X, y = load_wine(return_X_y=True)
network = BNMLPClassifier((32, 32), max_iter=30, l2_budget=1.0, n_ensemble=1, random_state=0)
grid = {
    "bnmlpclassifier__batch_norm": [False, True],
    "bnmlpclassifier__l2_targets": ["none", "weights", "weights+gamma+beta"],
    "bnmlpclassifier__learning_rate_init": [0.001, 0.003, 0.01, 0.03, 0.1],
}
arguments = {"estimator": make_pipeline(StandardScaler(), network), "param_grid": grid, "scoring": "neg_log_loss"}
stacked = StackedGridSearchCV(**arguments).fit(X, y)
one_by_one = GridSearchCV(**arguments).fit(X, y)

# %%
# The same best candidate, and the same score of every candidate in every fold, to the bit.

for search in (stacked, one_by_one):
    print(type(search).__name__, search.best_params_)
scores = [key for key in stacked.cv_results_ if key.startswith("split")]
for key in ("params", "rank_test_score", *scores):
    print(key, np.array_equal(stacked.cv_results_[key], one_by_one.cv_results_[key]))

# %%
# The mean log loss of all candidates, the least in bold. Without batch norm there is no gamma and beta, so that two of
# its rows are the same.

results = pd.DataFrame(stacked.cv_results_).rename(columns=lambda name: name.removeprefix("param_bnmlpclassifier__"))
losses = -results.pivot(index=["batch_norm", "l2_targets"], columns="learning_rate_init", values="mean_test_score")
figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
image = ax.imshow(losses, cmap="viridis_r", norm="log", aspect="auto")
for (row, column), loss in np.ndenumerate(losses):
    weight = "bold" if loss == losses.to_numpy().min() else "normal"
    colour = "black" if image.norm(loss) < 0.5 else "white"
    ax.text(column, row, f"{loss:.3f}", ha="center", va="center", color=colour, weight=weight)
ax.set_xticks(range(losses.shape[1]), losses.columns)
names = [("batch norm, " if bn else "") + ("no L2" if on == "none" else f"L2 on {on}") for bn, on in losses.index]
ax.set_yticks(range(len(losses)), names)
ax.set_xlabel("learning rate")
colours = figure.colorbar(image, label="log loss (logarithmic)")

# %%
# What was fitted is scikit-learn's search around scikit-learn's pipeline; a parameter of ours links to what it means.

stacked
