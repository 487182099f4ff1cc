"""``sk-bnreg reproduce``: published results, measured afresh."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sk_bnreg.cli.runner import Runner

if TYPE_CHECKING:
    from sk_bnreg.theory.finding import Finding


def reproduce(
    out: Annotated[Path | None, typer.Option(help="File for the figures, as JSON.")] = None,
) -> None:
    """Run published results on batch norm and L2 afresh, on this package's engine: measured beside predicted."""
    from sklearn.exceptions import ConvergenceWarning

    from sk_bnreg.theory.finding import unexplained
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
    say("\n" + _summary(findings))
    left = unexplained(findings)
    for finding in left:
        say(f"Missed without an explanation: {finding.quantity} ({finding.key}).")
    if out:
        # docs/theory.py writes its page from the file; the two that are computed are for other readers
        found = [{**asdict(finding), "value": finding.value, "passed": finding.passed} for finding in findings]
        out.write_text(json.dumps(found, indent=1) + "\n")
        say(f"Saved {out}.")
    if left:
        raise typer.Exit(1)  # so that a script notices


def _line(finding: "Finding") -> str:
    """Return a figure with its spread, where it comes from, what was predicted and what is allowed."""
    mark = {True: "met   ", False: "MISSED", None: "      "}[finding.passed]
    low, high, n = min(finding.measured), max(finding.measured), len(finding.measured)
    spread = f", {finding.judged} of {n}, from {low:.4g} to {high:.4g}" if n > 1 else ""
    if finding.interval:
        spread += ", corrected 95 % interval {:.4f} to {:.4f}".format(*finding.interval)
    origin = {"run": "", "table": ", from a published table", "formula": ", from a formula alone"}[finding.origin]
    allowed = "" if finding.passed is None else f"; allowed: {finding.allowed}"
    predicted = "" if finding.predicted is None else f"; predicted: {finding.predicted:g}"
    return f"{mark}  {finding.quantity}: {finding.value:.4g}{spread}{origin}{predicted}{allowed}"


def _summary(findings: "list[Finding]") -> str:
    """Return how many figures are within their bounds; those that explain others are counted by themselves."""
    judged = [finding for finding in findings if finding.passed is not None]

    def met(some: "list[Finding]") -> str:
        return f"{sum(finding.passed is True for finding in some)} of {len(some)}"

    ran = met([finding for finding in judged if finding.origin == "run" and not finding.explains])
    explaining = met([finding for finding in judged if finding.explains])
    computed = met([finding for finding in judged if finding.origin != "run"])
    return (
        f"Run on this engine: {ran} judged figures are within their bounds, and {explaining} that explain one of them. "
        f"Computed from a published table or a formula alone: {computed}. "
        f"Reported without bounds: {len(findings) - len(judged)}."
    )
