"""Scores of what a study's networks predicted: against networks fitted one by one and scikit-learn's metrics."""

import numpy as np
import pandas as pd
import pytest
from loops import mean_of_members
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    d2_log_loss_score,
    fbeta_score,
    log_loss,
    make_scorer,
    mean_absolute_error,
    r2_score,
)
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, SchemeComparison, compare_schemes
from sk_bnreg.stats.folds import contrast
from sk_bnreg.study.held_out import proper_score, undamaged
from sk_bnreg.study.schemes import SCHEMES

SMALL = {
    "hidden_layer_sizes": (4,), "max_iter": 3, "batch_size": 32, "learning_rate_init": 0.05, "n_ensemble": 1,
    "dtype": "float64",
}  # fmt: skip
NET = BNMLPClassifier(**SMALL)
FEW = {
    "schemes": ["bn", "bn+l2"], "cv": 3, "n_candidates": 2, "inner_cv": 2, "random_state": 0, "n_repeats": 1,
    "n_seeds": 1, "on_plan": None,
}  # fmt: skip
CV = KFold(3, shuffle=True, random_state=0)
SINGLE_PRECISION = {"rtol": 1e-6, "atol": 1e-7}  # in which probabilities are kept
IN_TURN = (
    {"numeric_embedding": "periodic", "frequency_init_scale": 0.2},
    {"numeric_embedding": "piecewise-linear"},
    {"numeric_embedding": "periodic", "frequency_init_scale": 0.1},
)
CLOCKS = ["seconds", "elapsed", "n_fits"]


@pytest.fixture(scope="module")
def table():
    return make_classification(n_samples=120, n_features=6, n_informative=3, flip_y=0.2, random_state=0)


def fitted_singly(study, model, path, X, y, splits):
    """Yield a scheme, a fold, its test rows and its networks, each fitted by the estimator's own `fit`."""
    single = study.frame[(study.frame["n_networks"] == 1) & (study.frame["metric"] == study.metric)]
    for (scheme, fold), rows in single.sort_values("seed").groupby(["scheme", "fold"]):
        train, test = splits[fold]
        settings = [
            {**SCHEMES[scheme], **row[["learning_rate_init", "l2", "random_state"]], "n_ensemble": 1}
            # as the networks of the ensemble have them in turn
            | (IN_TURN[row["seed"] % 3] if study.n_networks == 3 else {})
            for _, row in rows.iterrows()
        ]
        models = [clone(model).set_params(**{f"{path}{name}": value for name, value in s.items()}) for s in settings]
        yield scheme, fold, test, [model.fit(X[train], y[train]) for model in models]


def class_table(n_classes):
    X, y = make_classification(
        n_samples=120, n_features=6, n_informative=3, n_classes=n_classes, flip_y=0.2, random_state=0
    )
    return X, np.array(["ape", "bee", "cat"])[y]


def number_table(n_targets):
    X, y = make_regression(n_samples=120, n_features=4, n_targets=n_targets, noise=30.0, random_state=0)
    return X, y / 50


def most_probable(y, probability):
    return accuracy_score(y, np.unique(y)[probability.argmax(axis=1)])


def all_labels(y, probability):
    return accuracy_score(y, probability > 0.5)


def neg_mean_absolute_error(y, predicted):
    return -mean_absolute_error(y, predicted)


def neg_log_loss(y, probability):
    return -log_loss(y, probability)


CLASSES = {"accuracy": most_probable, "d2_log_loss_score": d2_log_loss_score}
LABELS = {"accuracy": all_labels, "neg_log_loss": neg_log_loss}
NUMBERS = {"r2": r2_score, "neg_mean_absolute_error": neg_mean_absolute_error}
REGRESSOR = BNMLPRegressor(**SMALL)
SINH = TransformedTargetRegressor(REGRESSOR, func=np.arcsinh, inverse_func=np.sinh)


