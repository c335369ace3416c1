"""Schema of benchmarks and judging. See ``icon_repro.config``."""

import enum
from dataclasses import dataclass, field

from icon_repro.config_data import Dtype, SourceConfig
from icon_repro.schema import number, unhashed


class TaskKind(enum.Enum):
    multiple_choice = "multiple_choice"  # rows of ours as an lm-eval task, ranked by likelihood
    lm_eval = "lm_eval"  # a task of lm-eval's own; its data come from the hub


@dataclass
class TaskConfig:
    kind: TaskKind
    metric: str  # key in lm-eval's results, e.g. acc or acc_norm
    source: SourceConfig | None = None
    task: str | None = None  # lm-eval's name, for kind lm_eval
    num_fewshot: int | None = number(None, at_least=0)  # None: the task's default
    limit: int | None = number(None, at_least=1)  # first rows of the task; None: all
    chance: float | None = field(default=None, metadata={"hash": False, "at_least": 0, "at_most": 1})
    expected_items: int = field(default=1000, metadata={"hash": False, "at_least": 1})
    expected_item_tokens: int = field(default=150, metadata={"hash": False, "at_least": 1})  # all choices together


@dataclass
class EvaluationConfig:
    name: str = unhashed()
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    dtype: Dtype = Dtype.float32
    max_length: int = number(2048, at_least=16)
    seed: int = number(1234, at_least=0)


@dataclass
class EvaluationJob:
    name: str = unhashed()
    task: TaskConfig = field(kw_only=True)
    dtype: Dtype = field(kw_only=True)
    max_length: int = field(kw_only=True)
    seed: int = field(kw_only=True)


class JudgeKind(enum.Enum):
    none = "none"


@dataclass
class JudgeConfig:
    kind: JudgeKind = JudgeKind.none
