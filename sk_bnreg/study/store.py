"""Where a study keeps its finished folds: in memory, and in a folder if there is one."""

import json
import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.utils import check_random_state


class Store:
    """The results of a study, written fold by fold so that a kill at any moment loses at most the fold at work.

    Parameters
    ----------
    out : path or None
        The folder: ``study.json`` says which study it holds, ``results.parquet`` has a row
        per scheme, fold and seed, ``tuning.parquet`` one per scheme, fold and candidate.
    random_state : int, RandomState instance or None
        None goes on with the seed of an earlier run in that folder.

    Attributes
    ----------
    seed : int
    versions : dict
        Of the packages with which the study began.
    """

    def __init__(self, out: str | Path | None, random_state: Any):
        self.folder = None if out is None else Path(out)
        self.results: list[dict[str, Any]] = []
        self.tuning: list[dict[str, Any]] = []
        self.versions = {name: version(name) for name in ("sk_bnreg", "torch", "scikit-learn", "skorch")}
        stored = self._stored()
        # the seed decides folds and candidates: only with the earlier one does a study go on
        if random_state is None and stored:
            self.seed = stored["random_state"]
        elif isinstance(random_state, Integral):
            self.seed = int(random_state)
        else:
            source = np.random.RandomState() if random_state is None else check_random_state(random_state)
            self.seed = int(source.randint(2**31 - 1))

    def open(self, fingerprint: str, schemes: list[str]) -> set[tuple[int, int]]:
        """Begin the study, or go on with it.

        Parameters
        ----------
        fingerprint : str
            Differs between studies whose results must not be mixed.
        schemes : list of str
            In the order of the results.

        Returns
        -------
        set of (int, int)
            The (repeat, fold) that an earlier run of the same study finished.

        Raises
        ------
        ValueError
            If the folder holds another study.
        """
        self.schemes = schemes
        if self.folder is None:
            return set()
        stored = self._stored()
        # results without study.json are not ours to overwrite: the comparison below refuses them
        if not stored and not (self.folder / "results.parquet").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            stored = {"fingerprint": fingerprint, "random_state": self.seed, "versions": self.versions}
            self._replace("study.json", lambda path: path.write_text(json.dumps(stored, indent=1)))
        if stored.get("fingerprint") != fingerprint:
            raise ValueError(
                f"out={str(self.folder)!r} holds another study (other data, estimator or settings); "
                "name another folder or delete this one."
            )
        self.versions = stored["versions"]  # with which it began: results of two are not told apart
        if not (self.folder / "results.parquet").exists():
            return set()
        self.results = _records(self.folder / "results.parquet")
        finished = {(row["repeat"], row["fold"]) for row in self.results}
        # a fold's tuning is written before its results, so a kill may leave tuning of a fold that is not finished
        tuning = _records(self.folder / "tuning.parquet")
        self.tuning = [row for row in tuning if (row["repeat"], row["fold"]) in finished]
        return finished

    def add(self, results: list[dict[str, Any]], tuning: list[dict[str, Any]]) -> None:
        """Keep the rows of a finished fold.

        Parameters
        ----------
        results, tuning : list of dict
            A row per scheme and seed, and per scheme and candidate.
        """
        self.results += results
        self.tuning += tuning
        if self.folder is not None:
            # whole files every time: they are small, and parquet cannot be appended to
            results_frame, tuning_frame = self.frames()
            self._replace("tuning.parquet", partial(tuning_frame.to_parquet, index=False))
            self._replace("results.parquet", partial(results_frame.to_parquet, index=False))

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return results and tuning, in the order of repeats, folds and schemes.

        Folds that ran at the same time ended in any order; the frames do not show it.
        """
        return self._sorted(self.results, "seed"), self._sorted(self.tuning, "candidate")

    def _sorted(self, rows: list[dict[str, Any]], last: str) -> pd.DataFrame:
        order = {scheme: place for place, scheme in enumerate(self.schemes)}
        ordered = sorted(rows, key=lambda row: (row["repeat"], row["fold"], order[row["scheme"]], row[last]))
        return pd.DataFrame(ordered)

    def best_estimator(self, fit: Callable[[], Any]) -> Any:
        """Return the best estimator of the finished study.

        Parameters
        ----------
        fit : callable
            Fits it if it is not there.

        Returns
        -------
        estimator
        """
        path = self.folder and self.folder / "best_estimator.joblib"
        if path and path.exists():
            return joblib.load(path)
        estimator = fit()
        if path:
            self._replace(path.name, lambda part: joblib.dump(estimator, part))
        return estimator

    def _stored(self) -> dict[str, Any]:
        if self.folder is None or not (self.folder / "study.json").exists():
            return {}
        return json.loads((self.folder / "study.json").read_text())

    def _replace(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file beside its place and move it there, so that a kill leaves the old one whole."""
        assert self.folder is not None
        part = self.folder / f"{name}.part"
        write(part)
        # one step, also where an older file is in the place
        os.replace(part, self.folder / name)


def _records(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file as `add` got them."""
    return [{str(name): value for name, value in row.items()} for row in pd.read_parquet(path).to_dict("records")]
