"""A study's folds on Dask workers, of which one is killed; warnings of several threads; looks at what is made."""

import os
import signal
import threading
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_classification

from sk_bnreg import BNMLPClassifier, compare_schemes
from sk_bnreg.study.warned import recorded

NET = BNMLPClassifier((8,), max_iter=6, batch_size=32, learning_rate_init=0.05, n_ensemble=2, numeric_embedding=None)
OPEN = {"cv": 2, "rope": 0.3}  # so far from either word that it takes many looks
FEW = {"schemes": ["bn", "bn+l2"], "n_candidates": 2, "inner_cv": 2, "random_state": 0, "on_plan": None}


@pytest.fixture(scope="module")
def table():
    return make_classification(n_samples=150, n_features=8, n_informative=4, flip_y=0.1, random_state=0)


def assert_same_study(one, other):
    times = ["seconds", "elapsed"]
    pd.testing.assert_frame_equal(one.frame.drop(columns=times), other.frame.drop(columns=times))
    pd.testing.assert_frame_equal(one.tuning, other.tuning)
    assert one.course == other.course
    for place, fold in one.held_out.folds.items():
        np.testing.assert_array_equal(fold.outputs, other.held_out.folds[place].outputs)


def test_a_killed_dask_worker_costs_nothing_but_time(dask_workers, table):
    """It is killed when the first fold has come back, with others at work; a plan is told, so workers calibrate too."""
    settings = {**FEW, "cv": 3, "n_repeats": 3, "n_seeds": 4}
    here = compare_schemes(NET, *table, **settings)
    alive, plans = list(dask_workers.run(os.getpid).values()), []

    def kill_one(done, total):
        if done and len(alive) == 2:
            os.kill(alive.pop(), signal.SIGKILL)

    with joblib.parallel_config("dask"):
        there = compare_schemes(NET, *table, on_progress=kill_one, **settings | {"on_plan": plans.append})
    assert len(alive) == 1
    assert plans[0].seconds > 0
    assert_same_study(here, there)


def test_many_workers_make_several_repeats_at_a_time_and_look_at_the_same(dask_workers, table):
    settings = {**FEW, **OPEN, "minutes": 60.0}
    looks = {"here": [], "there": []}
    here = compare_schemes(NET, *table, on_look=lambda *look: looks["here"].append(look), **settings)
    with joblib.parallel_config("dask"):
        there = compare_schemes(NET, *table, on_look=lambda *look: looks["there"].append(look), **settings)
    assert looks["here"] == looks["there"]
    assert here.course.n_repeats > 4
    assert [n_repeats for n_repeats, *_ in looks["here"]] == list(range(2, here.course.n_repeats + 1))
    one, other = (study.frame[study.frame["repeat"] < here.course.n_repeats] for study in (here, there))
    pd.testing.assert_series_equal(one["score"], other["score"])


def test_warnings_are_recorded_by_the_thread_that_gives_them():
    """The second thread begins before the first ends, and ends after it: there catch_warnings goes wrong."""
    heard, both, first_over = {}, threading.Barrier(2), threading.Event()

    def first():
        with recorded() as heard["first"]:
            both.wait(10)
            warnings.warn("of the first", stacklevel=1)
            with recorded() as heard["inner"]:
                warnings.warn("of the first, inside", stacklevel=1)
        first_over.set()

    def second():
        with recorded() as heard["second"]:
            both.wait(10)
            first_over.wait(10)
            for _ in range(2):
                warnings.warn("of the second", stacklevel=1)

    filters, show = warnings.filters[:], warnings.showwarning
    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {name: [message for message, _ in warned] for name, warned in heard.items()} == {
        "first": ["of the first"],
        "inner": ["of the first, inside"],
        "second": ["of the second", "of the second"],
    }
    assert (warnings.filters, warnings.showwarning) == (filters, show)


def test_a_thread_that_records_nothing_shows_its_warnings():
    recording, over = threading.Event(), threading.Event()

    def record():
        with recorded():
            recording.set()
            over.wait(10)

    thread = threading.Thread(target=record)
    thread.start()
    recording.wait(10)
    with pytest.warns(UserWarning, match="shown"):
        warnings.warn("shown", stacklevel=1)
    over.set()
    thread.join(10)
