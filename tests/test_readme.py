"""The README's code prints what the README says."""

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from sk_bnreg.study.survey import Survey

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_code_prints_what_it_says():
    code, said = re.search(r"```python\n(.*?)```\s+```\n(.*?)```", README, flags=re.S).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    # it trains in float64: in float32, where sums in another order give other digits, some rows change sides
    assert printed.getvalue() == said


def test_two_commands_within_the_first_60_lines():
    head = README.splitlines()[:60]
    assert [line for line in head if line.startswith("pip install")] == [
        'pip install -c constraints.txt ".[study]" && sk-bnreg compare',
        'pip install -U pip && pip install -c constraints.txt -e ".[all]" --group dev && pytest -n 2',
    ]


def test_results_tell_what_the_saved_survey_found():
    docs = Path(__file__).parent.parent / "docs"
    survey, text = Survey.load(docs / "survey.parquet"), (docs / "results.md").read_text()
    assert all(answer.summary() in text for answer in survey.overall())
    assert f"{survey.tables()['n_fits'].sum():,} network fits" in " ".join(text.split())
    for answer in survey.answers():
        assert f"| {answer.test.median:+z.4f} |" in text


def test_theory_tells_what_was_reproduced():
    docs = Path(__file__).parent.parent / "docs"
    saved = (docs / "reproduce.json").read_text()
    assert runpy.run_path(str(docs / "theory.py"))["text"](saved) == (docs / "theory.md").read_text()
    findings = json.loads(saved)
    assert {finding["key"] for finding in findings} == {f"R{i}" for i in range(1, 9)}
    assert not [finding["quantity"] for finding in findings if finding["passed"] is False]


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_pages_tell_what_is_saved(page):
    root = Path(__file__).parent.parent
    filled = runpy.run_path(str(root / "docs" / "fill.py"))["filled"]
    text = (root / page).read_text()
    assert filled(text) == text
    blanked = re.sub(r"\d", "0", text)
    assert filled(blanked) != blanked


def test_accuracy_tells_what_was_measured(tmp_path, monkeypatch):
    root = Path(__file__).parent.parent
    page = tmp_path / "accuracy.md"
    page.write_text((root / "docs" / "accuracy.md").read_text())
    monkeypatch.syspath_prepend(root / "benchmarks")
    for name in ("accuracy", "ablation"):
        script, results = root / "benchmarks" / f"{name}.py", root / "docs" / f"{name}.jsonl"
        monkeypatch.setattr(sys, "argv", [str(script), "write", str(results), str(page)])
        runpy.run_path(str(script), run_name="__main__")
    assert page.read_text() == (root / "docs" / "accuracy.md").read_text()
