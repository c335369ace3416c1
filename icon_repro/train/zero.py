"""Set up DeepSpeed's ZeRO: processes share optimizer state, gradients and (stage 3) weights; offload to memory.

In: ``training.deepspeed``.  Out: settings for the trainer, whole weights at the end, which checkpoints can be resumed.
Source: Rajbhandari et al., arXiv 1910.02054; the paper tunes with ZeRO-3 and CPU offload.
Differs: weights and what processes exchange stay float32, and the forward pass is torch's autocast, as without
DeepSpeed; DeepSpeed's own bfloat16 would round weights and gradients. Adam is torch's: no operator is compiled.
A checkpoint of another number of processes is first converted into DeepSpeed's universal one, in this process; for a
while that takes the disk three times.
Known gap: a checkpoint of another stage, or of none, isn't resumed.
"""

import contextlib
import io
import shutil
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icon_repro.data.options import Dtype
from icon_repro.engine.console import say
from icon_repro.engine.folders import sync
from icon_repro.engine.records import RecordError, read_sealed, write_sealed
from icon_repro.lm.adapter import checkpoints, remove_checkpoints, seal, sealed
from icon_repro.train.batches import TrainError
from icon_repro.train.options import DeepspeedConfig, TrainConfig

_NOTE = "saved_by.json"  # beside the trainer's checkpoints
_UNIVERSAL = "latest_universal"  # DeepSpeed's name, in a checkpoint that any number of processes can load


def used(train: TrainConfig, processes: int, device: torch.device, out: Path | None = None) -> DeepspeedConfig | None:
    """What DeepSpeed is used for; None if there is nothing to share, to offload from, or to go on with.

    Args:
        out: where a checkpoint may be that several processes have saved with DeepSpeed: then one goes on with it.
    """
    deepspeed = train.deepspeed
    if deepspeed is None or processes > 1 or (deepspeed.offload and device.type == "cuda"):
        return deepspeed
    saved = None if out is None else _saved(out)
    # the note first: to find the sound checkpoints takes their checksums
    return deepspeed if out and saved and saved["stage"] == deepspeed.stage and checkpoints(out) else None


def settings(
    deepspeed: DeepspeedConfig, dtype: Dtype, device: torch.device, *, resume: Path | None = None
) -> dict[str, Any]:
    """As ``TrainingArguments`` takes them, to go on from ``resume``. On a CPU there is nothing to offload from."""
    zero: dict[str, Any] = {
        "stage": deepspeed.stage,
        "contiguous_gradients": True,
        "overlap_comm": device.type == "cuda",
        "reduce_bucket_size": "auto",
    }
    if deepspeed.stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,  # in the type that they have, float32
        }
    if deepspeed.offload and device.type == "cuda":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        if deepspeed.stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "torch_autocast": {
            "enabled": dtype is Dtype.bfloat16,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # gradients of none are exchanged in bfloat16
        },
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "steps_per_print": 1_000_000_000,
        **({"checkpoint": {"load_universal": True}} if resume is not None and universal(resume) else {}),
    }


def prepare(device: torch.device) -> None:
    """Let DeepSpeed know the processes. Before a model is loaded: ZeRO-3 splits its weights as they are read.

    Raises:
        TrainError: DeepSpeed isn't installed.
    """
    try:
        import deepspeed  # for Linux only, see pyproject.toml
    except ImportError as error:
        raise TrainError(f"training.deepspeed: {error}. Install deepspeed, or set training.deepspeed=null.") from error
    if device.type == "cpu":
        # an operator for inference that would be compiled for a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl")


