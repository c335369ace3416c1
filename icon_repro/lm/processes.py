"""Connect the processes of one training, and keep a single process to one GPU.

In: what each process knows, the trainer's settings.  Out: what all agree on, settings for one device.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainingArguments

from icon_repro.engine.options import ClusterConfig


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in any process of this training; each gets the same answer, and has to ask."""
    if not (dist.is_available() and dist.is_initialized()):
        return flag
    numbers = torch.tensor([int(flag)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return bool(numbers.item())


def common_settings(out: Path, seed: int, cluster: ClusterConfig, device: torch.device) -> dict[str, Any]:
    """What every trainer is told alike: seeds, checkpoints below ``out``, a log of each step, no reports."""
    return {
        "output_dir": str(out / "checkpoints"),
        "use_cpu": device.type == "cpu",
        "activation_checkpointing": cluster.gradient_checkpointing,
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would put the mean of the losses before in place of a NaN
        "save_strategy": "steps" if cluster.checkpoint_steps else "no",
        "save_steps": cluster.checkpoint_steps or 500,
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }


def pin(arguments: TrainingArguments, device: torch.device) -> None:
    """Let a trainer in one process use ``device`` alone.

    transformers takes the first GPU, and with more in sight torch's DataParallel over all of them, which multiplies
    the rows in a batch.
    """
    if device.type != "cuda":
        return
    assert arguments.device.type == "cuda"  # computes what is replaced below
    chosen = torch.device("cuda", device.index or 0)
    torch.cuda.set_device(chosen)  # where accelerate's "cuda" is
    arguments._n_gpu = 1
    arguments.__dict__["_setup_devices"] = chosen  # a cached property; ``device`` reads it
