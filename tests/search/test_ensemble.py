"""Tuned ensembles: greedy selection against a plain search, and the search's own against networks fitted one by one."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from loops import mean_of_members
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, r2_score
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, StackedOptunaSearchCV
from sk_bnreg.search.ensemble import greedy_selection

SPACE = {
    "learning_rate_init": FloatDistribution(1e-3, 1e-1, log=True),
    "batch_norm": CategoricalDistribution([False, True]),
    "hidden_layer_sizes": CategoricalDistribution(["8", "4-4"]),
}


def small(cls=BNMLPClassifier, **params):
    return cls((8,), **{"max_iter": 4, "n_ensemble": 1, "random_state": 0, **params})


def search(estimator=None, prefix="", **options):
    space = {f"{prefix}{name}": distribution for name, distribution in SPACE.items()}
    estimator = small() if estimator is None else estimator
    return StackedOptunaSearchCV(estimator, space, **{"n_trials": 6, "refit": "ensemble", "random_state": 0, **options})


def members_of(fitted, prefix=""):
    """Return the parameters of the trials that the ensemble is of."""
    trials = fitted.study_.trials
    return [{name.removeprefix(prefix): v for name, v in trials[i].params.items()} for i in fitted.ensemble_]


def mean_of_trials(fitted, X, y, train, test, method="predict_proba"):
    """Return the mean of what the chosen trials' estimators predict when each is fitted by itself to a fold."""
    predictions = [
        getattr(clone(fitted.estimator).set_params(**fitted.study_.trials[i].params).fit(X[train], y[train]), method)(
            X[test]
        )
        for i in fitted.ensemble_
    ]
    return mean_of_members(predictions) if method == "predict_proba" else np.mean(predictions, axis=0)


def test_every_step_adds_the_best_model_and_the_best_beginning_is_kept():
    rng = np.random.default_rng(0)
    truth = [rng.standard_normal(30), rng.standard_normal(20)]
    outputs = [y[:, None] + rng.standard_normal((7, len(y), 1)) for y in truth]

    def score(fold, mean):
        return -np.square(mean[:, 0] - truth[fold]).mean()

    def score_of(models):
        return np.mean([score(fold, outputs[fold][list(models)].mean(axis=0)) for fold in range(2)])

    chosen, best = greedy_selection(outputs, score, size=12)
    path = []
    for _ in range(12):
        path.append(max(range(7), key=lambda model: score_of([*path, model])))
    scores = [score_of(path[: n + 1]) for n in range(12)]
    assert chosen == path[: int(np.argmax(scores)) + 1]
    assert best == pytest.approx(max(scores))
    # of three the greedy ones are close to the best there are
    assert score_of(chosen[:3]) >= np.quantile([score_of(m) for m in combinations_with_replacement(range(7), 3)], 0.9)


def test_models_that_are_equally_good_or_have_no_score():
    outputs = [np.zeros((3, 4, 1))]
    assert greedy_selection(outputs, lambda fold, mean: 1.0) == ([0], 1.0)
    outputs = [np.array([[[np.nan]], [[2.0]], [[1.0]]])]
    assert greedy_selection(outputs, lambda fold, mean: -abs(mean.sum())) == ([2], -1.0)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_classes_in_a_pipeline(n_jobs):
    X, y = make_classification(203, 6, n_informative=4, n_classes=3, random_state=0)
    y = np.array(["a", "b", "c"])[y]
    pipeline = make_pipeline(StandardScaler(), small())
    cv = StratifiedKFold(4, shuffle=True, random_state=1)
    fitted = search(pipeline, "bnmlpclassifier__", cv=cv, scoring="neg_log_loss", n_jobs=n_jobs).fit(X, y)
    scores = [-log_loss(y[b], mean_of_trials(fitted, X, y, a, b), labels=["a", "b", "c"]) for a, b in cv.split(X, y)]
    assert fitted.ensemble_score_ == pytest.approx(np.mean(scores), abs=1e-6)
    assert fitted.ensemble_score_ >= fitted.best_score_ == pytest.approx(fitted.study_.best_value)
    best = fitted.best_estimator_
    assert best[-1].members == members_of(fitted, "bnmlpclassifier__")
    expected = clone(pipeline).set_params(bnmlpclassifier__members=best[-1].members).fit(X, y)
    np.testing.assert_array_equal(fitted.predict_proba(X), expected.predict_proba(X))
    assert set(fitted.predict(X)) <= {"a", "b", "c"}
    assert fitted.ensemble_[0] == fitted.study_.best_trial.number


