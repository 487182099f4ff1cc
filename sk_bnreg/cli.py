"""The command ``sk-bnreg``."""

from os import cpu_count
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

QUICK_ROWS = 2000


@app.callback()
def describe() -> None:
    """Batch norm, L2, or both? Neural networks for tables, compared honestly."""


@app.command()
def compare(
    table: Annotated[
        str, typer.Argument(help="A .csv or .parquet file, or breast_cancer, diabetes, digits, wine.")
    ] = "digits",
    target: Annotated[str | None, typer.Option(help="Column to predict. [default: 'target', else the last]")] = None,
    task: Annotated[str | None, typer.Option(help="classification or regression. [default: from the target]")] = None,
    scoring: Annotated[str | None, typer.Option(help="A scikit-learn score. [default: accuracy or r2]")] = None,
    rope: Annotated[
        float | None, typer.Option(help="Differences below it do not matter. [default: 0.01 for scores up to 1]")
    ] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Outer folds. [default: 5, twice]")] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Settings that each scheme tries. [default: 12]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Determines folds, candidates and networks.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Outer folds at a time. [default: one per core]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results.parquet and best_estimator.joblib.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="At most 2,000 rows; 5 outer and 2 inner folds, 4 candidates.")
    ] = False,
) -> None:
    """Compare regularisation schemes on a table, each tuned with the same effort."""
    import torch
    from sklearn.preprocessing import OneHotEncoder
    from skrub import tabular_pipeline

    from sk_bnreg._estimators import BNMLPClassifier, BNMLPRegressor
    from sk_bnreg._study import compare_schemes
    from sk_bnreg._tables import read_table

    # cores go to outer folds: threads of one small network wait for each other, for long on a busy machine
    torch.set_num_threads(1)
    console = Console(markup=False, highlight=False)
    data = read_table(table, target=target, task=task)
    X, y, inner = data.X, data.y, 3
    if quick:
        if len(X) > QUICK_ROWS:
            X = X.sample(QUICK_ROWS, random_state=seed)
            y = y.loc[X.index]
        folds, candidates, inner = folds or 5, candidates or 4, 2
    candidates = candidates or 12
    console.print(
        f"{data.name}: {data.task} of '{data.target}', {len(X):,} rows"
        + (f" of {len(data.X):,} (--quick)" if len(X) < len(data.X) else "")
        + f", {X.shape[1]} columns"
    )
    outer = f"{folds} outer folds" if folds else "5 outer folds, twice"
    console.print(
        f"5 schemes x {candidates} candidates x {inner} inner folds in {outer}"
        + (" (--quick: fewer rows, folds and candidates, so a weaker verdict)" if quick else "")
    )
    pipeline = tabular_pipeline(BNMLPClassifier() if data.task == "classification" else BNMLPRegressor())
    # a category that a fold never saw is all zeros; with skrub's drop="if_binary" each one would warn
    pipeline.set_params(tablevectorizer__low_cardinality=OneHotEncoder(handle_unknown="ignore", sparse_output=False))
    bar = Progress(
        TextColumn("network fits"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), console=console,
    )  # fmt: skip
    try:
        with bar:
            task_id = bar.add_task("fits", total=None)
            comparison = compare_schemes(
                pipeline,
                X,
                y,
                cv=folds,
                scoring=scoring,
                n_candidates=candidates,
                inner_cv=inner,
                rope=rope,
                random_state=seed,
                n_jobs=jobs or cpu_count(),
                out=out,
                on_progress=lambda done, total: bar.update(task_id, completed=done, total=total),
            )
    except KeyboardInterrupt:
        console.print(
            f"\nStopped. What is finished is in {out}; the same command goes on from there."
            if out
            else "\nStopped. Nothing was kept; with --out a study goes on where it was stopped."
        )
        raise typer.Exit(130) from None
    console.print(_as_rich_table(comparison))
    console.print(comparison.sentence())
    both = comparison.interaction()
    console.print(
        f"Interaction (bn+l2 - bn) - (l2 - plain): {both.mean:+.4f}, interval {both.low:+.4f} to {both.high:+.4f}."
    )
    if out:
        console.print(f"\nSaved {out}/results.parquet and {out}/best_estimator.joblib ({comparison.best_scheme}).")


def _as_rich_table(comparison: Any) -> Table:
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
        grid.add_row(
            str(scheme),
            f"{row['score']:.4f}",
            "best" if best else f"{row['difference']:+.4f}",
            "" if best else f"{row['low']:+.4f} to {row['high']:+.4f}",
            f"{row['learning_rate_init']:.2g}",
            f"{row['budget']:.2g}",
            style="bold" if best else None,
        )
    return grid


def main() -> None:
    """Run the command; a wrong argument is told in one sentence."""
    try:
        app()
    except (ValueError, OSError) as error:
        Console(stderr=True, style="red", markup=False, highlight=False).print(str(error))
        raise SystemExit(2) from None
