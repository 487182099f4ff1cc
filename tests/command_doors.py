"""Cases of the command: files of every kind, and options with good and bad values."""

import contextlib
import functools
import gzip
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from doors import Door
from hypothesis import strategies as st
from small_command import run_here

import sk_bnreg.search.evaluation
from sk_bnreg import BNMLPClassifier
from sk_bnreg.study.tables import network_pipeline

TARGETS = {
    "constant": ["a"] * 40, "missing": [None] * 40, "one per row": [f"w{i}" for i in range(40)], "numbers": range(40),
    "one": [None] * 39 + ["a"], "two": [None] * 38 + ["a", "b"], "rare": ["a"] * 39 + ["b"], "mixed": [1, "a"] * 20,
    "dates": pd.date_range("2020", periods=40).astype(str), "infinite": ["inf", 1.5] * 20,
    "fractions": np.arange(40) / 7,
    "large": [10**30, 1] * 20,
}  # fmt: skip
COLUMNS = {
    "missing": [None] * 40, "constant": [1] * 40, "infinite": ["inf"] * 40, "words": [f"w{i}" for i in range(40)],
    "long": ["x" * 5000] * 40, "quoted": ['a"b,c'] * 40, "large": ["1e400"] * 40, "no dates": ["2020-13-45"] * 40,
    "commas": ["1.234,5"] * 40,
}  # fmt: skip
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "shift_jis", "cp037")
NUMBERS = ["0", "-1", "1", "2", "x", "", "nan", "inf", "1.5", "1e400", "None", "true", "ä"]
SCORES = ["accuracy", "r2", "nope", "", "accuracy,accuracy", "roc_auc", "f1", "neg_log_loss", "accuracy,", "f1_macro"]
ROPES = ["0.01", "accuracy=0.01", "accuracy=", "=1", "x", "accuracy=0.1,r2=1", "nan", "inf", "0", "-1", ""]
FOLDERS = ["new", "new/a/b", "good.csv", "/proc/x", "done", "", "folder", "results alone", "no json"]
OPTIONS = {
    "compare": {
        "--target": ["label", "size", "nope", "", "colour"], "--task": ["classification", "regression", "x", ""],
        "--schemes": ["all", "plain", "plain,nope", "", "plain,plain", "bn, bn+l2", "plain,"], "--scoring": SCORES,
        "--rope": ROPES, "--folds": NUMBERS, "--minutes": NUMBERS, "--repeats": NUMBERS, "--seeds": NUMBERS,
        "--candidates": NUMBERS, "--learning-rate": ["tuned", "fixed", "x"], "--seed": NUMBERS, "--out": FOLDERS,
        "--jobs": ["0", "-1", "x", "1"], "--quick": [None], "--nope": [None, "1"],
    },
    "tune": {
        "--target": ["label", "nope", ""], "--task": ["classification", "regression", "x"], "--trials": NUMBERS,
        "--timeout": NUMBERS, "--space": ["regularization", "wide", "x", ""], "--pruner": ["median", "hyperband", "x"],
        "--report": ["fold", "epoch", "x"], "--folds": NUMBERS, "--ensemble": [None], "--rope": ROPES,
        "--scoring": SCORES,
        "--storage": ["new.journal", "sqlite:////proc/x.db", "nope://x", "", "folder", "/proc/x/y"],
        "--study": ["a", ""], "--heartbeat": NUMBERS, "--seed": NUMBERS, "--jobs": ["0", "x", "1"], "--out": FOLDERS,
    },
    "survey": {
        "--out": FOLDERS, "--rows": ["50", "49", *NUMBERS], "--scoring": SCORES, "--rope": ROPES, "--folds": NUMBERS,
        "--schemes": ["plain,bn,bn+l2", "plain,bn", "nope", "", "plain,l2 (loss),dropout"], "--minutes": NUMBERS,
        "--repeats": NUMBERS, "--seeds": NUMBERS, "--candidates": NUMBERS, "--seed": NUMBERS, "--jobs": ["0", "x", "1"],
    },
    "predict": {"--out": ["p.csv", "/proc/x", "folder", "", "new/p.csv"]},
    "rescore": {"--scoring": SCORES, "--rope": ["0.01", "x", "nan", "0", "-1", "inf"]},
    "export": {"--nope": ["1"]},
}  # fmt: skip
GOOD = {
    "compare": {"--schemes": "plain,bn", "--folds": "2", "--repeats": "1", "--seeds": "2", "--candidates": "1"},
    "tune": {"--trials": "1", "--folds": "2", "--jobs": "1"},
    "survey": {
        "--out": "survey", "--folds": "2", "--candidates": "1", "--seeds": "2", "--jobs": "1",
        "--schemes": "plain,bn,bn+l2",
    },
    "rescore": {"--scoring": "accuracy"},
}  # fmt: skip
MODELS = [
    "done/best_estimator.safetensors", "cut.safetensors", "rubbish.safetensors", "dict.joblib", "unfitted.joblib",
    "rubbish.joblib", "text.joblib", "nameless.joblib", "good.csv", "nowhere", "folder", "",
]  # fmt: skip
STUDIES = ["done", "folder", "nowhere", "", "good.csv", "results alone", "no json", "no predictions", "no tuning"]
SURVEYS = ["tables", "useless", "good.csv", "nowhere", "folder"]


