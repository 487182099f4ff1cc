"""How a study goes on: repeats, looks, seeds, and from where it was stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.exceptions import EfficiencyWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, compare_schemes
from sk_bnreg.stats.folds import contrast
from sk_bnreg.stats.looks import MOST_REPEATS, MOST_SEEDS, seeds_needed, settled
from sk_bnreg.study.store import alone_in

SMALL = {
    "hidden_layer_sizes": (4,), "max_iter": 3, "batch_size": 32, "learning_rate_init": 0.05, "n_ensemble": 1,
    "dtype": "float64", "numeric_embedding": None,
}  # fmt: skip
NET = BNMLPClassifier(**SMALL)
FEW = {
    "schemes": ["bn", "bn+l2"], "cv": 3, "n_candidates": 2, "inner_cv": 2, "random_state": 0, "n_repeats": 1,
    "n_seeds": 1, "on_plan": None,
}  # fmt: skip
CLOCKS = ["seconds", "elapsed", "n_fits"]  # these tell how the work was divided


@pytest.fixture(scope="module")
def table():
    return make_classification(n_samples=120, n_features=6, n_informative=3, flip_y=0.2, random_state=0)


def assert_same(one, other):
    """Compare all that two studies found, bit for bit but for the clocks."""
    pd.testing.assert_frame_equal(one.frame.drop(columns=CLOCKS), other.frame.drop(columns=CLOCKS), check_exact=True)
    pd.testing.assert_frame_equal(one.tuning, other.tuning, check_exact=True)


class Stopped(Exception):
    """Stands for a kill."""


def stop_with(out, n_networks):
    """Return an `on_progress` that ends the study when so many networks have been stored."""

    def on_progress(done, total):
        del done, total
        if (out / "networks.parquet").exists() and len(pd.read_parquet(out / "networks.parquet")) >= n_networks:
            raise Stopped

    return on_progress


def unchanged(X):
    warnings.warn("so many rows", EfficiencyWarning, stacklevel=2)
    return X


def test_same_seed_same_study_with_any_number_of_jobs_and_threads(table):
    """And the same warnings."""
    settings = FEW | {"n_repeats": 2, "n_seeds": 4}
    net = make_pipeline(FunctionTransformer(unchanged), BNMLPClassifier(**SMALL | {"n_ensemble": 2}))
    told = r"^so many rows \(in 6 outer folds\)$"
    with pytest.warns(EfficiencyWarning, match=told):
        one = compare_schemes(net, *table, **settings)
    with pytest.warns(EfficiencyWarning, match=told):
        assert_same(compare_schemes(net, *table, n_jobs=2, **settings), one)
    net = net[-1]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - threads)
        assert_same(compare_schemes(net, *table, **settings), one)
    finally:
        torch.set_num_threads(threads)


def test_repeats_draw_other_folds_and_seeds_other_networks(table):
    study = compare_schemes(NET, *table, **FEW | {"n_repeats": 3, "n_seeds": 2})
    assert len(study.frame) == 2 * 3 * 3 * 2
    assert not study.frame.duplicated(["scheme", "repeat", "fold", "seed"]).any()
    scores = study.frame.set_index(["repeat", "fold", "seed", "scheme"])["score"].unstack("scheme")
    assert not np.allclose(scores.loc[0], scores.loc[1])
    assert not np.allclose(scores.xs(0, level="seed"), scores.xs(1, level="seed"))
    tuned = study.frame.groupby(["scheme", "repeat", "fold"])[["learning_rate_init", "l2"]].nunique()
    assert (tuned == 1).all(axis=None)
    for n_repeats, n_seeds in ((1, 1), (2, 2)):
        first = compare_schemes(NET, *table, **FEW | {"n_repeats": n_repeats, "n_seeds": n_seeds})
        expected = study.frame.query(f"repeat < {n_repeats} and seed < {n_seeds}").reset_index(drop=True)
        pd.testing.assert_frame_equal(first.frame.drop(columns=CLOCKS), expected.drop(columns=CLOCKS))


def test_no_two_networks_of_a_scheme_have_one_seed(table):
    """All have their own, those of tuning and of the best estimator too; two schemes have the same ones."""
    study = compare_schemes(NET, *table, **FEW | {"n_repeats": 3, "n_seeds": 4})
    seeds = study.frame.pivot_table(index=["repeat", "fold", "seed"], columns="scheme", values="random_state")
    assert (seeds["bn"] == seeds["bn+l2"]).all()
    assert seeds["bn"].is_unique
    assert study.best_estimator_.random_state not in set(seeds["bn"])
    # one order of settings in every fold would pair each budget with one rate
    pairs = study.tuning.query("scheme == 'bn+l2'").groupby(["repeat", "fold"])
    assert pairs.apply(lambda fold: tuple(fold["learning_rate_init"] * fold["budget"])).nunique() > 1


def test_schemes_with_seeds_of_their_own_are_independent(table):
    """Two names of one scheme: the numbers of their seeds decide whether their networks are the same."""
    schemes = {"one": {}, "same": {}, "zero": {"random_state": 0}, "five": {"random_state": 5}}
    schemes["five too"] = schemes["five"]
    study = compare_schemes(NET, *table, **FEW | {"schemes": schemes, "n_seeds": 2})
    scores, seeds = (
        study.frame.pivot_table(index=["fold", "seed"], columns="scheme", values=value)
        for value in ("score", "random_state")
    )
    tried = study.tuning.set_index(["fold", "candidate", "scheme"])["inner_score"].unstack()
    for values in (scores, seeds, tried):
        assert (values["one"] == values["same"]).all()
        assert (values["five"] == values["five too"]).all()
    for one, other in (("one", "five"), ("one", "zero"), ("zero", "five")):
        assert not set(seeds[one]) & set(seeds[other])
        assert (tried[one] != tried[other]).all()
        assert (scores[one] != scores[other]).any()
    assert (study.contrast("one", "same").mean, study.contrast("one", "same").verdict) == (0.0, "redundant")
    with pytest.raises(ValueError, match="random_state of scheme 'one' must be a whole number from 0 on, got None"):
        compare_schemes(NET, *table, **FEW | {"schemes": {"one": {"random_state": None}, "two": {}}})


def contrasts_of(frame, n_repeats, rope):
    """Return what the first repeats say of L2 given batch norm, by a plain mean over seeds."""
    scores = frame[frame["repeat"] < n_repeats].groupby(["repeat", "fold", "scheme"])["score"].mean().unstack()
    return contrast(scores["bn+l2"] - scores["bn"], test_ratio=0.5, rope=rope)


@pytest.mark.parametrize("rope", [0.2, 1.0])
def test_a_study_ends_at_the_first_look_that_settles_it(table, rope):
    looks = []
    study = compare_schemes(
        NET, *table, **FEW | {"n_repeats": "auto", "minutes": 60, "rope": rope},
        on_look=lambda *look: looks.append(look),
    )  # fmt: skip
    n_repeats, n_seeds, ended = study.course
    assert (n_seeds, ended) == (1, "settled")
    assert looks == [(n, int(n == n_repeats), 1) for n in range(2, n_repeats + 1)]
    ends = [settled(contrasts_of(study.frame, n, rope), MOST_REPEATS * 3) for n in range(2, n_repeats + 1)]
    assert ends == [False] * (n_repeats - 2) + [True]
    assert study.n_folds == 3 * n_repeats
    assert study.contrast("bn+l2", "bn").p_better == pytest.approx(contrasts_of(study.frame, n_repeats, rope).p_better)


def test_the_time_that_repeats_took_decides_how_many_count_also_when_it_is_run_again(table, tmp_path):
    """By what is stored of their ends, so that a finished study which is run again is the same."""
    settings = FEW | {"out": tmp_path, "rope": 0.03}
    whole = compare_schemes(NET, *table, **settings | {"n_repeats": 3})
    assert whole.course == (3, 1, "fixed")
    first, second, _ = whole.frame.groupby("repeat")["elapsed"].max()
    for seconds, n_repeats in (((first + second) / 2, 2), (first / 2, 1), ((first + second) / 2, 2)):
        study = compare_schemes(NET, *table, **settings | {"n_repeats": "auto", "minutes": seconds / 60})
        assert study.course == (n_repeats, 1, "time")
        pd.testing.assert_frame_equal(study.frame, whole.frame[: 3 * 2 * n_repeats])
        assert (tmp_path / "results.parquet").stat().st_size
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), study.frame)


@pytest.mark.parametrize("n_ensemble", [1, 3])
def test_the_first_four_seeds_tell_how_many_it_takes(table, n_ensemble):
    net = BNMLPClassifier(**SMALL | {"n_ensemble": n_ensemble})
    study = compare_schemes(net, *table, **FEW | {"n_seeds": "auto"})
    single = study.frame.query("n_networks == 1")
    pilot = single[single["seed"] < 4].pivot(index="fold", columns=["scheme", "seed"], values="score")
    differences = (pilot["bn+l2"] - pilot["bn"]).to_numpy()
    assert study.course.n_seeds == seeds_needed(differences, step=n_ensemble) == 1 + single["seed"].max()
    assert study.course.n_seeds % n_ensemble == 0
    every = single.pivot(index="fold", columns=["scheme", "seed"], values="score")
    every = every["bn+l2"] - every["bn"]
    of_seeds = np.mean([np.var(row, ddof=1) for row in every.to_numpy()]) / study.course.n_seeds
    assert study.seed_deviation("bn+l2", "bn") == pytest.approx(np.sqrt(of_seeds))
    found = study.contrast("bn+l2", "bn")
    assert study.seed_share() == pytest.approx(min(1, of_seeds / found.sd**2))


def test_a_study_that_is_to_have_more_goes_on_and_one_that_is_to_have_less_uses_less(table, tmp_path):
    """Repeats, seeds and scores are added; every one equals the study that was made at once."""
    once = {}
    steps = [(1, 1, "accuracy"), (2, 1, "accuracy"), (2, 3, "accuracy"), (2, 3, ["roc_auc", "accuracy"])]
    for n_repeats, n_seeds, scoring in [*steps, *reversed(steps)]:
        settings = FEW | {"n_repeats": n_repeats, "n_seeds": n_seeds, "scoring": scoring}
        known = n_repeats, n_seeds, str(scoring)
        if known not in once:
            once[known] = compare_schemes(NET, *table, **settings)
        again = compare_schemes(NET, *table, out=tmp_path, **settings)
        assert_same(again, once[known])
        assert again.metrics == ([scoring] if isinstance(scoring, str) else scoring)
        assert again.metric == again.metrics[0]
        pd.testing.assert_frame_equal(again.table(), once[known].table())
    # what was trained in all: each network of the largest study once
    stored = pd.read_parquet(tmp_path / "networks.parquet")
    assert len(stored) == 2 * 3 * 2 * 3


@pytest.mark.parametrize("n_networks", [2 * 4, 3 * 2 * 4, 3 * 2 * 4 + 2])
def test_stopped_in_the_pilot_or_after_it(tmp_path, n_networks):
    """Labels are noise, so seeds are all that differs and as many as ever are wanted."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 3)), rng.integers(0, 2, 90)
    settings = FEW | {"n_seeds": "auto", "n_candidates": 1}
    whole = compare_schemes(NET, X, y, **settings)
    assert whole.course.n_seeds == MOST_SEEDS
    with pytest.raises(Stopped):
        compare_schemes(NET, X, y, out=tmp_path, on_progress=stop_with(tmp_path, n_networks), **settings)
    assert n_networks <= len(pd.read_parquet(tmp_path / "networks.parquet")) < 3 * 2 * MOST_SEEDS
    assert_same(compare_schemes(NET, X, y, out=tmp_path, **settings), whole)


