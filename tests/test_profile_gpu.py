"""The script that profiles a GPU, on its tiny shape and a CPU."""

import json

import pytest
import torch
from torch import nn

from experiments.scoring_cost.bench_gpu import SHAPES, random_model
from experiments.scoring_cost.profile_gpu import Float8Linear, in_float8, main, quantised


def test_float8_has_a_scale_a_row_and_is_near_what_it_stands_for() -> None:
    torch.manual_seed(0)
    rows = torch.randn(6, 64) * torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0, 0.0])[:, None]
    values, scale = quantised(rows)
    assert values.dtype is torch.float8_e4m3fn and scale.shape == (6, 1)
    error = (values.float() * scale - rows).abs().amax(dim=1)
    assert (error <= rows.abs().amax(dim=1) / 16 + 1e-12).all() and error[1] > 0
    linear = nn.Linear(64, 32, bias=False).to(torch.bfloat16)
    given = torch.randn(2, 3, 64, dtype=torch.bfloat16)
    exact, found = linear(given).float(), Float8Linear(linear, native=False)(given).float()
    assert found.shape == exact.shape and 0 < (found - exact).pow(2).mean().sqrt() < 0.06 * exact.std()


def test_all_linear_layers_of_the_decoder_are_replaced_and_the_head_is_not() -> None:
    model = random_model(SHAPES["tiny"], torch.device("cpu"), torch.bfloat16)
    assert in_float8(model, native=False) == 2 * 7
    assert isinstance(model.lm_head, nn.Linear)
    assert not any(isinstance(module, nn.Linear) for module in model.model.modules())


def test_tiny_shape_is_measured_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shape", "tiny", "--device", "cpu", "--rows", "12", "--candidates", "2", "--batch", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["float8"]["simulated"] and 0 < found["float8"]["rms_nll"] < 0.05
    assert "pairs_per_s" not in found["float8"]  # its speed isn't measured here, and none is made up
    assert sum(found["kernels"].values()) == pytest.approx(1, abs=0.01) and found["kernels"]["matrix products"] > 0
    assert all(0 < found["tuning"][kind]["share_of_peak"] < 1 for kind in ("full", "lora"))


def test_large_shape_is_refused_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu"]) == 1 and "--shape tiny" in capsys.readouterr().err
