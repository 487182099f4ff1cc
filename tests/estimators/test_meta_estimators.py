"""scikit-learn's meta-estimators: what they find with two jobs in threads is what they find with one."""

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_selection import RFECV, SequentialFeatureSelector
from sklearn.inspection import permutation_importance
from sklearn.model_selection import cross_validate, learning_curve
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor

from sk_bnreg import BNMLPClassifier, BNMLPRegressor

X, Y = make_classification(60, 3, n_informative=3, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0)
TWO = np.column_stack([Y > 0, Y > 1])
TINY = {"hidden_layer_sizes": (4,), "max_iter": 2, "n_ensemble": 2, "numeric_embedding": None, "random_state": 0}
NET = BNMLPClassifier(**TINY)
NETS = [("one", NET), ("other", clone(NET).set_params(dropout=0.5, random_state=1))]


def weights_of_features(network):
    return np.abs(network.coefs_[0]).sum(axis=1)


def importances(n_jobs):
    net = clone(NET).fit(X, Y)
    return permutation_importance(net, X, Y, n_repeats=2, random_state=0, n_jobs=n_jobs).importances


META = {
    "bagging": lambda n: [
        net.predict_proba(X) for net in BaggingClassifier(NET, 4, n_jobs=n, random_state=0).fit(X, Y).estimators_
    ],
    "stacking": lambda n: StackingClassifier(NETS, cv=2, n_jobs=n).fit(X, Y).predict_proba(X),
    "voting": lambda n: VotingClassifier(NETS, voting="soft", n_jobs=n).fit(X, Y).predict_proba(X),
    "calibrated": lambda n: CalibratedClassifierCV(NET, cv=2, n_jobs=n).fit(X, Y).predict_proba(X),
    "one-vs-rest": lambda n: OneVsRestClassifier(NET, n_jobs=n).fit(X, Y).predict_proba(X),
    "several targets": lambda n: MultiOutputClassifier(NET, n_jobs=n).fit(X, TWO).predict_proba(X),
    "several numbers": lambda n: MultiOutputRegressor(BNMLPRegressor(**TINY), n_jobs=n).fit(X, X).predict(X),
    "elimination": lambda n: RFECV(NET, cv=2, importance_getter=weights_of_features, n_jobs=n).fit(X, Y).ranking_,
    "selection": lambda n: SequentialFeatureSelector(NET, cv=2, n_jobs=n).fit(X, Y).get_support(),
    "importances": importances,
    "learning curve": lambda n: learning_curve(NET, X, Y, cv=2, n_jobs=n)[2],
    "cross-validation": lambda n: cross_validate(NET, X, Y, cv=4, n_jobs=n)["test_score"],
}


@pytest.mark.parametrize("name", META)
def test_two_jobs_in_threads_find_what_one_finds(name):
    with parallel_config("threading"):
        np.testing.assert_array_equal(META[name](2), META[name](1))