STUDY = """
import sys
from sklearn.datasets import make_classification
from sk_bnreg import BNMLPClassifier, compare_schemes
X, y = make_classification(n_samples=200, n_features=8, random_state=0)
net = BNMLPClassifier((16,), max_iter=10, batch_size=32, n_ensemble=1, numeric_embedding=None)
compare_schemes(
    net, X, y, cv=4, n_candidates=1, inner_cv=2, random_state=0, n_repeats=2, n_seeds=2, on_plan=None, out=sys.argv[1]
)
"""


def test_killed_and_started_again_loses_no_finished_fold(tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", STUDY, killed])
    deadline = time.monotonic() + 120
    while not (killed / "networks.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = pd.read_parquet(killed / "networks.parquet")
    assert 5 * 2 <= len(before) < 2 * 4 * 5 * 2
    for folder in (killed, whole):
        monkeypatch.setattr(sys, "argv", ["-c", str(folder)])
        exec(STUDY, {})
    after = pd.read_parquet(killed / "networks.parquet")
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
    for name in ("networks", "results", "tuning"):
        one, other = (
            pd.read_parquet(folder / f"{name}.parquet").drop(columns=CLOCKS, errors="ignore")
            for folder in (killed, whole)
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert joblib.load(killed / "best_estimator.joblib").n_features_in_ == 8


def test_a_kill_between_two_files_counts_no_fold_twice(table, tmp_path):
    """Predictions and tuning are written before the networks that tell of them, and the best estimator at the end."""
    settings = FEW | {"out": tmp_path, "n_seeds": 2}
    whole = compare_schemes(NET, *table, **settings)
    networks = pd.read_parquet(tmp_path / "networks.parquet")
    # fold 2 has its tuning, not its networks, and of fold 1 the second seed has its predictions alone
    networks.query("fold == 0 or (fold == 1 and seed == 0)").to_parquet(tmp_path / "networks.parquet")
    (tmp_path / "networks.parquet.part").write_bytes(b"PAR1 half a fi")
    (tmp_path / "held_out" / "2-0.npz.part").write_bytes(b"half a fi")
    (tmp_path / "results.parquet").unlink()
    about = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(about | {"best_scheme": None}))  # and another best estimator
    other = BNMLPClassifier(**SMALL | {"max_iter": 1}).fit(*table)
    joblib.dump(other, tmp_path / "best_estimator.joblib")
    again = compare_schemes(NET, *table, **settings)
    assert_same(again, whole)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "tuning.parquet"), whole.tuning)
    X, _ = table
    best = joblib.load(tmp_path / "best_estimator.joblib")
    np.testing.assert_array_equal(best.predict_proba(X), whole.best_estimator_.predict_proba(X))
    np.testing.assert_array_equal(again.best_estimator_.predict_proba(X), whole.best_estimator_.predict_proba(X))


