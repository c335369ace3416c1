"""LoRA for whatever trains or differentiates: its settings as peft's, and what a training with it leaves behind.

In: our LoraConfig and a model.  Out: peft's config; the trainer's checkpoints while it runs, a portable adapter.
"""

import shutil
from pathlib import Path

from peft import LoraConfig as PeftLora
from torch import nn

from icon_repro.config_data import LoraConfig
from icon_repro.records import read_json, write_json
from icon_repro.schema import nearest


def peft_lora(lora: LoraConfig, task_type: str, dropout: float | None = None) -> PeftLora:
    """``lora`` as peft takes it; ``dropout`` in place of its own."""
    return PeftLora(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout if dropout is None else dropout,
        target_modules=list(lora.targets),
        task_type=task_type,
    )


def unknown_target(lora: LoraConfig, model: nn.Module) -> str | None:
    """What is wrong with the first target that the model has no module for; peft is content if one of them is there."""
    names = [f".{name}" for name, _ in model.named_modules()]
    for target in lora.targets:
        if not any(name.endswith(f".{target}") for name in names):
            known = nearest(target, {name.rpartition(".")[2] for name in names})
            return f"lora.targets: the model has no module {target!r}.{known}"
    return None


def checkpoints(out: Path) -> list[Path]:
    """Complete trainer checkpoints of earlier attempts, oldest first; trainer_state.json is written last."""
    states = (out / "checkpoints").glob("checkpoint-*/trainer_state.json")
    return sorted((path.parent for path in states), key=lambda path: int(path.name.split("-")[1]))


def remove_checkpoints(out: Path) -> None:
    """Remove all checkpoints such that a half-removed one isn't resumed from."""
    for checkpoint in checkpoints(out):
        (checkpoint / "trainer_state.json").unlink()
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def tidy(adapter: Path, hub_id: str | None) -> None:
    """Remove the base model's folder, which peft writes into two files, and sort the targets: a set, in any order."""
    (adapter / "README.md").unlink()
    config = read_json(adapter / "adapter_config.json")
    config |= {"base_model_name_or_path": hub_id, "target_modules": sorted(config["target_modules"])}
    write_json(adapter / "adapter_config.json", config)
