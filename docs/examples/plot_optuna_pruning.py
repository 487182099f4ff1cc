"""
Tune with Optuna, and stop what does not promise
================================================

:class:`sk_bnreg.StackedOptunaSearchCV` runs an Optuna study on all folds of a cross-validation. With ``report="fold"``
a pruner is told a trial's mean score after every fold, and a trial that it prunes gets no further fold.
"""

import matplotlib.pyplot as plt
import optuna
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, StackedOptunaSearchCV, search_space

optuna.logging.set_verbosity(optuna.logging.WARNING)
X, y = load_digits(return_X_y=True)
network = BNMLPClassifier((64, 64), max_iter=20, n_ensemble=1, numeric_embedding=None, random_state=0)
model = make_pipeline(StandardScaler(), network)

# %%
# ``search_space`` names what is worth tuning, with the prefix that a pipeline needs.

space = search_space(model)
for name, distribution in space.items():
    print(name, distribution)

# %%
# Trials come in batches of eight, which train together. From the second batch on, a trial goes on only while its mean
# is among the best third of those that finished.

search = StackedOptunaSearchCV(
    model,
    space,
    n_trials=32,
    scoring="neg_log_loss",
    cv=StratifiedKFold(5, shuffle=True, random_state=0),
    pruner=optuna.pruners.PercentilePruner(33.0, n_startup_trials=8),
    report="fold",
    random_state=0,
).fit(X[::2], y[::2])
states = [trial.state.name for trial in search.study_.trials]
print({state: states.count(state) for state in sorted(set(states))})
print(f"folds trained: {sum(search.cv_results_['n_splits_scored'])} of {search.n_trials * search.n_splits_}")
print(f"best: {search.best_score_:.4f}")
for name, value in search.best_params_.items():
    print(f"    {name} = {value}")

# %%
# What the pruner was told after each fold, its sign turned, and of the trials that finished the mean of all folds.

figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for trial in search.study_.trials:
    losses = [-mean for mean in trial.intermediate_values.values()]
    if trial.state.name == "PRUNED":
        ax.plot(range(1, len(losses) + 1), losses, "x-", color="grey", alpha=0.7, linewidth=1)
    else:
        ax.plot(range(1, len(losses) + 2), [*losses, -trial.value], "o-", color="tab:blue", markersize=4)
ax.plot([], [], "o-", color="tab:blue", label="finished")
ax.plot([], [], "x-", color="grey", label="pruned")
ax.set(xlabel="folds", xticks=range(1, 6), ylabel="mean log loss so far (logarithmic)", yscale="log")
ax.yaxis.set_major_formatter("{x:g}")
ax.yaxis.set_minor_formatter("{x:g}")
legend = ax.legend(frameon=False)
