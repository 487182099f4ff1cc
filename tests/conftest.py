"""One thread per process: the tests' networks are so small that a second only waits, for long on a busy machine."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")  # no windows
# numba's cache watches the file of the function that it keeps, not those of the functions in it
os.environ.setdefault(
    "NUMBA_CACHE_DIR",
    os.path.join(
        tempfile.gettempdir(),
        "sk_bnreg-"
        + hashlib.sha256(
            b"".join(path.read_bytes() for path in sorted((Path(__file__).parents[1] / "sk_bnreg/engine").glob("*.py")))
        ).hexdigest()[:12],
    ),
)

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from sklearn.datasets import load_wine
from small_command import run_here, small_pipeline

from sk_bnreg import BNMLPClassifier, NormRecorder, SchemeComparison, diagnose
from sk_bnreg.study.plan import StudyPlan
from sk_bnreg.study.questions import survey_schemes
from sk_bnreg.study.schemes import DEFAULT_SCHEMES, SCHEMES
from sk_bnreg.study.survey import Survey

BUDGETS = (0.0, 0.1, 1.0, 10.0)
RATES = (0.003, 0.01, 0.03)


@pytest.fixture
def call(monkeypatch, capsys):
    """Return a function that runs the command in this process: starting another takes longer than most studies."""

    def call(*arguments, command="compare", columns=120):
        capsys.readouterr()
        code = run_here(monkeypatch, command, *arguments, columns=columns)
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    return call


@pytest.fixture
def small_networks(monkeypatch):
    """Have commands of this process train networks that take a moment, the mean of two."""
    for name in ("sk_bnreg.study.tables.network_pipeline", "sk_bnreg.study.survey.network_pipeline"):
        monkeypatch.setattr(name, small_pipeline)
    return small_pipeline


@pytest.fixture(scope="module")
def dask_client():
    """Return the client of two Dask workers with two threads each, of which tests may kill one."""
    from multiprocessing import forkserver

    import dask
    from distributed import Client, LocalCluster
    from processes import FORKED

    forkserver.ensure_running()  # with what FORKED imports: Dask would have it import Dask alone
    settings = {
        # a worker that is killed is followed by another, for which this holds too
        "distributed.worker.multiprocessing-method": FORKED.get_start_method(),
        "distributed.scheduler.work-stealing": False,  # what another worker takes over is sent once more
    }
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def dask_workers(dask_client):
    """Return the same client when both workers are there: one that was killed takes seconds to come back."""
    dask_client.wait_for_workers(2)
    return dask_client


@pytest.fixture(scope="session")
def make_comparison():
    """Return a function that makes up a comparison of some schemes: scores, tuning, plan and a trained network."""
    X, y = load_wine(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    best = BNMLPClassifier((8,), max_iter=12, early_stopping=True, n_ensemble=1, random_state=0)
    best.set_params(callbacks=[NormRecorder()]).fit(X, y).set_params(callbacks=None)

    def make(names=DEFAULT_SCHEMES, rename=str):
        rng = np.random.default_rng(0)
        frame, tuning = [], []
        for repeat, fold in np.ndindex(2, 3):
            level = 0.95 + rng.normal(0, 0.01)
            for i, name in enumerate(names):
                place = {"scheme": rename(name), "repeat": repeat, "fold": fold}
                decays = SCHEMES[name]["l2_targets"] != "none"
                for candidate, (rate, D) in enumerate((rate, D) for rate in RATES for D in BUDGETS):
                    l2 = decays * D / 5
                    budget = np.nan if SCHEMES[name].get("l2_mode") == "loss" else decays * D
                    score = level + 0.003 * i + rng.normal(0, 0.005)
                    setting = {"candidate": candidate, "learning_rate_init": rate, "l2": l2, "budget": budget}
                    tuning.append({**place, **setting, "inner_score": score})
                score = level + 0.003 * i + rng.normal(0, 0.004)
                frame.append(
                    {**place, "seed": 0, "score": score, "learning_rate_init": 0.01, "l2": l2, "budget": budget}
                )
        plan = StudyPlan(
            n_rows=1797,
            n_features=64,
            schemes=tuple(map(rename, names)),
            n_candidates=12,
            inner_cv=3,
            n_folds=3,
            n_repeats=2,
            n_seeds=1,
            minutes=3.0,
            n_networks=1,
            learning_rate="tuned",
            learning_rates=RATES,
            budgets=BUDGETS,
            metrics={"accuracy": 0.01},
            test_ratio=0.5,
            n_tuning_fits=180,
            seconds=95.0,
            random_state=7,
            versions={"sk_bnreg": "0.1.0", "torch": "2.6.0"},
        )
        return SchemeComparison(
            frame=pd.DataFrame(frame),
            schemes={rename(name): SCHEMES[name] for name in names},
            metric="accuracy",
            rope=0.01,
            test_ratio=0.5,
            tuning=pd.DataFrame(tuning),
            best_estimator_=best,
            plan=plan,
            diagnosis=diagnose(best, X),
        )

    return make


@pytest.fixture(scope="session")
def comparison(make_comparison):
    """Return a made-up comparison of the default schemes."""
    return make_comparison()


@pytest.fixture(scope="session")
def made_up_study():
    """Return an Optuna study, of which one parameter decides everything."""
    space = {"l2_budget": FloatDistribution(0.01, 10.0), "dropout": FloatDistribution(0.0, 0.5)}
    rng = np.random.default_rng(0)
    study = optuna.create_study(direction="maximize", study_name="made up")
    for _ in range(30):
        params = {"l2_budget": rng.uniform(0.01, 10), "dropout": rng.uniform(0, 0.5)}
        value = 0.9 + params["l2_budget"] / 100
        study.add_trial(create_trial(params=params, distributions=space, value=value))
    study.add_trial(create_trial(params=params, distributions=space, state=TrialState.PRUNED))
    return study


@pytest.fixture(scope="session")
def made_up_survey():
    """Return a survey of three tables, made up."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "table": table, "task": task, "metric": metric, "rope": 0.01, "n_rows": 500, "n_used": 400, "n_features": 9,
            "scheme": scheme, "repeat": 0, "fold": fold, "seed": 0, "score": rng.normal(0.8, 0.01), "n_train": 320,
            "n_test": 80, "n_fits": 100,
        }
        for table, task, metric in (("a<b>", "classification", "accuracy"), ("c", "regression", "r2"),
                                    ("d", "regression", "r2"))
        for scheme in survey_schemes(0.01)
        for fold in range(5)
    ]  # fmt: skip
    return Survey(pd.DataFrame(rows), {"cv": 5, "network": {}}, {"broken": "it has no target"})
