"""The order of the house: a file imports only from files above it, and importing is light."""

import ast
import subprocess
import sys
from pathlib import Path

import sk_bnreg

ORDER = [
    "_roles",
    "_embedding",
    "_stack",
    "_data",
    "_optim",
    "_net",
    "_workers",
    "_training",
    "_simd",
    "_elementary",
    "_passes",
    "_kernel",
    "_compiled",
    "_fit",
    "_base",
    "_estimators",
    "_evaluation",
    "_search",
    "_space",
    "_trials",
    "_tuning",
    "_stats",
    "_rotation",
    "_diagnostics",
    "_displays",
    "_diagnosis_displays",
    "_survey_displays",
    "_report",
    "_comparison",
    "_store",
    "_study",
    "_tables",
    "_survey",
    "_reproduce",
    "cli",
    "__main__",
]
PACKAGE = Path(sk_bnreg.__file__).parent


def test_files_import_only_from_files_above_them():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*ORDER, "__init__"}
    for name in ORDER:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text())
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        own = [module.split(".")[1] for module in modules if module.startswith("sk_bnreg.")]
        assert all(ORDER.index(other) < ORDER.index(name) for other in own), name


def test_importing_adds_nothing_that_only_the_study_needs():
    """Beyond what skorch and scikit-learn import themselves."""
    code = "import torch, skorch, sklearn.callback, sys; before = set(sys.modules)"
    code += "; import sk_bnreg, sk_bnreg._stats; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
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
    }
    assert not added & needed


def test_all_public_names_exist():
    assert all(getattr(sk_bnreg, name).__doc__ for name in sk_bnreg.__all__)
