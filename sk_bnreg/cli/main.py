"""The command ``sk-bnreg``: its subcommands, and how an error is told."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from sk_bnreg.cli.compare import compare
from sk_bnreg.cli.export import export
from sk_bnreg.cli.predict import predict
from sk_bnreg.cli.reproduce import reproduce
from sk_bnreg.cli.rescore import rescore
from sk_bnreg.cli.survey import survey
from sk_bnreg.cli.tune import tune

# a traceback of Python's own is shorter than a pretty one, and help without markup keeps its brackets
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sk-bnreg {version('sk_bnreg')}")
        raise typer.Exit


@app.callback()
def describe(
    told: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and exit.")
    ] = False,
) -> None:
    """Batch norm, L2, or both? Neural networks for tables, compared honestly."""


_EXAMPLES: dict[Callable[..., None], str] = {
    compare: "compare customers.csv --target churn --out churn",
    rescore: "rescore churn --scoring roc_auc",
    tune: "tune customers.csv --target churn --trials 40 --ensemble --out tuned",
    predict: "predict churn/best_estimator.safetensors new.csv --out predictions.csv",
    export: "export churn/best_estimator.safetensors churn.onnx",
    survey: "survey tables --out survey",
    reproduce: "reproduce",
}
for command, example in _EXAMPLES.items():
    app.command(epilog=f"Example: sk-bnreg {example}")(command)


def main() -> None:
    """Run the command.

    A wrong argument, a file that is not there, an extra that is not installed or a full memory is told
    in one sentence, with exit code 2, as typer does for options that it checks itself.
    """
    try:
        app()
    # anything else is a bug of ours, and needs its traceback
    except (ValueError, OSError, ModuleNotFoundError, MemoryError) as error:
        # the estimators need none of the extras, so only a command can find one missing
        of = {"dask": "dask", "distributed": "dask", "onnx": "onnx", "skl2onnx": "onnx"}
        extras = of.get(getattr(error, "name", None) or "", "study,optuna")
        remedy = f". pip install 'sk_bnreg[{extras}]'" if isinstance(error, ModuleNotFoundError) else ""
        said = "The memory was full: give it more, or take fewer rows." if isinstance(error, MemoryError) else error
        Console(stderr=True, style="red", markup=False, highlight=False).print(f"{said}{remedy}")
        raise SystemExit(2) from None
