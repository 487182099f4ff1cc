"""A search on several worker processes: Dask's, joblib's own, and workers that die."""

import os
import signal
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification

from sk_bnreg import BNMLPClassifier, StackedGridSearchCV

GRID = {"l2": [0.0, 0.1, 1.0, 10.0], "learning_rate_init": [0.003, 0.01, 0.03]}


@pytest.fixture(scope="module")
def table():
    return make_classification(400, 8, random_state=0)


def search(**options):
    network = BNMLPClassifier((16,), max_iter=5, n_ensemble=1, random_state=0)
    return StackedGridSearchCV(network, GRID, cv=3, refit=False, **options)


def score_columns(fitted):
    return {name: values for name, values in fitted.cv_results_.items() if name.endswith("_score")}


def assert_same_bits(one, other):
    assert all((values == score_columns(other)[name]).all() for name, values in score_columns(one).items())


class DeadlyScorer:
    """Accuracy, from a worker that is killed the first time it is asked."""

    def __init__(self, flag):
        self.flag = flag

    def __call__(self, estimator, X, y):
        if not Path(self.flag).exists():
            Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return estimator.score(X, y)


class CountedArray(np.ndarray):
    """An array that counts how often it is pickled."""

    count = 0

    def __reduce_ex__(self, protocol):
        CountedArray.count += 1
        return super().__reduce_ex__(protocol)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib_workers_score_bit_for_bit_as_one_process(table, backend):
    here = search().fit(*table)
    with joblib.parallel_config(backend):
        assert_same_bits(search(n_jobs=2).fit(*table), here)


def test_dask_workers_score_bit_for_bit_as_one_process(dask_workers, table):
    here = search().fit(*table)
    with joblib.parallel_config("dask"):
        assert_same_bits(search().fit(*table), here)


@pytest.mark.filterwarnings("ignore:A worker stopped:UserWarning")
@pytest.mark.parametrize("backend", ["dask", "loky"])
def test_a_killed_worker_costs_nothing_but_time(dask_workers, table, tmp_path, backend):
    here = search().fit(*table)
    flag = tmp_path / "killed"
    with joblib.parallel_config(backend, **({} if backend == "dask" else {"n_jobs": 2})):
        there = search(scoring=DeadlyScorer(str(flag))).fit(*table)
    assert flag.exists()
    assert_same_bits(there, here)


def test_a_fold_is_sent_to_dask_once_for_all_its_networks(dask_workers, table, monkeypatch):
    X, y = table
    monkeypatch.setattr("sk_bnreg.search.evaluation.AT_ONCE", 1)  # each of 36 networks by itself
    with joblib.parallel_config("dask"):
        CountedArray.count = 0
        search().fit(X.view(CountedArray), y)
    # two tables of three folds, for the scheduler and, by it, for a worker; not for 36 networks
    assert CountedArray.count == 12
