"""Reproduced results: that they hold, and that they would not if the engine were wrong."""

import json

import numpy as np
import pytest
import torch

from sk_bnreg.engine import compiled
from sk_bnreg.theory import reproduce
from sk_bnreg.theory.reproduce import Finding, exponential_rates, invariances, rate_and_decay, tuned_weight_decays


@pytest.mark.parametrize("result", [exponential_rates, invariances, tuned_weight_decays])
def test_results_hold(result):
    findings = list(result())
    assert [finding for finding in findings if finding.passed is False] == []
    assert any(finding.passed for finding in findings)


@pytest.mark.parametrize(("result", "figure"), [(exponential_rates, 0), (rate_and_decay, 0)])
def test_a_solver_that_decays_a_little_too_much_is_found_out(result, figure, monkeypatch):
    right = compiled._member

    def wrong(*arguments):
        member = right(*arguments)
        return member._replace(coupled=member.coupled * 1.001 + 1e-6 * (member.coupled > 0))

    monkeypatch.setattr(compiled, "_member", wrong)
    monkeypatch.setattr(reproduce, "rate_decay_grid", lambda: pytest.fail("the first figure is enough"))
    finding = next(result())
    assert finding.passed is False
    assert finding.value > 100 * finding.high


def test_a_batch_norm_that_lets_the_scale_through_is_found_out(monkeypatch):
    monkeypatch.setattr(reproduce, "_EXACT", {"dtype": "float64", "batch_norm_eps": 0.1})
    assert next(invariances()).passed is False


def test_weights_in_equilibrium_turn_as_predicted_on_a_short_run():
    """One seed of a hand-written scale-invariant loss: SGD with momentum on random gradients orthogonal to w."""
    generator = torch.Generator().manual_seed(0)
    lr, l2, momentum = 0.1, 5e-3, 0.9
    w, v = torch.randn(256, generator=generator, dtype=torch.float64), torch.zeros(256, dtype=torch.float64)
    angles = []
    for step in range(6000):
        g = torch.randn(256, generator=generator, dtype=torch.float64)
        g = (g - w * (g @ w) / (w @ w)) / w.norm()
        v = momentum * v + g + l2 * w
        after = w - lr * v
        if step > 3000:
            angles.append(torch.arccos(w @ after / w.norm() / after.norm()) ** 2)
        w = after
    assert torch.stack(angles).mean().sqrt() == pytest.approx((2 * lr * l2 / 1.9) ** 0.5, rel=0.02)


def test_findings_are_judged_by_their_statistic():
    values = (0.9, 1.0, 1.3)
    median = Finding("R0", "claim", "source", "quantity", 1.0, values, "median", 0.95, 1.05)
    largest = Finding("R0", "claim", "source", "quantity", 1.0, values, "largest", 0.95, 1.05)
    assert (median.value, median.passed, median.allowed) == (1.0, True, "0.95 to 1.05")
    assert (largest.value, largest.passed) == (1.3, False)
    assert Finding("R0", "c", "s", "q", None, values, "smallest", 0.9, None).allowed == "at least 0.9"
    assert Finding("R0", "c", "s", "q", None, values, "mean").passed is None


@pytest.mark.parametrize("holds", [True, False])
def test_the_command_tells_saves_and_fails_with_its_figures(holds, call, monkeypatch, tmp_path):
    low = 0.9 if holds else 1.1
    findings = [
        Finding("R1", "A claim.", "Somebody 2020", "a ratio", 1.0, (0.9, 1.0, 1.2), "median", low, 1.3),
        Finding("R1", "A claim.", "Somebody 2020", "a gap", None, (0.1, 0.3), "mean", interval=(-0.1, 0.5)),
    ]
    monkeypatch.setattr(reproduce, "reproduce", lambda: iter(findings))
    done = call("--out", tmp_path / "found.json", command="reproduce")
    assert done.returncode == (0 if holds else 1)
    told = " ".join(done.stdout.split())
    assert told.count("R1 A claim. (Somebody 2020)") == 1
    mark = "ok" if holds else "FAILED"
    assert f"{mark} a ratio: 1, median of 3, from 0.9 to 1.2; predicted: 1; allowed:" in told
    assert "a gap: 0.2, mean of 2, from 0.1 to 0.3, corrected 95 % interval -0.1000 to 0.5000" in told
    assert f"{int(holds)} of 1 judged figures are within their bounds; 1 more are reported." in told
    saved = json.loads((tmp_path / "found.json").read_text())
    assert [one["value"] for one in saved] == [1.0, pytest.approx(0.2)]
    assert [one["passed"] for one in saved] == [holds, None]
    np.testing.assert_allclose(saved[0]["measured"], [0.9, 1.0, 1.2])
