"""Where a study keeps its finished folds: in memory, and in a folder if there is one."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from sklearn.utils import check_random_state

from sk_bnreg.search.evaluation import attempt
from sk_bnreg.study.comparison import SchemeComparison
from sk_bnreg.study.held_out import FoldOutputs, HeldOut, Place, load_outputs, undamaged
from sk_bnreg.study.nested import FoldResult


class Store:
    """The results of a study, written fold by fold so that a kill at any moment loses at most the fold at work.

    Parameters
    ----------
    out : path or None
        The folder: ``study.json`` says which study it holds, ``networks.parquet`` has a row per scheme, fold and seed,
        ``tuning.parquet`` one per scheme, fold and candidate, and ``held_out`` the predictions, a file per fold.
    random_state : int, RandomState instance or None
        None goes on with the seed of an earlier run in that folder.

    Attributes
    ----------
    seed : int
    versions : dict
        Of the packages with which the study began.
    held_out : HeldOut
        What the networks predicted.
    """

    def __init__(self, out: str | Path | None, random_state: Any):
        self.folder = None if out is None else Path(out).absolute()  # wherever the process goes meanwhile
        self.networks: list[dict[str, Any]] = []
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

    def open(self, fingerprint: str, held_out: HeldOut) -> None:
        """Begin the study, or go on with it.

        Parameters
        ----------
        fingerprint : str
            Differs between studies whose results must not be mixed.
        held_out : HeldOut
            Without predictions; it gets those that an earlier run stored.

        Raises
        ------
        ValueError
            If the folder holds another study.
        """
        self.held_out, self.fingerprint = held_out, fingerprint
        if self.folder is None:
            return
        stored, networks, tuning = self._stored(), self._frame("networks"), self._frame("tuning")
        known = stored.get("fingerprint") or networks.attrs.get("fingerprint")
        # results of which nothing says whose they are are not ours to overwrite
        begun = known or len(networks) or (self.folder / "results.parquet").exists()
        if begun and known != fingerprint:
            raise ValueError(
                f"out={str(self.folder)!r} holds another study (other data, estimator or settings); "
                "name another folder or delete this one."
            )
        (self.folder / "held_out").mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "target.parquet", held_out.save_target)
        self.versions = stored.get("versions", self.versions)  # with which it began: results of two are not told apart
        self._note(fingerprint=fingerprint, random_state=self.seed, versions=self.versions)
        self.networks = _records(networks)
        # a kill leaves files of a fold without its networks, which are written last; others a user may have deleted
        tuned = {(row["repeat"], row["fold"]) for row in _records(tuning)}
        whole = {
            place: n for place, n in self.finished().items() if place in tuned and self._outputs_file(place).exists()
        }
        self.networks, self.tuning = (
            [row for row in _records(frame) if (row["repeat"], row["fold"]) in whole] for frame in (networks, tuning)
        )
        for place, n_seeds in whole.items():
            rows, outputs = load_outputs(self._outputs_file(place))
            self.held_out.folds[place] = FoldOutputs(rows, outputs[:, :n_seeds])

    def finished(self) -> dict[Place, int]:
        """Return the networks of each scheme in every fold that is finished."""
        found: dict[Place, int] = {}
        for row in self.networks:
            place = row["repeat"], row["fold"]
            found[place] = max(found.get(place, 0), row["seed"] + 1)
        return found

    def add(self, place: Place, rows: np.ndarray, result: FoldResult, elapsed: float) -> None:
        """Keep what a fold found, or found beyond what it had found before.

        Parameters
        ----------
        place : (repeat, fold)
        rows : ndarray of int
            Its test rows.
        result : FoldResult
        elapsed : float
            Seconds that the study has taken.
        """
        before = self.held_out.folds.get(place)
        outputs = result.outputs if before is None else np.concatenate([before.outputs, result.outputs], axis=1)
        self.held_out.folds[place] = FoldOutputs(rows, outputs)
        self.networks += [row | {"elapsed": elapsed} for row in result.networks]
        self.tuning += result.tuning
        if self.folder is not None:
            # whole files every time: they are small, and parquet cannot be appended to
            networks, tuning = self.frames()
            networks.attrs = {"fingerprint": self.fingerprint}
            write_whole(self._outputs_file(place), partial(_save_arrays, rows=rows, outputs=outputs))
            write_whole(self.folder / "tuning.parquet", partial(tuning.to_parquet, index=False))
            write_whole(self.folder / "networks.parquet", partial(networks.to_parquet, index=False))

    def tried(self, place: Place) -> list[dict[str, Any]] | None:
        """Return the rows of tuning in a fold; None where nothing is finished."""
        return [row for row in self.tuning if (row["repeat"], row["fold"]) == place] or None

    @property
    def n_fits(self) -> int:
        """Networks that have been trained."""
        # a fold that got more seeds has rows of each time
        at = {(row["repeat"], row["fold"], row["elapsed"]): row["n_fits"] for row in self.networks}
        return sum(at.values())

    def elapsed(self, n_repeats: float = np.inf, n_seeds: float = np.inf) -> float:
        """Return the seconds that this study had taken, over all of its runs, when it had so many repeats and seeds."""
        of = (row["elapsed"] for row in self.networks if row["repeat"] < n_repeats and row["seed"] < n_seeds)
        return max(of, default=0.0)

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return networks and tuning, in the order of repeats, folds and schemes.

        Folds that ran at the same time ended in any order; the frames do not show it.
        """
        return self._sorted(self.networks, "seed"), self._sorted(self.tuning, "candidate")

    def finish(self, found: SchemeComparison) -> None:
        """Write what readers of the folder want: ``results.parquet``, and in ``study.json`` what it is about."""
        if self.folder is not None:
            write_whole(self.folder / "results.parquet", partial(found.frame.to_parquet, index=False))
            self._note(
                schemes=list(found.schemes),
                metric=found.metric,
                rope=found.rope,
                ropes=dict(found.ropes),
                test_ratio=found.test_ratio,
                n_networks=found.n_networks,
                classifier=self.held_out.classifier,
            )

    def best_estimator(self, scheme: str, fit: Callable[[], Any]) -> Any:
        """Return the best estimator of the study.

        Parameters
        ----------
        scheme : str
            Its scheme; with more folds another may be the best.
        fit : callable
            Fits it if it is not there.

        Returns
        -------
        estimator
        """
        path = self.folder and self.folder / "best_estimator.joblib"
        if path and path.exists() and self._stored().get("best_scheme") == scheme:
            stored, failure = attempt(joblib.load, path)
            if failure is None:  # else the file is damaged, and the study whole
                return stored
        estimator = fit()
        if path:
            self._note(best_scheme=None)  # a kill between the two files must not leave one under another's name
            write_whole(path, partial(joblib.dump, estimator))
            self._note(best_scheme=scheme)
        return estimator

    def _sorted(self, rows: list[dict[str, Any]], last: str) -> pd.DataFrame:
        order = {scheme: place for place, scheme in enumerate(self.held_out.schemes)}
        ordered = sorted(rows, key=lambda row: (row["repeat"], row["fold"], order[row["scheme"]], row[last]))
        return pd.DataFrame(ordered)

    def _outputs_file(self, place: Place) -> Path:
        assert self.folder is not None
        return self.folder / "held_out" / f"{place[0]}-{place[1]}.npz"

    def _stored(self) -> dict[str, Any]:
        if self.folder is None or not (self.folder / "study.json").exists():
            return {}
        return undamaged(self.folder / "study.json", lambda path: dict(json.loads(path.read_text())))

    def _frame(self, name: str) -> pd.DataFrame:
        assert self.folder is not None
        path = self.folder / f"{name}.parquet"
        return undamaged(path, pd.read_parquet) if path.exists() else pd.DataFrame()

    def _note(self, **about: Any) -> None:
        """Add to what ``study.json`` says."""
        assert self.folder is not None
        whole = json.dumps(self._stored() | about, indent=1)
        write_whole(self.folder / "study.json", lambda path: path.write_text(whole))


@contextmanager
def alone_in(folder: str | Path | None) -> Iterator[None]:
    """Keep other processes out of a folder of results: each would write over what the other has finished.

    Parameters
    ----------
    folder : path or None
        Made if it is not there.

    Raises
    ------
    BlockingIOError
        If another process is in it. The system lets a process out that is killed.
    """
    if folder is None:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(folder) / "study.lock", timeout=0):
            yield
    except Timeout:
        raise BlockingIOError(
            f"another process is at work in {str(folder)!r}: wait for its end, or name another folder."
        ) from None


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and move it there, so that a kill leaves the old one whole, and so does a crash.

    Parameters
    ----------
    path : Path
    write : callable
        Writes a file of the name that it is called with.
    """
    part = path.with_name(f"{path.name}.part")
    write(part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    # one step, also where an older file is in the place
    os.replace(part, path)


def _save_arrays(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as file:  # numpy would add an ending to a name
        np.savez(file, allow_pickle=False, **arrays)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a file as `add` got them."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
