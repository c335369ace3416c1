"""Settings of generation that transformers refuses to save are mended when a model is loaded, not after a training."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from icon_repro.data.options import Dtype
from icon_repro.lm.load import load_model

CPU = torch.device("cpu")


def model_step(folder: Path, model: Path, **settings: object) -> Path:
    """A model step of ``model`` whose generation_config.json says ``settings``."""
    shutil.copytree(model, folder / "weights")
    (folder / "weights" / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    return folder


def test_sampling_without_do_sample_is_left_out(tmp_path: Path, tiny_model: Path) -> None:
    folder = model_step(tmp_path / "step", tiny_model, temperature=0.6, top_p=0.9, eos_token_id=1)
    published = AutoModelForCausalLM.from_pretrained(folder / "weights")
    published.generation_config.pad_token_id = 2  # as a trainer does
    with pytest.raises(ValueError, match="GenerationConfig is invalid"):  # what ended a training
        published.save_pretrained(tmp_path / "fails")
    model = load_model(folder, Dtype.float32, CPU)
    model.generation_config.pad_token_id = 2
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == 1
    assert "temperature" not in saved and "top_p" not in saved and not saved.get("do_sample")


def test_valid_settings_stay(tmp_path: Path, tiny_model: Path) -> None:
    folder = model_step(tmp_path / "step", tiny_model, do_sample=True, temperature=0.6, eos_token_id=1)
    assert load_model(folder, Dtype.float32, CPU).generation_config.temperature == 0.6