def size(parameter: nn.Parameter) -> int:
    """Numbers in a parameter, all of them where ZeRO-3 holds a part."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def weights_of(model: nn.Module, *, embeddings: bool = True) -> int:
    """Numbers in the weights of ``model``, with or without those of its embeddings."""
    skipped = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    return sum(size(p) for name, p in model.named_parameters() if embeddings or name not in skipped)


def make_resumable(out: Path, processes: int, deepspeed: DeepspeedConfig | None) -> None:
    """Convert a checkpoint that ZeRO has split for another number of processes; refuse one of another stage.

    Raises:
        TrainError: it can't be resumed; says what to set, or to delete.
    """
    stage = deepspeed.stage if deepspeed else 0
    earlier = checkpoints(out)
    if not earlier:
        return
    saved = _saved(out)
    if saved is None:
        remove_checkpoints(out)
        return
    if saved["stage"] != stage:
        raise TrainError(
            f"{earlier[-1]}: was saved by {_named(**saved)} and can't be resumed by {_named(processes, stage)}. Set "
            f"training.deepspeed{'.stage=' + str(saved['stage']) if saved['stage'] else '=null'} to go on, or delete "
            f"{out / 'checkpoints'} to begin again."
        )
    if stage:
        _remove_leftovers(earlier[-1])
    if stage and saved["processes"] != processes and not universal(earlier[-1]):
        say(f"{earlier[-1].name}: of {_named(**saved)}, converted for {_named(processes, stage)}")
        _convert(earlier[-1], saved["processes"])


def _saved(out: Path) -> dict[str, int] | None:
    """How many processes saved the checkpoints below ``out``, with which stage; None if that can't be read."""
    note = out / "checkpoints" / _NOTE
    try:
        return dict(read_sealed(note)) if note.is_file() else {"processes": 1, "stage": 0}
    except RecordError as error:
        say(f"{error} Training begins again.")
        return None


def universal(checkpoint: Path) -> bool:
    """Whether a sound checkpoint is one that any number of processes can take up."""
    return _UNIVERSAL in sealed(checkpoint)


def _remove_leftovers(checkpoint: Path) -> None:
    """Remove what an interrupted conversion has left: folders of which the seal names nothing."""
    sealed_folders = {name.partition("/")[0] for name in sealed(checkpoint)}
    for folder in checkpoint.glob("global_step*"):
        if folder.name not in sealed_folders:
            shutil.rmtree(folder)


def _convert(checkpoint: Path, processes: int) -> None:
    """Make DeepSpeed's universal checkpoint in place of what each process saved. What was there counts until sealed.

    Raises:
        TrainError: it can't be converted.
    """
    from deepspeed.checkpoint.ds_to_universal import main  # see prepare

    saved = checkpoint / (checkpoint / "latest").read_text(encoding="utf-8").strip()
    converted = checkpoint / f"{saved.name}_universal"
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / "checkpoint"  # its paths become patterns: one without special characters
        plain.symlink_to(checkpoint.absolute(), target_is_directory=True)
        task = {"input_folder": str(plain / saved.name), "output_folder": str(plain / converted.name)}
        settings = {"keep_temp_folder": False, "strict": True, "inject_missing_state": True}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                main(Namespace(num_extract_workers=1, num_merge_workers=1, **task, **settings))
            sync(converted)
        except BaseException as error:
            shutil.rmtree(converted, ignore_errors=True)
            if not isinstance(error, Exception):
                raise
            raise TrainError(
                f"{checkpoint}: can't be converted for another number of processes: {type(error).__name__}: {error}. "
                f"Set cluster.processes={processes} to go on, or delete {checkpoint.parent} to begin again."
            ) from error
    (checkpoint / _UNIVERSAL).write_text(converted.name, encoding="utf-8")
    seal(checkpoint, without=saved.name)
    shutil.rmtree(saved)


def note_saver(out: Path, processes: int, deepspeed: DeepspeedConfig | None) -> None:
    """Note by whom the checkpoints below ``out`` are saved, for ``make_resumable``."""
    (out / "checkpoints").mkdir(exist_ok=True)
    write_sealed(out / "checkpoints" / _NOTE, {"processes": processes, "stage": deepspeed.stage if deepspeed else 0})


def _named(processes: int, stage: int) -> str:
    number = "1 process" if processes == 1 else f"{processes} processes"
    return f"{number} {f'with DeepSpeed ZeRO-{stage}' if stage else 'without DeepSpeed'}"
