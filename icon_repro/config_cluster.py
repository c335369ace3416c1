"""What jobs of Slurm ask for: part of ``cluster``, which never changes results.

In: the keys under ``cluster.slurm``.  Out: the resources of a class of steps.
"""

import dataclasses
from dataclasses import dataclass, field

from icon_repro.schema import number


@dataclass
class SlurmJob:
    """What an array task asks for; what is None is left to Slurm, or in a class to ``cluster.slurm``."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
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
        own: SlurmJob = getattr(self, name)
        fields = [each.name for each in dataclasses.fields(SlurmJob)]
        return SlurmJob(**{f: getattr(self, f) if getattr(own, f) is None else getattr(own, f) for f in fields})