def test_a_damaged_file_is_named_and_without_it_the_study_is_made_whole(table, tmp_path):
    settings = FEW | {"out": tmp_path, "n_candidates": 1}
    whole = compare_schemes(NET, *table, **settings)
    for name in ("study.json", "networks.parquet", "tuning.parquet", "held_out/0-1.npz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(
            ValueError, match=rf"{re.escape(name)} is damaged: put a copy in its place or delete it, and the comm"
        ):
            compare_schemes(NET, *table, **settings)
        path.unlink()
        assert_same(compare_schemes(NET, *table, **settings), whole)
    for name in ("target.parquet", "results.parquet", "best_estimator.joblib"):  # these nothing depends on
        (tmp_path / name).write_bytes(b"half")
    again = compare_schemes(NET, *table, **settings)
    assert_same(again, whole)
    np.testing.assert_array_equal(pd.read_parquet(tmp_path / "target.parquet")["y"], table[1])
    np.testing.assert_array_equal(
        joblib.load(tmp_path / "best_estimator.joblib").predict(table[0]), whole.best_estimator_.predict(table[0])
    )
    (tmp_path / "study.json").unlink()
    with pytest.raises(ValueError, match="holds another study"):
        compare_schemes(NET, table[0] + 1, table[1], **settings)


def test_two_processes_are_not_at_work_in_one_folder(table, tmp_path):
    with (
        alone_in(tmp_path),
        pytest.raises(BlockingIOError, match=r"another process is at work in .*: wait for its end"),
    ):
        compare_schemes(NET, *table, **FEW, out=tmp_path)
    compare_schemes(NET, *table, **FEW, out=tmp_path)


