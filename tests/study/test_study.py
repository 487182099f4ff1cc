"""compare_schemes against a plain nested loop, and what it must never do."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.datasets import make_classification, make_regression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import GroupKFold, KFold, LeaveOneOut, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, SchemeComparison, compare_schemes
from sk_bnreg.stats.folds import contrast
from sk_bnreg.study.schemes import DEFAULT_SCHEMES, SCHEMES, TunedL2

ONCE = {"n_repeats": 1, "n_seeds": 1, "on_plan": None}
SMALL = {
    "hidden_layer_sizes": (8,), "max_iter": 6, "batch_size": 32, "learning_rate_init": 0.05, "n_ensemble": 1,
    "dtype": "float64",
}  # fmt: skip


@pytest.fixture
def table():
    return make_classification(n_samples=150, n_features=8, n_informative=4, flip_y=0.1, random_state=0)


SETTINGS = ["learning_rate_init", "budget", "dropout"]


def seed_of(study, repeat, fold, number):
    """Return the seed of a network: of the ones that are scored from 0 on, of those in tuning -1."""
    words = (study.plan.random_state, repeat + 1, fold, number + 2, 0)
    return np.random.SeedSequence(words).generate_state(1)[0] // 2


def chosen_of(tried):
    """Return the settings that tuning chose among a scheme's candidates in one fold."""
    return tried.loc[tried["inner_score"].idxmax(), SETTINGS].astype(float)


def fit_plainly(model, name, candidate, seed, X, y):
    """Return a clone of a pipeline with a scheme's candidate, fitted; L2 is what brings the budget on these rows."""
    model = clone(model)
    own = {name: candidate[name] for name in ("learning_rate_init", "dropout")}
    net = model[-1].set_params(**SCHEMES[name] | own, random_state=seed, l2=0.0)
    if SCHEMES[name]["l2_targets"] != "none":
        net.set_params(l2=net.l2_for_budget(candidate["budget"], len(y)))
    return model.fit(X, y)


@pytest.mark.parametrize(
    ("schemes", "n_candidates"), [(DEFAULT_SCHEMES, 4), (("plain", "dropout", "bn+l2", "bn+l2+dropout"), 5)]
)
def test_equals_a_plain_nested_loop(table, schemes, n_candidates):
    """Every candidate's inner score, a log loss; that the best one is chosen, and its accuracy on the test rows."""
    X, y = table
    model = make_pipeline(StandardScaler(), BNMLPClassifier(**SMALL))
    cv = StratifiedKFold(2, shuffle=True, random_state=5)
    settings = {"schemes": schemes, "cv": cv, "n_candidates": n_candidates, "inner_cv": 2, "random_state": 1, **ONCE}
    study = compare_schemes(model, X, y, **settings)
    assert len(study.frame) == 2 * len(schemes)
    rates, dropout = (
        study.tuning.groupby(["fold", "scheme"])[name].apply(frozenset).unstack()
        for name in ("learning_rate_init", "dropout")
    )
    assert (rates.nunique(axis=1) == 1).all()
    assert (rates.map(len) == n_candidates).all(axis=None)
    for name in schemes:
        assert set(dropout[name]) == {frozenset((0.0, 0.1, 0.2, 0.3, 0.5) if "dropout" in name else (0.0,))}
    inner = StratifiedKFold(2, shuffle=True, random_state=1)
    splits, results = list(cv.split(X, y)), study.frame.set_index(["scheme", "fold"])
    for (name, fold), tried in study.tuning.groupby(["scheme", "fold"]):
        X_train, y_train = (part[splits[fold][0]] for part in (X, y))
        X_test, y_test = (part[splits[fold][1]] for part in (X, y))
        for _, candidate in tried.iterrows():
            scores = []
            for fit, check in inner.split(X_train, y_train):
                one = fit_plainly(model, name, candidate, seed_of(study, 0, fold, -1), X_train[fit], y_train[fit])
                scores.append(-log_loss(y_train[check], one.predict_proba(X_train[check])))
            assert candidate["inner_score"] == pytest.approx(np.mean(scores))
        row = results.loc[name, fold]
        settings = chosen_of(tried)
        np.testing.assert_allclose(row[SETTINGS].astype(float), settings)
        assert row["random_state"] == seed_of(study, 0, fold, 0)
        chosen = fit_plainly(model, name, settings, row["random_state"], X_train, y_train)
        assert row["l2"] == pytest.approx(chosen[-1].l2)
        assert row["score"] == pytest.approx(accuracy_score(y_test, chosen.predict(X_test)))


