"""The command ``sk-bnreg``."""

import json
import re
import shlex
import sys
from dataclasses import asdict, replace
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
    schemes: Annotated[
        str | None, typer.Option(help="Names of built-in schemes, with commas between, or all. [default: five]")
    ] = None,
    scoring: Annotated[str | None, typer.Option(help="A scikit-learn score. [default: accuracy or r2]")] = None,
    rope: Annotated[
        float | None, typer.Option(help="Differences below it do not matter. [default: 0.01 for scores up to 1]")
    ] = None,
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
    import torch

    from sk_bnreg.study.compare import compare_schemes
    from sk_bnreg.study.schemes import DEFAULT_SCHEMES, SCHEMES
    from sk_bnreg.study.tables import network_pipeline, read_table

    # cores go to outer folds: threads of one small network wait for each other, for long on a busy machine
    torch.set_num_threads(1)
    console = Console(markup=False, highlight=False)
    data = read_table(table, target=target, task=task)
    X, y = data.X, data.y
    if quick and len(X) > QUICK_ROWS:
        X = X.sample(QUICK_ROWS, random_state=seed)
        y = y.loc[X.index]
    console.print(
        f"{data.name}: {data.task} of '{data.target}', {len(X):,} rows"
        + (f" of {len(data.X):,}" if len(X) < len(data.X) else "")
        + f", {X.shape[1]} columns"
        + (" (--quick: fewer rows, folds and candidates, so a weaker verdict)" if quick else "")
    )
    _load_engine(console)
    names = {None: DEFAULT_SCHEMES, "all": tuple(SCHEMES)}.get(schemes) or [s.strip() for s in str(schemes).split(",")]
    bar = Progress(
        TextColumn("network fits"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), console=console,
    )  # fmt: skip
    task_id = bar.add_task("fits", total=None)

    def begin(plan: Any) -> None:
        console.print(plan.summary())
        bar.start()

    try:
        comparison = compare_schemes(
            network_pipeline(data.task),
            X,
            y,
            schemes=names,
            cv=folds,
            n_repeats=repeats or (1 if quick else 2),
            n_seeds=seeds,
            scoring=scoring,
            n_candidates=candidates or (4 if quick else 8),
            inner_cv=2 if quick else 3,
            learning_rate=learning_rate,
            rope=rope,
            random_state=seed,
            n_jobs=jobs or cpu_count(),
            out=out,
            on_plan=begin,
            on_progress=lambda done, total: bar.update(task_id, completed=done, total=total),
        )
    except KeyboardInterrupt:
        bar.stop()
        console.print(
            f"\nStopped. What is finished is in {out}; the same command goes on from there."
            if out
            else "\nStopped. Nothing was kept; with --out a study goes on where it was stopped."
        )
        raise typer.Exit(130) from None
    finally:
        bar.stop()
    console.print(_as_rich_table(comparison))
    console.print(comparison.sentence())
    if {"plain", "l2", "bn", "bn+l2"} <= set(comparison.schemes):
        both = comparison.interaction()
        console.print(
            f"Interaction (bn+l2 - bn) - (l2 - plain): {both.mean:+.4f}, interval {both.low:+.4f} to {both.high:+.4f}."
        )
    console.print(f"{comparison.n_fits:,} network fits stand behind these scores.")
    if out:
        about = {"table": data.name, "task": data.task, "target": data.target, "command": shlex.join(_arguments())}
        comparison.report(out / "report.html", **about, model=str(out / "best_estimator.joblib"))
        console.print(
            f"\nSaved {out}/report.html, {out}/results.parquet and {out}/best_estimator.joblib "
            f"({comparison.best_scheme})."
        )


