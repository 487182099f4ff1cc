"""Optuna searches that train batches of trials, against plain cross-validation of each trial's parameters."""

import pickle
import re

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import MedianPruner, SuccessiveHalvingPruner, ThresholdPruner, WilcoxonPruner
from optuna.samplers import BruteForceSampler, GridSampler, QMCSampler, RandomSampler
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from optuna_integration import OptunaSearchCV
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, SchemeComparison, StackedOptunaSearchCV, search_space, suggest

experimental = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def small(cls=BNMLPClassifier, **params):
    return cls((8,), **{"max_iter": 4, "n_ensemble": 1, "dtype": "float64", "random_state": 0, **params})


def rates():
    return {"learning_rate_init": FloatDistribution(1e-3, 1e-1, log=True)}


def search(estimator=None, space=None, **options):
    estimator = small() if estimator is None else estimator
    return StackedOptunaSearchCV(
        estimator, rates() if space is None else space, **{"n_trials": 6, "random_state": 0, **options}
    )


def states(fitted):
    return [trial.state.name for trial in fitted.study_.trials]


@pytest.fixture(scope="module")
def classes():
    return make_classification(203, 6, n_informative=4, random_state=0)


@pytest.fixture(scope="module")
def numbers():
    return make_regression(203, 6, noise=5.0, random_state=0)


def assert_scores_are_those_of_plain_cross_validation(fitted, X, y, cv=5, **options):
    results = fitted.cv_results_
    for i, params in enumerate(results["params"]):
        if results["n_splits_scored"][i] == fitted.n_splits_ and np.isnan(results["stopped_epoch"][i]):
            plain = cross_val_score(clone(fitted.estimator).set_params(**params), X, y, cv=cv, **options)
            ours = [results[f"split{split}_test_score"][i] for split in range(fitted.n_splits_)]
            np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["alone", "pipeline", "target transformed"])
def test_trials_score_as_in_plain_cross_validation(kind, classes, numbers):
    X, y = classes
    model = small()
    if kind == "pipeline":
        model = make_pipeline(StandardScaler(), model)
    if kind == "target transformed":
        X, y = numbers
        inner = make_pipeline(StandardScaler(), small(BNMLPRegressor))
        model = TransformedTargetRegressor(inner, transformer=MinMaxScaler())
    space = search_space(model, "wide")
    sizes = next(name for name in space if name.endswith("hidden_layer_sizes"))
    space[sizes] = CategoricalDistribution(["4-4", "8"])
    fitted = search(model, space, n_trials=10).fit(X, y)
    assert states(fitted) == ["COMPLETE"] * 10
    assert_scores_are_those_of_plain_cross_validation(fitted, X, y)
    means = [trial.value for trial in fitted.study_.trials]
    assert fitted.best_score_ == fitted.study_.best_value == max(means)
    assert fitted.best_params_ == fitted.study_.best_params
    np.testing.assert_array_equal(fitted.cv_results_["mean_test_score"], means)
    best = clone(model).set_params(**fitted.best_params_).fit(X, y)
    np.testing.assert_array_equal(fitted.predict(X), best.predict(X))


@pytest.mark.parametrize(
    "pruner",
    [MedianPruner(n_startup_trials=2), SuccessiveHalvingPruner(), ThresholdPruner(lower=-0.6, n_warmup_steps=2)],
)
def test_pruning_changes_no_trial_that_it_lets_through(pruner, classes):
    fitted = search(pruner=pruner, n_trials=20, batch_size=4).fit(*classes)
    assert {"COMPLETE", "PRUNED"} == set(states(fitted))
    assert_scores_are_those_of_plain_cross_validation(fitted, *classes)
    results = fitted.cv_results_
    pruned = np.array([fitted.study_.trials[number].state == TrialState.PRUNED for number in results["trial_number"]])
    np.testing.assert_array_equal(np.isnan(results["stopped_epoch"]), ~pruned)
    assert results["rank_test_score"][pruned].min() > results["rank_test_score"][~pruned].max()
    np.testing.assert_array_equal(results["n_epochs"][~pruned], 5 * 4)
    np.testing.assert_array_equal(results["n_epochs"][pruned], 5 * results["stopped_epoch"][pruned])
    for trial, stopped in zip(fitted.study_.trials, results["stopped_epoch"], strict=True):
        n_reports = 4 if np.isnan(stopped) else stopped
        assert list(trial.intermediate_values) == list(range(int(n_reports)))


