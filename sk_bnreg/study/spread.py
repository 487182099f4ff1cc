"""Spread: a study's folds in this process, in joblib's, or on Dask workers, of which any may die."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import joblib
from joblib.parallel import get_active_backend

from sk_bnreg.engine.workers import one_thread
from sk_bnreg.search.evaluation import as_they_come


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

    def at_home(self) -> AbstractContextManager[Any]:
        """Keep what is computed here away from Dask: a transformer that uses joblib would scatter columns, and hang."""
        return nullcontext() if self.client is None else joblib.parallel_config("sequential")

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
            parallel = joblib.Parallel(n_jobs=self.n_jobs, return_as=as_they_come())
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
    with one_thread():
        return function(*arguments)
