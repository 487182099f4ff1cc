"""Calls of functions, one to three arguments of which are others than in a good call."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from hypothesis import strategies as st
from odd_things import ODD, WEIGHTS, X_CHANGES, Y_CHANGES

from sk_bnreg import BNMLPClassifier

TINY = {"hidden_layer_sizes": (2,), "max_iter": 1, "n_ensemble": 1, "numeric_embedding": None, "random_state": 0}
# so many that a study or a search of them would be as long as it was asked to be
COUNTS = {"n_repeats", "n_seeds", "n_candidates", "n_trials", "n_iter", "minutes", "timeout"}
TRUSTED = ("/sklearn/model_selection/", "/sklearn/metrics/", "/sklearn/callback/", "/sklearn/externals/", "/joblib/")


@dataclass
class Call:
    """What is given in place of good arguments; of tables, targets and weights the name of a change."""

    given: Mapping[str, Any]

    def __repr__(self):
        return ", ".join(f"{name}={_short(value)}" for name, value in self.given.items())


def _short(value):
    try:
        return " ".join(repr(value).split())[:100]
    except ValueError:  # a number of too many digits
        return "a long number"


def calls(pools):
    """Return a strategy of calls; `pools` has values worth trying for each argument, beside odd ones."""

    def values(name):
        if name in ("X", "y", "sample_weight"):
            changes = sorted({"X": X_CHANGES, "y": Y_CHANGES, "sample_weight": WEIGHTS}[name])
            return st.sampled_from([change for change in changes if change != "1e308"])  # scores of sums overflow
        odd = [value for value in ODD if not (name in COUNTS and _is_more_than(value, 9))]
        odd = [value for value in odd if not (name.startswith(("on_", "refit")) and callable(value))]  # its own errors
        odd = [value for value in odd if not (name == "show_progress_bar" and value is True)]  # tqdm's thread stays
        odd = [value for value in odd if not (name == "n_jobs" and _is_more_than(value, 1))]  # no processes
        return st.sampled_from([*pools[name], *pools[name], *odd]) if pools[name] else st.sampled_from(odd)

    names = st.lists(st.sampled_from(sorted(pools)), min_size=1, max_size=3, unique=True)
    return names.flatmap(lambda some: st.fixed_dictionaries({name: values(name) for name in some})).map(Call)


def _is_more_than(value, most):
    return isinstance(value, Real) and not isinstance(value, bool) and not 0 <= value <= most


def table(given, n=40):
    """Return a table, a target of two classes, and weights, or None, with the changes of a call."""
    X = np.random.default_rng(0).normal(size=(n, 3))
    y = (X[:, 0] > 0).astype(int)
    if "X" in given:
        X = X_CHANGES[given["X"]](X)
    if "y" in given:
        y = Y_CHANGES[given["y"]](y)
    return X, y, WEIGHTS[given.get("sample_weight", "none")](n)


def tiny():
    """Return a network that takes a moment."""
    return BNMLPClassifier(**TINY)
