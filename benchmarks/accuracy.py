"""Do the default estimators beat the strongest defaults there are, and how long do they take?

Every .parquet table in a folder (target in the column "target"), split at random three times into at most 5,000 rows
for training and 5,000 for testing; every model sees the same splits, on one thread. One line per table, split and model
is added to a .jsonl file; lines that are there already are not computed again, so a run can be interrupted, and models
that need an environment of their own (RealMLP_TD and TabM_D, of pytabkit) can be added by it.

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py run DIR accuracy.jsonl --models sk_bnreg MLP HistGB [--splits 3]
    python benchmarks/accuracy.py write accuracy.jsonl docs/accuracy.md
"""

import argparse
import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from sklearn.base import is_classifier
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from skrub import tabular_pipeline

MODELS = ("sk_bnreg", "RealMLP_TD", "TabM_D", "MLP", "MLP-256", "HistGB", "LightGBM", "CatBoost")
BASELINE = "RealMLP_TD"
N_ROWS = 5000


def make_model(name, task, seed, categories):
    """Return a model for raw rows, all of its settings its own defaults but for seed and threads."""
    kind = "Classifier" if task == "classification" else "Regressor"
    if name == "sk_bnreg":
        import sk_bnreg

        return tabular_pipeline(getattr(sk_bnreg, "BNMLP" + kind)(random_state=seed))
    if name in ("MLP", "MLP-256"):
        from sklearn import neural_network
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.preprocessing import StandardScaler

        options = {"hidden_layer_sizes": (256, 256), "early_stopping": True} if name == "MLP-256" else {}
        mlp = getattr(neural_network, "MLP" + kind)(random_state=seed, **options)
        if task == "regression":
            mlp = TransformedTargetRegressor(mlp, transformer=StandardScaler())
        return tabular_pipeline(mlp)
    if name == "HistGB":
        model = tabular_pipeline(kind.lower())
        return model.set_params(**{f"{model.steps[-1][0]}__random_state": seed})
    if name == "LightGBM":
        import lightgbm

        return getattr(lightgbm, "LGBM" + kind)(random_state=seed, n_jobs=1, verbose=-1)
    if name == "CatBoost":
        import catboost

        options = {"random_seed": seed, "thread_count": 1, "verbose": False, "allow_writing_files": False}
        as_text = make_column_transformer(
            (SimpleImputer(strategy="constant", fill_value="missing"), categories),
            remainder="passthrough",
            verbose_feature_names_out=False,
        ).set_output(transform="pandas")
        return make_pipeline(as_text, getattr(catboost, "CatBoost" + kind)(cat_features=categories, **options))
    if name in ("RealMLP_TD", "TabM_D"):
        import pytabkit

        # they take missing categories, but not missing numbers
        numbers = SimpleImputer(strategy="median", keep_empty_features=True)
        impute = make_column_transformer(
            (numbers, make_column_selector(dtype_include="number")),
            remainder="passthrough",
            verbose_feature_names_out=False,
        ).set_output(transform="pandas")
        return make_pipeline(
            impute, getattr(pytabkit, f"{name}_{kind}")(random_state=seed, n_threads=1, device="cpu", verbosity=0)
        )
    raise ValueError(f"The models are {MODELS}, got {name!r}.")


