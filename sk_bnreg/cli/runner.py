"""What the subcommands share: options, the console, the table, the engine, Ctrl-C and the closing report."""

import logging
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:  # nothing heavier than typer and rich before a command has been read
    from sk_bnreg.study.comparison import SchemeComparison
    from sk_bnreg.study.tables import TaskTable

# options of several subcommands; typer reads their help from here, so it is the same in each
TableName = Annotated[
    str, typer.Argument(help="A file, such as .csv, .xlsx or .parquet, or breast_cancer, diabetes, digits, wine.")
]
Target = Annotated[str | None, typer.Option(help="Column to predict. [default: 'target', else the last]")]
TaskName = Annotated[str | None, typer.Option(help="classification or regression. [default: from the target]")]
Scoring = Annotated[str | None, typer.Option(help="A scikit-learn score. [default: accuracy or r2]")]
Scores = Annotated[
    str | None,
    typer.Option(
        help="scikit-learn scores, with commas between; the first decides how long to go on. "
        "[default: accuracy,d2_log_loss_score or r2]"
    ),
]
Dask = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Of a Dask scheduler, whose workers train the networks.")
]
Rope = Annotated[
    float | None, typer.Option(help="Differences below it do not matter. [default: 0.01 for scores up to 1]")
]


class Runner:
    """One run of a subcommand.

    Parameters
    ----------
    out : path or None
        Folder of the results.
    n_threads : int or None
        Of torch, and so of the engine; None is one per core.

    Attributes
    ----------
    console : Console
    table : TaskTable
        What `read` read.
    """

    def __init__(self, out: Path | None = None, n_threads: int | None = None):
        if n_threads is not None:
            import torch

            torch.set_num_threads(n_threads)
        self.console = Console(markup=False, highlight=False)
        self.out = out

    def say(self, text: str, indent: int = 0) -> None:
        """Print a text, whose lines are wrapped to the width of the terminal.

        Parameters
        ----------
        text : str
        indent : int
            Blanks before each line.
        """
        before = " " * indent
        for line in text.split("\n"):
            wrapped = textwrap.fill(
                line, self.console.width, initial_indent=before, subsequent_indent=before, break_on_hyphens=False
            )
            self.console.print(wrapped, soft_wrap=True)

    def read(
        self,
        name: str,
        target: str | None,
        task: str | None,
        *,
        max_rows: int | None = None,
        seed: int = 0,
        note: str = "",
    ) -> "TaskTable":
        """Read a table and say what it is.

        Parameters
        ----------
        name : str
            A file, or a built-in table.
        target, task : str or None
            As in `read_table`.
        max_rows : int or None
            Of a larger table so many rows are drawn.
        seed : int
            Of the draw.
        note : str
            The end of what is said.

        Returns
        -------
        TaskTable

        Raises
        ------
        ValueError
            If there is no such table, target or task.
        """
        from sk_bnreg.study.tables import read_table

        whole = read_table(name, target=target, task=task)
        self.table = table = whole if max_rows is None else whole.sample(max_rows, seed)
        drawn = f" of {len(whole.X):,}" if len(table.X) < len(whole.X) else ""
        self.console.print(
            f"{table.name}: {table.task} of '{table.target}', {len(table.X):,} rows{drawn}, "
            f"{table.X.shape[1]} columns{note}"
        )
        kinds = table.kinds()
        if table.notes or len(kinds) > 1:
            told = ", ".join(f"{n} of {kind}" for kind, n in kinds.items())
            self.console.print(f"Columns: {'; '.join([told, *table.notes])}.")
        return table

    def load_engine(self) -> None:
        """Load the engine, or compile it, before each of several processes would.

        The first use of an environment takes seconds; one line says so where it does.
        """
        from sk_bnreg.engine.compiled import compilation_told, has_kernel
        from sk_bnreg.estimators.networks import BNMLPClassifier

        if has_kernel():
            network = BNMLPClassifier((1,), numeric_embedding=None, n_ensemble=1, early_stopping=False, max_iter=1)
            # the smallest fit that there is; its dtype is the one that commands train in
            with compilation_told(self.console.print):
                network.fit([[0.0], [1.0]], [0, 1])

    @contextmanager
    def stoppable(self, kept: str | Path | None) -> Iterator[None]:
        """Let Ctrl-C and what befalls the machine end the command, and say where it goes on from.

        Parameters
        ----------
        kept : str, path or None
            Where what is finished is stored; None if it is lost.
        """
        left = (
            f"What is finished is in {kept}; the same command goes on from there."
            if kept
            else "Nothing was kept; with --out a study goes on where it was stopped."
        )
        try:
            yield
        # a long study is often stopped so: that is no error, and needs no traceback
        except KeyboardInterrupt:
            self.console.print(f"\nStopped. {left}")
            raise typer.Exit(130) from None  # what a shell gives for SIGINT
        except (MemoryError, BrokenExecutor) as error:
            what = "The memory was full" if isinstance(error, MemoryError) else "A worker died, maybe of a full memory"
            raise OSError(f"{what}: give it more, or take fewer rows or --jobs. {left}") from error
        except ModuleNotFoundError:  # an extra is not installed, which `main` tells
            raise
        except (OSError, ImportError) as error:  # a library may find no place in memory
            raise OSError(f"{str(error).removesuffix('.')}. {left}") from error

    @contextmanager
    def warnings_told(self) -> Iterator[None]:
        """Tell what is warned of within when it is over, each message once: not over a progress bar."""
        from sk_bnreg.study.warned import recorded

        warned: list[tuple[str, type[Warning]]] = []
        try:
            with recorded() as warned:
                yield
        finally:
            once = dict.fromkeys(message for message, _ in warned)
            for message in once:
                # one that is told with a count needs not be told without
                if not any(other != message and other.startswith(message) for other in once):
                    Console(stderr=True, markup=False, highlight=False).print(f"Warning: {message}")

    @contextmanager
    def workers(self, address: str | None, jobs: int | None) -> Iterator[None]:
        """Have Dask workers do what joblib spreads.

        Parameters
        ----------
        address : str or None
            Of their scheduler; None leaves joblib as it is.
        jobs : int or None
            Processes here that were asked for.

        Raises
        ------
        ValueError
            If there are both.
        """
        if address is None:
            yield
            return
        if (jobs or 1) > 1:
            raise ValueError(f"--jobs is of this machine alone, and must not be given beside --dask, got {jobs}.")
        import dask
        from distributed import Client
        from joblib import parallel_config

        # what a client was about to send is lost with Ctrl-C or the scheduler, of which its loop would print tracebacks
        tracebacks = [logging.getLogger(name) for name in ("tornado.application", "distributed.client")]
        levels = [logger.level for logger in tracebacks]
        for logger in tracebacks:
            logger.setLevel(logging.CRITICAL)
        # a table of megabytes is sent once, and meant to be
        with (
            dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}),
            Client(address) as client,
            parallel_config("dask"),
        ):
            cores = client.ncores()
            self.say(f"Dask at {address}: {len(cores)} workers with {sum(cores.values())} threads")
            try:
                yield
            except (CancelledError, OSError) as error:
                if isinstance(error, OSError) and client.status == "running":
                    raise
                raise OSError(f"The Dask scheduler at {address} was lost.") from error
        for logger, level in zip(tracebacks, levels, strict=True):
            logger.setLevel(level)

    def report(self, comparison: "SchemeComparison") -> None:
        """Write a comparison on the table as a page into the folder of the results.

        Parameters
        ----------
        comparison : SchemeComparison
            Its best estimator is at `model_path`.
        """
        assert self.out is not None  # callers ask before
        comparison.report(
            self.out / "report.html",
            table=self.table.name,
            task=self.table.task,
            target=self.table.target,
            command=command_line(),
            model=str(self.model_path),
        )

    @property
    def model_path(self) -> Path:
        """Where the best model is written."""
        assert self.out is not None  # callers ask before
        return self.out / "best_estimator.safetensors"


def listed(text: str) -> list[str]:
    """Return what stands between commas; a name may hold blanks, so that only those around commas are dropped."""
    return [part.strip() for part in text.split(",")]


def command_line() -> str:
    """Return the command as it was typed, for reports: a shell can take it back.

    A storage's URL may hold a password, and reports are passed on: it is left out.
    """
    return without_password(shlex.join(["sk-bnreg", *sys.argv[1:]]))


def without_password(text: str) -> str:
    """Return a text without the passwords of the URLs in it."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