def test_table_and_verdicts_follow_from_the_frame(table):
    X, y = table
    study = compare_schemes(BNMLPClassifier(**SMALL), X, y, cv=3, n_candidates=2, inner_cv=2, random_state=0, **ONCE)
    scores = study.frame.pivot(index="fold", columns="scheme", values="score")
    best = scores.mean().idxmax()
    result = study.table()
    for name in DEFAULT_SCHEMES:
        expected = contrast(scores[name] - scores[best], test_ratio=0.5, rope=0.01)
        assert result.loc[name, "score"] == pytest.approx(scores[name].mean())
        assert tuple(result.loc[name, ["low", "high"]]) == pytest.approx((expected.low, expected.high))
    asked = {(answer.question.scheme, answer.question.against) for answer in study.verdicts()}
    assert asked == {("bn+l2", "bn"), ("bn+l2", "l2"), ("bn+l2+gamma+beta", "bn+l2")}
    l2_given_bn = study.verdicts()[0].contrast
    expected = contrast(scores["bn+l2"] - scores["bn"], test_ratio=0.5, rope=0.01)
    assert (l2_given_bn.mean, l2_given_bn.p_equivalent) == pytest.approx((expected.mean, expected.p_equivalent))
    verb = expected.verdict if expected.verdict in ("helps", "hurts") else f"is {expected.verdict}"
    figure = f"{expected.hint} ({expected.mean:+.4f}"
    assert study.sentence().startswith(f"On this table L2 on the weights {verb} given batch norm{figure}")
    params = study.best_estimator_.get_params()
    assert all(params[name] == value for name, value in SCHEMES[study.best_scheme].items())


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (0.2, "L2 on the weights helps given batch norm (+0.2000"),
        (-0.2, "hurts given batch norm (-0.2000"),
        (0.0, "is redundant given batch norm (+0.0000"),
        (0.01, "is harmless given batch norm, and probably helps by a little (+0.0100"),
        (-0.01, "is dispensable given batch norm, and probably hurts by a little (-0.0100"),
        (None, "is undecided given batch norm (+0.0000"),
    ],
)
def test_the_words_of_the_verdict(shift, words):
    noise = np.array([-1.0, 1.0, 0.5, -0.5]) * (0.1 if shift is None else 0.002)
    frame = pd.DataFrame(
        [
            {
                "scheme": name,
                "repeat": 0,
                "fold": fold,
                "score": 0.7 + ((shift or 0) + noise[fold]) * (name == "bn+l2"),
            }
            for name in ("bn", "bn+l2")
            for fold in range(4)
        ]
    )
    study = SchemeComparison(frame, {name: SCHEMES[name] for name in ("bn", "bn+l2")}, "accuracy", 0.01, 1 / 3)
    assert words in study.sentence()
    assert len(study.verdicts()) == 1


class Spy(TransformerMixin, BaseEstimator):
    """Remembers the row numbers (column 0) that reach a fit, and those transformed after it."""

    seen: list = []

    def fit(self, X, y=None):
        self.fitted_ = set(X[:, 0])
        return self

    def transform(self, X):
        Spy.seen.append((self.fitted_, set(X[:, 0])))
        return X[:, 1:]


def test_no_outer_test_row_reaches_a_fit(table):
    """Transformers are fitted on outer training rows, on their halves, and in the end on all rows and theirs."""
    X, y = table
    X = np.column_stack([np.arange(150), X])
    Spy.seen = []
    cv = KFold(3, shuffle=True, random_state=0)
    compare_schemes(
        make_pipeline(Spy(), BNMLPClassifier(**SMALL)), X, y, cv=cv, n_candidates=2, inner_cv=2, random_state=0, **ONCE
    )
    assert all(shown == fitted or not shown & fitted for fitted, shown in Spy.seen if len(fitted) < 150)
    fits = {frozenset(fitted) for fitted, _ in Spy.seen}
    for train, test in cv.split(X):
        assert (set(train), set(test)) in Spy.seen
        inner = {fitted for fitted in fits if fitted < set(train)}
        assert sorted(row for fitted in inner for row in fitted) == sorted(train)  # the two halves
        fits -= {*inner, frozenset(train)}
    assert sorted(map(len, fits)) == [75, 75, 150]


