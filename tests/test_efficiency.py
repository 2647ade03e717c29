"""benchmarks/efficiency.py: TFN is full tensor fusion, and what is counted is what there is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from benchmarks import efficiency
from model import LMF
from reporting.figures import slope


def test_tensor_fusion_is_the_sum_over_all_products_of_the_inputs() -> None:
    torch.manual_seed(0)
    widths, outputs = (2, 3, 4), 2
    inputs = [torch.randn(5, width) for width in widths]
    weight = torch.randn(outputs, 3, 4, 5)
    bias = torch.randn(outputs)
    found = efficiency.tensor_fusion(inputs, weight.flatten(1), bias)
    ones = [torch.cat([torch.ones(5, 1), x], dim=1) for x in inputs]
    expected = torch.zeros(5, outputs) + bias
    for i in range(3):
        for j in range(4):
            for k in range(5):
                products = ones[0][:, i] * ones[1][:, j] * ones[2][:, k]
                expected += products.unsqueeze(1) * weight[:, i, j, k]
    torch.testing.assert_close(found, expected)


def test_models_have_the_same_subnetworks_and_the_fusions_of_the_formulas() -> None:
    tfn, lmf = efficiency.make_model("TFN"), efficiency.make_model("LMF")
    assert isinstance(lmf, LMF)
    shapes = [
        {name: value.shape for name, value in model.state_dict().items() if "_subnet." in name}
        for model in (tfn, lmf)
    ]
    assert shapes[0] == shapes[1]
    assert efficiency.parameter_counts("LMF") == (237_313, 529)
    assert efficiency.parameter_counts("TFN") == (237_313 - 529 + 70_786, 33 * 33 * 65 + 1)


def test_rate_counts_steps_per_second() -> None:
    now, taken = 0.0, 0

    def step() -> None:
        nonlocal now, taken
        now, taken = now + 0.25, taken + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: now)
        assert efficiency.rate(step, "cpu", 10) == pytest.approx(4)
    assert taken >= 40


def test_lead_is_taken_within_each_round() -> None:
    rounds = [(100, 200), (10, 30), (100, 400)]  # the second one was disturbed
    assert efficiency.speed_texts(rounds) == ["100", "200", "3.00"]


def test_slope_is_the_power_of_growth() -> None:
    widths = [4, 8, 16, 32]
    assert slope(widths, [1e6, *(7 * width**3 for width in widths[1:])]) == pytest.approx(3)
    assert slope(widths, [0.5 * width for width in widths]) == pytest.approx(1)


def test_training_steps_change_the_weights_and_testing_steps_do_not() -> None:
    for name in ("TFN", "LMF"):
        before = torch.cat([p.flatten() for p in _parameters_after(name, training=False, steps=0)])
        tested = torch.cat([p.flatten() for p in _parameters_after(name, training=False, steps=2)])
        trained = torch.cat([p.flatten() for p in _parameters_after(name, training=True, steps=2)])
        assert torch.equal(before, tested)
        assert not torch.equal(before, trained)


def _parameters_after(name: str, training: bool, steps: int) -> list[torch.Tensor]:
    made = []
    with pytest.MonkeyPatch.context() as patch:
        make = efficiency.make_model
        patch.setattr(efficiency, "make_model", lambda name: made.append(make(name)) or made[0])
        step = efficiency.make_step(name, 3, "cpu", training)
    for _ in range(steps):
        step()
    return [parameter.detach() for parameter in made[0].parameters()]


def test_report_stands_beside_the_papers_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(efficiency, "FUSION_WIDTHS", {"TFN": [2, 4, 8], "LMF": [2, 4, 8]})
    monkeypatch.setattr(efficiency, "peak_memory", lambda *_: math.nan)
    words = ["--batch_sizes", "3", "--seconds", "0.001", "--output_path", str(tmp_path / "new")]
    efficiency.main(words)
    text = (tmp_path / "new" / "efficiency.md").read_text()
    assert text in capsys.readouterr().out
    (paper,) = (line for line in text.splitlines() if line.startswith("| paper"))
    assert paper.strip("| ").split(" | ")[1:] == [
        *("340.74", "1,134.82", f"{1134.82 / 340.74:.2f}"),
        *("1,177.17", "2,249.90", f"{2249.90 / 1177.17:.2f}"),
        *("–", "–"),
    ]
    (measured,) = (line for line in text.splitlines() if line.startswith("| batch 3"))
    assert all(float(cell.replace(",", "")) > 0 for cell in measured.split(" | ")[1:7])
    assert "| LMF | 237,313 | 529 | O·r·Σ(d+1) + r + O = 529 | 1.1 million |" in text
    assert "| TFN | 307,570 | 70,786 | O·∏(d+1) + O = 70,786 | 12.5 million |" in text
    assert "What can't be compared" in text
    assert (tmp_path / "new" / "efficiency_cpu.png").stat().st_size > 10_000


@pytest.mark.slow
def test_full_tensor_takes_more_memory_than_its_factors() -> None:
    tfn, lmf = (efficiency.peak_memory(name, 128, "cpu") for name in ("TFN", "LMF"))
    if math.isnan(tfn):
        pytest.skip("peak memory is only measured on Linux")
    assert tfn > lmf + 128 * 33 * 33 * 65 * 4 / 1e6
