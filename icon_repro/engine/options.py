"""Define the options of the machine, its jobs, folders and W&B. None of them ever changes a result.

In: the keys under ``cluster``, ``paths`` and ``tracking``.  Out: typed options; the resources of a class of steps.
"""

import dataclasses
import enum
from dataclasses import dataclass, field

from icon_repro.engine.schema import number


@dataclass
class SlurmJob:
    """What an array task asks for; what is None is left to Slurm, or in a class to ``cluster.slurm``."""

    partition: str | None = None  # --partition
    account: str | None = None  # --account, which is billed
    qos: str | None = None  # --qos
    time_min: int | None = number(None, at_least=1)  # time limit in minutes
    gpus: int | None = number(None, at_least=0)  # of the node
    cpus: int | None = number(None, at_least=1)
    memory_gb: int | None = number(None, at_least=1)
    array_parallelism: int | None = number(None, at_least=1)  # tasks of an array that run at once
    options: list[str] | None = None  # further ones of sbatch: ["--constraint=a100"]
    flops_per_s: float | None = number(None, above=0)  # what a job reaches: refuses steps longer than the time limit


@dataclass
class SlurmConfig(SlurmJob):
    scoring: SlurmJob = field(default_factory=SlurmJob)  # a model reads rows
    selection: SlurmJob = field(default_factory=SlurmJob)  # no model: data, selections, sums of shards
    training: SlurmJob = field(default_factory=SlurmJob)
    evaluation: SlurmJob = field(default_factory=SlurmJob)
    judging: SlurmJob = field(default_factory=SlurmJob)
    max_array_size: int = number(1000, at_least=1)  # tasks in one array; Slurm's MaxArraySize is one more
    setup: list[str] = field(default_factory=list)  # shell lines before Python starts: ["module load cuda"]
    python: str | None = None  # None: the interpreter that submits
    signal_s: int = number(120, at_least=10, at_most=65535)  # before the time limit, a step is asked to stop
    max_requeues: int = number(5, at_least=0)  # restarts after which a job that meets its time limit isn't requeued
    input_wait_s: float = number(30.0, at_least=0)  # for inputs that a network file system shows late
    allow_dirty: bool = False  # submit a checkout with uncommitted changes

    def job(self, name: str) -> SlurmJob:
        """The resources of the class ``name``, with this configuration's own where the class has none."""
        resources: SlurmJob = getattr(self, name)
        fields = [each.name for each in dataclasses.fields(SlurmJob)]
        return SlurmJob(**{f: own if (own := getattr(resources, f)) is not None else getattr(self, f) for f in fields})


class Executor(enum.Enum):
    process = "process"  # each step in a fresh process
    inline = "inline"  # in this one: for a debugger


DEVICES = ("auto", "cpu", "cuda", "cuda:0")
ATTENTION = ("sdpa", "eager", "flex_attention", *(f"flash_attention_{version}" for version in (2, 3, 4)))


@dataclass
class ClusterConfig:
    """The machine. None of these changes what is asked for; batches and devices may change its last digits."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1
    threads: int | None = number(None, at_least=1)  # None: torch decides
    attention: str = "sdpa"  # transformers' attn_implementation
    # padded tokens of assessment rows in one scoring batch; None: found from the device's free memory
    score_batch_tokens: int | None = number(None, at_least=1)
    micro_batch_size: int = number(4, at_least=1)  # sequences in one forward pass of training
    eval_batch_size: int = number(8, at_least=1)
    processes: int = number(1, at_least=1)  # of a training, on this machine; each with a GPU of its own
    gradient_checkpointing: bool = False  # tuning takes less memory and a third more operations
    checkpoint_steps: int = number(0, at_least=0)  # optimizer steps between trainer checkpoints; 0: none
    executor: Executor = Executor.process
    lease_s: float = number(60.0, at_least=1)  # a claim unrefreshed for so long may be taken from another host
    slurm: SlurmConfig = field(default_factory=SlurmConfig)  # for action=submit


class WandbMode(enum.Enum):
    auto = "auto"  # online if a key is set, else offline
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class TrackingConfig:
    """W&B, to which every run is logged."""

    wandb: WandbMode = WandbMode.auto
    project: str = "icon_repro"  # of W&B
    entity: str | None = None  # a W&B team or user; None: the key's own
    silence_s: float = number(300.0, above=0)  # W&B is given up once it has logged nothing for so long


@dataclass
class PathsConfig:
    """Folders of steps, downloads and results."""

    work: str = "work"  # steps, logs, claims: large
    cache: str = "~/.cache/icon_repro"  # downloads
    results: str = "outputs"  # tables of runs: small, not committed; "results" outside a checkout of this project
    published: str = "results"  # tables that are committed: action=publish puts them there
    experiments: str = "experiments"  # a folder an experiment: published numbers and claims
