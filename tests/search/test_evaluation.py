"""What every search hands out and gets back: parts, shared fronts, times, rows and failures, against plain loops."""

import time

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sk_bnreg import BNMLPClassifier
from sk_bnreg.search.evaluation import Folds, Scoring, evaluate

RATES = [{"net__learning_rate_init": rate} for rate in (0.01, 0.03, 0.1, 0.3)]


def accuracy(estimator, X, y):
    return accuracy_score(y, estimator.predict(X))


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
    found = evaluate(pipeline(), candidates, folds, scoring, places)
    assert sorted(found) == sorted(places)
    for (candidate, fold), result in found.items():
        train, test = folds.splits[fold]
        estimator = pipeline().set_params(**candidates[candidate]).fit(folds.X[train], folds.y[train])
        assert result["test_scores"] == accuracy(estimator, folds.X[test], folds.y[test])
        assert result["train_scores"] == accuracy(estimator, folds.X[train], folds.y[train])
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
        assert (result["test_scores"] is None) == (result["train_scores"] is None) == (candidate > 0)
        assert candidate == 0 or (result["score_time"], result["n_iter"]) == (0.0, 0)
        assert ["", "activation", "ValueError: The training diverged"][candidate] in (result["fit_error"] or "")
    monkeypatch.setattr("sk_bnreg.search.evaluation.AT_ONCE", 1)
    told = []
    for bad, message in ((1, "activation"), (2, "diverged")):
        with pytest.raises(ValueError, match=message):
            evaluate(
                pipeline(), [*candidates, RATES[1]], folds, Scoring(accuracy, "raise"), [(bad, 0), (3, 0)], here=here,
                on_results=told.append,
            )  # fmt: skip
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