@pytest.mark.parametrize(
    ("model", "path", "data", "scores"),
    [
        pytest.param(NET, "", class_table(2), CLASSES, id="binary"),
        pytest.param(make_pipeline(StandardScaler(), NET), "bnmlpclassifier__", class_table(3), CLASSES, id="classes"),
        pytest.param(NET, "", make_multilabel_classification(120, 5, n_classes=3, random_state=0), LABELS, id="labels"),
        pytest.param(REGRESSOR, "", number_table(1), NUMBERS, id="number"),
        pytest.param(REGRESSOR, "", number_table(2), NUMBERS, id="numbers"),
        pytest.param(SINH, "regressor__", number_table(1), NUMBERS, id="transformed"),
    ],
)
def test_an_ensembles_score_is_that_of_the_mean_of_its_networks_predictions(model, path, data, scores):
    (X, y), splits = data, list(CV.split(data[0]))
    ensemble = clone(model).set_params(**{f"{path}n_ensemble": 3})
    settings = FEW | {"cv": CV, "n_seeds": 6, "scoring": list(scores), "rope": 0.01}
    study = compare_schemes(ensemble, X, y, **settings)
    assert (study.n_networks, study.metrics, study.metric) == (3, list(scores), next(iter(scores)))
    found = study.frame.set_index(["metric", "n_networks", "scheme", "fold", "seed"])["score"]
    assert len(found) == 2 * (2 * 3) * (6 + 2)
    for scheme, fold, test, models in fitted_singly(study, model, path, X, y, splits):
        predict = "predict_proba" if hasattr(models[0], "predict_proba") else "predict"
        predicted = np.array([getattr(model, predict)(X[test]) for model in models])
        for metric, score in scores.items():
            one = [found[metric, 1, scheme, fold, seed] for seed in range(6)]
            np.testing.assert_allclose(one, [score(y[test], each) for each in predicted], **SINGLE_PRECISION)
            three = [found[metric, 3, scheme, fold, seed] for seed in (0, 3)]
            means = [
                mean_of_members(three, labels=y.ndim == 2) if predict == "predict_proba" else three.mean(axis=0)
                for three in (predicted[:3], predicted[3:])
            ]
            np.testing.assert_allclose(three, [score(y[test], mean) for mean in means], **SINGLE_PRECISION)
    for comparison, size in ((study, 3), (study.single, 1)):
        folds = found[study.metric, size].groupby(["fold", "scheme"]).mean().unstack()
        expected = contrast(folds["bn+l2"] - folds["bn"], test_ratio=0.5, rope=0.01)
        assert comparison.contrast("bn+l2", "bn").low == pytest.approx(expected.low)
        assert comparison.verdicts()[0].contrast.mean == pytest.approx(expected.mean)
    assert study.sentence().startswith("For the mean of 3 networks, on this table L2 on the weights")
    assert study.single.sentence().startswith("On this table L2 on the weights")


def test_schemes_that_name_the_size_of_their_ensembles_are_compared_as_these(table):
    """An ensemble is then one network of the study, whatever its size."""
    X, y = table
    schemes = {"one": {"n_ensemble": 1}, "three": {"n_ensemble": 3}}
    study = compare_schemes(NET, X, y, **FEW | {"schemes": schemes, "cv": CV, "n_seeds": 2})
    assert study.n_networks == 1
    for _, row in study.frame.iterrows():
        train, test = list(CV.split(X))[row["fold"]]
        own = {**schemes[row["scheme"]], **row[["learning_rate_init", "l2", "random_state"]]}
        assert row["score"] == clone(NET).set_params(**own).fit(X[train], y[train]).score(X[test], y[test])


def test_fewer_seeds_than_an_ensemble_has_are_refused(table):
    with pytest.raises(ValueError, match="n_seeds must be at least the estimator's n_ensemble, 3, got 2"):
        compare_schemes(clone(NET).set_params(n_ensemble=3), *table, **FEW | {"n_seeds": 2})


def test_a_class_that_some_folds_lack(table):
    """One row has it: two folds score networks that know it on rows without it, one does the opposite."""
    X, y = table
    y = np.array(["no", "yes"], dtype=object)[y]
    y[7] = "or"  # between the two others
    splits = list(CV.split(X))
    classes = ["no", "or", "yes"]
    study = compare_schemes(NET, X, y, **FEW | {"cv": CV, "scoring": ["accuracy", "d2_log_loss_score"]})
    found = study.frame.set_index(["metric", "scheme", "fold"])["score"]
    known = set()
    for scheme, fold, test, (model,) in fitted_singly(study, NET, "", X, y, splits):
        known.add(len(model.classes_))
        probability = pd.DataFrame(model.predict_proba(X[test]), columns=model.classes_)
        probability = probability.reindex(columns=classes, fill_value=0.0).to_numpy()
        assert found["accuracy", scheme, fold] == accuracy_score(y[test], model.predict(X[test]))
        expected = d2_log_loss_score(y[test], probability, labels=classes)
        np.testing.assert_allclose(found["d2_log_loss_score", scheme, fold], expected, **SINGLE_PRECISION)
    assert known == {2, 3}


