"""TrialQueue: the trials of a study, shared by workers that may die, on a storage that may be away for a while."""

import json
import os
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from sk_bnreg.borrowed import storage_of, trial_id

OWNER = "sk_bnreg:worker"
PATIENCE = 300.0  # seconds for a server to come back
SILENCE = 3  # heartbeats without a sign of life


def open_storage(storage: Any) -> Any:
    """Return a storage, given as None, a database's URL, a journal file's path or a storage of Optuna's.

    Databases get one that waits for a server that is away.

    Parameters
    ----------
    storage : str, Path, BaseStorage or None

    Returns
    -------
    BaseStorage or PatientStorage

    Raises
    ------
    ValueError
        If a database cannot be opened within ten seconds.
    """
    if storage is None:
        return InMemoryStorage()
    if storage == "":
        raise ValueError("storage must be a database's URL or a journal file's path, got an empty text.")
    if isinstance(storage, Path) or (isinstance(storage, str) and "://" not in storage):
        return JournalStorage(_open_journal(str(storage)))
    if isinstance(storage, str):
        storage = _open_database(storage)
    return PatientStorage(optuna.storages.get_storage(storage)) if isinstance(storage, RDBStorage) else storage


def _open_journal(path: str) -> JournalFileBackend:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = _MendingLock(path)
    backend = JournalFileBackend(path, lock_obj=lock)
    lock.mend()
    return backend