@app.command()
def tune(
    table: Annotated[
        str, typer.Argument(help="A .csv or .parquet file, or breast_cancer, diabetes, digits, wine.")
    ] = "digits",
    target: Annotated[str | None, typer.Option(help="Column to predict. [default: 'target', else the last]")] = None,
    task: Annotated[str | None, typer.Option(help="classification or regression. [default: from the target]")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials of the study, by all workers together.")] = 64,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which no more trials are begun.")] = None,
    space: Annotated[str, typer.Option(help="What is tuned: regularization, default or wide.")] = "default",
    pruner: Annotated[
        str, typer.Option(help="none, percentile (the best 15 % go on), median, halving, hyperband or wilcoxon.")
    ] = "none",
    report: Annotated[str, typer.Option(help="What the pruner judges: the mean of each epoch, or fold.")] = "fold",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    scoring: Annotated[str | None, typer.Option(help="A scikit-learn score. [default: accuracy or r2]")] = None,
    rope: Annotated[
        float | None, typer.Option(help="Differences below it do not matter. [default: 0.01 for scores up to 1]")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="A database's URL or a journal file, which workers on any machine share. [default: a journal in --out]"
        ),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study in the storage. [default: the table's]")] = None,
    heartbeat: Annotated[float, typer.Option(help="Seconds between a worker's signs of life.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Determines folds, suggestions and networks.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes here.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for report.html and best_estimator.joblib.")] = None,
) -> None:
    """Tune a network on a table with Optuna. Started again, or elsewhere with the same storage, it goes on."""
    import joblib
    import torch
    from optuna import logging, pruners
    from sklearn.model_selection import KFold, StratifiedKFold

    from sk_bnreg.estimators.pipelines import network_in
    from sk_bnreg.search.space import search_space
    from sk_bnreg.search.tuning import StackedOptunaSearchCV
    from sk_bnreg.study.comparison import SchemeComparison, default_rope, metric_name
    from sk_bnreg.study.tables import network_pipeline, read_table
    from sk_bnreg.theory.diagnosis import diagnose

    kinds = {
        "none": pruners.NopPruner,
        "percentile": lambda: pruners.PercentilePruner(15.0),
        "median": pruners.MedianPruner,
        "halving": pruners.SuccessiveHalvingPruner,
        "hyperband": pruners.HyperbandPruner,
        "wilcoxon": pruners.WilcoxonPruner,
    }
    if pruner not in kinds:
        raise ValueError(f"pruner must be one of {list(kinds)}, got {pruner!r}.")
    rope = default_rope(scoring) if rope is None else rope
    torch.set_num_threads(1)
    logging.set_verbosity(logging.WARNING)
    console = Console(markup=False, highlight=False)
    data = read_table(table, target=target, task=task)
    pipeline = network_pipeline(data.task)
    _, path = network_in(pipeline)
    pipeline.set_params(**{f"{path}__random_state": seed})
    if out:
        out.mkdir(parents=True, exist_ok=True)
        storage = storage or str(out / "study.journal")
    console.print(f"{data.name}: {data.task} of '{data.target}', {len(data.X):,} rows, {data.X.shape[1]} columns")
    _load_engine(console)
    splitter = StratifiedKFold if data.task == "classification" else KFold
    search = StackedOptunaSearchCV(
        pipeline,
        search_space(pipeline, space),
        n_trials=trials,
        timeout=timeout,
        scoring=scoring,
        n_jobs=jobs,
        cv=splitter(folds, shuffle=True, random_state=seed),
        pruner=kinds[pruner](),
        report=report,
        storage=storage,
        study_name=study or data.name,
        load_if_exists=True,
        heartbeat_interval=heartbeat,
        show_progress_bar=True,
        random_state=seed,
    )
    try:
        search.fit(data.X, data.y)
    except KeyboardInterrupt:
        console.print(
            f"\nStopped. The study is in {storage}; the same command goes on from there."
            if storage
            else "\nStopped. Nothing was kept; with --out a study goes on where it was stopped."
        )
        raise typer.Exit(130) from None
    states = [trial.state.name for trial in search.study_.trials]
    metric = metric_name(pipeline, scoring)
    console.print(
        f"best mean {metric} of {folds} folds: {search.best_score_:.4f}, in trial {search.study_.best_trial.number} "
        f"({states.count('COMPLETE')} complete, {states.count('PRUNED')} pruned, {states.count('FAIL')} failed)"
    )
    for name, value in search.best_params_.items():
        text = f"{value:.4g}" if isinstance(value, float) else value
        console.print(f"  {name.removeprefix(path + '__')} = {text}")
    if out:
        joblib.dump(search.best_estimator_, out / "best_estimator.joblib")
        try:
            comparison = SchemeComparison.from_study(
                search.study_, estimator=pipeline, rope=rope, metric=metric, best_estimator=search.best_estimator_
            )
        except ValueError as error:  # a short study has one scheme alone
            console.print(f"\nSaved {out}/best_estimator.joblib, and no report: {error}")
            raise typer.Exit from None
        comparison = replace(comparison, diagnosis=diagnose(search.best_estimator_, data.X))
        command = without_password(shlex.join(_arguments()))
        about = {"table": data.name, "task": data.task, "target": data.target, "command": command}
        comparison.report(out / "report.html", **about, model=str(out / "best_estimator.joblib"))
        console.print(f"\nSaved {out}/report.html and {out}/best_estimator.joblib.")
    if storage:
        console.print(f"To look around in the study: optuna-dashboard {without_password(storage)}")


