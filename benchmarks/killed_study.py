"""Does a study that is killed again and again end with the table of one that is not?

A study of means of two networks, with two repeats and as many seeds as its pilot asks for, is killed with SIGKILL 30
times, in turn at a random moment of its work and while it writes a file, and started again. Prints how many folds each
life finished (one that gets more seeds counts again), how many finished networks were lost, whether results, networks,
tuning and held-out predictions equal those of an uninterrupted run bit for bit (but for the times), and how far the
best estimators differ.

    python benchmarks/killed_study.py
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.datasets import make_classification

N_KILLS = 30
TIMES = ["seconds", "elapsed"]
STUDY = """
import sys, torch
from sklearn.datasets import make_classification
from sk_bnreg import BNMLPClassifier, compare_schemes
torch.set_num_threads(1)
X, y = make_classification(n_samples=800, n_features=10, random_state=0)
net = BNMLPClassifier((16,), max_iter=6, n_ensemble=2)
folds = {"cv": 60, "n_repeats": 2, "inner_cv": 2, "n_seeds": "auto", "n_candidates": 4}
compare_schemes(net, X, y, schemes=("l2", "bn", "bn+l2"), **folds, random_state=0, on_plan=None, out=sys.argv[1])
"""


def start(folder):
    return subprocess.Popen([sys.executable, "-c", STUDY, folder])


def finished(folder):
    """Return the networks that are kept, as (repeat, fold, seed), and how often a fold was."""
    path = folder / "networks.parquet"
    if not path.exists():
        return set(), 0
    networks = pd.read_parquet(path, columns=["repeat", "fold", "seed", "elapsed"])
    n_times = len(networks.drop_duplicates(["repeat", "fold", "elapsed"]))
    return set(networks[["repeat", "fold", "seed"]].itertuples(index=False, name=None)), n_times


def written_at(path):
    """Return when a file was written, 0 if it has just gone."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return 0


def wait_for_write(process, folder, n_files):
    """Return when the n-th file from now is being written, or the study has ended."""
    last = time.time_ns()
    while n_files and process.poll() is None:
        # a busy machine may show no file until it is whole
        newest = max(map(written_at, (*folder.rglob("*.part"), folder / "networks.parquet")))
        if newest > last:
            last, n_files = newest + 10**7, n_files - 1


def equal_arrays(one, other):
    with np.load(one) as first, np.load(other) as second:
        return list(first) == list(second) and all(np.array_equal(first[name], second[name]) for name in first)


def main():
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as room:
        whole, killed = Path(room) / "whole", Path(room) / "killed"
        assert start(whole).wait() == 0
        lives, before, n_before, lost, in_write, seen = [], set(), 0, 0, 0, 0
        for kill in range(N_KILLS):
            process = start(killed)
            if kill % 2:
                wait_for_write(process, killed, rng.integers(1, 8))
            else:
                wait_for_write(process, killed, 1)
                time.sleep(rng.uniform(0, 1))
            process.kill()
            ended = process.wait() == 0
            newest = max(map(written_at, killed.rglob("*.part")), default=0)
            in_write += newest > seen
            seen = max(newest, seen)
            after, n_after = finished(killed)
            lost += len(before - after)
            lives.append(n_after - n_before)
            before, n_before = after, n_after
            if ended:
                break
        assert start(killed).wait() == 0
        print(f"{len(lives)} kills, {in_write} of them with a file half written; folds finished by each life: {lives}")
        print(f"finished networks lost: {lost}")
        for name in ("results", "networks", "tuning"):
            one, other = (pd.read_parquet(folder / f"{name}.parquet") for folder in (whole, killed))
            same = one.drop(columns=TIMES, errors="ignore").equals(other.drop(columns=TIMES, errors="ignore"))
            print(f"{name}.parquet: {len(other):,} rows, {'equal' if same else 'DIFFERENT'}")
        names = {folder: sorted(path.name for path in (folder / "held_out").iterdir()) for folder in (whole, killed)}
        same = names[whole] == names[killed] and all(
            equal_arrays(whole / "held_out" / name, killed / "held_out" / name) for name in names[whole]
        )
        print(f"held_out: {len(names[killed])} files, {'equal' if same else 'DIFFERENT'}")
        X, _ = make_classification(n_samples=800, n_features=10, random_state=0)
        one, other = (joblib.load(folder / "best_estimator.joblib").predict_proba(X) for folder in (whole, killed))
        print(f"best estimator: largest difference of a probability {np.abs(one - other).max():g}")


if __name__ == "__main__":
    main()