def test_numbers_with_a_target_that_is_transformed_and_a_plain_one():
    X, y = make_regression(150, 5, noise=5.0, random_state=0)
    y = np.exp(y / 100)
    transformed = TransformedTargetRegressor(small(BNMLPRegressor), func=np.log, inverse_func=np.exp)
    for estimator, prefix in ((transformed, "regressor__"), (small(BNMLPRegressor), "")):
        cv = ShuffleSplit(3, random_state=0)
        fitted = search(estimator, prefix, cv=cv).fit(X, y)
        scores = [r2_score(y[b], mean_of_trials(fitted, X, y, a, b, "predict")) for a, b in cv.split(X)]
        assert fitted.ensemble_score_ == pytest.approx(np.mean(scores), abs=1e-5)
        assert fitted.predict(X).shape == (150,)


def test_several_labels_and_several_targets():
    X, Y = make_multilabel_classification(120, 6, random_state=0)
    fitted = search(n_trials=4, cv=3).fit(X, Y)
    assert fitted.predict(X).shape == Y.shape
    assert fitted.ensemble_score_ >= fitted.best_score_
    X, Y = make_regression(120, 6, n_targets=2, random_state=0)
    fitted = search(small(BNMLPRegressor), n_trials=4, cv=3).fit(X, Y)
    assert fitted.predict(X).shape == Y.shape
    assert fitted.ensemble_score_ >= fitted.best_score_


def test_a_target_of_one_column_is_one_of_classes():
    X, y = make_classification(120, 6, n_classes=3, n_informative=4, random_state=0)
    flat = search(n_trials=4, cv=StratifiedKFold(3)).fit(X, y)
    with pytest.warns(DataConversionWarning):
        column = search(n_trials=4, cv=StratifiedKFold(3)).fit(X, y[:, None])
    assert column.ensemble_ == flat.ensemble_
    assert column.ensemble_score_ == flat.ensemble_score_


def test_weights_and_groups_reach_the_members_and_the_folds():
    X, y = make_classification(120, 6, random_state=0)
    groups, weight = np.arange(120) // 10, np.random.default_rng(0).random(120)
    fitted = search(cv=GroupKFold(3)).fit(X, y, groups=groups, sample_weight=weight)
    expected = small(members=members_of(fitted)).fit(X, y, sample_weight=weight)
    np.testing.assert_array_equal(fitted.predict_proba(X), expected.predict_proba(X))


def test_a_fit_that_goes_on_chooses_among_all_trials(tmp_path):
    X, y = make_classification(150, 6, random_state=0)
    options = {"study_name": "s", "load_if_exists": True, "scoring": "neg_log_loss", "cv": KFold(3)}
    search(n_trials=5, storage=tmp_path / "journal", **options).fit(X, y)
    resumed = search(n_trials=6, storage=tmp_path / "journal", batch_size=1, **options).fit(X, y)
    whole = search(n_trials=6, storage=tmp_path / "journal", **options).fit(X, y)  # trains none itself
    assert resumed.ensemble_ == whole.ensemble_
    assert resumed.ensemble_score_ == pytest.approx(whole.ensemble_score_)
    scores = [-log_loss(y[b], mean_of_trials(resumed, X, y, a, b)) for a, b in KFold(3).split(X)]
    assert resumed.ensemble_score_ == pytest.approx(np.mean(scores), abs=1e-6)


def test_trials_that_were_pruned_or_failed_are_not_chosen():
    from optuna.pruners import ThresholdPruner

    X, y = make_classification(150, 6, random_state=0)
    fitted = search(pruner=ThresholdPruner(lower=-0.6, n_warmup_steps=2), n_trials=12).fit(X, y)
    states = [trial.state for trial in fitted.study_.trials]
    assert TrialState.PRUNED in states
    assert {states[number] for number in fitted.ensemble_} == {TrialState.COMPLETE}


@pytest.mark.parametrize(
    ("estimator", "space", "match"),
    [
        (make_pipeline(StandardScaler(), small()), {"standardscaler__with_mean": [True, False]}, "with_mean"),
        (small(), {"n_ensemble": [1, 2]}, "n_ensemble"),
        (LogisticRegression(), {"C": [1.0, 2.0]}, "'C'"),
    ],
)
def test_what_members_cannot_differ_in_is_refused(estimator, space, match):
    X, y = make_classification(60, random_state=0)
    space = {name: CategoricalDistribution(values) for name, values in space.items()}
    with pytest.raises(ValueError, match=f"refit='ensemble'.*{match}"):
        StackedOptunaSearchCV(estimator, space, n_trials=2, refit="ensemble").fit(X, y)


def test_several_scores_are_refused():
    X, y = make_classification(60, random_state=0)
    with pytest.raises(ValueError, match="refit"):
        search(scoring=["accuracy", "roc_auc"]).fit(X, y)
