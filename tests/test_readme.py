"""The README's code prints what the README says."""

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

import sk_bnreg

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


def test_results_tell_what_the_saved_surveys_found(tmp_path):
    docs = Path(__file__).parent.parent / "docs"
    write = runpy.run_path(str(docs / "results.py"))["main"]
    write(docs / "survey.parquet", docs / "survey_large.parquet", out=tmp_path)
    assert (tmp_path / "results.md").read_text() == (docs / "results.md").read_text()


def test_theory_tells_what_was_reproduced():
    docs = Path(__file__).parent.parent / "docs"
    saved = (docs / "reproduce.json").read_text()
    page = (docs / "theory.md").read_text()
    assert runpy.run_path(str(docs / "theory.py"))["text"](saved) == page
    findings = json.loads(saved)
    assert {finding["key"] for finding in findings} == {f"R{i}" for i in range(1, 9)}
    assert [one["quantity"] for one in findings if one["predicted"] is not None and one["passed"] is None] == []
    # what is exact holds; an angle or a norm may miss its prediction if the page lists it with what explains it
    missed = [one for one in findings if one["passed"] is False]
    for one in missed:
        (why,) = (other for other in findings if (other["key"], other["explains"]) == (one["key"], one["quantity"]))
        assert why["passed"]
        told = f"{one['quantity']}: {one['value']:.3f}; {why['value']:.3f} with the gradients as measured"
        assert f"* {one['key']}, {told}\n" in page
    ran = [one for one in findings if one["origin"] == "run" and one["passed"] is not None and not one["explains"]]
    assert f"{len(ran) - len(missed)} of {len(ran)} are within" in page


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


def test_every_public_name_has_its_page_and_an_example_that_runs():
    docs = Path(__file__).parent.parent / "docs"
    listed = re.findall(r"^   (\w+)$", (docs / "api.md").read_text(), flags=re.M)
    assert sorted(listed) == sorted(sk_bnreg.__all__)
    gallery = "\n".join(path.read_text() for path in (docs / "examples").glob("*.py"))
    code = re.sub(r"^#.*\n", "", gallery, flags=re.M)
    runs = [name for name in listed if ">>>" in getattr(sk_bnreg, name).__doc__ or re.search(rf"\b{name}[(.]", code)]
    assert runs == listed
