"""``sk-bnreg predict``: what a saved model says of a table."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sk_bnreg.cli.runner import Runner


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            help="best_estimator.safetensors of compare or tune, which runs no code, or a .joblib file, which may: "
            "open those that you trust."
        ),
    ],
    table: Annotated[Path, typer.Argument(help="A file with the columns of the training table; others are left out.")],
    out: Annotated[Path | None, typer.Option(help="A .csv file to write. [default: printed]")] = None,
) -> None:
    """Write what a model predicts for each row of a table, and of classes their probabilities."""
    import pandas as pd
    from sklearn.base import is_classifier

    from sk_bnreg.study.files import read_frame

    if not model.is_file() or not table.is_file():
        raise ValueError(f"There is no file {str(table if model.is_file() else model)!r}.")
    fitted = open_model(model)
    if not hasattr(fitted, "feature_names_in_"):
        raise ValueError(f"{str(model)!r} must hold a model that was fitted to a table with names of columns.")
    names = [str(name) for name in fitted.feature_names_in_]
    frame, notes = read_frame(table, names)
    lacking = [name for name in names if name not in frame]
    if lacking:
        raise ValueError(f"The model needs columns {lacking}, which {table.name} lacks; it has {list(frame)}.")
    X = frame[names].set_axis(fitted.feature_names_in_, axis=1)
    found = pd.DataFrame({"prediction": fitted.predict(X)})
    if is_classifier(fitted):
        probability = pd.DataFrame(fitted.predict_proba(X), columns=[f"probability of {c}" for c in fitted.classes_])
        found = found.join(probability)
    if out is None:
        found.to_csv(sys.stdout, index=False)
        return
    found.to_csv(out, index=False)
    told = f" ({'; '.join(notes)})" if notes else ""
    Runner().say(f"Saved {out}: {len(found):,} predictions for {table.name}{told}.")


def open_model(path: Path) -> Any:
    """Return the estimator in a file of `save_model` or joblib."""
    if path.suffix == ".joblib":
        import joblib

        from sk_bnreg.study.held_out import undamaged

        return undamaged(path, joblib.load)
    from sk_bnreg.export.model_file import load_model

    return load_model(path)
