"""Define the options of instruction tuning, and the job that a training step gets."""

import enum
import math
from dataclasses import dataclass, field

from icon_repro.data.options import Dtype
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.schema import number, unhashed
from icon_repro.lm.options import LoraConfig


class Tuning(enum.Enum):
    lora = "lora"
    full = "full"


class Schedule(enum.Enum):
    linear = "linear"
    cosine = "cosine"
    constant_with_warmup = "constant_with_warmup"


@dataclass
class DeepspeedConfig:
    """How the processes of a training share its memory. Changes the last digits of a result only."""

    stage: int = number(2, at_least=2, at_most=3)  # of ZeRO: 2 splits optimizer state and gradients, 3 weights too
    offload: bool = False  # what is split lies in main memory, not on the GPU; slower. Nothing on a CPU


@dataclass
class TrainConfig:
    """How a model is tuned on rows."""

    tuning: Tuning  # an adapter, or all weights
    learning_rate: float = number(above=0)
    epochs: float = number(3.0, above=0)
    schedule: Schedule = Schedule.linear  # of the learning rate, after the warm-up; linear and cosine fall to 0
    warmup_ratio: float = number(0.03, at_least=0, below=1)
    weight_decay: float = number(0.0, at_least=0)
    global_batch_size: int = number(128, at_least=1)  # sequences an optimizer step, over all processes
    max_length: int = number(512, at_least=8)  # tokens; longer rows are cut and counted
    max_grad_norm: float = number(1.0, above=0)
    dtype: Dtype = Dtype.bfloat16  # of the forward pass; weights stay float32
    # of the weights that are saved, once they are tuned; training=full saves in ``dtype``. Adapters stay float32
    save_dtype: Dtype = field(default=Dtype.float32, metadata={"legacy": Dtype.float32})
    lora: LoraConfig = field(default_factory=LoraConfig)
    keep_epochs: bool = field(default=False, metadata={"legacy": False})  # weights and Adam's moments of each epoch
    # weights after these epochs are saved too, for tasks with ``epoch``; the schedule is that of all epochs
    kept_epochs: list[int] = number([], at_least=1, legacy=[])
    # None: every process holds everything. One process without offload has nothing to share, and doesn't use it
    deepspeed: DeepspeedConfig | None = unhashed(None)


@dataclass
class TrainJob:
    train: TrainConfig
    seed: int


def warm_up(ratio: float, steps: int) -> float:
    """The share of the optimizer steps in which the learning rate rises: none of one step, which would be at 0."""
    return ratio if steps > 1 else 0.0


def save_problems(where: str, train: TrainConfig) -> list[str]:
    """Problems of what the training with the key ``where`` tunes, and of how it saves that."""
    if train.tuning is Tuning.lora and (problems := train.lora.problems(f"{where}.lora")):
        return problems
    if train.tuning is Tuning.full or train.save_dtype is Dtype.float32:
        return []
    return [f"{where}.save_dtype={train.save_dtype.value}: an adapter is small and saved in float32; leave it out."]


def batch_problems(where: str, batch: int, cluster: ClusterConfig) -> list[str]:
    """Problems of the batch of a training with the key ``where``: its processes share every optimizer step evenly."""
    if batch % (cluster.micro_batch_size * cluster.processes) == 0:
        return []
    micro = cluster.micro_batch_size
    text = f"{where}.global_batch_size={batch}: must be a multiple of cluster.micro_batch_size={micro}"
    if cluster.processes == 1:
        return [f"{text}; set one of them."]
    remedy = "set one of them."
    if batch % cluster.processes == 0:
        remedy = f"e.g. set cluster.micro_batch_size={math.gcd(batch // cluster.processes, micro)}."
    return [f"{text} times cluster.processes={cluster.processes}; {remedy}"]