@pytest.mark.parametrize("known", [["a", "b", "c"], ["a", "c"], ["a", "b"], ["b", "c"]])
def test_the_proper_score_is_the_mean_log_probability_of_what_happened(known):
    """By a plain loop; a class that training had no row of has the smallest probability of single precision."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 2)), np.array(["a", "b", "c"])[rng.integers(0, 3, 60)]
    weight = rng.uniform(size=60)
    rows = np.isin(y, known)
    model = LogisticRegression().fit(X[rows], y[rows])
    logs = []
    for happened, probability in zip(y, model.predict_proba(X), strict=True):
        by_class = dict(zip(model.classes_, probability, strict=True))
        logs.append(np.log(by_class.get(happened, np.finfo(np.float32).tiny)))
    assert proper_score(model, X, y) == pytest.approx(np.mean(logs))
    assert proper_score(model, X, y, weight) == pytest.approx(np.dot(weight, logs) / weight.sum())
    assert proper_score(model, X, pd.Series(y), pd.Series(weight)) == proper_score(model, X, y, weight)


def test_the_proper_score_of_labels_and_of_numbers():
    X, y = make_multilabel_classification(60, 4, n_classes=3, random_state=0)
    model = BNMLPClassifier(**SMALL, random_state=0).fit(X, y)
    logs = np.zeros(60)
    for label in range(3):
        probability = model.predict_proba(X)[:, label]
        logs += [np.log(p if happened else 1 - p) for p, happened in zip(probability, y[:, label], strict=True)]
    assert proper_score(model, X, y) == pytest.approx(logs.mean())
    X, y = number_table(2)
    model = BNMLPRegressor(**SMALL, random_state=0).fit(X, y)
    assert proper_score(model, X, y) == pytest.approx(r2_score(y, model.predict(X)))


def same_scores(one, other):
    """Compare two studies' scores, rows in any order."""
    order = ["metric", "n_networks", "scheme", "repeat", "fold", "seed"]
    frames = (
        study.frame[study.frame["metric"] == study.metric].drop(columns=CLOCKS).sort_values(order, ignore_index=True)
        for study in (one, other)
    )
    pd.testing.assert_frame_equal(*frames, rtol=1e-12)
    pd.testing.assert_frame_equal(one.table(), other.table())
    assert (one.metric, one.rope, one.n_networks) == (other.metric, other.rope, other.n_networks)
    assert one.sentence() == other.sentence()
    assert one.single.sentence() == other.single.sentence()


@pytest.mark.parametrize("weighted", [False, True])
def test_rescoring_equals_a_study_scored_so_from_the_start(tmp_path, weighted):
    X, y = class_table(2)
    weight = np.random.default_rng(0).uniform(size=len(y)) if weighted else None
    net = clone(NET).set_params(n_ensemble=2)
    settings = FEW | {"cv": 2, "n_repeats": 2, "n_seeds": 2, "sample_weight": weight}
    study = compare_schemes(net, X, y, out=tmp_path, **settings)
    for scoring, rope in (("roc_auc", None), ("d2_log_loss_score", 0.05), ("neg_log_loss", 0.02)):
        start = compare_schemes(net, X, y, scoring=scoring, rope=rope, **settings)
        for comparison in (study, SchemeComparison.load(tmp_path)):
            same_scores(comparison.rescore(scoring, rope=rope), start)
    same_scores(study.rescore("roc_auc").rescore("accuracy"), study)
    assert (study.rescore(None).metric, study.rescore("roc_auc").rescore(None).metric) == ("accuracy", "accuracy")
    with pytest.raises(ValueError, match="rope must be given for scoring='neg_log_loss'"):
        study.rescore("neg_log_loss")
    with pytest.raises(ValueError, match="rope must be greater than 0, got -1"):
        study.rescore("roc_auc", rope=-1)


def test_rescoring_numbers_and_switching_between_scores(tmp_path):
    X, y = number_table(2)
    scoring, rope = ["r2", "neg_mean_absolute_error"], {"neg_mean_absolute_error": 0.03}
    both = compare_schemes(REGRESSOR, X, y, scoring=scoring, rope=rope, out=tmp_path, **FEW)
    assert both.ropes == {"r2": 0.01, "neg_mean_absolute_error": 0.03}
    alone = compare_schemes(REGRESSOR, X, y, scoring=scoring[1], rope=0.03, **FEW)
    for comparison in (both, SchemeComparison.load(tmp_path)):
        assert comparison.metrics == scoring
        switched = comparison.rescore("neg_mean_absolute_error")  # its rope is known
        same_scores(switched, alone)
        same_scores(switched.rescore("r2"), both)
    start = compare_schemes(REGRESSOR, X, y, scoring="explained_variance", **FEW)
    same_scores(SchemeComparison.load(tmp_path).rescore("explained_variance"), start)


