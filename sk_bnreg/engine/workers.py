"""Threads that do the jobs of an epoch, outside the GIL."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import count
from threading import local
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
import torch
from joblib import cpu_count
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

CACHE_LINE = 64  # bytes
_left = local()  # to workers, by the thread that `threads_left_to_workers` runs in
_at_work: "WeakSet[Workers]" = WeakSet()  # in this process, of trainings beside one another

if hasattr(os, "register_at_fork"):  # other threads are not there after a fork: torch would wait for its own
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
    os.register_at_fork(after_in_child=_at_work.clear)


class Team(NamedTuple):
    """The threads that a job may use: the one that runs it and those that wait for what it submits.

    Attributes
    ----------
    size : int
        How many they are together.
    submit : callable
        As that of an executor.
    stop : ndarray of shape (1,)
        Not 0 if all work is to end.
    """

    size: int
    submit: Callable[..., Future[Any]]
    stop: NDArray[np.int64]


class Job(NamedTuple):
    """Something to be done by a thread, or by a team of them.

    Attributes
    ----------
    size : float
        How long it takes, in any unit: the longest are begun first.
    do : callable
        ``do(room, team)``, with memory to work in.
    most_threads : int
        Of how many threads a team is of use.
    """

    size: float
    do: "Callable[[Room, Team], None]"
    most_threads: int = 1


class Room:
    """Memory that a thread keeps from job to job.

    What threads allocate and free, the C library may not give back to the system, nor to other threads.
    """

    def __init__(self) -> None:
        self._bytes: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, n: int, dtype: Any) -> NDArray[Any]:
        """Return an array at the start of a cache line, as the last of this name was left.

        Parameters
        ----------
        name : str
        n : int
            Numbers in it.
        dtype : dtype
        """
        n_bytes = n * np.dtype(dtype).itemsize
        if name not in self._bytes or len(self._bytes[name]) < n_bytes + CACHE_LINE:
            self._bytes[name] = np.zeros(n_bytes + CACHE_LINE, np.uint8)
        start = -self._bytes[name].ctypes.data % CACHE_LINE
        return self._bytes[name][start : start + n_bytes].view(dtype)


@contextmanager
def threads_left_to_workers() -> Iterator[None]:
    """Let torch's own operations take one thread within, and workers as many as torch had.

    Around the training of small networks torch has thousands of operations of microseconds each. On a machine whose
    cores others use too, every one that is divided waits for its slower half: for milliseconds, with its core busy.
    """
    before, _left.n_threads = getattr(_left, "n_threads", None), _n_threads()
    try:
        with one_thread():
            yield
    finally:
        _left.n_threads = before


def one_thread() -> AbstractContextManager[Any]:
    """Let operations that the calling thread asks for take one thread within, those of other threads what they may.

    `torch.set_num_threads` would be heard by other threads too, and of two that overlap the last would put back the
    first one's number.
    """
    torch.get_num_threads()  # torch sets up a thread when it first asks this: not within
    # selected, or the end would put back what others may have changed: numbers of a BLAS, which are all threads'
    return ThreadpoolController().select(user_api="openmp").limit(limits=1)


def _n_threads() -> int:
    return getattr(_left, "n_threads", None) or torch.get_num_threads()


class Workers:
    """A context with as many threads as torch may use; they change nothing outside themselves.

    They are no more than the cores that a container or a batch job gives to the process, which torch doesn't know, and
    of trainings beside one another, in threads of the user's, each has a share. They are made for one training and end
    with it, so that a process can fork at any other time.
    """

    def __enter__(self) -> "Workers":
        _at_work.add(self)
        self.n_threads = max(1, min(_n_threads(), cpu_count()) // len(_at_work))
        self.rooms = [Room() for _ in range(self.n_threads)]
        self.stop = np.zeros(1, np.int64)
        # numbers below 1e-38 are 0 in these threads: arithmetic with them is a hundred times slower
        self.threads = ThreadPoolExecutor(self.n_threads, initializer=partial(torch.set_flush_denormal, True))
        return self

    def __exit__(self, *error: object) -> None:
        _at_work.discard(self)
        self.threads.shutdown()

    def do(self, jobs: Sequence[Job]) -> None:
        """Do all jobs; an error or an interrupt ends the others at their next batch.

        Where there are fewer jobs than threads, each has a team of them.
        """
        if not jobs:
            return
        size = min([max(1, self.n_threads // len(jobs)), *(job.most_threads for job in jobs)])
        team = Team(size, self._submit, self.stop)
        queue, places = sorted(jobs, key=lambda job: -job.size), count()
        waiting = {self._submit(_work, queue, places, room, team) for room in self.rooms[: len(jobs)]}
        try:
            while waiting:
                done, waiting = wait(waiting, 0.5, FIRST_EXCEPTION)  # without a limit Windows takes no Ctrl-C
                for future in done:
                    future.result()
        finally:
            if waiting:  # an error or Ctrl-C: let nothing run on
                self.stop[0] = 1
                wait(waiting)

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return self.threads.submit(function, *arguments)
        except RuntimeError as error:  # it cannot start a thread, which is no network's fault
            raise MemoryError("There is no memory for another thread.") from error


def _work(queue: Sequence[Job], places: "count[int]", room: Room, team: Team) -> None:
    """Do jobs until there are none; all threads draw their places in the queue from one count."""
    for place in places:
        if place >= len(queue) or team.stop[0]:
            return
        queue[place].do(room, team)
