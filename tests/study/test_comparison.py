"""Schemes by name, and comparisons from searches and studies that were run already."""

from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, RepeatedKFold, ShuffleSplit, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.stats.multitest import multipletests

from sk_bnreg import BNMLPClassifier, SchemeComparison, StackedGridSearchCV
from sk_bnreg.stats.folds import contrast
from sk_bnreg.study.schemes import SCHEMES, scheme_name

NET = BNMLPClassifier((8,), max_iter=4, batch_size=32, learning_rate_init=0.05, n_ensemble=1, random_state=0)


@pytest.fixture
def table():
    return make_classification(n_samples=120, n_features=6, flip_y=0.2, random_state=0)


@pytest.mark.parametrize(
    ("batch_norm", "l2_targets", "l2_mode", "name"),
    [
        (False, "none", "loss", "plain"),
        (False, "weights+gamma+beta", "decoupled", "l2"),
        (False, ("weights", "biases", "embeddings"), "decoupled", "l2+all"),
        (True, (), "decoupled", "bn"),
        (True, ("weights", "gamma", "beta"), "loss", "bn+l2+gamma+beta (loss)"),
        (True, "output_weights", "decoupled", "bn+l2 on output_weights"),
    ],
)
def test_schemes_are_named_by_what_they_do(batch_norm, l2_targets, l2_mode, name):
    assert scheme_name(batch_norm, l2_targets, l2_mode) == name


def test_built_in_schemes_are_the_factorial_without_repetition():
    """Without batch norm: nothing, weights, all; with it gamma and beta too; each L2 in two modes; dropout."""
    without = {name: params for name, params in SCHEMES.items() if "dropout" not in params}
    assert len(without) == (1 + 2 * 2) + (1 + 3 * 2)
    assert all(scheme_name(**params) == name for name, params in without.items())
    corners = {"dropout": "plain", "l2+dropout": "l2", "bn+dropout": "bn", "bn+l2+dropout": "bn+l2"}
    assert without | {name: SCHEMES[own] | {"dropout": "tuned"} for name, own in corners.items()} == SCHEMES


def test_a_search_gives_the_best_candidate_of_each_scheme(table):
    model = make_pipeline(StandardScaler(), NET)
    grid = {
        "bnmlpclassifier__batch_norm": [True, False],
        "bnmlpclassifier__l2_targets": ["weights", "weights+gamma+beta"],
        "bnmlpclassifier__l2": [0.0, 0.5, 5.0],
    }
    search = StackedGridSearchCV(model, grid, cv=4).fit(*table)
    comparison = SchemeComparison.from_cv_results(search)
    best = {}
    for i, params in enumerate(search.cv_results_["params"]):
        batch_norm, targets, l2 = (params[key] for key in grid)
        name = ("bn" if batch_norm else "plain") if l2 == 0 else ("bn+l2" if batch_norm else "l2")
        name += "+gamma+beta" if l2 and batch_norm and targets != "weights" else ""
        scores = [search.cv_results_[f"split{k}_test_score"][i] for k in range(4)]
        if np.mean(scores) > np.mean(best.get(name, [0])):
            best[name] = scores
    assert list(comparison.schemes) == ["plain", "l2", "bn", "bn+l2", "bn+l2+gamma+beta"]
    for name, scores in best.items():
        assert comparison.table().loc[name, "score"] == pytest.approx(np.mean(scores))
    expected = contrast(np.subtract(best["bn+l2"], best["bn"]), test_ratio=1 / 3, rope=0.01)
    assert comparison.verdicts()[0].contrast.low == pytest.approx(expected.low)
    assert "plain 2, l2 4, bn 2, bn+l2 2, bn+l2+gamma+beta 2" in comparison.caveat
    assert comparison.best_estimator_ is search.best_estimator_