@app.command()
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
    import torch

    from sk_bnreg.study.survey import survey as run
    from sk_bnreg.study.survey import survey_schemes, table_paths

    torch.set_num_threads(1)
    console = Console(markup=False, highlight=False)
    n_tables, n_schemes, n_done = len(table_paths(folder)), len(survey_schemes(1.0)), 0
    console.print(
        f"{n_tables} tables of at most {rows:,} rows, {n_schemes} schemes x {candidates} candidates x 3 inner folds in "
        f"{folds} outer folds x {repeats}"
    )
    _load_engine(console)

    def tell(name: str, outcome: str) -> None:
        nonlocal n_done
        n_done += 1
        console.print(f"{n_done} of {n_tables}, {name}: {outcome}")

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
        console.print(answer.summary())
    found.report(out / "survey.html", command=shlex.join(_arguments()))
    console.print(f"\nSaved {out}/survey.html and {out}/survey.parquet.")


@app.command()
def reproduce(
    out: Annotated[Path | None, typer.Option(help="File for the figures, as JSON.")] = None,
) -> None:
    """Run published results on batch norm and L2 afresh, on this package's engine: measured beside predicted."""
    import torch

    from sk_bnreg.theory.reproduce import reproduce as run

    torch.set_num_threads(1)
    console = Console(markup=False, highlight=False)
    _load_engine(console)
    findings: list[Any] = []
    for finding in run():
        if not findings or finding.claim != findings[-1].claim:
            console.print(f"\n{finding.key}  {finding.claim}\n    ({finding.source})")
        findings.append(finding)
        mark = {True: "ok    ", False: "FAILED", None: "      "}[finding.passed]
        low, high, n = min(finding.measured), max(finding.measured), len(finding.measured)
        spread = f", {finding.judged} of {n}, from {low:.4g} to {high:.4g}" if n > 1 else ""
        if finding.interval:
            spread += ", corrected 95 % interval {:.4f} to {:.4f}".format(*finding.interval)
        allowed = "" if finding.passed is None else f"; allowed: {finding.allowed}"
        predicted = "" if finding.predicted is None else f"; predicted: {finding.predicted:g}"
        console.print(f"{mark}  {finding.quantity}: {finding.value:.4g}{spread}{predicted}{allowed}")
    judged = [finding.passed for finding in findings if finding.passed is not None]
    console.print(
        f"\n{sum(judged)} of {len(judged)} judged figures are within their bounds; "
        f"{len(findings) - len(judged)} more are reported."
    )
    if out:
        found = [{**asdict(finding), "value": finding.value, "passed": finding.passed} for finding in findings]
        out.write_text(json.dumps(found, indent=1) + "\n")
        console.print(f"Saved {out}.")
    if not all(judged):
        raise typer.Exit(1)


def _load_engine(console: Console) -> None:
    """Load the engine, or compile it, before each of several processes would."""
    from sk_bnreg.engine.compiled import compilation_told, has_kernel
    from sk_bnreg.estimators.networks import BNMLPClassifier

    if has_kernel():
        with compilation_told(console.print):
            BNMLPClassifier((1,), numeric_embedding=None, n_ensemble=1, early_stopping=False, max_iter=1).fit(
                [[0.0], [1.0]], [0, 1]
            )


def _arguments() -> list[str]:
    return ["sk-bnreg", *sys.argv[1:]]


def without_password(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)


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


def main() -> None:
    """Run the command; a wrong argument is told in one sentence."""
    try:
        app()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        remedy = ". pip install 'sk_bnreg[study,optuna]'" if isinstance(error, ModuleNotFoundError) else ""
        Console(stderr=True, style="red", markup=False, highlight=False).print(f"{error}{remedy}")
        raise SystemExit(2) from None
