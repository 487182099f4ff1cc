"""Cases at the public doors, most of them bad: right, refused in clear words, or wrong.

python benchmarks/bad_inputs.py [--seed 0] [N] [NAME ...]

N cases (1,000 unless given) of every door in tests/*_doors.py, or of the doors and files named ("fit", "estimator");
another seed draws others. tests/doors.py says what is wrong. Of the wrong ones the first of each kind is shown, with
how many there are.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))
os.environ["MPLBACKEND"] = "Agg"  # with the first figure matplotlib notes which it takes

import optuna  # noqa: E402
from doors import tally  # noqa: E402

AT_ONCE = 1000  # hypothesis remembers what it has drawn


def main(seed, n, names):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    files = sorted(set(TESTS.glob("*_doors.py")) - {TESTS / "test_doors.py"})
    doors = {
        door: path.stem.removesuffix("_doors") for path in files for door in importlib.import_module(path.stem).DOORS
    }
    total = dict.fromkeys(("cases", "right", "refused", "wrong"), 0)
    print(f"{'door':28}{'cases':>8}{'right':>8}{'refused':>9}{'wrong':>7}")
    for door, file in doors.items():
        if names and not {door.name, file} & set(names):
            continue
        results = [tally(door, min(AT_ONCE, n - start), seed * 10**6 + start) for start in range(0, n, AT_ONCE)]
        counts = {key: sum(result.counts[key] for result in results) for key in ("right", "refused", "wrong")}
        show(door.name, {"cases": sum(counts.values()), **counts})
        total = {key: total[key] + value for key, value in {"cases": sum(counts.values()), **counts}.items()}
        wrong = {}
        for result in results:
            for kind, (number, first) in result.wrong.items():
                wrong[kind] = wrong.get(kind, (0,))[0] + number, first
        for number, (why, case) in wrong.values():
            print(f"    {number} x {why}\n        {case}", flush=True)
    show("all", total)


def show(name, counts):
    print(f"{name:28}{counts['cases']:8,}{counts['right']:8,}{counts['refused']:9,}{counts['wrong']:7,}", flush=True)


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("n", type=int, nargs="?", default=1000)
    asked.add_argument("names", nargs="*")
    main(**vars(asked.parse_args()))
