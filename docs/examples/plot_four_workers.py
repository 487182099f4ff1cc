"""
Four workers, one study
=======================

Workers share an Optuna study through its storage: a journal file that all of them reach, or a database. They share its
trials too, so that there are exactly ``n_trials``, whoever runs them. Here the workers are processes of one machine.
"""

import os
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
import optuna
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, StackedOptunaSearchCV, search_space

optuna.logging.set_verbosity(optuna.logging.WARNING)
X, y = load_wine(return_X_y=True)
network = BNMLPClassifier((32, 32), max_iter=20, n_ensemble=1, random_state=0)
model = make_pipeline(StandardScaler(), network)

# %%
# A callback runs in the worker after each of its trials; this one notes which process that is.


def note(study, trial):
    study.set_user_attr(f"worker of {trial.number}", os.getpid())


search = StackedOptunaSearchCV(
    model,
    search_space(model, "regularization"),
    n_trials=32,
    batch_size=2,
    n_jobs=4,
    scoring="neg_log_loss",
    storage=Path(mkdtemp()) / "study.journal",
    study_name="wine",
    load_if_exists=True,
    callbacks=[note],
    random_state=0,
).fit(X, y)
trials = search.cv_results_["trial_number"]
workers = np.array([search.study_.user_attrs[f"worker of {number}"] for number in trials])
print(f"{len(trials)} trials, by worker:", *Counter(workers.tolist()).values())

# %%
# Started once more, here with one process, it finds all trials done, and only fits the best one again.

search.set_params(n_jobs=None).fit(X, y)
print(f"{len(search.cv_results_['trial_number'])} trials")

# %%
# The log loss of each trial, and the least so far. Which worker gets which trial, and what it knows of the others by
# then, depends on time.

losses = -search.cv_results_["mean_test_score"]
figure, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
ax.step(
    range(len(losses)), np.minimum.accumulate(losses), where="post", color="black", linewidth=1, label="least so far"
)
for number, (worker, marker) in enumerate(zip(dict.fromkeys(workers.tolist()), "osD^", strict=False), 1):
    (own,) = np.nonzero(workers == worker)
    ax.plot(own, losses[own], marker, label=f"worker {number}")
ax.set(xlabel="trial", ylabel="log loss (logarithmic)", yscale="log")
ax.yaxis.set_major_formatter("{x:g}")
ax.yaxis.set_minor_formatter("{x:g}")
legend = ax.legend(frameon=False)

# %%
# On four machines
# ----------------
#
# Start the same program on each of them, with a storage that all of them reach. ``n_trials`` stays the total. When a
# worker dies, its trials are given to others.
#
# .. code-block:: python
#
#     StackedOptunaSearchCV(
#         model,
#         search_space(model),
#         n_trials=1000,
#         storage="postgresql+psycopg2://user@host/database",
#         study_name="wine",
#         load_if_exists=True,
#     ).fit(X, y)
#
# From the command line it is the same command everywhere:
#
# .. code-block:: bash
#
#     sk-bnreg tune customers.csv --target churn --storage postgresql+psycopg2://user@host/database --study churn
#
# A grid search needs no storage: the workers of a Dask scheduler take its candidates and folds. :doc:`/guide/machines`
# says how to start them.
#
# .. code-block:: python
#
#     client = dask.distributed.Client("tcp://first:8786")
#     with joblib.parallel_config("dask"):
#         StackedGridSearchCV(model, grid).fit(X, y)
