"""What searches refuse."""

from fractions import Fraction

import numpy as np
import pytest
from calls import tiny
from optuna.distributions import FloatDistribution
from optuna.pruners import MedianPruner
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import KFold

from sk_bnreg import StackedGridSearchCV, StackedOptunaSearchCV, fit_stack, search_space

X = np.random.default_rng(0).normal(size=(40, 3))
y = (X[:, 0] > 0).astype(int)
HALF = np.arange(20)


@pytest.mark.parametrize(
    "cv",
    [[], [1, 2], [(HALF,)], [(HALF, HALF + 25)], [(HALF, [])], [(HALF, ["a"])], [(X[:, 0] > 0, X[:9, 0] > 0)]],
    ids=["no folds", "numbers", "no test rows", "beyond the table", "empty", "words", "short mask"],
)
def test_folds_that_are_no_rows_of_the_table_are_refused(cv):
    with pytest.raises(ValueError, match=r"cv must give at least one pair of row numbers.* from 0 to 39; got"):
        StackedGridSearchCV(tiny(), {}, cv=cv).fit(X, y)


def test_masks_are_the_rows_that_they_mark():
    masks = [(np.arange(40) % 2 == 0, np.arange(40) % 2 == 1)]
    rows = [(np.arange(0, 40, 2), np.arange(1, 40, 2))]
    masked, numbered = (StackedGridSearchCV(tiny(), {}, cv=cv).fit(X, y) for cv in (masks, rows))
    assert masked.best_score_ == numbered.best_score_


@pytest.mark.parametrize(("name", "value"), [("solver", 0.1), ("batch_norm", 0.1), ("n_ensemble", 0.5)])
def test_a_candidate_that_no_network_can_be_counts_as_error_score_says(name, value):
    search = StackedGridSearchCV(tiny(), {name: [value, getattr(tiny(), name)]}, cv=2)
    with pytest.warns(FitFailedWarning, match=f"The '{name}' parameter of BNMLPClassifier must be"):
        search.fit(X, y)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [True, False]
    with pytest.raises(ValueError, match=f"The '{name}' parameter of BNMLPClassifier must be"):
        search.set_params(error_score="raise").fit(X, y)


@pytest.mark.parametrize(
    ("other", "said"), [(None, "not have missing values"), (1, r"be labels of one kind.*'int', 'str'")]
)
def test_words_with_other_things_among_them_are_no_target(other, said):
    with pytest.raises(ValueError, match=f"y must {said}"):
        StackedGridSearchCV(tiny(), {}).fit(X, np.array(["a", other] * 20, dtype=object))


@pytest.mark.parametrize("name", ["error_score", "timeout"])
@pytest.mark.parametrize("number", [Fraction(1, 3), 10**400])
def test_numbers_that_numpy_has_no_type_for_are_refused(name, number):
    search = StackedOptunaSearchCV(tiny(), {"l2": FloatDistribution(0.1, 1)}, n_trials=1, **{name: number})
    with pytest.raises(ValueError, match=f"{name} must be a number that 64 bits hold, got "):
        search.fit(X, y)


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_a_failed_fit_can_count_as_no_infinite_score(infinite):
    with pytest.raises(ValueError, match=r"error_score must be 'raise', nan or a finite number, got -?inf"):
        StackedGridSearchCV(tiny(), {"l2": [0.1]}, error_score=infinite).fit(X, y)


def test_a_search_space_of_no_network_is_refused():
    with pytest.raises(ValueError, match="'solver' parameter of BNMLPClassifier must be"):
        search_space(tiny().set_params(solver="x"))


def test_folds_of_classes_that_training_did_not_see_are_pruned_by_nothing():
    """Each fold's test rows are one class, and all of it: no loss can be reported, as no network knows it."""
    table, labels = np.random.default_rng(0).normal(size=(60, 3)), np.repeat([0, 1, 2], 20)
    space, options = {"l2": FloatDistribution(0.1, 1)}, {"n_trials": 3, "cv": KFold(3), "random_state": 0}
    search = StackedOptunaSearchCV(tiny(), space, pruner=MedianPruner(n_startup_trials=1), **options)
    assert [trial.value for trial in search.fit(table, labels).study_.trials] == [0.0] * 3


def test_weights_of_0_for_all_rows_of_a_fold_are_refused():
    with pytest.raises(ValueError, match="sample_weight must be above 0 for at least one of the rows to train on"):
        fit_stack([tiny()], X, y, sample_weight=np.arange(40) // 20, rows=[HALF])


def test_numpys_truth_is_truth():
    search = StackedOptunaSearchCV(tiny(), {"l2": FloatDistribution(0.1, 1)}, n_trials=1, return_train_score=np.True_)
    assert len(search.fit(X, y).cv_results_["mean_train_score"]) == 1