class _MendingLock(JournalFileSymlinkLock):
    """A journal's lock; what a writer that died left of a line is cut off, or the next line would be lost in it.

    One that has been held for so long that another took it for a dead writer's is let go without an error.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self._path = path

    def acquire(self) -> bool:
        acquired = super().acquire()
        with open(self._path, "rb+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        return acquired

    def release(self) -> None:
        with suppress(RuntimeError):
            super().release()

    def mend(self) -> None:
        """Cut off what is after the last entry, such as blocks of zeros that a crash of the machine has left."""
        if self._n_whole_bytes() < os.path.getsize(self._path):  # or another worker is writing
            self.acquire()
            try:
                os.truncate(self._path, self._n_whole_bytes())
            finally:
                self.release()

    def _n_whole_bytes(self) -> int:
        """Return where the last entry ends; refuse a journal with something else before it."""
        lines = Path(self._path).read_bytes().splitlines(keepends=True)
        whole = [_is_entry(line) for line in lines]
        n_whole = [*whole, False].index(False)
        if any(whole[n_whole:]):
            raise ValueError(
                f"{self._path} is damaged in line {n_whole + 1}: put a copy in its place, or delete it and begin anew."
            )
        return sum(map(len, lines[:n_whole]))


def _is_entry(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _open_database(url: str) -> RDBStorage:
    def opens(error: Exception) -> bool:
        """Tell whether a second try may help: of workers that start together only one can make the tables."""
        return isinstance(error, (DBAPIError, StorageInternalError))

    def open_it() -> RDBStorage:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})

    return _persist(open_it, 10, opens, refusal="The storage cannot be opened.")


class PatientStorage:
    """A database's storage that asks again while the server is away.

    What was written when the connection broke may be written twice; `TrialQueue` allows for it.
    """

    def __init__(self, storage: BaseStorage):
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_storage":
            raise AttributeError(name)
        method = getattr(self._storage, name)
        if not callable(method):
            return method

        return lambda *args, **kwargs: _persist(lambda: method(*args, **kwargs), PATIENCE, _is_away)


def _persist(
    call: Callable[[], Any], patience: float, passes: Callable[[Exception], bool], refusal: str | None = None
) -> Any:
    """Call again while the error is one that passes.

    Parameters
    ----------
    call : callable
        Without arguments.
    patience : float
        Seconds after which the error is raised.
    passes : callable
        Tells whether a later call may succeed.
    refusal : str or None
        Begins the ValueError that is raised instead. Without it, that is in the middle of a study, the waiting is
        warned of once.

    Returns
    -------
    object
        What the call returns.
    """
    deadline, warned = time.monotonic() + patience, refusal is not None
    while True:
        try:
            return call()
        except (StorageInternalError, SQLAlchemyError, ImportError) as error:
            if time.monotonic() > deadline or not passes(error):
                if refusal is None:
                    raise
                raise ValueError(f"{refusal} {str(error).removesuffix('.')}.") from error
            if not warned:
                told = f"The storage does not answer; asking again for {patience:.0f} s. {_cause_of(error)}"
                warnings.warn(told, stacklevel=3)
                warned = True
            time.sleep(0.5)


def _is_away(error: Exception) -> bool:
    cause = _cause_of(error)
    lost = isinstance(cause, DBAPIError) and cause.connection_invalidated
    return lost or isinstance(cause, (OperationalError, InterfaceError, PendingRollbackError))


def _cause_of(error: Exception) -> BaseException | None:
    """Return what the database said: Optuna raises an error of its own from it."""
    return error.__cause__ if isinstance(error, StorageInternalError) else error


class TrialQueue:
    """A study's trials, so many of them, from which any number of workers take.

    A worker takes a trial that waits, or else adds one, and only those with a number below
    `n_trials`: so exactly so many are trained, whoever adds what at the same time. What was added
    beyond them waits, for a fit that wants more. Inside a ``with`` block, a worker shows that it
    lives; when it falls silent, the trials that it held wait again, with the parameters that they
    had. Two workers that find them at the same moment may both train one; the last that took it
    tells its end.

    Parameters
    ----------
    study : optuna.Study
    n_trials : int or None
        How many there are to be; None has no end.
    heartbeat_interval : float
        Seconds between signs of life. A worker counts as dead for another after three of the
        other's without one of its own, so that no time counts in which the storage is away.
    """

    def __init__(self, study: optuna.Study, n_trials: int | None, heartbeat_interval: float):
        self.study, self.n_trials, self.interval = study, n_trials, heartbeat_interval
        self.storage, self.study_id = storage_of(study)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.shared = not isinstance(self.storage, InMemoryStorage)
        self.held: set[int] = set()
        self._n_beats = 0
        self._seen: dict[int, tuple[Any, int]] = {}
        self._left = Event()

    def __enter__(self) -> "TrialQueue":
        if self.shared:
            self._beat()
            self._thread = Thread(target=self._beat_on, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        for held in self.held:
            self._put_back(held, self.worker)
        if self.shared:
            self._thread.join()

    def claim(self, limit: int) -> Iterator[FrozenTrial]:
        """Take trials, one by one, in their order.

        Parameters
        ----------
        limit : int
            The most to take.

        Yields
        ------
        optuna.trial.FrozenTrial
            Without parameters, or with those that a worker that died had suggested.
        """
        if self.shared:
            self._put_back_lost()
        for _ in range(limit):
            trial = self._take()
            if trial is None:
                return
            self.held.add(trial_id(trial))
            with suppress(UpdateFinishedTrialError):  # this worker slept, and another has finished it
                self.storage.set_trial_system_attr(trial_id(trial), OWNER, self.worker)
                yield trial

    def finish(
        self, trial: Trial, attrs: dict[str, Any], value: float | None = None, state: TrialState | None = None
    ) -> bool:
        """Tell a trial's user attributes and end, unless another worker has taken it over.

        Parameters
        ----------
        trial : optuna.Trial
        attrs : dict
            User attributes.
        value : float or None
            Of a complete trial.
        state : optuna.trial.TrialState or None

        Returns
        -------
        bool
            Whether it was this worker's to tell.
        """
        self.held.discard(trial_id(trial))
        now = self.storage.get_trial(trial_id(trial))
        if now.state != TrialState.RUNNING or now.system_attrs.get(OWNER) != self.worker:
            return False
        with suppress(UpdateFinishedTrialError):  # it was told just before the connection broke
            for name, attr in attrs.items():
                trial.set_user_attr(name, attr)
            self.study.tell(trial, value, state=state, skip_if_finished=True)
        return True

    def is_unfinished(self) -> bool:
        """Tell whether trials are still to be added, wait, or are with other workers."""
        if self.n_trials is None or self.storage.get_n_trials(self.study_id) < self.n_trials:
            return True
        states = (TrialState.RUNNING, TrialState.WAITING)
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False, states=states)
        return any(self._is_wanted(trial) and _is_ours(trial) for trial in trials)

    def _is_wanted(self, trial: FrozenTrial) -> bool:
        return self.n_trials is None or trial.number < self.n_trials

    def _take(self) -> FrozenTrial | None:
        """Take the first wanted trial that waits, or that can be added."""
        while True:
            for trial in self.storage.get_all_trials(self.study_id, deepcopy=False, states=(TrialState.WAITING,)):
                with suppress(UpdateFinishedTrialError):
                    if self._is_wanted(trial) and self.storage.set_trial_state_values(
                        trial_id(trial), state=TrialState.RUNNING
                    ):
                        return trial
            if self.n_trials is not None and self.storage.get_n_trials(self.study_id) >= self.n_trials:
                return None
            # one that waits, not one of our own: workers that add at the same time all find them, and count them alike
            self.study.add_trial(create_trial(state=TrialState.WAITING))

    def _beat(self) -> None:
        self.storage.set_study_system_attr(self.study_id, f"{OWNER}:{self.worker}", self._n_beats)

    def _beat_on(self) -> None:
        with suppress(OSError, StorageInternalError, SQLAlchemyError):  # the worker's own next call tells of it
            while not self._left.wait(self.interval):
                self._beat()
                self._n_beats += 1

    def _put_back(self, number: int, owner: str | None) -> None:
        now = self.storage.get_trial(number)
        if now.state == TrialState.RUNNING and now.system_attrs.get(OWNER) == owner:
            with suppress(UpdateFinishedTrialError):
                self.storage.set_trial_state_values(number, state=TrialState.WAITING)

    def _put_back_lost(self) -> None:
        """Let trials wait again whose worker has been silent, or took them and died."""
        beats = self.storage.get_study_system_attrs(self.study_id)
        for trial in self.storage.get_all_trials(self.study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            if not _is_ours(trial) or trial_id(trial) in self.held:
                continue
            owner = trial.system_attrs.get(OWNER)
            # one that has just been taken may still have its last owner's name
            sign = owner, trial.datetime_start, beats.get(f"{OWNER}:{owner}")
            last, since = self._seen.setdefault(trial_id(trial), (sign, self._n_beats))
            if sign != last:
                self._seen[trial_id(trial)] = sign, self._n_beats
            elif self._n_beats - since > SILENCE:
                self._put_back(trial_id(trial), owner)


def _is_ours(trial: FrozenTrial) -> bool:
    """Tell whether a queue's worker has a trial, or had just taken it, and not a `study.optimize` elsewhere."""
    return OWNER in trial.system_attrs or not trial.params
