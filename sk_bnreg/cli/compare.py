"""``sk-bnreg compare``: schemes on one table."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sk_bnreg.cli.answers import networks, tell_answers
from sk_bnreg.cli.runner import Dask, Runner, Scores, TableName, Target, TaskName, listed

if TYPE_CHECKING:
    from sk_bnreg.study.comparison import SchemeComparison
    from sk_bnreg.study.plan import StudyPlan

QUICK_ROWS, QUICK_SEEDS = 2000, 8  # with which --quick takes under a minute; its help names them


def compare(
    table: TableName = "digits",
    target: Target = None,
    task: TaskName = None,
    schemes: Annotated[
        str | None, typer.Option(help="Names of built-in schemes, with commas between, or all. [default: five]")
    ] = None,
    scoring: Scores = None,
    rope: Annotated[
        str | None,
        typer.Option(
            help="Differences below it do not matter; or as accuracy=0.01,r2=0.02. [default: 0.01 for scores up to 1]"
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Outer folds.")] = 5,
    minutes: Annotated[
        float | None, typer.Option(help="After which no more repeats of the folds begin. [default: 3]")
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="How often the folds are drawn. [default: until it is decided; 1 with --quick]"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Networks per tuned scheme and fold. [default: as many as it takes]")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Settings that each scheme tries. [default: 8, 4 with --quick]")
    ] = None,
    learning_rate: Annotated[str, typer.Option(help="tuned in every scheme, or fixed.")] = "tuned",
    seed: Annotated[int, typer.Option(help="Determines folds, candidates and networks.")] = 0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Outer folds at a time, in as many processes. One by itself fills the cores too.")
    ] = 1,
    dask: Dask = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html, results.parquet and best_estimator.safetensors.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="At most 2,000 rows; 5 outer and 2 inner folds, 4 candidates, 8 seeds.")
    ] = False,
) -> None:
    """Compare regularisation schemes on a table, each tuned with the same effort."""
    from sk_bnreg.study.compare import compare_schemes
    from sk_bnreg.study.schemes import DEFAULT_SCHEMES, SCHEMES
    from sk_bnreg.study.tables import DEFAULT_SCORES, network_pipeline

    runner = Runner(out)
    weaker = " (--quick: fewer rows, folds and candidates, so a weaker verdict)" if quick else ""
    data = runner.read(table, target, task, max_rows=QUICK_ROWS if quick else None, seed=seed, note=weaker)
    runner.load_engine()
    bar = _Bar(runner)
    with runner.stoppable(out):
        with runner.warnings_told(), runner.workers(dask, jobs), ExitStack() as at_end:
            at_end.callback(bar.stop)  # before anything else is printed
            comparison = compare_schemes(
                network_pipeline(data.task),
                data.X,
                data.y,
                schemes={None: DEFAULT_SCHEMES, "all": tuple(SCHEMES)}.get(schemes) or listed(str(schemes)),
                cv=folds,
                # options that --quick changes have no default of their own: a number that was given stays
                n_repeats=repeats or (1 if quick and minutes is None else "auto"),
                minutes=3 if minutes is None else minutes,
                n_seeds=seeds or (QUICK_SEEDS if quick else "auto"),
                scoring=listed(scoring) if scoring else list(DEFAULT_SCORES[data.task]),
                n_candidates=candidates or (4 if quick else 8),
                inner_cv=2 if quick else 3,
                learning_rate=learning_rate,
                rope=_ropes(rope),
                random_state=seed,
                n_jobs=None if dask else jobs,
                out=out,
                on_plan=bar.begin,
                on_progress=bar.show,
                on_look=bar.look,
            )
        _tell(runner, comparison)


class _Bar:
    """A progress bar, which keeps the last line of a terminal.

    Parameters
    ----------
    runner : Runner
    """

    def __init__(self, runner: Runner):
        self.runner = runner
        self.bar = Progress(
            TextColumn("fits"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(compact=True), TextColumn("{task.fields[looks]}"), console=runner.console,
        )  # fmt: skip
        self.fits = self.bar.add_task("fits", total=None, looks="")
        self.stop = self.bar.stop

    def begin(self, plan: "StudyPlan") -> None:
        """Start when what stands above the bar has been said."""
        self.runner.say(plan.summary())
        self.bar.start()

    def show(self, done: int, total: int) -> None:
        """Show how many networks have been fitted."""
        self.bar.update(self.fits, completed=done, total=total)

    def look(self, n_repeats: int, n_settled: int, n_questions: int) -> None:
        """Show what the last look found."""
        self.bar.update(self.fits, looks=f"repeat {n_repeats}: {n_settled} of {n_questions} settled")


def _ropes(text: str | None) -> float | dict[str, float] | None:
    """Return the rope of all scores, or of each."""
    try:
        if text is None or "=" not in text:
            return None if text is None else float(text)
        pairs = [pair.partition("=") for pair in listed(text)]
        return {name.strip(): float(value) for name, _, value in pairs}
    except ValueError:
        raise ValueError(f"--rope must be a number, or score=0.01 with commas between, got {text!r}.") from None


def _tell(runner: Runner, comparison: "SchemeComparison") -> None:
    """Print what was found, and write the report where there is a folder for it."""
    say, out = runner.say, runner.out
    tell_answers(runner, comparison)
    assert comparison.course is not None
    say(f"\n{comparison.course.summary()}")
    if not np.isnan(share := comparison.seed_share()):
        say(f"Seeds have at most {100 * share:.0f} % of the variance of an answer's mean difference.")
    say(f"{comparison.n_fits:,} network fits stand behind these scores.")
    if out:
        from sk_bnreg.export.model_file import save_model

        runner.report(comparison)
        save_model(comparison.best_estimator_, runner.model_path)
        say(
            f"\nSaved {out}/report.html, {out}/results.parquet and {runner.model_path}: "
            f"{comparison.best_scheme}, {networks(comparison.n_networks)}."
        )
