"""``sk-bnreg reproduce``: published results, measured afresh."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sk_bnreg.cli.runner import Runner

if TYPE_CHECKING:
    from sk_bnreg.theory.reproduce import Finding


def reproduce(
    out: Annotated[Path | None, typer.Option(help="File for the figures, as JSON.")] = None,
) -> None:
    """Run published results on batch norm and L2 afresh, on this package's engine: measured beside predicted."""
    from sklearn.exceptions import ConvergenceWarning

    from sk_bnreg.theory.reproduce import reproduce as run

    runner = Runner(n_threads=1)  # the figures are of networks so small that threads wait for each other
    say = runner.console.print
    runner.load_engine()
    findings: list[Finding] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # rates are constant on purpose
        # each is told as soon as it is measured: all of them take minutes
        for finding in run():
            if not findings or finding.claim != findings[-1].claim:
                say(f"\n{finding.key}  {finding.claim}\n    ({finding.source})")
            findings.append(finding)
            say(_line(finding))
    # a figure without bounds is there to be read; it neither passes nor fails
    judged = [finding.passed for finding in findings if finding.passed is not None]
    say(
        f"\n{sum(judged)} of {len(judged)} judged figures are within their bounds; "
        f"{len(findings) - len(judged)} more are reported."
    )
    if out:
        # docs/theory.py writes its page from the file; the two that are computed are for other readers
        found = [{**asdict(finding), "value": finding.value, "passed": finding.passed} for finding in findings]
        out.write_text(json.dumps(found, indent=1) + "\n")
        say(f"Saved {out}.")
    if not all(judged):
        raise typer.Exit(1)  # so that a script notices


def _line(finding: "Finding") -> str:
    """Return a figure with its spread, what was predicted and what is allowed."""
    mark = {True: "ok    ", False: "FAILED", None: "      "}[finding.passed]
    low, high, n = min(finding.measured), max(finding.measured), len(finding.measured)
    spread = f", {finding.judged} of {n}, from {low:.4g} to {high:.4g}" if n > 1 else ""
    if finding.interval:
        spread += ", corrected 95 % interval {:.4f} to {:.4f}".format(*finding.interval)
    allowed = "" if finding.passed is None else f"; allowed: {finding.allowed}"
    predicted = "" if finding.predicted is None else f"; predicted: {finding.predicted:g}"
    return f"{mark}  {finding.quantity}: {finding.value:.4g}{spread}{predicted}{allowed}"