class RowSpy(TransformerMixin, BaseEstimator):
    """Remembers the rows that it is fitted to, which their first column names."""

    seen = []

    def fit(self, X, y=None):
        RowSpy.seen.append(set(X[:, 0]))
        return self

    def transform(self, X):
        return X[:, 1:]

    def __sklearn_is_fitted__(self):
        return True


def test_a_report_is_minus_the_loss_on_the_test_rows_of_all_folds_at_one_epoch():
    """Against plain fits of so many epochs. Of 202 rows and five folds, training parts have 5 or 6 batches."""
    X, y = make_classification(202, 6, n_informative=4, random_state=0)
    model = make_pipeline(StandardScaler(), small(batch_size=32, learning_rate="constant", early_stopping=False))
    space = {f"bnmlpclassifier__{name}": distribution for name, distribution in rates().items()}
    cv = KFold(5)
    assert {-(-len(train) // 32) - (len(train) % 32 == 1) for train, _ in cv.split(X)} == {5, 6}
    pruner = MedianPruner(n_startup_trials=2)
    fitted = search(model, space, n_trials=6, batch_size=2, cv=cv, pruner=pruner).fit(X, y)
    assert {"COMPLETE", "PRUNED"} == set(states(fitted))
    for trial in fitted.study_.trials:
        for epoch, report in trial.intermediate_values.items():
            plain = clone(model).set_params(bnmlpclassifier__max_iter=epoch + 1, **trial.params)
            assert report == pytest.approx(cross_val_score(plain, X, y, cv=cv, scoring="neg_log_loss").mean(), rel=1e-9)


def test_splits_are_made_once_and_no_test_row_is_trained_on(classes):
    """A splitter without a seed gives other folds whenever it is asked, which peers do every epoch."""
    X, y = classes
    X = np.column_stack([np.arange(len(X)), X])
    RowSpy.seen = []
    model = make_pipeline(RowSpy(), small())
    space = {f"bnmlpclassifier__{name}": distribution for name, distribution in rates().items()}
    fitted = search(
        model, space, cv=KFold(3, shuffle=True), pruner=MedianPruner(n_startup_trials=2), n_trials=12, batch_size=4,
        refit=False,
    ).fit(X, y)  # fmt: skip
    assert "PRUNED" in states(fitted)
    folds = {frozenset(rows) for rows in RowSpy.seen}
    assert len(RowSpy.seen) == len(folds) == 3  # each fitted once, for all trials
    left_out = [set(range(len(X))) - rows for rows in folds]
    assert sorted(row for rows in left_out for row in rows) == list(range(len(X)))


@pytest.mark.parametrize("leak", ["none", "trained on", "choose the epoch"])
def test_labels_of_test_rows_decide_nothing_but_their_score(leak):
    """Turned round they make a score one minus itself; not where they are made to leak into the training."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(150, 5)), rng.integers(2, size=150)
    train, test = np.arange(100), np.arange(100, 150)
    found = []
    for labels in (y, np.append(y[train], 1 - y[test])):
        cv = [(np.arange(150) if leak == "trained on" else train, test)]
        validation = {"X_val": X[test], "y_val": labels[test]} if leak == "choose the epoch" else {}
        fitted = search(
            small(max_iter=30), cv=cv, sampler=RandomSampler(seed=0), pruner=MedianPruner(n_startup_trials=3),
            n_trials=12, batch_size=3, refit=False,
        ).fit(X, labels, **validation)  # fmt: skip
        found.append(fitted)
    complete = np.all([np.isnan(fitted.cv_results_["stopped_epoch"]) for fitted in found], axis=0)
    assert 3 <= complete.sum() < 12
    sums = sum(fitted.cv_results_["mean_test_score"] for fitted in found)[complete]
    if leak == "none":
        np.testing.assert_allclose(sums, 1, rtol=1e-12)
    else:
        assert sums.mean() > 1.1


def test_sample_weights_and_groups_are_cut_to_the_fold_with_a_pruner(classes):
    X, y = classes
    weight = np.random.default_rng(0).exponential(size=len(y))
    groups = np.arange(len(y)) % 7
    cv = GroupKFold(3)
    fitted = search(cv=cv, pruner=MedianPruner(n_startup_trials=1)).fit(X, y, sample_weight=weight, groups=groups)
    assert "COMPLETE" in states(fitted)
    for trial in fitted.study_.get_trials(states=[TrialState.COMPLETE]):
        for i, (train, test) in enumerate(cv.split(X, y, groups)):
            one = small(**trial.params).fit(X[train], y[train], sample_weight=weight[train])
            score = one.score(X[test], y[test], sample_weight=weight[test])  # as scikit-learn's searches weigh it
            assert trial.user_attrs[f"split{i}_test_score"] == pytest.approx(score, abs=1e-9)


def test_each_fit_is_a_study_of_its_own(classes):
    X, y = classes
    nested = search(n_trials=3, cv=3)
    scores = cross_val_score(nested, X, y, cv=3)
    predictions = cross_val_predict(nested, X, y, cv=3, method="predict_proba")
    hits = predictions.argmax(1) == y
    assert [hits[test].mean() for _, test in StratifiedKFold(3).split(X, y)] == pytest.approx(scores, rel=1e-12)
    twice = search(n_trials=3).fit(X, y).fit(X, y)
    assert len(twice.study_.trials) == 3


def test_a_single_split(classes):
    cv = ShuffleSplit(1, random_state=0)
    fitted = search(cv=cv, pruner=MedianPruner(n_startup_trials=1)).fit(*classes)
    assert_scores_are_those_of_plain_cross_validation(fitted, *classes, cv=cv)


@experimental
def test_wilcoxon_pruner_gets_the_score_of_each_fold(classes):
    space = {"learning_rate_init": FloatDistribution(1e-7, 1e-1, log=True)}
    fitted = search(
        small(max_iter=8), space, cv=10, pruner=WilcoxonPruner(p_threshold=0.2), n_trials=12, batch_size=4
    ).fit(*classes)
    assert {"COMPLETE", "PRUNED"} == set(states(fitted))
    assert_scores_are_those_of_plain_cross_validation(fitted, *classes, cv=10)
    results = fitted.cv_results_
    for i, trial in enumerate(fitted.study_.trials):
        n_scored = results["n_splits_scored"][i]
        folds = np.array([results[f"split{split}_test_score"][i] for split in range(10)])
        assert np.isnan(folds[n_scored:]).all()
        reported = [trial.intermediate_values[split] for split in range(min(n_scored, 9))]
        np.testing.assert_array_equal(folds[: min(n_scored, 9)], reported)
        assert results["mean_test_score"][i] == pytest.approx(np.nanmean(folds))
        assert (trial.state == TrialState.PRUNED) == (n_scored < 10)


def test_reports_after_folds_are_the_mean_scores_so_far(classes):
    fitted = search(pruner=MedianPruner(n_startup_trials=2), report="fold", n_trials=16, batch_size=4).fit(*classes)
    assert {"COMPLETE", "PRUNED"} == set(states(fitted))
    assert_scores_are_those_of_plain_cross_validation(fitted, *classes)
    results = fitted.cv_results_
    for i, trial in enumerate(fitted.study_.trials):
        n_scored = results["n_splits_scored"][i]
        plain = cross_val_score(small(**trial.params), *classes)[:n_scored]
        means = np.cumsum(plain) / np.arange(1, n_scored + 1)
        reported = [trial.intermediate_values[split] for split in range(min(n_scored, 4))]
        np.testing.assert_allclose(reported, means[:4], rtol=0, atol=1e-9)
        assert results["n_epochs"][i] == 4 * n_scored
        assert (trial.state == TrialState.PRUNED) == (n_scored < 5)


@pytest.mark.parametrize("sampler", [GridSampler, BruteForceSampler, QMCSampler, RandomSampler])
@experimental
def test_any_sampler(sampler, classes):
    values = {"l2": [0.0, 1.0, 10.0], "batch_norm": [False, True]}
    space = {name: CategoricalDistribution(choices) for name, choices in values.items()}
    made = sampler(values, seed=0) if sampler is GridSampler else sampler(seed=0)
    fitted = search(space=space, sampler=made, batch_size=4, refit=False).fit(*classes)
    tried = {(params["l2"], params["batch_norm"]) for params in fitted.cv_results_["params"]}
    assert len(fitted.study_.trials) == 6
    assert len(tried) == 6 if sampler in (GridSampler, BruteForceSampler) else len(tried) > 1


def test_the_same_seed_asks_for_the_same_trials(classes):
    one, same, other = (search(random_state=seed, batch_size=2).fit(*classes) for seed in (0, 0, 1))
    assert one.cv_results_["params"] == same.cv_results_["params"] != other.cv_results_["params"]


def test_a_timeout_and_callbacks_end_a_study(classes):
    seen = []
    stopped = search(
        n_trials=50, batch_size=2, callbacks=[MaxTrialsCallback(4), lambda study, trial: seen.append(trial.number)]
    ).fit(*classes)
    assert seen == [0, 1, 2, 3] == stopped.cv_results_["trial_number"].tolist()
    timed = search(n_trials=None, timeout=1.0, batch_size=2).fit(*classes)
    assert len(timed.cv_results_["params"]) == states(timed).count("COMPLETE") > 1


def test_errors_fail_their_trial_alone(classes):
    space = {"learning_rate_init": CategoricalDistribution([0.01, 1e300])}
    model = make_pipeline(StandardScaler(), small())
    space = {f"bnmlpclassifier__{name}": choices for name, choices in space.items()}
    with pytest.warns(FitFailedWarning, match="5 of 5 fits of trial .* failed, and count as nan"):
        fitted = search(model, space, n_trials=8).fit(*classes)
    found = {(params["bnmlpclassifier__learning_rate_init"], state) for params, state in zip(
        fitted.cv_results_["params"], states(fitted), strict=True)}  # fmt: skip
    assert found == {(0.01, "COMPLETE"), (1e300, "FAIL")}
    assert fitted.best_params_ == {"bnmlpclassifier__learning_rate_init": 0.01}

    with pytest.raises(ValueError, match="The training diverged"):
        search(model, space, n_trials=8, error_score="raise").fit(*classes)
    caught = search(model, space, n_trials=8, error_score="raise", catch=(ValueError,)).fit(*classes)
    assert states(caught) == states(fitted)
    with pytest.warns(FitFailedWarning, match="count as -3"):
        scored = search(model, space, n_trials=8, error_score=-3.0).fit(*classes)
    assert {trial.value for trial in scored.study_.trials if 1e300 in trial.params.values()} == {-3.0}
    space["bnmlpclassifier__learning_rate_init"] = CategoricalDistribution([1e300])
    with (
        pytest.warns(FitFailedWarning),
        pytest.raises(ValueError, match="The training diverged"),
    ):
        search(model, space, n_trials=2).fit(*classes)


def test_several_scores(classes):
    scoring = ["accuracy", "neg_log_loss"]
    fitted = search(scoring=scoring, refit="neg_log_loss", return_train_score=True).fit(*classes)
    results = fitted.cv_results_
    assert fitted.best_score_ == results["mean_test_neg_log_loss"].max() == fitted.study_.best_value
    for i, params in enumerate(results["params"]):
        plain = cross_validate(small(**params), *classes, scoring=scoring, return_train_score=True)
        for name in ("test_accuracy", "train_accuracy", "test_neg_log_loss", "train_neg_log_loss"):
            ours = [results[f"split{split}_{name}"][i] for split in range(5)]
            np.testing.assert_allclose(ours, plain[name], rtol=0, atol=1e-9)

    def both(estimator, X, y):
        return {"hits": estimator.score(X, y), "misses": -estimator.score(X, y)}

    called = search(scoring=both, refit="misses").fit(*classes)
    assert called.best_score_ == called.cv_results_["mean_test_misses"].max() == called.study_.best_value
    with pytest.raises(ValueError, match="refit must name the score to optimize"):
        search(scoring=scoring, refit=False).fit(*classes)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of the test scores")
@pytest.mark.parametrize("error_score", [np.nan, 0.1])
@pytest.mark.parametrize("rates", [[0.01, 1e300], [1e300, 0.01]])
@pytest.mark.parametrize("scoring", [None, "accuracy", make_scorer(accuracy_score), ["accuracy", "r2"], "a function"])
def test_a_trial_that_fails_counts_as_error_score_in_each_score(classes, scoring, rates, error_score):
    """Whichever comes first; `refit` may be text for a single score too, as in scikit-learn's searches."""
    scorer = get_scorer("accuracy")
    scoring = (lambda *about: {"accuracy": scorer(*about), "r2": 0.5}) if scoring == "a function" else scoring
    options = {"scoring": scoring, "refit": "accuracy", "cv": 2, "error_score": error_score}
    space = {"learning_rate_init": CategoricalDistribution(rates)}
    sampler = GridSampler({"learning_rate_init": rates}, seed=0)
    ours = StackedOptunaSearchCV(small(), space, n_trials=2, sampler=sampler, **options).fit(*classes).cv_results_
    theirs = GridSearchCV(small(), {"learning_rate_init": [p["learning_rate_init"] for p in ours["params"]]}, **options)
    theirs = theirs.fit(*classes).cv_results_
    scores = [name for name in theirs if re.search("(split|mean|std|rank).*_test_", name)]
    assert scores == [name for name in ours if re.search("(split|mean|std|rank).*_test_", name)]
    for name in scores:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-9)


def test_worker_processes_share_the_budget(classes):
    fitted = search(n_jobs=2, n_trials=12, batch_size=2, pruner=MedianPruner(n_startup_trials=2)).fit(*classes)
    assert len(fitted.study_.trials) == 12
    assert set(states(fitted)) <= {"COMPLETE", "PRUNED"}
    assert_scores_are_those_of_plain_cross_validation(fitted, *classes)
    assert len({tuple(params.values()) for params in fitted.cv_results_["params"]}) == 12


def test_a_storage_gives_back_what_was_put_in(classes, tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    with pytest.warns(UserWarning, match="Choices for a categorical distribution"):
        space = {"hidden_layer_sizes": CategoricalDistribution([(4,), (4, 4)])}
    tuples = search(space=space, storage=storage).fit(*classes)
    assert {params["hidden_layer_sizes"] for params in tuples.cv_results_["params"]} == {(4,), (4, 4)}

    space = {"hidden_layer_sizes": CategoricalDistribution(["4", "4-4"]), "max_iter": IntDistribution(1, 3)}
    options = {"storage": storage, "study_name": "mine", "load_if_exists": True}
    fitted = search(space=space, **options).fit(*classes)
    before = [trial.params for trial in fitted.study_.trials]
    longer = search(space=space, n_trials=9, **options).fit(*classes)
    assert [trial.params for trial in longer.study_.trials][:6] == before
    assert len(longer.cv_results_["params"]) == 9
    with pytest.raises(optuna.exceptions.DuplicatedStudyError, match="already exists"):
        search(space=space, **{**options, "load_if_exists": False}).fit(*classes)
    X, y = classes
    with pytest.raises(ValueError, match="has a study 'mine' of other rows or folds"):
        search(space=space, **options).fit(X[:-1], y[:-1])


def test_pickled_and_with_a_progress_bar(classes, capsys):
    fitted = search(show_progress_bar=True, verbose=1).fit(*classes)
    printed = capsys.readouterr()
    assert "6/6" in printed.err
    assert f"best {fitted.best_score_:.4f}" in printed.err
    assert printed.out.count("COMPLETE") == 6
    again = pickle.loads(pickle.dumps(fitted))
    assert again.study_.best_params == fitted.best_params_
    np.testing.assert_array_equal(again.predict(classes[0]), fitted.predict(classes[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": {}}, "param_distributions must have Optuna distributions as values"),
        ({"space": {"l2": [0.0, 1.0]}}, "param_distributions must have Optuna distributions as values"),
        ({"space": {"alpha": FloatDistribution(0, 1)}}, r"names \['alpha'\], which are no parameters"),
        ({"n_trials": None}, "n_trials or timeout must be given"),
        ({"pruner": "median"}, "'pruner' parameter of StackedOptunaSearchCV must be"),
        ({"batch_size": 0}, "'batch_size' parameter of StackedOptunaSearchCV must be"),
    ],
)
def test_bad_options_get_one_sentence(options, message, classes):
    with pytest.raises(ValueError, match=message):
        search(**options).fit(*classes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cls", [BNMLPClassifier, BNMLPRegressor])
def test_check_estimator_nothing_fails_and_nothing_is_excused(cls):
    model = cls((32,), max_iter=20, n_ensemble=1, dtype="float64", random_state=0)
    fitted = StackedOptunaSearchCV(model, {"l2": FloatDistribution(0.0, 1.0)}, n_trials=2, cv=2, random_state=0)
    results = check_estimator(fitted, on_fail=None, on_skip=None)
    assert [result["check_name"] for result in results if result["status"] == "failed"] == []
    assert sum(result["status"] == "passed" for result in results) > 45


@pytest.mark.parametrize("preset", ["regularization", "default", "wide"])
def test_a_search_space_serves_plain_studies_and_peers(preset, classes):
    X, y = classes
    plain, piped = small(), make_pipeline(StandardScaler(), small())
    space = search_space(plain, preset)
    assert search_space(piped, preset) == {f"bnmlpclassifier__{name}": d for name, d in space.items()}
    if preset == "wide":
        space["hidden_layer_sizes"] = CategoricalDistribution(["4-4"])

    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))
    study.optimize(lambda trial: small().set_params(**suggest(trial, space)).fit(X, y).score(X, y), n_trials=2)
    assert set(study.best_params) == set(space)
    with pytest.warns(ExperimentalWarning):
        peer = OptunaSearchCV(plain, space, n_trials=2, cv=2, random_state=0)
    assert set(peer.fit(X, y).best_params_) == set(space)


def test_a_study_over_batch_norm_and_l2_is_compared_by_schemes(classes):
    """By the best trial of each; gamma and beta count where there is batch norm alone."""
    fitted = search(space=search_space(small(), "regularization"), n_trials=24).fit(*classes)
    names = {"none": ("plain", "bn"), "weights": ("l2", "bn+l2"), "weights+gamma+beta": ("l2", "bn+l2+gamma+beta"),
             "all": ("l2+all", "bn+l2+all")}  # fmt: skip
    values = {}
    for trial in fitted.study_.trials:
        values.setdefault(names[trial.params["l2_targets"]][trial.params["batch_norm"]], []).append(trial.value)
    assert sum(len(of_scheme) > 1 for of_scheme in values.values()) > 3
    comparison = SchemeComparison.from_study(fitted.study_, estimator=fitted.estimator, rope=0.01)
    expected = {name: max(of_scheme) for name, of_scheme in values.items()}
    assert comparison.frame.groupby("scheme")["score"].mean().to_dict() == pytest.approx(expected)


def test_a_model_that_no_stack_can_take_is_fitted_by_itself(classes):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    space = {"logisticregression__C": FloatDistribution(1e-3, 1e3, log=True)}
    fitted = search(model, space, pruner=MedianPruner()).fit(*classes)
    assert states(fitted) == ["COMPLETE"] * 6
    assert_scores_are_those_of_plain_cross_validation(fitted, *classes)


def test_search_spaces_say_what_they_need(classes):
    with pytest.raises(ValueError, match="estimator must be a BNMLPClassifier"):
        search_space(StandardScaler())
    with pytest.raises(ValueError, match="preset must be one of"):
        search_space(small(), "huge")
    assert "l2_budget" not in search_space(small(l2_mode="loss"))
    assert "l2" in search_space(small(l2_mode="loss"))
    with pytest.raises(ValueError, match=r"No trial was completed.*Give it more time"):
        search(pruner=ThresholdPruner(lower=0.0)).fit(*classes)
    with pytest.raises(ValueError, match="holds Optuna's distributions"):
        suggest(None, {"l2": 1.0})


def test_a_score_that_no_fold_has_is_the_reason(classes):
    X, y = classes
    y = np.where(np.arange(len(y)) < 3, 2, y)  # a class of rows of the first fold alone
    with pytest.raises(ValueError, match=r"Every score was nan by .* every class"):
        search(small(), scoring="neg_log_loss", cv=KFold(3), n_trials=1).fit(X, y)
