"""``sk-bnreg survey``: schemes on every table of a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sk_bnreg.cli.answers import networks
from sk_bnreg.cli.runner import Dask, Rope, Runner, Scores, command_line, listed

if TYPE_CHECKING:
    from sk_bnreg.study.survey import Survey


def survey(
    folder: Annotated[Path, typer.Argument(help="A folder of .csv and .parquet files.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; a survey that was stopped goes on from there.")],
    rows: Annotated[int, typer.Option(min=50, help="Rows used of a larger table.")] = 2000,
    scoring: Scores = None,
    schemes: Annotated[
        str | None, typer.Option(help="Names of built-in schemes, with commas between, or all. [default: 21]")
    ] = None,
    rope: Rope = None,
    folds: Annotated[int, typer.Option(min=2, help="Outer folds.")] = 5,
    minutes: Annotated[
        float | None,
        typer.Option(help="Draw the folds until a table's questions are decided, for so long. [default: once]"),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="How often the folds are drawn. [default: 1, or as --minutes says]")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Networks per scheme and fold. [default: 8; with --minutes as many as it takes]"),
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Settings that each scheme tries.")] = 12,
    seed: Annotated[int, typer.Option(help="Determines rows, folds, candidates and networks.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tables at a time. [default: one per core]")] = None,
    dask: Dask = None,
) -> None:
    """Compare schemes on every table of a folder: is L2 redundant beside batch norm, and L2 on what?"""
    from joblib import cpu_count

    from sk_bnreg.stats.tables import counted
    from sk_bnreg.study.questions import chosen_schemes
    from sk_bnreg.study.schemes import SCHEMES
    from sk_bnreg.study.survey import survey as run
    from sk_bnreg.study.survey import table_paths

    runner = Runner(out)
    names = {None: None, "all": tuple(SCHEMES)}.get(schemes) or (schemes and listed(schemes))
    # the number of schemes is the same at any learning rate
    n_tables, n_schemes, n_done = len(table_paths(folder)), len(chosen_schemes(names, 1.0)), 0
    n_repeats: int | str = repeats or (1 if minutes is None else "auto")
    runner.say(
        f"{counted(n_tables, 'table')} of at most {rows:,} rows, {n_schemes} schemes x "
        f"{counted(candidates, 'candidate')} x 3 inner folds in {folds} outer folds x "
        f"{'as many repeats as decide it' if n_repeats == 'auto' else n_repeats}"
    )
    runner.load_engine()

    # tables end in any order, so each is told with its place in the count
    def tell(name: str, outcome: str) -> None:
        nonlocal n_done
        n_done += 1
        runner.say(f"{n_done} of {n_tables}, {name}: {outcome}")

    with runner.stoppable(out):
        with runner.warnings_told(), runner.workers(dask, jobs):
            found = run(
                folder,
                out,
                max_rows=rows,
                n_folds=folds,
                n_repeats=n_repeats,
                minutes=3 if minutes is None else minutes,
                n_seeds=seeds or (8 if minutes is None else "auto"),
                schemes=names,
                scoring=listed(scoring) if scoring else None,
                rope=rope,
                n_candidates=candidates,
                random_state=seed,
                n_jobs=None if dask else jobs or cpu_count(),
                on_table=tell,
            )
        _tell(runner, found)
        found.report(out / "survey.html", command=command_line())
        runner.say(f"\nSaved {out}/survey.html and {out}/survey.parquet.")


def _tell(runner: Runner, found: "Survey") -> None:
    """Print the answers of all tables together: for means of networks, for single ones, and by the other scores."""
    views = {f"For {networks(found.n_networks)}": found}
    if found.n_networks > 1:
        views[f"For {networks(1)}"] = found.single
    headlines = set(found.tables()["metric"])
    views |= {f"By {metric}": found.by(metric) for metric in found.metrics if metric not in headlines}
    for name, view in views.items():
        runner.say(f"\n{name}:")
        for answer in view.overall():
            runner.say(answer.summary(), indent=4)
