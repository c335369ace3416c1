"""GPUs that a configuration names and this machine lacks are known before any work, without torch."""

import importlib.metadata
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from icon_repro.engine import accelerators
from icon_repro.engine.accelerators import gpus, missing_gpus
from icon_repro.engine.options import ClusterConfig


def machine(monkeypatch: pytest.MonkeyPatch, count: int, torch: str = "2.13.0") -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: torch if name == "torch" else version(name))
    monkeypatch.setattr(accelerators, "gpus", lambda: (count, "CUDA's driver sees none"))


@pytest.mark.parametrize(
    ("settings", "count", "torch", "part"),
    [
        (
            {"device": "cuda"},
            0,
            "2.13.0",
            "cluster.device='cuda': this machine has no GPU (CUDA's driver sees none): set",
        ),
        ({"device": "cuda"}, 8, "2.13.0+cpu", "cluster.device='cuda': torch 2.13.0+cpu is built for the CPU."),
        ({"device": "cuda:2"}, 2, "2.13.0+cu130", "cluster.device='cuda:2': this machine has 2, numbered from 0."),
        ({"device": "cuda", "processes": 4}, 2, "2.13.0", "cluster.processes=4: this machine has 2 GPUs, and each"),
        ({"device": "cuda", "processes": 2}, 2, "2.13.0", None),
        ({"device": "cuda:1"}, 2, "2.13.0", None),
        ({"device": "cuda"}, 0, "2.13.0+rocm7", None),
        ({"device": "auto", "processes": 4}, 0, "2.13.0+cpu", None),
        ({"device": "cpu"}, 0, "2.13.0+cpu", None),
    ],
    ids=str,
)
def test_missing_gpus_are_named_with_key_and_remedy(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], count: int, torch: str, part: str | None
) -> None:
    machine(monkeypatch, count, torch)
    found = missing_gpus(ClusterConfig(**settings))
    assert (part is None and found == []) or (len(found) == 1 and part is not None and part in found[0]), found


def test_gpus_are_as_many_as_torch_sees() -> None:
    import torch

    count, why = gpus()
    if torch.version.cuda is None:  # it sees none, whatever there is
        assert count > 0 or why
    else:
        assert count == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("initial", "count", "there", "why"),
    [
        (0, 3, 3, ""),
        (0, 0, 0, "CUDA_VISIBLE_DEVICES may hide them"),
        (100, 3, 0, "CUDA_VISIBLE_DEVICES may hide them"),
        (999, 3, 0, "CUDA's driver gives error 999"),
    ],
)
def test_gpus_are_as_many_as_the_driver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, initial: int, count: int, there: int, why: str
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a driver with")
    calls = f"int cuInit(unsigned flags) {{ return {initial}; }}", "int cuDeviceGetCount(int *n) "
    (tmp_path / "driver.c").write_text(f"{calls[0]}\n{calls[1]}{{ *n = {count}; return 0; }}\n", encoding="utf-8")
    made = [compiler, "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(tmp_path / "driver.c")]
    subprocess.run(made, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found, reason = gpus()
    assert found == there and (there > 0 or reason == why)
