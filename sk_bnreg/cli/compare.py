"""``sk-bnreg compare``: schemes on one table."""

from contextlib import ExitStack
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sk_bnreg.cli.runner import Rope, Runner, Scoring, TableName, Target, TaskName

if TYPE_CHECKING:
    from sk_bnreg.study.comparison import SchemeComparison
    from sk_bnreg.study.plan import StudyPlan

QUICK_ROWS = 2000  # with which --quick takes under a minute; its help names them


def compare(
    table: TableName = "digits",
    target: Target = None,
    task: TaskName = None,
    schemes: Annotated[
        str | None, typer.Option(help="Names of built-in schemes, with commas between, or all. [default: five]")
    ] = None,
    scoring: Scoring = None,
    rope: Rope = None,
    folds: Annotated[int, typer.Option(min=2, help="Outer folds.")] = 5,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="How often the folds are drawn. [default: 2, 1 with --quick]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Networks per tuned scheme and fold.")] = 1,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Settings that each scheme tries. [default: 8, 4 with --quick]")
    ] = None,
    learning_rate: Annotated[str, typer.Option(help="tuned in every scheme, or fixed.")] = "tuned",
    seed: Annotated[int, typer.Option(help="Determines folds, candidates and networks.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Outer folds at a time. [default: one per core]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html, results.parquet and best_estimator.joblib.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="At most 2,000 rows; 5 outer and 2 inner folds, 4 candidates.")
    ] = False,
) -> None:
    """Compare regularisation schemes on a table, each tuned with the same effort."""
    from sk_bnreg.study.compare import compare_schemes
    from sk_bnreg.study.schemes import DEFAULT_SCHEMES, SCHEMES
    from sk_bnreg.study.tables import network_pipeline

    runner = Runner(out)
    weaker = " (--quick: fewer rows, folds and candidates, so a weaker verdict)" if quick else ""
    data = runner.read(table, target, task, max_rows=QUICK_ROWS if quick else None, seed=seed, note=weaker)
    runner.load_engine()
    # a scheme's own name may hold blanks, so that only those around commas are dropped
    names = {None: DEFAULT_SCHEMES, "all": tuple(SCHEMES)}.get(schemes) or [s.strip() for s in str(schemes).split(",")]
    bar = Progress(
        TextColumn("network fits"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), console=runner.console,
    )  # fmt: skip
    fits = bar.add_task("fits", total=None)

    # the bar keeps the last line of a terminal, and starts when what stands above it has been said
    def begin(plan: "StudyPlan") -> None:
        runner.console.print(plan.summary())
        bar.start()

    with runner.stoppable(out), ExitStack() as at_end:
        at_end.callback(bar.stop)  # before anything else is printed
        comparison = compare_schemes(
            network_pipeline(data.task),
            data.X,
            data.y,
            schemes=names,
            cv=folds,
            # options that --quick changes have no default of their own: a number that was given stays
            n_repeats=repeats or (1 if quick else 2),
            n_seeds=seeds,
            scoring=scoring,
            n_candidates=candidates or (4 if quick else 8),
            inner_cv=2 if quick else 3,
            learning_rate=learning_rate,
            rope=rope,
            random_state=seed,
            # folds are independent of each other, so they fill the cores better than the threads of one fit
            n_jobs=jobs or cpu_count(),
            out=out,
            on_plan=begin,
            on_progress=lambda done, total: bar.update(fits, completed=done, total=total),
        )
    _tell(runner, comparison)


def _tell(runner: Runner, comparison: "SchemeComparison") -> None:
    """Print what was found, and write the report where there is a folder for it."""
    say, out = runner.console.print, runner.out
    say(_as_rich_table(comparison))
    say(comparison.sentence())
    # the interaction needs all four corners of batch norm x L2
    if comparison.has_interaction:
        both = comparison.interaction()
        say(f"Interaction (bn+l2 - bn) - (l2 - plain): {both.mean:+.4f}, interval {both.low:+.4f} to {both.high:+.4f}.")
    say(f"{comparison.n_fits:,} network fits stand behind these scores.")
    if out:
        runner.report(comparison)
        say(
            f"\nSaved {out}/report.html, {out}/results.parquet and {out}/best_estimator.joblib "
            f"({comparison.best_scheme})."
        )


def _as_rich_table(comparison: "SchemeComparison") -> Table:
    """Return a row per scheme, narrow enough for 80 columns, the best in bold."""
    grid = Table(
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
        caption="interval: 95 %, corrected, of the difference to the best\n"
        "lr, D: learning rate and decay budget, medians",
    )
    grid.add_column("scheme", no_wrap=True)
    for name in (comparison.metric, "difference", "interval", "lr", "D"):
        grid.add_column(name, justify="right", no_wrap=True)
    for scheme, row in comparison.table().iterrows():
        best = scheme == comparison.best_scheme
        budget = "" if row["budget"] != row["budget"] else f"{row['budget']:.2g}"  # nan: Adam with l2_mode="loss"
        grid.add_row(
            str(scheme),
            f"{row['score']:.4f}",
            "best" if best else f"{row['difference']:+.4f}",
            "" if best else f"{row['low']:+.4f} to {row['high']:+.4f}",
            f"{row['learning_rate_init']:.2g}",
            budget,
            style="bold" if best else None,
        )
    return grid