@pytest.mark.parametrize(("cv", "ratio"), [(RepeatedKFold(n_splits=5, n_repeats=2), 0.25), (3, 0.5)])
def test_the_ratio_of_rows_follows_from_the_splitter(table, cv, ratio):
    search = GridSearchCV(NET, {"batch_norm": [True, False], "l2": [0.1]}, cv=cv).fit(*table)
    comparison = SchemeComparison.from_cv_results(search)
    assert comparison.test_ratio == ratio
    assert (comparison.n_folds, comparison.metric, comparison.rope) == (search.n_splits_, "accuracy", 0.01)


def test_searches_that_cannot_be_compared_are_told_so(table):
    search = GridSearchCV(NET, {"l2": [0.1, 1.0]}, cv=2).fit(*table)
    with pytest.raises(ValueError, match=r"At least 2 schemes .* found \['bn\+l2'\]"):
        SchemeComparison.from_cv_results(search)
    search = GridSearchCV(NET, {"l2": [0.0, 1.0]}, cv=ShuffleSplit(3, random_state=0)).fit(*table)
    with pytest.raises(ValueError, match="test_ratio, n_test / n_train of a fold, must be given"):
        SchemeComparison.from_cv_results(search)
    search = GridSearchCV(NET, {"l2": [0.0, 1.0]}, cv=2, scoring="neg_log_loss").fit(*table)
    with pytest.raises(ValueError, match="rope must be given for scoring='neg_log_loss'"):
        SchemeComparison.from_cv_results(search)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_an_optuna_study_gives_the_best_trial_of_each_scheme(table, direction):
    sign = 1 if direction == "maximize" else -1

    def objective(trial):
        params = {"batch_norm": trial.suggest_categorical("batch_norm", [True, False])}
        params["l2"] = trial.suggest_categorical("l2", [0.0, 1.0])
        scores = sign * cross_val_score(NET.__class__(**NET.get_params() | params), *table, cv=3)
        for fold, score in enumerate(scores):
            trial.set_user_attr(f"split{fold}_test_score", score)
        return float(np.mean(scores))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction, sampler=optuna.samplers.BruteForceSampler(seed=0))
    study.optimize(objective, n_trials=4)
    comparison = SchemeComparison.from_study(study, estimator=NET, rope=0.02)
    values = {(t.params["batch_norm"], t.params["l2"] > 0): sign * t.value for t in study.trials}
    means = comparison.table()["score"]
    names = {"plain": (False, False), "l2": (False, True), "bn": (True, False), "bn+l2": (True, True)}
    assert means.to_dict() == pytest.approx({name: values[key] for name, key in names.items()})
    assert comparison.test_ratio == 0.5


def test_a_study_without_fold_scores_is_refused():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("l2", 0, 1), n_trials=2)
    with pytest.raises(ValueError, match="must hold their fold scores in the user attributes"):
        SchemeComparison.from_study(study, estimator=NET, rope=0.01)


def test_seeds_are_averaged_within_a_fold_and_p_values_adjusted():
    rng = np.random.default_rng(0)
    rows = [
        {"scheme": name, "repeat": repeat, "fold": fold, "seed": seed, "score": rng.normal(0.8, 0.01)}
        for name in ("a", "b", "c")
        for repeat in range(2)
        for fold in range(3)
        for seed in range(4)
    ]
    comparison = SchemeComparison(pd.DataFrame(rows), {"a": {}, "b": {}, "c": {}}, "accuracy", 0.01, 0.5)
    scores = np.array([row["score"] for row in rows]).reshape(3, 6, 4).mean(axis=2)
    best = int(scores.mean(axis=1).argmax())
    others = [i for i in range(3) if i != best]
    contrasts = [contrast(scores[i] - scores[best], test_ratio=0.5, rope=0.01) for i in others]
    table = comparison.table().iloc[others]
    np.testing.assert_allclose(table[["difference", "low", "high"]], [(c.mean, c.low, c.high) for c in contrasts])
    np.testing.assert_allclose(table["p_holm"], multipletests([c.p_value for c in contrasts], method="holm")[1])
    assert comparison.n_folds == 6
    with pytest.raises(ValueError, match="The interaction needs the schemes"):
        comparison.interaction()


