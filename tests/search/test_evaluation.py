"""What every search hands out and gets back: parts, shared fronts, times, rows and failures, against plain loops."""

import gc
import time
from collections import Counter
from dataclasses import replace
from weakref import ref

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier, StackedGridSearchCV
from sk_bnreg.search.evaluation import Folds, Scoring, attempt, evaluate, message_of

RATES = [{"net__learning_rate_init": rate} for rate in (0.01, 0.03, 0.1, 0.3)]


def accuracy(estimator, X, y, sample_weight=None):
    return accuracy_score(y, estimator.predict(X), sample_weight=sample_weight)


def small(**params):
    return BNMLPClassifier((8,), **{"max_iter": 2, "n_ensemble": 1, "dtype": "float64", "random_state": 0, **params})


def pipeline(**params):
    return Pipeline([("scale", StandardScaler()), ("net", small(**params))])


@pytest.fixture(scope="module")
def folds():
    X, y = make_classification(90, 6, random_state=0)
    return Folds(X, y, list(KFold(3).split(X)))


@pytest.mark.parametrize(
    ("options", "n_networks", "sizes"),
    [
        ({}, 1, [4, 4, 4]),
        ({}, 2, [2] * 6),  # two networks each
        ({}, 5, [1] * 12),  # at least one estimator
        ({"here": True}, 1, [3] * 4),  # a candidate with all of its folds
        ({"n_jobs": 2}, 1, [3] * 4),  # as many for either worker
        ({"n_jobs": 5}, 1, [2, 2, 3, 2, 3]),
        ({"n_jobs": 20}, 1, [1] * 12),
    ],
)
def test_a_part_has_four_networks_at_most(options, n_networks, sizes, folds, monkeypatch):
    monkeypatch.setattr("sk_bnreg.search.evaluation.AT_ONCE", 4)
    parts = []
    with joblib.parallel_config("threading"):
        evaluate(pipeline(n_ensemble=n_networks), RATES, folds, Scoring(accuracy), on_results=parts.append, **options)
    assert sorted(map(len, parts)) == sorted(sizes)
    assert sorted(place for part in parts for place in part) == [(c, f) for c in range(4) for f in range(3)]
    if options.get("here"):
        assert all(len({candidate for candidate, _ in part}) == 1 for part in parts)
    elif sizes == [4, 4, 4]:
        assert all(len({fold for _, fold in part}) == 1 for part in parts)


def test_some_places_come_back_as_in_a_plain_loop_and_nothing_else(folds):
    candidates = [*RATES[:2], {"net": LogisticRegression()}]
    places = [(2, 0), (1, 2), (0, 1)]
    scoring = Scoring(accuracy, return_train_score=True, return_estimator=True, predict=lambda e, X: e.predict_proba(X))
    weight = np.random.default_rng(0).random(len(folds.y))
    weighted = replace(folds, fit_params={"net__sample_weight": weight}, score_params={"sample_weight": weight})
    found = evaluate(pipeline(), candidates, weighted, scoring, places)
    assert sorted(found) == sorted(places)
    for (candidate, fold), result in found.items():
        train, test = folds.splits[fold]
        estimator = pipeline().set_params(**candidates[candidate])
        estimator.fit(folds.X[train], folds.y[train], net__sample_weight=weight[train])
        for rows, name in ((test, "test_scores"), (train, "train_scores")):
            assert result[name] == pytest.approx(accuracy(estimator, folds.X[rows], folds.y[rows], weight[rows]))
        np.testing.assert_allclose(result["outputs"], estimator.predict_proba(folds.X[test]), rtol=1e-9)
        np.testing.assert_array_equal(result["estimator"].predict(folds.X), estimator.predict(folds.X))
        assert result["n_iter"] == (0 if candidate == 2 else 2)
        assert result["fit_error"] is None
    alone = evaluate(pipeline(), candidates, folds, Scoring(None), places)
    assert all(not result.keys() & {"train_scores", "outputs", "estimator"} for result in alone.values())


def test_fronts_of_an_earlier_call_are_kept_while_they_are_wanted(folds):
    """Equal numbers are the same front, whichever objects they are."""
    fits = []

    class Counting(SimpleImputer):
        def fit(self, X, y=None):
            fits.append(len(X))
            return super().fit(X, y)

    estimator, fronts = Pipeline([("fill", Counting(strategy="constant")), ("net", small())]), {}
    candidates = [rate | {"fill__fill_value": float("0.5")} for rate in RATES]
    counts = []
    for places in ([(0, 0), (1, 0), (0, 1)], [(2, 0), (3, 1)], [(2, 1)], [(2, 0)]):
        evaluate(estimator, candidates, folds, Scoring(accuracy), places, fronts=fronts)
        counts.append((len(fits), len(fronts)))
    assert counts == [(2, 2), (2, 2), (2, 1), (3, 1)]  # one that nobody wanted has to be fitted again