def test_a_comparison_that_holds_no_predictions_is_not_rescored():
    scores = {"old": [0.70, 0.72], "new": [0.80, 0.81]}
    frame = pd.DataFrame(
        [{"scheme": s, "repeat": 0, "fold": f, "score": v} for s in scores for f, v in enumerate(scores[s])]
    )
    with pytest.raises(ValueError, match="The predictions are not there to score by 'roc_auc'"):
        SchemeComparison(frame, {"old": {}, "new": {}}, "accuracy", 0.01, 1.0).rescore("roc_auc")


def test_words_for_classes_make_the_same_study(table, tmp_path):
    X, y = table
    words = pd.Series(np.array(["no", "yes"])[y], index=range(100, 220))
    settings = FEW | {"scoring": ["accuracy", "roc_auc", "d2_log_loss_score"]}
    numbers, named = compare_schemes(NET, X, y, **settings), compare_schemes(NET, X, words, out=tmp_path, **settings)
    pd.testing.assert_frame_equal(named.frame.drop(columns=CLOCKS), numbers.frame.drop(columns=CLOCKS))
    pd.testing.assert_frame_equal(named.tuning, numbers.tuning)
    assert set(named.best_estimator_.predict(X)) == {"no", "yes"}
    loaded = SchemeComparison.load(tmp_path)
    same_scores(loaded.rescore("roc_auc"), numbers.rescore("roc_auc"))
    same_scores(loaded.rescore("f1_macro"), numbers.rescore("f1_macro"))
    column = compare_schemes(NET, X, y[:, None], **settings)
    pd.testing.assert_frame_equal(column.frame.drop(columns=CLOCKS), numbers.frame.drop(columns=CLOCKS))


def beta_score(beta):
    def score(y, predicted):
        return fbeta_score(y, predicted, beta=beta)

    return score


def test_scorers_that_are_functions(table, tmp_path):
    """They are called with an estimator that predicts, the test rows, and the target; two may have one name."""
    X, y = table

    def first_column(estimator, X, y):
        return float(X[:, 0].mean() + np.mean(estimator.predict(X) == y))

    study = compare_schemes(NET, X, y, scoring=first_column, rope=0.01, out=tmp_path, **FEW | {"cv": CV})
    accuracy = study.rescore("accuracy").frame["score"].to_numpy()
    column = np.array([X[test, 0].mean() for _, test in CV.split(X)])[study.frame["fold"]]
    np.testing.assert_allclose(study.frame["score"], accuracy + column)
    one, two = (study.rescore(make_scorer(beta_score(beta)), rope=0.01) for beta in (1, 2))
    assert one.metric == two.metric
    same_scores(one.rescore(make_scorer(beta_score(2)), rope=0.01), two)
    np.testing.assert_array_equal(one.frame["score"], study.rescore("f1").frame["score"])
    assert (one.frame["score"] != two.frame["score"]).any()
    # the folder keeps predictions and no rows of the table
    with pytest.raises(ValueError, match=r"is not defined for this target: .*not subscriptable"):
        SchemeComparison.load(tmp_path).rescore(first_column, rope=0.01)
    with pytest.raises(ValueError, match="rope must be given for scoring=<function"):
        study.rescore(beta_score(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scoring": []}, "scoring must name at least one score, and each once, got"),
        ({"scoring": ["accuracy", "accuracy"]}, "scoring must name at least one score, and each once, got"),
        ({"scoring": ["accuracy", "acuracy"]}, "scoring must be a score in .* got 'acuracy'"),
        ({"rope": {"acuracy": 0.1}}, r"rope must have names of the scores \['accuracy'\] as keys, got \['acuracy'\]"),
        ({"scoring": ["accuracy", "roc_auc"], "rope": {"roc_auc": 0.0}}, "rope must be greater than 0, got 0.0"),
    ],
)
def test_scores_and_ropes_that_no_study_can_be_made_of(table, settings, message):
    with pytest.raises(ValueError, match=message):
        compare_schemes(NET, *table, **FEW | settings)


def test_a_score_that_the_target_has_none_of_is_told_before_anything_is_trained(table):
    """An average precision of words would have to know which of them is the positive one."""
    X, y = table
    seen = []
    with pytest.raises(ValueError, match="The score 'average_precision' must know which"):
        compare_schemes(
            NET, X, np.array(["no", "yes"])[y], scoring=["accuracy", "average_precision"],
            on_progress=lambda *done: seen.append(done), **FEW,
        )  # fmt: skip
    assert seen == []


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.raises(PermissionError, match=r"Permission denied: .*study\.json"):
        undamaged(tmp_path / "study.json", refuse)


def test_a_folder_without_a_finished_study_is_told(tmp_path):
    with pytest.raises(ValueError, match="holds no finished comparison"):
        SchemeComparison.load(tmp_path)