def split(path, seed):
    """Return a table's rows for training and testing, and its task."""
    X = pd.read_parquet(path)
    y = X.pop("target")
    task = "regression" if pd.api.types.is_float_dtype(y) else "classification"
    n_train = min(N_ROWS, len(X) * 3 // 4)
    parts = train_test_split(
        X,
        y if task == "regression" else y.astype(str),
        train_size=n_train,
        test_size=min(N_ROWS, len(X) - n_train),
        stratify=y if task == "classification" else None,
        random_state=seed,
    )
    return *(part.reset_index(drop=True) for part in parts), task


def calibration_error(y, probability, classes, n_bins=15):
    """Return the expected calibration error of the most probable class (Guo et al. 2017), equal-width bins."""
    confidence, right = probability.max(1), classes[probability.argmax(1)] == y
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = [abs((confidence[bins == b] - right[bins == b]).sum()) for b in np.unique(bins)]
    return sum(gaps) / len(y)


def measure(path, seed, name, make, warm=True):
    """Fit what `make(task, seed, categories)` returns to a split of a table; return what became of it."""
    X_train, X_test, y_train, y_test, task = split(path, seed)
    categories = X_train.select_dtypes("category").columns.tolist()
    if not warm:
        make(task, seed, categories).fit(X_train[:300], y_train[:300])
    model = make(task, seed, categories)
    start = perf_counter()
    model.fit(X_train, y_train)
    fitted = perf_counter()
    prediction = model.predict(X_test)
    row = {"table": path.stem, "task": task, "split": seed, "model": name, "n_train": len(X_train)}
    row |= {"fit_seconds": fitted - start, "predict_seconds": perf_counter() - fitted}
    if task == "regression":
        y = y_test.to_numpy()
        return row | {"score": 1 - ((y - np.ravel(prediction)) ** 2).mean() / y.var()}
    assert is_classifier(model)
    y, probability = y_test.to_numpy(), np.asarray(model.predict_proba(X_test), np.float64)
    probability /= probability.sum(1, keepdims=True)
    return row | {
        "score": float((np.ravel(prediction) == y).mean()),
        "log_loss": log_loss(y, probability, labels=model.classes_),
        "calibration_error": calibration_error(y, probability, np.asarray(model.classes_)),
    }


def prepare(results):
    """Make sure of one thread; return which table, split and model a file of results has already."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("Set OMP_NUM_THREADS=1, so that every model has one thread.")
    warnings.simplefilter("ignore")  # scikit-learn's convergence, skrub's unknown categories
    if not results.exists():
        return set()
    known = pd.read_json(results, lines=True)
    return set(zip(known["table"], known["split"], known["model"], strict=True))


def run(args):
    done = prepare(args.results)
    tables = [path for path in sorted(args.folder.glob("*.parquet")) if not args.tables or path.stem in args.tables]
    warm = set()
    for seed in range(args.splits):
        for path in tables:
            for name in args.models:
                if (path.stem, seed, name) not in done:
                    row = measure(path, seed, name, partial(make_model, name), name in warm)
                    warm.add(name)
                    with args.results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(*(f"{v:.4f}" if isinstance(v, float) else v for v in row.values()), flush=True)


def write(args):
    """Write what was measured, and a critical-difference diagram beside it."""
    import matplotlib

    from sk_bnreg import CriticalDifferenceDisplay

    matplotlib.rcParams["svg.hashsalt"] = "accuracy"
    every = pd.read_json(args.results, lines=True).drop_duplicates(["table", "split", "model"], keep="last")
    n_splits = every.groupby("model")[["table", "split"]].apply(len)
    frame = every[every["model"].isin(n_splits.index[n_splits == n_splits.max()])]
    scores, fits, losses, errors = (
        frame.pivot_table(index="table", columns="model", values=name)
        for name in ("score", "fit_seconds", "log_loss", "calibration_error")
    )
    ratio = fits.div(fits[BASELINE], axis=0)
    low, high = scores.min(axis=1), scores.max(axis=1)
    summary = pd.DataFrame(
        {
            "mean rank": scores.rank(axis=1, ascending=False).mean(),
            "won": (scores.rank(axis=1, ascending=False, method="min") == 1).sum(),
            "mean score": scores.mean(),
            "normalised": scores.sub(low, axis=0).div(high - low, axis=0).mean(),
            "log loss / " + BASELINE: losses.div(losses[BASELINE], axis=0).median(),
            "calibration error": errors.mean(),
            "fit s, median": fits.median(),
            "fit / " + BASELINE: ratio.median(),
            "predict s, median": frame.groupby("model")["predict_seconds"].median(),
        }
    ).sort_values("mean rank")
    paragraphs = [
        f"{len(scores)} tables, {frame['split'].nunique()} splits of each, accuracy or R2:",
        summary.round(3).to_markdown(),
        scores[summary.index].round(4).to_markdown(),
        *(against(every, "sk_bnreg", model) for model in sorted(set(every["model"]) - {"sk_bnreg"})),
    ]
    fill(args.page, "accuracy", "\n\n".join(paragraphs))
    figure = CriticalDifferenceDisplay.from_scores(scores[summary.index]).figure_
    figure.savefig(args.page.with_suffix(".svg"), metadata={"Date": None})


def fill(page, name, text):
    """Write a text into its place in a page."""
    start, end = f"<!-- {name}: benchmarks/{name}.py -->", f"<!-- end of {name} -->"
    head, rest = page.read_text().split(start)
    page.write_text(f"{head}{start}\n{text}\n{end}{rest.split(end)[1]}")


def against(frame, model, other):
    """Say how two models compare on the splits that both were fitted to."""
    paired = frame.pivot(index=["table", "split"], columns="model", values=["score", "fit_seconds"])
    paired = paired.dropna(subset=[("score", model), ("score", other)])
    difference = (paired["score"][model] - paired["score"][other]).groupby("table").agg(["mean", "sem"])
    lost = difference[difference["mean"] < -0.015 - difference["sem"]]
    names = ", ".join(f"{table} {row['mean']:+.4f} +- {row['sem']:.4f}" for table, row in lost.iterrows()) or "none"
    seconds = (paired["fit_seconds"][model] / paired["fit_seconds"][other]).groupby("table").mean().median()
    return (
        f"{model} against {other}: better or within 0.002 on {(difference['mean'] >= -0.002).sum()} of "
        f"{len(difference)} tables, mean difference {difference['mean'].mean():+.4f}, fit time x {seconds:.2f}; "
        f"lost by more than 0.015 and one standard error: {names}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run")
    runs.add_argument("folder", type=Path)
    runs.add_argument("results", type=Path)
    runs.add_argument("--models", nargs="+", choices=MODELS, default=["sk_bnreg"])
    runs.add_argument("--tables", nargs="+")
    runs.add_argument("--splits", type=int, default=3)
    runs.set_defaults(function=run)
    writes = commands.add_parser("write")
    writes.add_argument("results", type=Path)
    writes.add_argument("page", type=Path)
    writes.set_defaults(function=write)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