def test_fronts_are_given_up_when_the_last_part_has_had_them(folds, monkeypatch):
    monkeypatch.setattr("sk_bnreg.search.evaluation.AT_ONCE", 4)
    fitted, counts = [], []

    class Watched(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            super().fit(X, y, sample_weight)
            fitted.append(ref(self.mean_))  # a copy of the step has this one too
            return self

    def count(results):
        gc.collect()
        counts.append(sum(mean() is not None for mean in fitted))

    evaluate(Pipeline([("scale", Watched()), ("net", small())]), RATES, folds, Scoring(accuracy), on_results=count)
    assert counts == [1, 1, 1]  # a part is a fold


class Told:
    """A callback of scikit-learn's, which writes down what it is told of."""

    max_propagation_depth = None

    def __init__(self):
        self.events = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", type(estimator), context.task_name))

    def on_fit_task_end(self, estimator, context):
        self.events.append(("end", type(estimator), context.task_name))


@pytest.mark.parametrize("search", [GridSearchCV, StackedGridSearchCV])
def test_a_callback_is_told_once_of_each_fit(search):
    """Of two candidates on three folds and the refit; of a network trained with others as the search's own task."""
    callback = Told()
    grid = {"net": [small(), LogisticRegression()]}
    X, y = make_classification(90, 6, random_state=0)
    search(pipeline(), grid, cv=3).set_callbacks(callback).fit(X, y)
    fits = ((Pipeline, "fit"), (StackedGridSearchCV, "candidate-split-evaluation"))
    assert Counter(kind for kind, *task in callback.events if tuple(task) in fits) == {"begin": 7, "end": 7}


def test_a_network_with_callbacks_of_its_own_is_fitted_by_itself(folds):
    callback = Told()
    network = small().set_callbacks(callback)
    found = evaluate(network, [{}], folds, Scoring(accuracy))
    assert callback.events.count(("begin", BNMLPClassifier, "epoch")) == 3 * 2
    for (_, fold), result in found.items():
        train, test = folds.splits[fold]
        assert result["test_scores"] == accuracy(
            small().fit(folds.X[train], folds.y[train]), folds.X[test], folds.y[test]
        )


def test_times_are_shares_of_what_it_took(folds):
    """Six fronts sleep for 20 ms each; two candidates share each of them."""

    class Slow(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            time.sleep(0.02)
            return super().fit(X, y, sample_weight)

    candidates = [rate | {"scale__with_mean": mean} for rate in RATES[:2] for mean in (True, False)]
    begin = time.perf_counter()
    found = evaluate(Pipeline([("scale", Slow()), ("net", small())]), candidates, folds, Scoring(accuracy))
    took = time.perf_counter() - begin
    fitting, scoring = (sum(result[f"{kind}_time"] for result in found.values()) for kind in ("fit", "score"))
    assert 6 * 0.02 <= fitting < fitting + scoring <= took
    assert all(result["fit_time"] >= 0.01 and result["score_time"] > 0 for result in found.values())


@pytest.mark.parametrize("here", [False, True])
def test_a_failure_is_none_among_scores_or_raised(here, folds, monkeypatch):
    candidates = [RATES[0], {"net__activation": "sine"}, {"net__learning_rate_init": 1e300, "net__solver": "sgd"}]
    scoring = Scoring(accuracy, return_train_score=True)
    found = evaluate(pipeline(), candidates, folds, scoring, here=here)
    for (candidate, _), result in found.items():
        scores = [result["test_scores"], result["train_scores"]]
        # parameters that no network can have are told by the network's own `fit`, and scored as by scikit-learn
        assert (candidate == 0 and min(scores) > 0) or str(scores) == ["", "[nan, nan]", "[None, None]"][candidate]
        assert candidate == 0 or (result["score_time"], result["n_iter"]) == (0.0, 0)
        assert ["", "activation", "ValueError: The training diverged"][candidate] in (result["fit_error"] or "")
    monkeypatch.setattr("sk_bnreg.search.evaluation.AT_ONCE", 1)
    candidates, strict, told = [*candidates, RATES[1]], Scoring(accuracy, "raise"), []
    with pytest.raises(ValueError, match="activation"):
        evaluate(pipeline(), candidates, folds, strict, [(1, 0)], here=here)
    with pytest.raises(ValueError, match="diverged"):
        evaluate(pipeline(), candidates, folds, strict, [(2, 0), (3, 0)], here=here, on_results=told.append)
    assert not told  # what stands behind a failure is not done any more


def test_results_are_told_as_they_come(folds, monkeypatch):
    monkeypatch.setattr("sk_bnreg.search.evaluation.AT_ONCE", 4)
    events = []

    class Telling(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            events.append("fit")
            return super().fit(X, y, sample_weight)

    estimator = Pipeline([("scale", Telling()), ("net", small())])
    evaluate(estimator, RATES, folds, Scoring(accuracy), on_results=lambda results: events.append(len(results)))
    assert events == ["fit", 4] * 3


def test_the_message_of_a_traceback_is_what_the_error_says():
    def fail(message):
        raise ValueError(message)

    for message in ("one line", "two lines,\n  the second further in"):
        assert message_of(attempt(fail, message)[1].traceback) == f"ValueError: {message}"


@pytest.mark.parametrize("here", [False, True])
def test_an_error_of_the_caller_ends_the_work(here, folds):
    """It is neither a candidate's nor the death of a worker, so nothing is tried again."""
    calls = []

    def stop(results):
        calls.append(len(results))
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        evaluate(pipeline(), RATES, folds, Scoring(accuracy), here=here, on_results=stop)
    assert calls == [12]
