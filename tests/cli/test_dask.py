"""compare and survey on Dask workers, of which one is killed; Ctrl-C; a scheduler that is not there."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dask
import pandas as pd
import pytest

TINY = ("--folds", 2, "--candidates", 1)


@pytest.fixture
def kill_one(dask_workers, wait_for):
    """Return a function that kills one of the workers as soon as a file is there; the future tells if in time."""
    pids = list(dask_workers.run(os.getpid).values())

    def kill(path):
        wait_for(path)
        os.kill(pids[0], signal.SIGKILL)
        return not (path.parent / "results.parquet").exists()

    with ThreadPoolExecutor(1) as threads:
        yield partial(threads.submit, kill)


@pytest.fixture
def address(dask_workers):
    return dask_workers.scheduler.address


def without_times(path):
    return pd.read_parquet(path).drop(columns=["seconds", "elapsed"])


def test_compare_with_a_worker_killed_in_the_middle_says_the_same(two_columns, call, small_networks, address, kill_one):
    out = two_columns.parent
    arguments = (two_columns, *TINY, "--schemes", "bn, bn+l2", "--repeats", 3, "--seeds", 2, "--out")
    here = call(*arguments, out / "here")
    killing = kill_one(out / "there" / "networks.parquet")
    there = call(*arguments, out / "there", "--dask", address)
    assert killing.result()
    assert there.returncode == 0, there.stderr
    assert f"Dask at {address}: 2 workers with 4 threads" in there.stdout
    begin, end = " scheme ", "\n\nSaved"
    answers = (done.stdout[done.stdout.index(begin) : done.stdout.index(end)] for done in (here, there))
    assert next(answers) == next(answers)
    pd.testing.assert_frame_equal(*(without_times(out / name / "results.parquet") for name in ("here", "there")))


def test_survey_with_a_worker_killed_in_the_middle_finds_the_same(two_columns, call, small_networks, address, kill_one):
    tables, out = two_columns.parent, two_columns.parent.parent
    pd.read_csv(two_columns).sample(150, random_state=0).to_csv(tables / "some.csv", index=False)
    arguments = (tables, *TINY, "--schemes", "plain, bn, bn+l2", "--rows", 100, "--repeats", 3, "--seeds", 2, "--out")
    here = call(*arguments, out / "here", "--jobs", 1, command="survey")
    killing = kill_one(out / "there" / "some" / "networks.parquet")
    there = call(*arguments, out / "there", "--dask", address, command="survey")
    assert killing.result()
    assert there.returncode == 0, there.stderr
    assert "2 of 2, " in there.stdout
    pd.testing.assert_frame_equal(*(without_times(out / name / "survey.parquet") for name in ("here", "there")))
    answers = (done.stdout[done.stdout.index("For the mean") : done.stdout.index("Saved")] for done in (here, there))
    assert next(answers) == next(answers)


@pytest.mark.parametrize("command", ["compare", "survey"])
def test_ctrl_c_ends_the_command_and_not_the_workers(
    two_columns, tmp_path, start, wait_for, dask_workers, address, command
):
    table, first = (two_columns, "") if command == "compare" else (two_columns.parent, "two_columns")
    settings = (*TINY, "--schemes", "plain, bn, bn+l2", "--repeats", 50, "--seeds", 2, "--dask", address)
    process = start(table, *settings, "--out", tmp_path / "out", command=command, networks="small")
    wait_for(tmp_path / "out" / first / "networks.parquet")
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in " ".join(stdout.split())
    assert "Traceback" not in stderr
    assert len(dask_workers.scheduler_info()["workers"]) == 2


def test_a_scheduler_that_is_not_there_is_told_in_one_sentence(call):
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        done = call("wine", "--quick", "--dask", "tcp://127.0.0.1:9")
    assert done.returncode == 2
    assert "tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
