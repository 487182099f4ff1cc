"""The command in a process of its own, and a table as people have them."""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import small_command


@pytest.fixture
def start():
    """Return a function that starts the command in another process, which is a group of its own."""

    def start(*arguments, command="compare", networks="usual"):
        program = [small_command.__file__] if networks == "small" else ["-m", "sk_bnreg"]
        return subprocess.Popen(
            [sys.executable, *program, command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "COLUMNS": "120"},
        )

    return start


@pytest.fixture
def wait_for():
    """Return a function that waits until a file is there."""

    def wait_for(path):
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.exists()

    return wait_for


@pytest.fixture(scope="session")
def mixed_frame():
    """Numbers with gaps, words, booleans, a date; the target depends on a number and a word."""
    rng = np.random.default_rng(0)
    size, colour = rng.normal(10, 3, 240), rng.choice(["red", "green", "blue", None], 240)
    return pd.DataFrame(
        {
            "size": np.where(rng.random(240) < 0.1, np.nan, size),
            "colour": colour,
            "new": rng.random(240) < 0.5,
            "day": pd.date_range("2024-01-01", periods=240).astype(str),
            "label": np.where(size + 3 * (colour == "red") + rng.normal(size=240) > 10, "good", "bad"),
        }
    )


@pytest.fixture
def mixed(mixed_frame, tmp_path):
    """Return a folder with that table in two files."""
    mixed_frame.to_csv(tmp_path / "mixed.csv", index=False)
    mixed_frame.rename(columns={"label": "target"}).to_parquet(tmp_path / "mixed.parquet")
    return tmp_path


@pytest.fixture
def two_columns(mixed_frame, tmp_path):
    """Return a file with the two columns that skrub's steps take least time for, and the target."""
    path = tmp_path / "numbers" / "two_columns.csv"
    path.parent.mkdir()
    mixed_frame[["size", "new", "label"]].to_csv(path, index=False)
    return path
