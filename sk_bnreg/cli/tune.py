"""``sk-bnreg tune``: an Optuna study of the network on one table."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sk_bnreg.cli.runner import Rope, Runner, Scoring, TableName, Target, TaskName, without_password


def tune(
    table: TableName = "digits",
    target: Target = None,
    task: TaskName = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials of the study, by all workers together.")] = 64,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which no more trials are begun.")] = None,
    space: Annotated[str, typer.Option(help="What is tuned: regularization, default or wide.")] = "default",
    pruner: Annotated[
        str, typer.Option(help="none, percentile (the best 15 % go on), median, halving, hyperband or wilcoxon.")
    ] = "none",
    report: Annotated[str, typer.Option(help="What the pruner judges: the mean of each epoch, or fold.")] = "fold",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Save the best mean of up to 16 trials' networks, not the best trial.")
    ] = False,
    scoring: Scoring = None,
    rope: Rope = None,
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
    out: Annotated[Path | None, typer.Option(help="Folder for report.html and best_estimator.safetensors.")] = None,
) -> None:
    """Tune a network on a table with Optuna. Started again, or elsewhere with the same storage, it goes on."""
    from optuna import logging
    from sklearn.model_selection import KFold, StratifiedKFold

    from sk_bnreg.search.space import search_space
    from sk_bnreg.search.tuning import StackedOptunaSearchCV
    from sk_bnreg.study.held_out import default_rope
    from sk_bnreg.study.tables import network_pipeline

    made_pruner = _pruner(pruner)
    # a score that has no default rope is told now, and not by the report after hours of tuning
    rope = default_rope(scoring) if rope is None else rope
    # a line per trial says less than the progress bar
    logging.set_verbosity(logging.WARNING)
    # threads of few small networks wait for each other, for long on a busy machine: cores go to workers
    runner = Runner(out, n_threads=1)
    data = runner.read(table, target, task)
    runner.load_engine()
    if out:
        out.mkdir(parents=True, exist_ok=True)
        storage = storage or str(out / "study.journal")
    pipeline = network_pipeline(data.task)
    # trials compare single networks, of which the mean of several would take as many times as long
    pipeline[-1].set_params(n_ensemble=1, random_state=seed)
    # every worker of a study must draw the same folds: from the seed alone, whichever machine it is on
    splitter = StratifiedKFold if data.task == "classification" else KFold
    search = StackedOptunaSearchCV(
        pipeline,
        search_space(pipeline, space),
        n_trials=trials,
        timeout=timeout,
        scoring=scoring,
        n_jobs=jobs,
        cv=splitter(folds, shuffle=True, random_state=seed),
        pruner=made_pruner,
        report=report,
        refit="ensemble" if ensemble else True,
        storage=storage,
        study_name=study or data.name,
        load_if_exists=True,  # the same command goes on, here or from another machine
        heartbeat_interval=heartbeat,
        show_progress_bar=True,
        random_state=seed,
    )
    shown = storage and without_password(storage)
    with runner.stoppable(shown):
        search.fit(data.X, data.y)
        _tell(runner, search, rope)
    if shown:
        runner.console.print(f"To look around in the study: optuna-dashboard {shown}")


def _pruner(name: str) -> Any:
    """Return Optuna's pruner of that name, as it comes but for the percentile."""
    from optuna import pruners

    kinds = {
        "none": pruners.NopPruner,
        "percentile": lambda: pruners.PercentilePruner(15.0),  # benchmarks/tuning.py has what each loses and spares
        "median": pruners.MedianPruner,
        "halving": pruners.SuccessiveHalvingPruner,
        "hyperband": pruners.HyperbandPruner,
        "wilcoxon": pruners.WilcoxonPruner,
    }
    if name not in kinds:
        raise ValueError(f"pruner must be one of {list(kinds)}, got {name!r}.")
    return kinds[name]()


def _tell(runner: Runner, search: Any, rope: float) -> None:
    """Print what was found; save the best model, and a report if there are schemes to compare."""
    from sk_bnreg.export.model_file import save_model
    from sk_bnreg.study.comparison import SchemeComparison
    from sk_bnreg.study.held_out import metric_name
    from sk_bnreg.study.schemes import scheme_name
    from sk_bnreg.theory.diagnosis import diagnose

    say, out, best = runner.console.print, runner.out, search.best_estimator_
    metric, prefix = metric_name(search.estimator, search.scoring), f"{search.estimator.steps[-1][0]}__"
    states = [trial.state.name for trial in search.study_.trials]
    say(
        f"best mean {metric} of {search.n_splits_} folds: {search.best_score_:.4f}, in trial "
        f"{search.study_.best_trial.number} ({states.count('COMPLETE')} complete, {states.count('PRUNED')} pruned, "
        f"{states.count('FAIL')} failed)"
    )
    for name, value in search.best_params_.items():
        say(f"  {name.removeprefix(prefix)} = {f'{value:.4g}' if isinstance(value, float) else value}")
    if search.refit == "ensemble":
        times = Counter(search.ensemble_)
        say(
            f"ensemble of {len(search.ensemble_)} networks, on the folds where it was chosen: "
            f"{search.ensemble_score_:.4f}; trial (networks): "
            + ", ".join(f"{number} ({n})" for number, n in times.most_common())
        )
    if not out:
        return
    save_model(best, runner.model_path)
    # every search space has these two, and no strength of 0
    complete = [trial.params for trial in search.study_.trials if trial.state.name == "COMPLETE"]
    tried = {scheme_name(params[f"{prefix}batch_norm"], params[f"{prefix}l2_targets"]) for params in complete}
    if len(tried) == 1:
        say(
            f"\nSaved {runner.model_path}, and no report: it would compare schemes, and the study has complete "
            f"trials of {tried.pop()!r} alone. With more --trials it goes on."
        )
        return
    comparison = SchemeComparison.from_study(
        search.study_, estimator=search.estimator, rope=rope, metric=metric, best_estimator=best
    )
    runner.report(replace(comparison, diagnosis=diagnose(best, runner.table.X)))
    say(f"\nSaved {out}/report.html and {runner.model_path}.")
