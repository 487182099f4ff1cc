"""On how many tables does `sk-bnreg compare` as it comes answer its questions?

Every .parquet table in a folder (target in the column "target"), cut to 2,000 rows drawn at random, is compared by the
same calls as the command's, with its defaults: the five schemes as means of eight networks, accuracy and
d2_log_loss_score or R2, repeats until every question is settled or the minutes are up, one process. OUT gets a folder
per table; a run that was interrupted goes on from there. Told is how many tables have which word, question by question,
for the mean of eight and for one network of the same fits, and for the former what keeps a question from a strong word.

    python benchmarks/decided.py DIR OUT [--minutes 3] [--tables pima,yeast]
    python benchmarks/decided.py --report OUT
"""

import argparse
from pathlib import Path
from time import perf_counter

import pandas as pd

from sk_bnreg import compare_schemes
from sk_bnreg.stats.folds import STRONG, WORDS
from sk_bnreg.study.tables import DEFAULT_SCORES, network_pipeline, read_table

ROWS, SEED = 2000, 0
FILE = "decided.json"
WEAK = ("dispensable", "harmless")
SHORT = {"L2 on the weights": "L2", "L2 on gamma and beta": "gamma, beta"}


def decide(path, out, minutes):
    """Compare the schemes on a table, and keep what is answered, a row per score, number of networks and question."""
    table = read_table(str(path)).sample(ROWS, SEED)
    start = perf_counter()
    found = compare_schemes(
        network_pipeline(table.task), table.X, table.y, minutes=minutes, scoring=list(DEFAULT_SCORES[table.task]),
        random_state=SEED, n_jobs=1, out=out, on_plan=lambda plan: None,
    )  # fmt: skip
    about = {
        "table": path.stem,
        "task": table.task,
        "n_rows": len(table.X),
        "n_fits": found.n_fits,
        **found.course._asdict(),
        "study_seconds": found.frame["elapsed"].max(),  # over all runs, until the last fold
        "seconds": perf_counter() - start,
    }
    rows = [
        about | answered(by_size, answer, metric)
        for metric in found.metrics
        for by_size in (found.rescore(metric), found.rescore(metric).single)
        for answer in by_size.verdicts()
    ]
    pd.DataFrame(rows).to_json(out / FILE, orient="records", indent=1)


def answered(comparison, answer, metric):
    c, question = answer.contrast, answer.question
    return {
        "metric": metric,
        "n_networks": comparison.n_networks,
        "subject": question.subject,
        "given": question.given,
        "word": c.verdict,
        **{name: getattr(c, name) for name in ("mean", "low", "high", "sd", "p_worse", "p_equivalent", "p_better")},
        "seed_sd": comparison.seed_deviation(question.scheme, question.against),
        "outlook": answer.outlook,
    }


def report(out):
    files = sorted(out.glob(f"*/{FILE}"))
    rows = pd.concat(map(pd.read_json, files), ignore_index=True)
    rows["question"] = rows["subject"].replace(SHORT) + " | " + rows["given"].str.replace(" on the weights", "")
    rows["score"] = rows["metric"].where(rows["metric"] == "d2_log_loss_score", "accuracy or R2")
    studies = rows.groupby("table").first()
    ended = ", ".join(f"{n} {why}" for why, n in studies["ended"].value_counts().items())
    print(
        f"{len(studies)} tables; ended: {ended}; seconds, median [least, most]: {spread(studies['seconds'])}; "
        f"repeats: {spread(studies['n_repeats'])}; seeds: {spread(studies['n_seeds'])}"
    )
    for (score, size), of_score in rows.groupby(["score", "n_networks"], sort=False):
        n_tables = of_score["table"].nunique()
        print(f"\n{score}, {'one network' if size == 1 else f'the mean of {size} networks'}, {n_tables} tables")
        counts = of_score.groupby("question", sort=False)["word"].value_counts().unstack(fill_value=0)
        counts = counts.reindex(columns=list(WORDS), fill_value=0)
        counts["strong"] = counts[list(STRONG)].sum(axis=1)
        counts["any"] = counts[[*STRONG, *WEAK]].sum(axis=1)
        print(counts.rename_axis(columns=None).to_string())
    headline = rows[rows["n_networks"] == rows.groupby("table")["n_networks"].transform("max")]
    for (table, metric), of_table in headline.groupby(["table", "metric"]):
        print(f"\n{table}, {metric}")
        for row in of_table.itertuples():
            figures = f"{row.mean:+z.4f} [{row.low:+z.4f}, {row.high:+z.4f}]"
            print(f"  {row.question:<33}{row.word:<12}{figures:<28}{row.outlook}")


def spread(values):
    return f"{values.median():.0f} [{values.min():.0f}, {values.max():.0f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--tables", help="names, with commas between; all by default")
    parser.add_argument("--report", action="store_true", help="of what OUT holds; nothing is computed")
    args = parser.parse_args()
    if not args.report:
        names = None if args.tables is None else args.tables.split(",")
        for path in sorted(args.folder.glob("*.parquet")):
            out = args.out / path.stem
            if (names is None or path.stem in names) and not (out / FILE).exists():
                decide(path, out, args.minutes)
                first = pd.read_json(out / FILE).iloc[0]
                print(
                    f"{path.stem}: {first['seconds']:.0f} s, {first['n_repeats']} repeats, {first['ended']}", flush=True
                )
    report(args.out)


if __name__ == "__main__":
    main()
