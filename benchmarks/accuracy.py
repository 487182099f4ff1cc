"""Do the default estimators beat the strongest defaults there are, and how long do they take?

Every .parquet table in a folder (target in the column "target"), split at random three times into at most 5,000 rows
(or as many as --rows says) for training and as many for testing; every model sees the same splits, on one thread. One
line per table, split and model is added to a .jsonl file; lines that are there already are not computed again, so a run
can be interrupted, and models that need an environment of their own (RealMLP_TD and TabM_D, of pytabkit) can be added
by it. So can the Elo ratings, which need bencheval, the engine of TabArena's leaderboard.

    OMP_NUM_THREADS=1 python benchmarks/accuracy.py run DIR accuracy.jsonl --models sk_bnreg MLP HistGB [--splits 3]
    python benchmarks/accuracy.py write accuracy.jsonl docs/accuracy.md
    python benchmarks/accuracy.py elo accuracy.jsonl docs/accuracy.md
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
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from skrub import tabular_pipeline

MODELS = (
    "sk_bnreg", "RealMLP_TD", "TabM_D", "MLP", "MLP-256", "HistGB", "LightGBM", "CatBoost", "RandomForest",
)  # fmt: skip
PEERS = ("CatBoost", "RealMLP_TD")  # of which ratios are told
N_ROWS = 5000
HALVES = 0  # seed by which the tables are divided into two halves


def make_model(name, task, seed, categories):
    """Return a model for raw rows, all of its settings its own defaults but for seed and threads."""
    kind = "Classifier" if task == "classification" else "Regressor"
    if name == "sk_bnreg":
        import sk_bnreg

        model = tabular_pipeline(getattr(sk_bnreg, "BNMLP" + kind)(random_state=seed))
        # skrub's encoder of many words draws at random too
        return model.set_params(tablevectorizer__high_cardinality__random_state=seed)
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
    if name == "RandomForest":
        from sklearn import ensemble

        return tabular_pipeline(getattr(ensemble, "RandomForest" + kind)(random_state=seed, n_jobs=1))
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
        return of_pytabkit(name, kind, seed)
    raise ValueError(f"The models are {MODELS}, got {name!r}.")


def of_pytabkit(name, kind, seed, **options):
    """Return a model of pytabkit's; they take missing categories, but not missing numbers."""
    import pytabkit

    impute = make_column_transformer(
        (SimpleImputer(strategy="median", keep_empty_features=True), make_column_selector(dtype_include="number")),
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    settings = {"random_state": seed, "n_threads": 1, "device": "cpu", "verbosity": 0}
    return make_pipeline(impute, getattr(pytabkit, f"{name}_{kind}")(**settings, **options))


def append(results, row):
    """Add a line to a file of results, and print it."""
    with results.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(*(f"{v:.4f}" if isinstance(v, float) else v for v in row.values()), flush=True)


def split(path, seed, n_rows=N_ROWS):
    """Return a table's rows for training and testing, at most `n_rows` each, and its task."""
    X = pd.read_parquet(path)
    y = X.pop("target")
    task = "regression" if pd.api.types.is_float_dtype(y) else "classification"
    n_train = min(n_rows, len(X) * 3 // 4)
    parts = train_test_split(
        X,
        y if task == "regression" else y.astype(str),
        train_size=n_train,
        test_size=min(n_rows, len(X) - n_train),
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


def measure(path, seed, name, make, warm=True, n_rows=N_ROWS):
    """Fit what `make(task, seed, categories)` returns to a split of a table; return what became of it."""
    X_train, X_test, y_train, y_test, task = split(path, seed, n_rows)
    categories = X_train.select_dtypes("category").columns.tolist()
    if not warm:
        make(task, seed, categories).fit(X_train[:300], y_train[:300])
    model = make(task, seed, categories)
    start = perf_counter()
    model.fit(X_train, y_train)
    fitted = perf_counter()
    prediction = np.ravel(model.predict(X_test))
    row = {"table": path.stem, "task": task, "split": seed, "model": name, "rows": n_rows, "n_train": len(X_train)}
    row |= {"fit_seconds": fitted - start, "predict_seconds": perf_counter() - fitted}
    return row | scores(model, X_test, y_test.to_numpy(), prediction)


def scores(model, X, y, prediction):
    """Return accuracy or R2, and what leaderboards rank by."""
    if not is_classifier(model):
        squared = ((y - prediction) ** 2).mean()
        return {"score": 1 - squared / y.var(), "rmse": float(np.sqrt(squared))}
    probability, classes = np.asarray(model.predict_proba(X), np.float64), np.asarray(model.classes_)
    probability /= probability.sum(1, keepdims=True)
    several = len(classes) > 2
    return {
        "score": float((prediction == y).mean()),
        "log_loss": log_loss(y, probability, labels=classes),
        "auc": float(roc_auc_score(y, probability if several else probability[:, 1], multi_class="ovr")),
        "n_classes": len(classes),
        "calibration_error": calibration_error(y, probability, classes),
    }


def prepare(results):
    """Make sure of one thread; return which table, split and model a file of results has already."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        sys.exit("Set OMP_NUM_THREADS=1, so that every model has one thread.")
    warnings.simplefilter("ignore")  # scikit-learn's convergence, skrub's unknown categories
    if not results.exists():
        return set()
    known = read(results)
    return set(zip(known["table"], known["split"], known["model"], known["rows"], strict=True))


def read(results):
    return pd.read_json(results, lines=True).drop_duplicates(["table", "split", "model", "rows"], keep="last")


def run(args):
    done = prepare(args.results)
    tables = [path for path in sorted(args.folder.glob("*.parquet")) if not args.tables or path.stem in args.tables]
    warm = set()
    for seed in range(args.splits):
        for path in tables:
            for name in args.models:
                if (path.stem, seed, name, args.rows) not in done:
                    row = measure(path, seed, name, partial(make_model, name), name in warm, args.rows)
                    warm.add(name)
                    append(args.results, row)


def write(args):
    """Write what was measured, and a critical-difference diagram beside it."""
    import matplotlib

    from sk_bnreg import CriticalDifferenceDisplay
    from sk_bnreg.stats.tables import ranking

    matplotlib.rcParams["svg.hashsalt"] = "accuracy"
    every = read(args.results)
    small = every[every["rows"] < N_ROWS]
    timed = every[every["table"].isin(small["table"]) & every["model"].isin(small["model"]) & (every["split"] == 0)]
    large, every = every[every["rows"] > N_ROWS], every[every["rows"] == N_ROWS]
    # within a table RMSE ranks as R2 does
    frame = complete(every).assign(loss=lambda rows: rows["log_loss"].fillna(1 - rows["score"]))
    scores, fits, losses, errors, both = (
        frame.pivot_table(index="table", columns="model", values=name)
        for name in ("score", "fit_seconds", "log_loss", "calibration_error", "loss")
    )
    ranks = {"mean rank": scores.rank(axis=1, ascending=False), "rank by loss": both.rank(axis=1)}
    low, high = scores.min(axis=1), scores.max(axis=1)
    summary = pd.DataFrame(
        {
            **{
                name + of: part.mean()
                for name, own in ranks.items()
                for of, part in (("", own), *((f", {half}", part) for half, part in own.groupby(half_of(own.index))))
            },
            "won": (scores.rank(axis=1, ascending=False, method="min") == 1).sum(),
            "mean score": scores.mean(),
            "normalised": scores.sub(low, axis=0).div(high - low, axis=0).mean(),
            "log loss / CatBoost": losses.div(losses["CatBoost"], axis=0).median(),
            "calibration error": errors.mean(),
            "fit s, median": fits.median(),
            **{f"fit / {peer}": fits.div(fits[peer], axis=0).median() for peer in PEERS},
            "predict s, median": frame.groupby("model")["predict_seconds"].median(),
        }
    ).sort_values("mean rank")
    paragraphs = [
        f"{len(scores)} tables, {frame['split'].nunique()} splits of each, accuracy or R2:",
        summary.round(3).to_markdown(),
        scores[summary.index].round(4).to_markdown(),
        "By accuracy or R2: " + ranking(scores).summary(),
        "By log loss or RMSE: " + ranking(-both).summary(),
        in_turn(read(args.results.with_name("timing.jsonl"))),
        *(against(every, "sk_bnreg", model) for model in sorted(set(every["model"]) - {"sk_bnreg"})),
    ]
    large = complete(large)
    if len(large):
        paragraphs += [
            f"All rows of the largest tables, at most {large['rows'].max():,} for training:",
            large.pivot_table(index="table", columns="model", values="score").round(4).to_markdown(),
            *(against(large, "sk_bnreg", model) for model in sorted(set(large["model"]) - {"sk_bnreg"})),
        ]
    if len(timed):
        seconds = timed.pivot_table(index=["table", "n_train"], columns="model", values="fit_seconds")
        paragraphs += ["Seconds to fit, one thread:", seconds.round(2).reset_index().to_markdown(index=False)]
    fill(args.page, "accuracy", "\n\n".join(paragraphs))
    figure = CriticalDifferenceDisplay.from_scores(scores[summary.index]).figure_
    figure.savefig(args.page.with_suffix(".svg"), metadata={"Date": None})


def in_turn(timed):
    """Say how long a fit takes beside CatBoost's where both were fitted in turn by one process."""
    seconds = timed.pivot_table(index="table", columns="model", values="fit_seconds")
    low, middle, high = (seconds["sk_bnreg"] / seconds["CatBoost"]).quantile([0.1, 0.5, 0.9])
    return (
        f"Fitted in turn in one process, to {timed['split'].nunique()} split of each of {len(seconds)} tables: fit "
        f"time x {middle:.2f} of CatBoost's in the median, x {low:.2f} and x {high:.2f} at the first and ninth decile."
    )


def elo(args):
    """Write the models' Elo ratings as TabArena rates: by AUC, log loss of several classes, or RMSE.

    And how many tables would tell ours from CatBoost: the interval of the difference narrows as the root of their
    number.
    """
    from bencheval.evaluator import BenchmarkEvaluator

    frame = complete(read(args.results).query("rows == @N_ROWS"))
    n_classes = frame.groupby("table")["n_classes"].transform("max")
    scaled = np.sqrt(1 - frame["score"])  # the RMSE in deviations of the target
    error = (1 - frame["auc"]).where(n_classes == 2, frame["log_loss"]).where(n_classes > 0, scaled)
    data = pd.DataFrame(
        {
            "method": frame["model"],
            "task": frame["table"],
            "seed": frame["split"],
            "metric_error": error,
            "time_train_s": frame["fit_seconds"],
            "time_infer_s": frame["predict_seconds"],
        }
    )
    known = data["metric_error"].notna().groupby([data["task"], data["seed"]]).transform("all")  # of all models
    data = data[known]
    options = {"calibration_framework": "RandomForest", "calibration_elo": 1000, "BOOTSTRAP_ROUNDS": 200}
    evaluator = BenchmarkEvaluator(seed_column="seed")
    board = evaluator.leaderboard(data, elo_kwargs=options)
    columns = [name for name in board if name.startswith("elo") or name in ("rank", "winrate")]
    by_table, rng = dict(list(data.groupby("task"))), np.random.default_rng(0)
    paragraphs = [board[columns].sort_values("elo", ascending=False).round(2).to_markdown()]
    leads = []
    for _ in range(options["BOOTSTRAP_ROUNDS"]):
        drawn = rng.choice(list(by_table), len(by_table))
        again = pd.concat([by_table[table].assign(task=str(i)) for i, table in enumerate(drawn)])
        leads.append(evaluator.compute_elo(again, include_quantiles=False)["elo"])
    for peer in PEERS:
        lead = np.array([elo["sk_bnreg"] - elo[peer] for elo in leads])
        low, high = np.quantile(lead, [0.025, 0.975])
        distance = board.loc["sk_bnreg", "elo"] - board.loc[peer, "elo"]
        needed = len(by_table) * ((high - low) / 2 / distance) ** 2
        paragraphs.append(
            f"sk_bnreg against {peer}: {distance:+.0f} [{low:+.0f}, {high:+.0f}]; if that were the truth, some "
            f"{needed:.0f} tables would tell it from 0."
        )
    fill(args.page, "elo", "\n\n".join(paragraphs), "accuracy.py elo")


def complete(frame):
    """Return the rows of models that were fitted to all splits of all tables."""
    n_splits = frame.groupby("model")[["table", "split"]].apply(len)
    return frame[frame["model"].isin(n_splits.index[n_splits == n_splits.max()])]


def half_of(tables):
    """Return, by table, to which half it belongs: choices made on one are judged on the other."""
    order = np.random.default_rng(HALVES).permutation(sorted(tables))
    return {table: "AB"[place % 2] for place, table in enumerate(order)}


def fill(page, name, text, script=None):
    """Write a text into its place in a page."""
    start, end = f"<!-- {name}: benchmarks/{script or name + '.py'} -->", f"<!-- end of {name} -->"
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
    runs.add_argument("--rows", type=int, default=N_ROWS)
    runs.set_defaults(function=run)
    for name, function in (("write", write), ("elo", elo)):
        writes = commands.add_parser(name)
        writes.add_argument("results", type=Path)
        writes.add_argument("page", type=Path)
        writes.set_defaults(function=function)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
