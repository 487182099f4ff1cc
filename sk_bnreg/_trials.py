"""TrialQueue: the trials of a study, shared by workers that may die, on a storage that may be away for a while."""

import os
import socket
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

OWNER = "sk_bnreg:worker"
PATIENCE = 300.0  # seconds for a server to come back


def open_storage(storage: Any) -> Any:
    """Return a storage, given as None, a database's URL, a journal file's path or a storage of Optuna's.

    Databases get one that waits for a server that is away.
    """
    if storage is None:
        return InMemoryStorage()
    if isinstance(storage, Path) or (isinstance(storage, str) and "://" not in storage):
        return JournalStorage(_open_journal(str(storage)))
    if isinstance(storage, str):
        # workers that start together may all make the tables, which only one can
        for attempt in range(3):
            try:
                storage = RDBStorage(storage, engine_kwargs={"pool_pre_ping": True})
                break
            except SQLAlchemyError:
                if attempt == 2:
                    raise
                time.sleep(1)
    return PatientStorage(optuna.storages.get_storage(storage)) if isinstance(storage, RDBStorage) else storage


def _open_journal(path: str) -> JournalFileBackend:
    """Open a journal file; what a worker that died left of a line is cut off, or the next line would be lost in it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(path)
    backend = JournalFileBackend(path, lock_obj=lock)
    lock.acquire()
    try:
        with open(path, "rb+") as file:
            content = file.read()
            if not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
    return backend


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

        def patiently(*args: Any, **kwargs: Any) -> Any:
            deadline, warned = time.monotonic() + PATIENCE, False
            while True:
                try:
                    return method(*args, **kwargs)
                except (StorageInternalError, DBAPIError) as error:
                    cause = error if isinstance(error, DBAPIError) else error.__cause__
                    away = isinstance(cause, DBAPIError) and type(cause).__name__ in (
                        "OperationalError",
                        "InterfaceError",
                    )
                    if not away or time.monotonic() > deadline:
                        raise
                    if not warned:
                        warnings.warn(
                            f"The storage does not answer; asking again for {PATIENCE:.0f} s. {cause}", stacklevel=2
                        )
                        warned = True
                    time.sleep(0.5)

        return patiently


class TrialQueue:
    """A study's budget of trials, from which any number of workers take.

    The whole budget is put into the study as waiting trials, numbered from 0: a worker takes
    those with a number below `n_trials`, so that there are exactly so many, whoever adds what at
    the same time. Inside a ``with`` block, a worker shows that it lives; when it falls
    silent, the trials that it held wait again, with the parameters that they had.

    Parameters
    ----------
    study : optuna.Study
    n_trials : int or None
        The budget; None has no end.
    heartbeat_interval : float
        Seconds between signs of life; after three without one a worker counts as dead.
    """

    def __init__(self, study: optuna.Study, n_trials: int | None, heartbeat_interval: float):
        self.study, self.n_trials, self.interval = study, n_trials, heartbeat_interval
        self.storage, self.study_id = study._storage, study._study_id
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.shared = not isinstance(self.storage, InMemoryStorage)
        self.held: set[int] = set()
        self._seen: dict[str, tuple[Any, float]] = {}
        self._left = Event()

    def fill(self) -> None:
        """Put what is missing of the budget into the study; of several that do so at once, some add one too many."""
        while self.n_trials is not None and self.storage.get_n_trials(self.study_id) < self.n_trials:
            self.study.add_trial(create_trial(state=TrialState.WAITING))

    def __enter__(self) -> "TrialQueue":
        if self.shared:
            self._beat(0)
            self._thread = Thread(target=self._beat_on, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        for trial_id in self.held:
            self._put_back(trial_id)
        if self.shared:
            self._thread.join()

    def claim(self, limit: int) -> Iterator[FrozenTrial]:
        """Take waiting trials, one by one, in their order."""
        if self.shared:
            self._put_back_lost()
        for _ in range(limit if self.n_trials is None else 0):
            self.study.add_trial(create_trial(state=TrialState.WAITING))
        n_claimed = 0
        for trial in self.storage.get_all_trials(self.study_id, deepcopy=False, states=(TrialState.WAITING,)):
            if n_claimed == limit:
                return
            if self.n_trials is not None and trial.number >= self.n_trials:
                continue
            try:
                if not self.storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
                    continue
            except UpdateFinishedTrialError:
                continue
            n_claimed += 1
            self.held.add(trial._trial_id)
            if self.shared:
                self.storage.set_trial_system_attr(trial._trial_id, OWNER, self.worker)
            yield trial

    def finish(self, trial: Trial, value: float | None = None, state: TrialState | None = None) -> None:
        """Tell a trial's end, unless another worker has taken it over."""
        self.held.discard(trial._trial_id)
        now = self.storage.get_trial(trial._trial_id)
        if now.state != TrialState.RUNNING or (self.shared and now.system_attrs.get(OWNER) != self.worker):
            return
        with suppress(UpdateFinishedTrialError):  # it was told just before the connection broke
            self.study.tell(trial, value, state=state)

    def others_work(self) -> bool:
        """Tell whether trials of the budget wait or are with other workers."""
        states = (TrialState.RUNNING, TrialState.WAITING)
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False, states=states)
        return any((self.n_trials is None or trial.number < self.n_trials) and _is_ours(trial) for trial in trials)

    def _beat(self, n: int) -> None:
        self.storage.set_study_system_attr(self.study_id, f"{OWNER}:{self.worker}", n)

    def _beat_on(self) -> None:
        n = 0
        while not self._left.wait(self.interval):
            self._beat(n := n + 1)

    def _put_back(self, trial_id: int) -> None:
        with suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(trial_id, state=TrialState.WAITING)

    def _put_back_lost(self) -> None:
        """Let trials wait again whose worker has been silent, by this machine's clock, or took them and died."""
        now = time.monotonic()
        beats = self.storage.get_study_system_attrs(self.study_id)
        for trial in self.storage.get_all_trials(self.study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            if not _is_ours(trial):
                continue
            owner = trial.system_attrs.get(OWNER)
            sign = f"{trial.number}, started {trial.datetime_start}" if owner is None else f"{OWNER}:{owner}"
            if sign not in self._seen or self._seen[sign][0] != beats.get(sign):
                self._seen[sign] = beats.get(sign), now
            elif now - self._seen[sign][1] > 3 * self.interval and trial._trial_id not in self.held:
                self._put_back(trial._trial_id)


def _is_ours(trial: FrozenTrial) -> bool:
    """Tell whether a queue's worker has a trial, or had just taken it, and not a `study.optimize` elsewhere."""
    return OWNER in trial.system_attrs or not trial.params
