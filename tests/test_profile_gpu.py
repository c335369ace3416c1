"""The script that profiles a GPU, on its tiny shape and a CPU."""

import json

import pytest

from experiments.scoring_cost.profile_gpu import main


def test_tiny_shape_is_measured_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shape", "tiny", "--device", "cpu", "--rows", "12", "--candidates", "2", "--batch", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["float8"]["reference"] and 0 < found["float8"]["rms_nll"] < 0.05 and found["float8"]["layers"] == 14
    assert found["float8"]["rms"] > 0 and found["float8"]["standard_error"] > 0
    assert "pairs_per_s" not in found["float8"]  # its speed isn't measured here, and none is made up
    assert sum(found["kernels"].values()) == pytest.approx(1, abs=0.01) and found["kernels"]["matrix products"] > 0
    assert all(0 < found["tuning"][kind]["share_of_peak"] < 1 for kind in ("full", "lora"))


def test_large_shape_is_refused_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu"]) == 1 and "--shape tiny" in capsys.readouterr().err
