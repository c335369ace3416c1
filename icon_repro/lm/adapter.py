"""Make LoRA adapters for all that trains or differentiates, and tidy up what a training with one leaves behind.

In: our LoraConfig and a model.  Out: peft's config; the trainer's checkpoints while it runs, a portable adapter.
A checkpoint counts once it is sealed by sizes and checksums: neither half of one nor a damaged one is resumed from.
"""

import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig as PeftLora
from torch import nn
from transformers import TrainerCallback

from icon_repro.engine.artifact import HASHED_BYTES, altered, manifest
from icon_repro.engine.console import say
from icon_repro.engine.records import RecordError, read_json, read_sealed, write_json, write_sealed
from icon_repro.engine.schema import nearest
from icon_repro.lm.load import tied_targets
from icon_repro.lm.options import LoraConfig

_SEAL = "sealed.json"  # in a checkpoint: its files as they were saved


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
    """What is wrong with a target: the model has no such module (peft is content with one of them), or ties it."""
    names = [f".{name}" for name, _ in model.named_modules()]
    for target in lora.targets:
        if not any(name.endswith(f".{target}") for name in names):
            known = nearest(target, {name.rpartition(".")[2] for name in names})
            return f"lora.targets: the model has no module {target!r}.{known}"
    return tied_targets(model, lora.targets)


class SealCheckpoints(TrainerCallback):
    """Has the first process seal each checkpoint; the others have written theirs when trainer_state.json is."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seal(checkpoint)


def seal(checkpoint: Path, without: str | None = None) -> None:
    """Note the files of ``checkpoint`` but those in its folder ``without``; till then an older seal holds."""
    left_out = (_SEAL, *([] if without is None else [f"{without}/"]))
    files = manifest(checkpoint, HASHED_BYTES)
    write_sealed(checkpoint / _SEAL, {name: file for name, file in files.items() if not name.startswith(left_out)})


def sealed(checkpoint: Path) -> dict[str, Any]:
    """The files of a sound checkpoint, by name."""
    return dict(read_sealed(checkpoint / _SEAL))


def checkpoints(out: Path) -> list[Path]:
    """Trainer checkpoints of earlier attempts that are as they were saved, oldest first; others are named and removed.

    The trainer keeps as many as it is told to, by number where their times are alike, and would keep one of these.
    """
    folders = (out / "checkpoints").glob("checkpoint-*")
    return [path for path in sorted(folders, key=lambda path: int(path.name.split("-")[1])) if _sound(path)]


def _sound(checkpoint: Path) -> bool:
    try:
        problem = altered(checkpoint, read_sealed(checkpoint / _SEAL))
    except FileNotFoundError:
        problem = "its saving was cut short"
    except RecordError as error:
        problem = str(error)
    if problem:
        say(f"{checkpoint.name} isn't resumed from, and removed: {problem}")
        shutil.rmtree(checkpoint, ignore_errors=True)
    return problem is None


def remove_checkpoints(out: Path) -> None:
    """Remove all checkpoints; a half-removed one isn't as it was sealed."""
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def tidy(adapter: Path, hub_id: str | None) -> None:
    """Remove the base model's folder, which peft writes into two files, and sort the targets: a set, in any order."""
    (adapter / "README.md").unlink()
    config = read_json(adapter / "adapter_config.json")
    config |= {"base_model_name_or_path": hub_id, "target_modules": sorted(config["target_modules"])}
    write_json(adapter / "adapter_config.json", config)


def after_epoch(tuned: Path, epoch: int | None) -> Path:
    """Where a training in the folder ``tuned`` has its weights after an epoch; None: after the last."""
    return tuned if epoch is None else tuned / f"after-epoch-{epoch}"
