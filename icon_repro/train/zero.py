"""DeepSpeed's ZeRO: several processes share optimizer state, gradients and (stage 3) weights; offload to main memory.

In: ``training.deepspeed``.  Out: settings for the trainer, whole weights at the end, which checkpoints can be resumed.
Source: Rajbhandari et al., arXiv 1910.02054; the paper tunes with ZeRO-3 and CPU offload.
Differs: weights and what processes exchange stay float32, and the forward pass is torch's autocast, as without
DeepSpeed; DeepSpeed's own bfloat16 would round weights and gradients. Adam is torch's: no operator is compiled.
Known gap: a checkpoint resumes on as many processes as saved it. DeepSpeed's universal checkpoints, which would resume
on others, need a conversion of all files first.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from icon_repro.config_data import DeepspeedConfig, Dtype, TrainConfig
from icon_repro.lm.adapter import checkpoints, remove_checkpoints
from icon_repro.records import RecordError, read_sealed, write_sealed
from icon_repro.train.batches import TrainError

_NOTE = "saved_by.json"  # beside the trainer's checkpoints


def used(train: TrainConfig, processes: int, device: torch.device) -> DeepspeedConfig | None:
    """What DeepSpeed is used for; None if there is nothing to share and nothing to offload from."""
    deepspeed = train.deepspeed
    if deepspeed is None or processes > 1 or (deepspeed.offload and device.type == "cuda"):
        return deepspeed
    return None


def settings(deepspeed: DeepspeedConfig, dtype: Dtype, device: torch.device) -> dict[str, Any]:
    """As ``TrainingArguments`` takes them. On a CPU there is nothing to offload from."""
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


def check_resumable(out: Path, processes: int, deepspeed: DeepspeedConfig | None) -> None:
    """Refuse a checkpoint of another number of processes, or of another stage, where ZeRO has split it.

    Raises:
        TrainError: it can't be resumed; says what to set, or to delete.
    """
    stage = deepspeed.stage if deepspeed else 0
    note = out / "checkpoints" / _NOTE
    earlier = checkpoints(out)
    if not earlier:
        return
    try:
        saved = read_sealed(note) if note.is_file() else {"processes": 1, "stage": 0}
    except RecordError as error:
        print(f"{error} Training begins again.", flush=True)
        remove_checkpoints(out)
        return
    if saved != {"processes": processes, "stage": stage} and (saved["stage"] or stage):
        raise TrainError(
            f"{earlier[-1]}: was saved by {_named(**saved)} and can't be resumed by {_named(processes, stage)}. "
            f"Set cluster.processes={saved['processes']} and training.deepspeed"
            f"{'.stage=' + str(saved['stage']) if saved['stage'] else '=null'} to go on, or delete {note.parent} to "
            "begin again."
        )


def note_saver(out: Path, processes: int, deepspeed: DeepspeedConfig | None) -> None:
    """Note by whom the checkpoints below ``out`` are saved, for ``check_resumable``."""
    (out / "checkpoints").mkdir(exist_ok=True)
    write_sealed(out / "checkpoints" / _NOTE, {"processes": processes, "stage": deepspeed.stage if deepspeed else 0})


def _named(processes: int, stage: int) -> str:
    number = "1 process" if processes == 1 else f"{processes} processes"
    return f"{number} {f'with DeepSpeed ZeRO-{stage}' if stage else 'without DeepSpeed'}"
