"""Does a study that is killed again and again end with the table of one that is not?

The study is killed with SIGKILL 30 times, in turn at a random moment of its work and while it writes a file, and
started again. Prints how many folds each life finished, whether results and tuning equal those of an uninterrupted run
bit for bit (but for the seconds), how many finished folds were lost, and how far the best estimators differ.

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
STUDY = """
import sys, torch
from sklearn.datasets import make_classification
from sk_bnreg import BNMLPClassifier, compare_schemes
torch.set_num_threads(1)
X, y = make_classification(n_samples=300, n_features=10, random_state=0)
net = BNMLPClassifier((16,), max_iter=6, n_ensemble=1)
folds = {"cv": 10, "n_repeats": 16, "inner_cv": 2}
compare_schemes(net, X, y, **folds, n_candidates=3, random_state=0, on_plan=None, out=sys.argv[1])
"""


def start(folder):
    return subprocess.Popen([sys.executable, "-c", STUDY, folder])


def finished(folder):
    path = folder / "results.parquet"
    return set(zip(*pd.read_parquet(path)[["repeat", "fold"]].to_numpy().T, strict=True)) if path.exists() else set()


def written_at(path):
    """Return when a file was written, 0 if it has just gone."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return 0


def wait_for_write(process, folder, n_files):
    """Return when the n-th file from now is being written, or the study has ended."""
    last = time.time_ns()
    while n_files and process.poll() is None:
        newest = max(map(written_at, folder.glob("*.part")), default=0)
        if newest > last:
            last, n_files = newest + 10**7, n_files - 1


def main():
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as room:
        whole, killed = Path(room) / "whole", Path(room) / "killed"
        assert start(whole).wait() == 0
        lives, before, lost, in_write, seen = [], set(), 0, 0, 0
        for kill in range(N_KILLS):
            process = start(killed)
            if kill % 2:
                wait_for_write(process, killed, rng.integers(1, 12))
            else:
                wait_for_write(process, killed, 1)
                time.sleep(rng.uniform(0, 2))
            process.kill()
            ended = process.wait() == 0
            newest = max(map(written_at, killed.glob("*.part")), default=0)
            in_write += newest > seen
            seen = max(newest, seen)
            after = finished(killed)
            lost += len(before - after)
            lives.append(len(after - before))
            before = after
            if ended:
                break
        assert start(killed).wait() == 0
        print(f"{len(lives)} kills, {in_write} of them with a file half written; folds finished by each life: {lives}")
        print(f"finished folds lost: {lost}")
        for name in ("results", "tuning"):
            one, other = (pd.read_parquet(folder / f"{name}.parquet") for folder in (whole, killed))
            same = one.drop(columns="seconds", errors="ignore").equals(other.drop(columns="seconds", errors="ignore"))
            print(f"{name}.parquet: {len(other)} rows, {'equal' if same else 'DIFFERENT'}")
        X, _ = make_classification(n_samples=300, n_features=10, random_state=0)
        one, other = (joblib.load(folder / "best_estimator.joblib").predict_proba(X) for folder in (whole, killed))
        print(f"best estimator: largest difference of a probability {np.abs(one - other).max():g}")


if __name__ == "__main__":
    main()
