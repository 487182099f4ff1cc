"""``sk-bnreg survey``: schemes on every table of a folder."""

from os import cpu_count
from pathlib import Path
from typing import Annotated

import typer

from sk_bnreg.cli.runner import Runner, command_line


def survey(
    folder: Annotated[Path, typer.Argument(help="A folder of .csv and .parquet files.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; a survey that was stopped goes on from there.")],
    rows: Annotated[int, typer.Option(min=50, help="Rows used of a larger table.")] = 2000,
    folds: Annotated[int, typer.Option(min=2, help="Outer folds.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="How often the folds are drawn.")] = 1,
    candidates: Annotated[int, typer.Option(min=1, help="Settings that each scheme tries.")] = 12,
    seed: Annotated[int, typer.Option(help="Determines rows, folds, candidates and networks.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tables at a time. [default: one per core]")] = None,
) -> None:
    """Compare schemes on every table of a folder: is L2 redundant beside batch norm, and L2 on what?"""
    from sk_bnreg.study.survey import survey as run
    from sk_bnreg.study.survey import survey_schemes, table_paths

    runner = Runner(out)
    say = runner.console.print
    # the number of schemes is the same at any learning rate
    n_tables, n_schemes, n_done = len(table_paths(folder)), len(survey_schemes(1.0)), 0
    say(
        f"{n_tables} tables of at most {rows:,} rows, {n_schemes} schemes x {candidates} candidates x 3 inner folds in "
        f"{folds} outer folds x {repeats}"
    )
    runner.load_engine()

    # tables end in any order, so each is told with its place in the count
    def tell(name: str, outcome: str) -> None:
        nonlocal n_done
        n_done += 1
        say(f"{n_done} of {n_tables}, {name}: {outcome}")

    with runner.stoppable(out):
        found = run(
            folder,
            out,
            max_rows=rows,
            n_folds=folds,
            n_repeats=repeats,
            n_candidates=candidates,
            random_state=seed,
            n_jobs=jobs or cpu_count(),
            on_table=tell,
        )
    for answer in found.overall():
        say(answer.summary())
    found.report(out / "survey.html", command=command_line())
    say(f"\nSaved {out}/survey.html and {out}/survey.parquet.")