def small(task):
    """Return the pipeline of commands, with the mean of two tiny networks."""
    pipeline = network_pipeline(task)
    pipeline[-1].set_params(hidden_layer_sizes=(2,), max_iter=1, numeric_embedding=None, n_ensemble=2)
    return pipeline


def frame():
    rng = np.random.default_rng(0)
    labels = ["yes", "no", "no"] * 13 + ["no"]
    return pd.DataFrame(
        {"size": rng.normal(size=40), "colour": ["red", "blue"] * 20, "n": range(40, 80), "label": labels}
    )


def texts():
    """Return files of text, by their names."""
    good = frame()
    text = good.to_csv(index=False)
    head, rest = text.split("\n", 1)
    rng = np.random.default_rng(0)
    found = {
        "good.csv": text, "empty.csv": "", "blank.csv": "\n\n \n", "head.csv": head, "half.csv": text[: len(text) // 2],
        "label alone.csv": good[["label"]].to_csv(index=False), "one row.csv": "\n".join(text.split("\n")[:2]),
        "three rows.csv": "\n".join(text.split("\n")[:4]), "semicolon.csv": good.to_csv(index=False, sep=";"),
        "tabs.tsv": good.to_csv(index=False, sep="\t"), "pipes.txt": good.to_csv(index=False, sep="|"),
        "blanks.csv": good.to_csv(index=False, sep=" "), "same names.csv": text.replace("colour", "size", 1),
        "two targets.csv": text.replace("colour", "label", 1), "no name.csv": text.replace("colour", "", 1),
        "no names.csv": f",,,\n{rest}", "no head.csv": rest, "ragged.csv": f"{text}1,2,3,4,5,6\n",
        "short.csv": f"{text}1\n",
        "open quote.csv": f'{text}"abc', "page.csv": "<html><body>404</body></html>", "comment.csv": f"# mine\n{text}",
        "returns.csv": text.replace("\n", "\r"), "gaps alone.csv": "a,b,label\n" + ",,x\n,,y\n" * 20,
        "no end": text, "letter.doc": text, "list.json": "[1, 2, 3]", "object.json": '{"a": 1}', "zeros.csv": "\0" * 99,
        "nested.json": '[{"a": {"b": 1}, "label": 1}, {"a": 2, "label": 0}]', "csv.xlsx": text, "csv.csv.gz": text,
        "rows.jsonl": good.to_json(orient="records", lines=True), "cut.jsonl": good.to_json(orient="records")[:300],
        "zero.csv": text.replace("red", "\0"), "csv.csv.zip": text,
    }  # fmt: skip
    found |= {f"target {name}.csv": good.assign(label=values).to_csv(index=False) for name, values in TARGETS.items()}
    found |= {f"column {name}.csv": good.assign(size=values).to_csv(index=False) for name, values in COLUMNS.items()}
    files = {name: content.encode() for name, content in found.items()}
    files |= {f"{code}.csv": text.encode(code) for code in ENCODINGS}
    files |= {f"rubbish{end}": rng.bytes(999) for end in (".csv", ".parquet", ".xlsx", ".jsonl", ".feather", ".joblib")}
    packed = gzip.compress(text.encode())
    return files | {"packed.csv.gz": packed, "cut.csv.gz": packed[:60], "rubbish.safetensors": rng.bytes(99)}


@functools.cache
def place():
    """Return a folder with tables, models and studies, good ones and others."""
    root = Path(tempfile.mkdtemp())
    for name, content in texts().items():
        (root / name).write_bytes(content)
    good = frame()
    good.to_parquet(root / "good.parquet")
    (root / "half.parquet").write_bytes((root / "good.parquet").read_bytes()[:500])
    good.to_excel(root / "good.xlsx", index=False)
    good.iloc[:0].to_parquet(root / "no rows.parquet")
    pd.DataFrame().to_parquet(root / "empty.parquet")
    good.set_index(["n", "colour"]).to_parquet(root / "index.parquet")
    good.assign(size=[[1]] * 40).to_parquet(root / "lists.parquet")
    good.assign(size=[b"x"] * 40).to_parquet(root / "bytes.parquet")
    good.assign(label=pd.Timedelta("1d")).to_parquet(root / "durations.parquet")
    for name, of in {
        "tables": ["good.csv"],
        "useless": ["target constant.csv", "rubbish.parquet", "empty.csv"],
    }.items():
        (root / name).mkdir()
        for file in of:
            (root / name / file).write_bytes((root / file).read_bytes())
    (root / "folder").mkdir()
    joblib.dump({"a": 1}, root / "dict.joblib")
    joblib.dump(BNMLPClassifier(), root / "unfitted.joblib")
    joblib.dump(BNMLPClassifier((2,), max_iter=1).fit(np.eye(4), [0, 1, 0, 1]), root / "nameless.joblib")
    (root / "text.joblib").write_text("x")
    call(
        ["compare", "good.csv", "--out", "done", *(f"{name}={value}" for name, value in GOOD["compare"].items())],
        root,
        True,
    )
    done = {path.relative_to(root / "done"): path.read_bytes() for path in (root / "done").rglob("*") if path.is_file()}
    for name, left in {
        "results alone": ("results.parquet",), "no json": ("results.parquet", "tuning.parquet", "target.parquet"),
        "no predictions": ("results.parquet", "tuning.parquet", "target.parquet", "study.json"),
        "no tuning": ("results.parquet", "target.parquet", "study.json"),
    }.items():  # fmt: skip
        (root / name).mkdir()
        for file in left:
            (root / name / file).write_bytes(done[Path(file)])
    (root / "no json" / "study.json").write_text('{"a":')
    (root / "cut.safetensors").write_bytes(done[Path("best_estimator.safetensors")][:200])
    return root


class _Training(BaseException):
    """Something is to be trained: nothing was refused before that."""


def call(arguments, folder, trains):
    """Run the command; return its exit code, None where it was about to train, and what it wrote on stderr."""
    out, err = io.StringIO(), io.StringIO()
    numbers, threads = np.random.get_state(), torch.get_num_threads()  # noqa: NPY002
    verbosity = optuna.logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sk_bnreg.study.tables.network_pipeline", "sk_bnreg.study.survey.network_pipeline"):
            patch.setattr(name, small)
        patch.setattr("sk_bnreg.cli.runner.Runner.load_engine", lambda runner: None)
        patch.setattr("tqdm.std.tqdm.monitor_interval", 0)  # a thread that stays
        if not trains:
            patch.setattr(sk_bnreg.search.evaluation, "train_tasks", _refuse_to_train)
        patch.chdir(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(_Training):
            try:
                return run_here(patch, *arguments), " ".join(err.getvalue().split())
            finally:  # of its process, which ends
                np.random.set_state(numbers)  # noqa: NPY002
                torch.set_num_threads(threads)
                optuna.logging.set_verbosity(verbosity)
    return None, ""


def _refuse_to_train(*_):
    raise _Training


@dataclass
class Command:
    """Arguments, in a folder of files; seldom it really trains."""

    arguments: list[str]
    trains: bool

    def __repr__(self):
        return f"sk-bnreg {' '.join(self.arguments)}" + " (trained)" * self.trains


@st.composite
def commands(draw, name):
    tables = sorted(path.name for path in place().iterdir() if path.is_file())
    table = st.sampled_from([*tables, *["good.csv"] * (len(tables) // 2), "digits", "nowhere.csv", "", "folder"])
    model = st.sampled_from([*MODELS, *MODELS[:1] * 6])
    first = {
        "compare": [table], "tune": [table], "survey": [st.sampled_from([*SURVEYS, *SURVEYS[:1] * 3])],
        "predict": [model, table], "export": [model, st.sampled_from(["o.onnx", "folder", "/proc/x", ""])],
        "rescore": [st.sampled_from([*STUDIES, *STUDIES[:1] * 4])],
    }[name]  # fmt: skip
    options = dict(GOOD.get(name, {}))
    for option in draw(st.lists(st.sampled_from(sorted(OPTIONS[name])), max_size=2, unique=True)):
        options[option] = draw(st.sampled_from(OPTIONS[name][option]))
    told = [option if value is None else f"{option}={value}" for option, value in options.items()]
    extra = draw(st.sampled_from([[]] * 30 + [["extra"]]))
    return Command([name, *map(draw, first), *told, *extra], draw(st.integers(0, 19)) == 7)


def visit(command):
    root = place()
    kept = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with tempfile.TemporaryDirectory() as folder:
        for path in root.iterdir():  # what a command may write into is a copy
            (Path(folder) / path.name).symlink_to(path)
        yield
        code, told = call(command.arguments, folder, command.trains)
        lost = [path for path, content in kept.items() if path.read_bytes() != content]
        for path in lost:
            path.write_bytes(kept[path])
        for path in [path for path in root.rglob("*") if path.is_file() and path not in kept]:
            path.unlink()
        assert code in (None, 0, 2), f"code {code}: {told[-300:]}"
        if code == 2:
            assert not lost, f"changed: {lost}"
            assert told, "nothing said"
            assert "Traceback" not in told
            raise ValueError(told)
        yield


DOORS = [Door(f"sk-bnreg {name}", commands(name), visit, frozenset(), ("command_doors.py",)) for name in OPTIONS]
