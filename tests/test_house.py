"""The order of the house: a file imports only from files above it, and importing is light."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from skorch import NeuralNet

import sk_bnreg
from sk_bnreg.borrowed import BaseSearchCV

# Folders, and the files in each, in the order of imports.
HOUSE = {
    "engine": "embedding normalisation roles functions dropout stack training_pass rows solvers net workers training "
    "simd elementary passes buffers kernel compiled tasks",
    "estimators": "targets checks preparation base networks fit_stack pipelines",
    "export": "model_file onnx_graph",
    "search": "evaluation splits predictions ensemble grid space trials worker tuning",
    "stats": "folds looks tables",
    "theory": "rotation diagnosis finding equilibria reproduce",
    "report": "results displays diagnosis_displays survey_displays pages",
    "study": "warned schemes candidates held_out plan tried comparison nested store spread run compare files tables "
    "questions survey",
    "cli": "runner answers compare rescore tune predict export survey reproduce main",
}
ORDER = ["borrowed", *(f"{folder}.{file}" for folder, files in HOUSE.items() for file in files.split())]
PACKAGE = Path(sk_bnreg.__file__).parent


def test_files_import_only_from_files_above_them():
    tops = {"__init__", "__main__", *(f"{folder}.__init__" for folder in HOUSE)}
    assert {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")} == {
        *ORDER,
        *tops,
    }
    for name in ORDER:
        tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        modules = [node.module for node in imports] + [
            f"{node.module}.{n.name}" for node in imports for n in node.names
        ]
        own = [module.removeprefix("sk_bnreg.") for module in modules if module.startswith("sk_bnreg.")]
        own = [module for module in own if module in ORDER]
        above = ORDER[: ORDER.index(name)]
        assert set(own) <= set(above), name


IMPORTED = """
import os, random, sys, warnings
import numpy, torch, skorch, sklearn.callback
def shared():
    threads = os.listdir("/proc/self/task") if os.path.exists("/proc/self/task") else []
    generators = random.getstate(), repr(numpy.random.get_state()), torch.get_rng_state().tolist()
    settings = torch.get_default_dtype(), torch.is_grad_enabled(), sklearn.get_config(), numpy.geterr()
    shown = warnings.filters[:], warnings.showwarning
    return threads, torch.get_num_threads(), generators, settings, shown, dict(os.environ)
before, modules = shared(), set(sys.modules)
import sk_bnreg, sk_bnreg.stats.tables
assert shared() == before
print(*set(sys.modules) - modules)
"""


def test_importing_starts_no_thread_changes_nothing_and_adds_nothing_that_only_the_study_needs():
    """Beyond what skorch and scikit-learn do themselves."""
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    added = {name.split(".")[0] for name in done.stdout.split()}
    assert "sk_bnreg" in added
    needed = {
        "numba",
        "llvmlite",
        "matplotlib",
        "optuna",
        "pandas",
        "skrub",
        "rich",
        "typer",
        "pyarrow",
        "statsmodels",
        "scikit_posthocs",
        "onnx",
        "safetensors",
        "skops",
    }
    assert not added & needed


def test_what_other_packages_keep_to_themselves_is_borrowed_in_one_place():
    """Beyond what a base class offers those that inherit from it, and what numba's manual shows."""
    trees = {path.stem: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    nodes = [(file, node) for file, tree in trees.items() for node in ast.walk(tree)]
    definitions = (ast.FunctionDef, ast.ClassDef)
    ours = {node.name for _, node in nodes if isinstance(node, definitions)}
    ours |= {node.attr for _, node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    ours |= {node.id for _, node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    read = [(file, node.attr) for file, node in nodes if isinstance(node, ast.Attribute) and node.attr not in ours]
    imports = [(file, node) for file, node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    read += [(file, part) for file, node in imports for part in node.module.split(".")]
    read += [(file, alias.name) for file, node in imports for alias in node.names]
    private = {(file, name) for file, name in read if name.startswith("_") and not name.startswith("__")}
    private = {(file, name) for file, name in private if file != "borrowed" and not hasattr(NamedTuple("N", []), name)}
    of_bases = {
        ("checks", "_validate_params"): BaseEstimator,
        ("base", "_init_callback_context"): CallbackSupportMixin,
        ("grid", "_validate_params"): BaseSearchCV,
        ("grid", "_init_callback_context"): BaseSearchCV,
        ("grid", "_get_scorers"): BaseSearchCV,
        ("grid", "_get_routed_params_for_fit"): BaseSearchCV,
        ("grid", "_run_search"): BaseSearchCV,
        ("grid", "_check_refit_for_multimetric"): BaseSearchCV,
        ("grid", "_select_best_index"): BaseSearchCV,
        ("grid", "_format_results"): BaseSearchCV,
        ("net", "_default_callbacks"): NeuralNet,
    }
    assert private - {*of_bases} == {("simd", "_getvalue")}
    gone = [name for (_, name), base in of_bases.items() if not hasattr(base, name)]
    assert gone == []


def test_what_all_threads_of_a_process_share_is_not_changed():
    """Of two threads that change a thing and put it back the last puts back what the first made of it.

    The command has its process to itself, and a forked child has one thread. Filters are put back by `recorded` when no
    thread records any more; elsewhere one that may stay for ever hides a single message that nobody misses.
    """
    changing = {"set_num_threads", "set_rng_state", "set_default_dtype", "environ", "seterr", "catch_warnings"}
    found = {
        (path.parent.name, path.stem, node.attr)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in changing
    }
    assert {(file, name) for folder, file, name in found if folder != "cli"} == {
        ("workers", "set_num_threads"),
        ("warned", "catch_warnings"),
        ("model_file", "catch_warnings"),
        ("pages", "catch_warnings"),
    }


def test_all_public_names_exist():
    assert all(getattr(sk_bnreg, name).__doc__ for name in sk_bnreg.__all__)
