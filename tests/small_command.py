"""The command in this process, or as a process of its own that trains networks which take a moment."""

import sys

import pytest

import sk_bnreg.study.survey
import sk_bnreg.study.tables
from sk_bnreg.cli.main import main
from sk_bnreg.study.tables import network_pipeline


def small_pipeline(task):
    """Return the pipeline of commands, with the mean of two networks that take a moment."""
    pipeline = network_pipeline(task)
    pipeline[-1].set_params(hidden_layer_sizes=(8,), max_iter=5, numeric_embedding=None, n_ensemble=2)
    return pipeline


def run_here(patch, command, *arguments, columns=120):
    """Run the command in this process, with what a pytest.MonkeyPatch undoes, and return its exit code."""
    patch.setattr(sys, "argv", ["sk-bnreg", command, *map(str, arguments)])
    patch.setattr(sys, "excepthook", sys.excepthook)  # typer sets its own
    patch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


if __name__ == "__main__":
    sk_bnreg.study.survey.network_pipeline = sk_bnreg.study.tables.network_pipeline = small_pipeline
    main()
