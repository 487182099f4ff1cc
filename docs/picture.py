"""Draw the README's picture from a saved comparison.

sk-bnreg compare --out DIR && python docs/picture.py DIR docs/digits.svg
"""

import sys
from pathlib import Path

import pandas as pd

from sk_bnreg import SchemeComparison, SchemeComparisonDisplay


def main(folder, picture):
    frame = pd.read_parquet(Path(folder) / "results.parquet")
    ratio = float((frame["n_test"] / frame["n_train"]).mean())
    schemes = {name: {} for name in frame["scheme"].unique()}
    comparison = SchemeComparison(frame, schemes, "accuracy", 0.01, ratio)
    SchemeComparisonDisplay.from_comparison(comparison).figure_.savefig(picture)


if __name__ == "__main__":
    main(*sys.argv[1:3])