def test_tuning_gains_nothing_from_labels_that_are_noise_which_a_look_at_the_test_rows_would():
    """The chosen candidate's score beyond all candidates' mean, beside that of the best one on the outer test rows."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((120, 5)), rng.integers(0, 2, 120)
    model, cv = make_pipeline(StandardScaler(), BNMLPClassifier(**SMALL)), KFold(20)
    settings = {"schemes": ["bn", "bn+l2"], "cv": cv, "n_candidates": 8, "inner_cv": 2, "random_state": 0, **ONCE}
    study = compare_schemes(model, X, y, **settings)
    splits, found, gains, leaks = list(cv.split(X)), study.frame.set_index(["scheme", "fold"])["score"], [], []
    for (name, fold), tried in study.tuning.groupby(["scheme", "fold"]):
        (train, test), seed = splits[fold], seed_of(study, 0, fold, 0)
        networks = (fit_plainly(model, name, candidate, seed, X[train], y[train]) for _, candidate in tried.iterrows())
        scores = [network.score(X[test], y[test]) for network in networks]
        gains.append(found[name, fold] - np.mean(scores))
        leaks.append(max(scores) - np.mean(scores))
    threshold = np.mean(leaks) / 2
    assert threshold > 3 * np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert abs(np.mean(gains)) < threshold


def test_groups_stay_together_and_weights_reach_fit_and_score():
    """No fit has a row of a group of which others are shown to it later; rows of no weight may be anything."""
    X, y = make_regression(n_samples=120, n_features=5, noise=10.0, random_state=0)
    X = np.column_stack([np.arange(120), X])
    groups, weight = np.repeat(np.arange(20), 6), np.tile([1.0, 0.0], 60)
    y_spoiled = y + 1e4 * (weight == 0)
    Spy.seen = []
    one, other = (
        compare_schemes(
            make_pipeline(Spy(), BNMLPRegressor(**SMALL)), X, target, schemes=["bn", "bn+l2"], cv=GroupKFold(4),
            groups=groups, sample_weight=weight, n_candidates=2, inner_cv=2, random_state=0, **ONCE,
        )
        for target in (y, y_spoiled)
    )  # fmt: skip
    np.testing.assert_allclose(one.frame["score"], other.frame["score"], rtol=1e-9)
    np.testing.assert_allclose(one.tuning["inner_score"], other.tuning["inner_score"], rtol=1e-9)
    pairs = [[{groups[int(row)] for row in rows} for rows in seen] for seen in Spy.seen if seen[0] != seen[1]]
    assert len(pairs) >= 4 * (2 + 1)  # in four outer folds two inner ones and the outer itself
    assert not any(fitted & shown for fitted, shown in pairs if len(fitted) < 20)


def test_progress_counts_network_fits(table):
    seen = []
    study = compare_schemes(
        BNMLPClassifier(**SMALL), *table, cv=2, n_candidates=4, inner_cv=2, budgets=(0, 0.1, 1, 10), random_state=0,
        on_progress=lambda done, total: seen.append((done, total)), **ONCE,
    )  # fmt: skip
    # of the four budgets one is 0: plain and l2 share a network with it, bn and the two above it another
    different = 5 * 4 - 3
    assert seen[0] == (0, 2 * (different * 2 + 5))
    done, total = np.array(seen).T
    assert (np.diff(done) >= 0).all()
    assert (done <= total).all()
    # the best scheme's candidates once more, on all rows
    assert seen[-1] == (study.n_fits + 4 * 2,) * 2


def test_adam_in_loss_mode_tries_l2_itself(table):
    study = compare_schemes(
        BNMLPClassifier(l2_mode="loss", **SMALL), *table, cv=2, n_candidates=4, inner_cv=2, random_state=0, **ONCE
    )
    penalised = study.frame[study.frame["scheme"] == "bn+l2"]
    assert penalised["budget"].isna().all()
    assert penalised["l2"].between(1e-6, 1e-1).all()


def test_a_scheme_that_names_l2_keeps_it(table):
    schemes = {"weak": {"l2": 1e-4}, "strong": {"l2": 100.0}, "none": {"l2_targets": ()}}
    study = compare_schemes(
        BNMLPClassifier(**SMALL), *table, schemes=schemes, cv=2, n_candidates=2, inner_cv=2, random_state=0, **ONCE
    )
    l2 = study.frame.groupby("scheme")["l2"].unique()
    assert (l2["weak"], l2["strong"], l2["none"]) == ([1e-4], [100.0], [0.0])
    assert (study.frame.query("scheme == 'strong'")["budget"] > 10).all()
    assert study.verdicts()[0].question.scheme == study.best_scheme


def test_interaction_is_the_difference_of_differences(table):
    study = compare_schemes(BNMLPClassifier(**SMALL), *table, cv=3, n_candidates=1, inner_cv=2, random_state=0, **ONCE)
    s = study.frame.pivot(index="fold", columns="scheme", values="score")
    expected = contrast((s["bn+l2"] - s["bn"]) - (s["l2"] - s["plain"]), test_ratio=0.5, rope=0.01)
    assert study.interaction().low == pytest.approx(expected.low)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_candidates": 0}, "'n_candidates' parameter of compare_schemes must be an int in the range .*Got 0"),
        ({"inner_cv": 1}, "'inner_cv' parameter of compare_schemes must be an int in the range .*Got 1"),
        ({"n_repeats": 0}, "'n_repeats' parameter of compare_schemes must be an int in the range .*Got 0"),
        ({"n_repeats": "many"}, "'n_repeats' parameter of compare_schemes must be .* {'auto'}. Got 'many'"),
        ({"n_seeds": 0}, "'n_seeds' parameter of compare_schemes must be an int in the range .*Got 0"),
        ({"minutes": 0}, "'minutes' parameter of compare_schemes must be a float in the range .*Got 0"),
        ({"cv": [(np.arange(10), np.arange(10, 20))]}, "cv must give at least 2 outer folds, got 1"),
        ({"schemes": {"bn": {}}}, "schemes must be at least 2, got 1"),
        (
            {"schemes": {"bn": {1: 2}, "plain": {}}},
            "No network can have .* scheme 'bn' in schemes: keywords .* strings\\.$",
        ),
        ({"rope": 0.0}, "'rope' parameter of compare_schemes must be .*Got 0.0"),
        ({"minutes": Fraction(1, 3)}, "minutes must be a number that 64 bits hold, got Fraction"),
        ({"budgets": (0, 10**400)}, "budgets must be one or more finite numbers, none negative, got"),
        ({"budgets": np.array(1)}, "budgets must be one or more finite numbers, none negative, got 1"),
        ({"scoring": "acuracy"}, "scoring must be a score in .* got 'acuracy'"),
        ({"cv": LeaveOneOut(), "scoring": "roc_auc"}, "The score roc_auc is not defined on 1 rows of a fold"),
    ],
)
@pytest.mark.filterwarnings("ignore:Only one class is present")  # scikit-learn's own
def test_bad_settings_are_told_in_one_sentence(table, settings, message):
    X, y = table
    few = {"n_candidates": 1, "inner_cv": 2, "random_state": 0, **ONCE}
    with pytest.raises(ValueError, match=message):
        compare_schemes(BNMLPClassifier(**SMALL), X[:20], y[:20], **few | settings)


def test_other_scores_ask_for_a_rope(table):
    with pytest.raises(ValueError, match="rope must be given for scoring='neg_log_loss'"):
        compare_schemes(BNMLPClassifier(**SMALL), *table, scoring="neg_log_loss")
    study = compare_schemes(
        BNMLPClassifier(**SMALL),
        *table,
        scoring="neg_log_loss",
        rope=0.05,
        cv=2,
        n_candidates=1,
        inner_cv=2,
        random_state=0,
        **ONCE,
    )
    assert (study.frame["score"] < 0).all()


def test_a_fixed_learning_rate_is_the_estimators_in_every_scheme(table):
    study = compare_schemes(
        BNMLPClassifier(**SMALL),
        *table,
        cv=2,
        n_candidates=7,
        inner_cv=2,
        learning_rate="fixed",
        random_state=0,
        **ONCE,
    )
    assert (study.frame["learning_rate_init"] == SMALL["learning_rate_init"]).all()
    tried = study.tuning.query("fold == 0").groupby("scheme")["budget"].apply(set)
    assert tried["bn+l2"] == {0, 0.03, 0.1, 0.3, 1, 3, 10}
    assert tried["bn"] == {0}
    # seven budgets without and twice with batch norm, a budget of 0 being no L2
    assert study.plan.n_fits(1) == 2 * ((7 + 7 + 6) * 2 + 5) == study.n_fits + 2 * _shared(study)


def _shared(study):
    """Tuned networks per fold that are one and the same, counted from the settings that were chosen."""
    keys = study.frame.assign(bn=study.frame["scheme"].str.startswith("bn"), gamma=study.frame["scheme"].str.len() > 5)
    keys["gamma"] &= keys["l2"] > 0
    different = keys.drop_duplicates(["fold", "bn", "gamma", "learning_rate_init", "l2"])
    return (len(study.frame) - len(different)) / 2


def test_networks_that_mean_the_same_are_trained_once(table):
    study = compare_schemes(
        BNMLPClassifier(**SMALL), *table, cv=2, n_candidates=4, inner_cv=2, budgets=(0,), random_state=0, **ONCE
    )
    assert study.n_fits == 2 * (2 * 4 * 2 + 2)
    scores = study.frame.pivot(index="fold", columns="scheme", values="score")
    assert (scores["bn"] == scores["bn+l2"]).all()
    assert (scores["plain"] == scores["l2"]).all()


def test_an_l2_may_follow_another_schemes(table):
    schemes = {"l2": SCHEMES["l2"], "fifth": SCHEMES["bn+l2"] | {"l2": TunedL2("l2", 0.2)}}
    study = compare_schemes(
        BNMLPClassifier(**SMALL), *table, schemes=schemes, cv=3, n_candidates=4, inner_cv=2, random_state=0, **ONCE
    )
    l2 = study.frame.pivot(index="fold", columns="scheme", values="l2")
    np.testing.assert_allclose(l2["fifth"], 0.2 * l2["l2"])
    with pytest.raises(ValueError, match="The l2 of scheme 'fifth' must follow a scheme of this study"):
        compare_schemes(BNMLPClassifier(**SMALL), *table, schemes={"bn": {}, "fifth": schemes["fifth"]})


def test_the_plan_comes_before_the_first_fit(table):
    events = []
    compare_schemes(
        BNMLPClassifier(**SMALL), *table, cv=5, n_repeats=2, n_candidates=2, inner_cv=2, random_state=0, n_seeds=3,
        on_plan=events.append, on_progress=lambda done, total: events.append(done),
    )  # fmt: skip
    plan = events[0]
    assert events[1] == 0
    # no candidate has the budget 0
    assert plan.n_fits(3) == 5 * (5 * 2 * 2 + 5 * 3)
    assert f"{plan.n_fits(3):,} network fits a repeat" in plan.summary()
    assert plan.budgets == (0.03, 3.0)  # 1/4 and 3/4 of the way through the seven
    assert plan.learning_rates == pytest.approx([0.05 * 10**-0.625, 0.05 * 10**0.125])
    assert 0 < plan.seconds < 600
    assert "in 5 outer folds, then 3 seeds:" in plan.summary()
    assert "\n2 repeats.\n" in plan.summary()
    # t(0.95, 9) = 1.8331
    spread = 0.01 / (1.8331 * np.sqrt(1 / 10 + 1 / 4))
    assert plan.summary().endswith(f"with a standard deviation below {spread:.2g}.")


def test_sorted_classes_do_not_disturb_the_plan(table):
    X, y = table
    order = np.argsort(y)
    plans, few = [], {"schemes": ["bn", "l2"], "n_candidates": 1, "inner_cv": 2, "random_state": 0, **ONCE}
    net = BNMLPClassifier(**SMALL)
    compare_schemes(net, X[order], y[order], cv=2, scoring="roc_auc", **few | {"on_plan": plans.append})
    assert plans[0].metrics == {"roc_auc": 0.01}