def test_other_models_in_a_search_belong_to_no_scheme(table):
    model = make_pipeline(StandardScaler(), NET)
    grid = [
        {"bnmlpclassifier__batch_norm": [True, False], "bnmlpclassifier__l2": [{"gamma": 0.1}, 0.5]},
        {"bnmlpclassifier": [LogisticRegression()]},
    ]
    comparison = SchemeComparison.from_cv_results(GridSearchCV(model, grid, cv=3).fit(*table))
    assert list(comparison.schemes) == ["plain", "l2", "bn+l2", "bn+l2 on gamma"]


def cross_validated(network, X, y, folds, per_class=False):
    """Return what skore's CrossValidationReport has of these: folds, an estimator, a method for each score."""
    scores = [clone(network).fit(X[train], y[train]).score(X[test], y[test]) for train, test in folds]
    table = np.array([scores, scores] if per_class else [scores])
    return SimpleNamespace(
        split_indices=folds, estimator=network, ml_task="binary-classification",
        metrics=SimpleNamespace(accuracy=lambda aggregate: pd.DataFrame(table), log_loss=lambda aggregate: 1 - table),
    )  # fmt: skip


def test_a_report_of_skores_is_compared_as_its_scores_are():
    X, y = make_classification(n_samples=90, random_state=0)
    folds = list(StratifiedKFold(3).split(X, y))
    networks = [BNMLPClassifier((4,), max_iter=5, n_ensemble=1, random_state=0, l2_targets=t) for t in ("none", "all")]
    reports = [cross_validated(network, X, y, folds) for network in networks]
    report = SimpleNamespace(reports_=dict(zip("ab", reports, strict=True)))
    found = SchemeComparison.from_skore(report)
    expected = [np.asarray(own.metrics.accuracy(None))[0] for own in reports]
    answer = contrast(expected[1] - expected[0], test_ratio=0.5, rope=0.01)
    assert found.contrast("bn+l2+all", "bn") == answer
    assert (found.metric, found.caveat) == ("accuracy", "")
    by_loss = SchemeComparison.from_skore(report, metric="log_loss", rope=0.1)
    np.testing.assert_allclose(by_loss.differences("bn+l2+all", "bn"), expected[1] - expected[0])
    others = list(StratifiedKFold(3, shuffle=True, random_state=0).split(X, y))
    for reports_, options, said in (
        ([], {"metric": "log_loss"}, "rope must be given for negative log_loss"),
        ([], {"metric": "f1"}, "metric must be a score of the reports' metrics, got 'f1'"),
        ([cross_validated(networks[1], X, y, others)], {}, "of the same folds"),
        ([cross_validated(networks[1], X, y, folds, per_class=True)] * 2, {}, "one value per fold, 'accuracy' has 6"),
        ([reports[0]] * 2, {}, "At least 2 schemes"),
    ):
        some = [*reports, *reports_][-2:]
        with pytest.raises(ValueError, match=said):
            SchemeComparison.from_skore(SimpleNamespace(reports_=dict(zip("ab", some, strict=True))), **options)
    with pytest.raises(ValueError, match=r"must be a skore\.ComparisonReport"):
        SchemeComparison.from_skore({"a": 1})


def test_skores_own_report_is_compared():
    skore = pytest.importorskip("skore")  # 0.28
    X, y = make_classification(n_samples=90, random_state=0)
    networks = {
        "without": BNMLPClassifier((4,), max_iter=5, n_ensemble=1, random_state=0, l2_targets="none"),
        "with": BNMLPClassifier((4,), max_iter=5, n_ensemble=1, random_state=0),
    }
    reports = {name: skore.CrossValidationReport(net, X, y, splitter=3) for name, net in networks.items()}
    found = SchemeComparison.from_skore(skore.ComparisonReport(reports))
    expected = {name: cross_val_score(net, X, y, cv=3) for name, net in networks.items()}
    np.testing.assert_allclose(found.differences("bn+l2", "bn"), expected["with"] - expected["without"])
