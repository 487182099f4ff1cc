"""How a comparison is told in a terminal: its table, and each question with its words and what to do."""

from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.table import Table

from sk_bnreg.cli.runner import Runner

if TYPE_CHECKING:
    from sk_bnreg.stats.folds import Contrast
    from sk_bnreg.study.comparison import Answer, SchemeComparison


def tell_answers(runner: Runner, comparison: "SchemeComparison") -> None:
    """Print the table of the schemes, and what it says.

    Parameters
    ----------
    runner : Runner
    comparison : SchemeComparison
        Where its networks are averaged, a question to which a single one has another answer is told of both.
    """
    runner.console.print(_scheme_table(comparison))
    of = networks(comparison.n_networks)
    others = [comparison.rescore(name) for name in comparison.metrics if name != comparison.metric]
    runner.say(f"\nFor {of}, by {comparison.metric}; differences within {comparison.rope:g} count as none:")
    for answer in comparison.verdicts():
        runner.say(f"\n{_begun(answer.summary())}.")
        for line in _more(comparison, others, answer):
            runner.say(line, indent=4)
    # the interaction needs all four corners of batch norm x L2
    if comparison.has_interaction:
        runner.say(f"\nInteraction (bn+l2 - bn) - (l2 - plain): {comparison.interaction().figures[1:-1]}.")


def networks(n_networks: int) -> str:
    """Return what is compared: "one network" or "the mean of 8 networks"."""
    return "one network" if n_networks == 1 else f"the mean of {n_networks} networks"


def _more(comparison: "SchemeComparison", others: list["SchemeComparison"], answer: "Answer") -> list[str]:
    """Return what stands under an answer: what to do, other words of one network and by other scores, the outlook."""
    pair = answer.question.scheme, answer.question.against
    lines = [f"{_begun(answer.contrast.advice)}."]
    of_one = comparison.single.contrast(*pair)
    if of_one.verdict != answer.contrast.verdict:
        lines.append(f"For one network: {_in_words(of_one)}; {of_one.advice}.")
    lines += [f"By {other.metric}: {_in_words(other.contrast(*pair))}." for other in others]
    return [*lines, f"{_begun(answer.outlook)}."] if answer.outlook else lines


def _in_words(c: "Contrast") -> str:
    return f"{c.verdict}{c.hint} ({c.mean:+z.4f}, {c.low:+z.4f} to {c.high:+z.4f})"


def _begun(clause: str) -> str:
    return clause[:1].upper() + clause[1:]


def _scheme_table(comparison: "SchemeComparison") -> Table:
    """Return a row per scheme, narrow enough for 80 columns, the best in bold."""
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
            "best" if best else f"{row['difference']:+z.4f}",
            "" if best else f"{row['low']:+z.4f} to {row['high']:+z.4f}",
            f"{row['learning_rate_init']:.2g}",
            "" if np.isnan(row["budget"]) else f"{row['budget']:.2g}",  # Adam with l2_mode="loss" has none
            style="bold" if best else None,
        )
    return grid
