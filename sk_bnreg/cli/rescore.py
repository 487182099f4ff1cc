"""``sk-bnreg rescore``: a finished comparison, by another score."""

from pathlib import Path
from typing import Annotated

import typer

from sk_bnreg.cli.answers import tell_answers
from sk_bnreg.cli.runner import Rope, Runner


def rescore(
    out: Annotated[Path, typer.Argument(help="The folder that sk-bnreg compare --out wrote.")],
    scoring: Annotated[str, typer.Option(help="A scikit-learn score.")],
    rope: Rope = None,
) -> None:
    """Answer the questions of a finished comparison by another score of its predictions, without training."""
    from sk_bnreg.study.comparison import SchemeComparison

    comparison = SchemeComparison.load(out)
    runner = Runner()
    tell_answers(runner, comparison.rescore(scoring, rope=rope))
    assert comparison.held_out is not None  # a folder has the predictions
    tuned_by = "the log loss" if comparison.held_out.classifier else "R2"
    runner.say(f"\nThe schemes were tuned by {tuned_by} of single networks, whatever the score.")