def test_a_study_whose_best_scheme_changes_fits_that_one(tmp_path):
    """With another score another scheme is the best; either's estimator is what its study says."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(120, 4))
    y = X[:, 0] + rng.normal(size=120)
    schemes = {"bn": {"batch_norm": True}, "plain": {"batch_norm": False}}
    settings = FEW | {"schemes": schemes, "cv": 2, "out": tmp_path, "n_seeds": 2}
    net = BNMLPRegressor(**SMALL)

    def bias(estimator, X, y):
        return float(np.mean(estimator.predict(X)))  # the greatest mean prediction

    def against(estimator, X, y):
        return -bias(estimator, X, y)

    for scoring in (bias, against, bias):
        study = compare_schemes(net, X, y, scoring=scoring, rope=0.1, **settings)
        assert study.best_estimator_.batch_norm == (study.best_scheme == "bn")
    assert compare_schemes(net, X, y, scoring=against, rope=0.1, **settings).best_scheme != study.best_scheme


def test_out_refuses_another_study(table, tmp_path):
    X, y = pd.DataFrame(table[0]).add_prefix("x"), table[1]
    settings = FEW | {"cv": 2, "n_candidates": 1, "out": tmp_path, "random_state": None}
    first = compare_schemes(NET, X, y, **settings)
    again = compare_schemes(NET, X, y, **settings)
    pd.testing.assert_frame_equal(first.frame, again.frame)
    assert json.loads((tmp_path / "study.json").read_text())["versions"]["torch"]
    others = [
        (NET, X + 1, y, settings),
        (NET, X.add_prefix("a"), y, settings),
        (BNMLPClassifier(**SMALL | {"max_iter": 7}), X, y, settings),
        (NET, X, y, settings | {"schemes": ["bn+l2", "bn"]}),  # predictions are stored in the order of schemes
        (NET, X, y, settings | {"sample_weight": np.ones(len(y))}),
        (NET, X, y, settings | {"random_state": first.plan.random_state + 1}),
    ]
    for net, X, y, own in others:
        with pytest.raises(ValueError, match="holds another study"):
            compare_schemes(net, X, y, **own)
