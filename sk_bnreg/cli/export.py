"""``sk-bnreg export``: a saved model as an ONNX graph, for where there is no Python."""

from pathlib import Path
from typing import Annotated

import typer

from sk_bnreg.cli.predict import open_model
from sk_bnreg.cli.runner import Runner


def export(
    model: Annotated[Path, typer.Argument(help="best_estimator.safetensors of compare or tune.")],
    out: Annotated[Path, typer.Argument(help="The .onnx file to write.")],
) -> None:
    """Write a model as ONNX: with its numbers and categories as inputs, and predictions equal to five digits."""
    from sk_bnreg.export.onnx_graph import to_onnx

    graph = to_onnx(open_model(model))
    out.write_bytes(graph.SerializeToString())
    inputs, outputs = ([value.name for value in values] for values in (graph.graph.input, graph.graph.output))
    Runner().say(
        f"Saved {out}: from {', '.join(inputs)} to {' and '.join(outputs)}, opset {graph.opset_import[0].version}."
    )
