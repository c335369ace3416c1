"""What a training with LoRA leaves behind: the trainer's checkpoints while it runs, a portable adapter at the end."""

import shutil
from pathlib import Path

from icon_repro.records import read_json, write_json


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
