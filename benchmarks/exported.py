"""Model files that were damaged, and ONNX graphs beside the estimators that they were made of.

python benchmarks/exported.py DIR

DIR has tables as .parquet files with the target in the column "target". First 10,000 damaged model files of a
pipeline: what they did. Then on ten tables, for one network and for eight, the largest difference of probabilities (of
regressors in standard deviations of the target), rows whose label differs though no tie is near, and the time that
100,000 rows take in onnxruntime and here, in turn, with as many threads; and for a target of several labels.
"""

import resource
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnxruntime
import pandas as pd
import torch
from sklearn.datasets import make_multilabel_classification
from sklearn.model_selection import train_test_split
from skrub import tabular_pipeline

from sk_bnreg import BNMLPClassifier, BNMLPRegressor, load_model, save_model, to_onnx
from sk_bnreg.study.tables import network_pipeline, read_table

N_DAMAGED, N_ROWS, N_TIMES = 10_000, 100_000, 5


def damaged(content, rng):
    """Return a file with something wrong in it, and what."""
    content = bytearray(content)
    kind = rng.choice(["bits", "truncated", "header", "swapped", "longer"])
    if kind == "bits":
        for place in rng.integers(len(content), size=rng.integers(1, 9)):
            content[place] ^= 1 << rng.integers(8)
    elif kind == "truncated":
        del content[rng.integers(len(content)) :]
    elif kind == "header":
        content[rng.integers(8 + int.from_bytes(content[:8], "little"))] = rng.integers(256)
    elif kind == "swapped":
        size = int(rng.integers(1, 500))
        a, b = sorted(rng.integers(len(content) - size, size=2))
        content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    else:
        content += rng.bytes(rng.integers(1, 100))
    return bytes(content), kind


def damage(table):
    path = Path(mkdtemp()) / "m.safetensors"
    model = network_pipeline(table.task).set_params(
        **{f"{name(table)}__max_iter": 3, f"{name(table)}__random_state": 0}
    )
    model.fit(table.X, table.y)
    save_model(model, path)
    expected, content = model.predict(table.X), path.read_bytes()
    rng, found, slowest = np.random.default_rng(0), [], 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(N_DAMAGED):
        wrong, kind = damaged(content, rng)
        path.write_bytes(wrong)
        began = time.perf_counter()
        try:
            outcome = "the right model" if np.array_equal(load_model(path).predict(table.X), expected) else "WRONG"
        except ValueError:
            outcome = "ValueError"
        slowest = max(slowest, time.perf_counter() - began)
        found.append((kind, outcome))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(pd.DataFrame(found, columns=["damage", "outcome"]).value_counts().unstack(fill_value=0).to_string())
    print(
        f"{len(content):,} bytes; the slowest took {slowest:.3f} s, memory grew by {grown:.0f} MB at most\n", flush=True
    )


def name(table):
    return "bnmlpclassifier" if table.task == "classification" else "bnmlpregressor"


def feed_of(session, X):
    """Return rows as a graph's inputs."""
    feed = {}
    for own in session.get_inputs():
        column = X[own.name].to_numpy() if own.name != "X" else X
        if own.type == "tensor(string)":
            feed[own.name] = np.where(pd.isna(column), "", column).astype(object)[:, None]
        else:
            feed[own.name] = column.astype(np.float64).reshape(len(X), -1)
    return feed


def compare(model, X, label):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    graph = to_onnx(model).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found = session.run(None, feed_of(session, X))
    if hasattr(model, "predict_proba"):
        probability = model.predict_proba(X)
        difference = np.abs(found[1] - probability).max()
        if found[0].ndim == 2:
            clear = (np.abs(probability - 0.5) > 1e-5).all(axis=1)
            other = (found[0] != model.predict(X)).any(axis=1)
        else:
            clear = np.diff(np.sort(probability, axis=1)[:, -2:], axis=1)[:, 0] > 1e-5
            other = found[0] != model.predict(X)
        wrong = int((other & clear).sum())
    else:
        expected = model.predict(X)
        difference, wrong = np.abs(found[0][:, 0] - expected).max() / expected.std(), 0
    many = X.iloc[np.arange(N_ROWS) % len(X)] if isinstance(X, pd.DataFrame) else X[np.arange(N_ROWS) % len(X)]
    feed = feed_of(session, many)
    seconds = {"onnxruntime": [], "here": []}
    for _ in range(N_TIMES):
        for who, predict in (("onnxruntime", lambda: session.run(None, feed)), ("here", lambda: model.predict(many))):
            began = time.perf_counter()
            predict()
            seconds[who].append(time.perf_counter() - began)
    spread = {who: f"{np.median(of):.2f} ({min(of):.2f} to {max(of):.2f})" for who, of in seconds.items()}
    print(
        f"{label:34}{len(graph) / 1e6:7.2f}{difference:10.1e}{wrong:6}  {spread['onnxruntime']:22}{spread['here']}",
        flush=True,
    )


def main(folder):
    tables = [read_table(str(path)) for path in sorted(Path(folder).glob("*.parquet"))]
    damage(next(table for table in tables if table.task == "classification"))
    print(f"{'':34}{'MB':>7}{'largest':>10}{'wrong':>6}  seconds for {N_ROWS:,} rows in onnxruntime, and here")
    n_used = 0
    for table in tables:
        table = table.sample(3000, 0)
        X, rows, y, _ = train_test_split(table.X, table.y, test_size=0.3, random_state=0)
        kind = BNMLPClassifier if table.task == "classification" else BNMLPRegressor
        for n_ensemble in (1, 8):
            model = tabular_pipeline(kind(n_ensemble=n_ensemble, random_state=0)).fit(X, y)
            try:
                compare(model, rows, f"{table.name.removesuffix('.parquet')}, {n_ensemble}")
            except ValueError as error:
                print(f"{table.name}: {error}")
                break
        else:
            n_used += 1
        if n_used == 10:
            break
    X, y = make_multilabel_classification(2000, 20, n_classes=5, random_state=0)
    for n_ensemble in (1, 8):
        compare(BNMLPClassifier(n_ensemble=n_ensemble, random_state=0).fit(X, y), X, f"five labels, {n_ensemble}")


if __name__ == "__main__":
    main(sys.argv[1])
