"""Draw the README's picture from a saved comparison.

sk-bnreg compare --out DIR && python docs/picture.py DIR docs/digits.svg
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from sk_bnreg import SchemeComparison
from sk_bnreg._study import SCHEMES


def main(folder, picture):
    frame = pd.read_parquet(Path(folder) / "results.parquet")
    study = SchemeComparison(frame, SCHEMES, "accuracy", 0.01, None)
    table = study.table()[::-1]
    fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    ax.axvspan(-study.rope, study.rope, color="0.92")
    ax.axvline(0, color="0.6", linewidth=1)
    for i, (scheme, row) in enumerate(table.iterrows()):
        if scheme == study.best_scheme:
            ax.plot(0, i, "D", color="#0072b2")
        else:
            ax.plot([row["low"], row["high"]], [i, i], color="#0072b2", linewidth=2)
            ax.plot(row["difference"], i, "o", color="#0072b2")
        ax.text(1.02, i, f"{row['score']:.4f}", transform=ax.get_yaxis_transform(), va="center")
    ax.text(1.02, len(table) - 0.4, "accuracy", transform=ax.get_yaxis_transform(), fontweight="bold")
    ax.text(0.0, len(table) - 0.4, f"no practical difference: ±{study.rope:g}", ha="center", color="0.4")
    ax.set_ylim(-0.6, len(table))
    ax.set_yticks(range(len(table)), table.index)
    n_folds = frame["fold"].nunique()
    ax.set_xlabel(f"difference in accuracy to {study.best_scheme}, corrected 95 % interval, {n_folds} folds")
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(picture)


if __name__ == "__main__":
    main(*sys.argv[1:3])
