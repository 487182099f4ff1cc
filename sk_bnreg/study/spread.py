"""Spread: a study's folds in this process, in joblib's, or on Dask workers, of which any may die."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import torch
from joblib.parallel import get_active_backend


class Spread:
    """Where the folds of a study are worked on, by joblib's active backend.

    Parameters
    ----------
    study : NestedStudy
    n_jobs : int or None

    Attributes
    ----------
    n_workers : int
        Folds at a time.
    here : bool
        Whether they are worked on in this process.
    """

    def __init__(self, study: Any, n_jobs: int | None):
        self.study, self.n_jobs = study, n_jobs
        self.n_workers = joblib.effective_n_jobs(n_jobs)
        self.client = getattr(get_active_backend()[0], "client", None)
        self.here = self.client is None and self.n_workers == 1
        self._sent: Any = None

    def run(self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Call a function with the study and each job's arguments.

        Parameters
        ----------
        function : callable
        jobs : sequence of tuple

        Yields
        ------
        object
            What the calls return, as they end.
        """
        if self.client is None:
            parallel = joblib.Parallel(n_jobs=self.n_jobs, return_as="generator_unordered")
            yield from parallel(joblib.delayed(function)(self.study, *job) for job in jobs)
            return
        from distributed import as_completed

        if self._sent is None:
            # a task's result, which Dask makes again when the worker that has it dies: what joblib scatters is lost
            self._sent = self.client.submit(_same, self.study, pure=False)
        jobs = [(function, self._sent, *job) for job in jobs]
        for future in as_completed([self.client.submit(_with_one_thread, *job, pure=False) for job in jobs]):
            result = future.result()
            future.release()  # or it would be made again, too, when the worker that has it dies
            yield result


def _same(value: Any) -> Any:
    return value


def _with_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on a Dask worker, whose other cores work on other folds."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(*arguments)
    finally:
        torch.set_num_threads(n_threads)
