"""Put what was measured into README.md and docs/benchmarks.md.

python docs/fill.py                         # from what is saved
TABLES=DIR python docs/fill.py racing       # measure benchmarks/saved/racing.txt afresh first

A block of code below `<!-- benchmarks/saved/NAME.txt -->` is that file, below `<!-- benchmarks/saved/NAME.txt:9 -->`
its first nine lines; a file's first line is the command that wrote the rest. What stands between
`<!-- NAME: docs/fill.py -->` and `<!-- end of NAME -->` is what the function of that name returns.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import matplotlib
import pandas as pd

from sk_bnreg import SchemeComparison, SchemeComparisonDisplay
from sk_bnreg.study.survey import Survey

ROOT = Path(__file__).parents[1]
SAVED, DOCS = ROOT / "benchmarks" / "saved", ROOT / "docs"


def main(*names):
    for name in names:
        measure(SAVED / f"{name}.txt")
    for page in (ROOT / "README.md", DOCS / "benchmarks.md"):
        page.write_text(filled(page.read_text()))
    matplotlib.rcParams["svg.hashsalt"] = "digits"
    figure = SchemeComparisonDisplay.from_comparison(digits_study()).figure_
    figure.savefig(DOCS / "digits.svg", metadata={"Date": None})


def measure(path):
    command = path.read_text().partition("\n")[0]
    run = {"shell": True, "cwd": ROOT, "stdout": subprocess.PIPE, "text": True, "check": True}
    printed = subprocess.run(command.removeprefix("$ "), **run).stdout
    path.write_text("\n".join([command, *(line.rstrip() for line in printed.splitlines())]) + "\n")


def filled(page):
    """Return a page with all that is saved in its place."""
    page = re.sub(r"(<!-- ([\w/]+\.txt)(?::(\d+))? -->)\n```text\n.*?```", _block, page, flags=re.S)
    return re.sub(r"<!-- (\w+): docs/fill.py -->\n.*?<!-- end of \1 -->", _told, page, flags=re.S)


def _block(match):
    mark, path, number = match.groups()
    lines = (ROOT / path).read_text().splitlines()[: int(number) if number else None]
    return "\n".join([mark, "```text", *lines, "```"])


def _told(match):
    name = match[1]
    return f"<!-- {name}: docs/fill.py -->\n{globals()[name]()}\n<!-- end of {name} -->"


def peers():
    """Return where the defaults stand among other models, as docs/accuracy.md has it."""
    page = (DOCS / "accuracy.md").read_text()
    first = markdown_tables(page)[0]
    ours, catboost = first.loc["sk_bnreg"], first.loc["CatBoost"]
    for rank in ("mean rank", "rank by loss"):
        if first[rank].idxmin() != "sk_bnreg":
            raise ValueError(f"README.md says that ours has the best {rank}.")
    by_score = re.search(r"By accuracy or R2: Mean ranks over (\d+) tables.*", page)
    differs = {
        name: re.search(rf"{name} and sk_bnreg \(p = [^)]+\)", by_score[0]) for name in ("CatBoost", "RealMLP_TD")
    }
    leads = [f"over {name} is {'significant' if found else 'not significant'}" for name, found in differs.items()]
    return fold(
        f"Untuned like this it had the best mean rank of {len(first)} models on [{by_score[1]} tables]"
        f"(docs/accuracy.md): {ours['mean rank']:.1f} by accuracy or R2 (CatBoost {catboost['mean rank']:.1f}) and "
        f"{ours['rank by loss']:.1f} by log loss or RMSE ({catboost['rank by loss']:.1f}), in "
        f"{ours['fit / CatBoost']:.2f} of CatBoost's time and {ours['fit / RealMLP_TD']:.2f} of RealMLP_TD's. Its "
        f"defaults were chosen on other splits of these tables; its lead {', '.join(leads)}."
    )


def markdown_tables(page):
    """Return the tables of a page, by their first column, numbers as numbers."""
    tables = []
    for lines in re.findall(r"(?:^\|.*\n)+", page, flags=re.M):
        head, _, *rows = ([cell.strip() for cell in line.strip("|\n").split("|")] for line in lines.splitlines())
        frame = pd.DataFrame(rows, columns=head).set_index(head[0])
        tables.append(frame.apply(pd.to_numeric, errors="coerce"))
    return tables


def digits_study():
    return SchemeComparison.load(DOCS / "digits")


def digits():
    """Return what the README's first command found, from docs/digits."""
    study = digits_study()
    n_seeds = study.frame.groupby(["scheme", "repeat", "fold"])["seed"].nunique().max()
    answers = " ".join(f"{begun(a.summary())}. {begun(a.contrast.advice)}." for a in study.verdicts())
    of = f"For the mean of {study.n_networks} networks, by {study.metric}"
    return (
        f"On scikit-learn's digits, {study.n_folds} folds, {n_seeds} seeds, {study.n_fits:,} network fits:\n\n"
        "![Differences in accuracy to the best of five schemes on the digits data, with corrected 95 % intervals]"
        "(docs/digits.svg)\n\n"
        + fold(
            f"{of}; differences within {study.rope:g} count as none: {answers}",
            initial_indent="> ",
            subsequent_indent="> ",
        )
    )


def decided():
    """Return on how many tables the command has an answer, from benchmarks/saved/decided.txt."""
    text = (SAVED / "decided.txt").read_text()
    counts = re.search(r"accuracy or R2, the mean of 8 networks, (\d+) tables\n.*?question *\n(.*?)\n\n", text, re.S)
    strong, spoken = zip(*(line.split()[-2:] for line in counts[2].splitlines()), strict=True)
    return fold(
        f"On {counts[1]} tables of up to 2,000 rows, three minutes each, it had an answer to the three questions on "
        f"{listed(spoken)}, a strong one (helps, hurts or redundant) on {listed(strong)}, with the default networks of "
        "before ([benchmarks](docs/benchmarks.md))."
    )


def tables():
    """Return what all tables say together, from docs/survey.parquet."""
    survey = Survey.load(DOCS / "survey.parquet")
    found = {(answer.question.scheme, answer.question.against): answer.test for answer in survey.answers()}
    l2, norm = found["bn+l2", "bn"], found["bn+l2", "l2"]
    return fold(
        f"And in general? [On {l2.n_tables} tables](docs/results.md) L2 on the weights, given batch norm, was worth "
        f"{l2.median:+.4f} of accuracy or R2 in the median ({l2.verdict}), and batch norm, given L2, "
        f"{norm.median:+.4f} ({norm.verdict}). `sk-bnreg survey FOLDER --out DIR` asks your tables."
    )


def fold(text, **indents):
    return textwrap.fill(text, 125, break_long_words=False, break_on_hyphens=False, **indents)


def begun(clause):
    return clause[:1].upper() + clause[1:]


def listed(numbers):
    *first, last = numbers
    return f"{', '.join(first)} and {last}"


if __name__ == "__main__":
    main(*sys.argv[1:])
