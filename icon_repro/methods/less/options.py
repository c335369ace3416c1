"""Define the options of LESS and of its steps."""

import enum
from dataclasses import dataclass, field
from typing import Any

from icon_repro.data.options import Dtype, RowsConfig
from icon_repro.engine.schema import number
from icon_repro.lm.options import LoraConfig
from icon_repro.methods.base import repeats_field
from icon_repro.methods.common.options import filled


class AdamFormula(enum.Enum):
    paper = "paper"  # moments corrected for their start at 0
    code = "code"  # moments as they are; the root's 1e-8 weighs more then


class ShotMean(enum.Enum):
    cosines = "cosines"  # of a row with each shot of a task (the released code)
    gradients = "gradients"  # of the shots, then one cosine with it (the paper)


class LessProjection(enum.Enum):
    exact = "exact"  # none: products with the mean gradient of each task, taken as the rows stream by
    rademacher = "rademacher"  # gradients times random signs, stored (the released code)


class TargetTemplate(enum.Enum):
    tuning = "tuning"  # as the rows are tuned on: in tuning's template, ready prompts too unless the rows are such
    as_is = "as_is"  # ready prompts as they stand; other rows in tuning's template


class LessCompat(enum.Enum):
    ours = "ours"
    published = "published"  # as the released code computes, but for ``dtype`` (it has bfloat16) and its random signs


@dataclass
class LessConfig:
    """LESS (arXiv 2402.04333): rows whose gradients point where those of the targets do.

    ``compat`` sets the options after it that are left null. ``less_resolved`` fills them in.
    """

    kind: str = "less"
    compat: LessCompat = field(default=LessCompat.ours, metadata={"hash": False})  # its options are hashed
    adam: AdamFormula | None = field(default=None, metadata={"legacy": AdamFormula.code})
    projection: LessProjection | None = field(default=None, metadata={"legacy": LessProjection.rademacher})
    target_template: TargetTemplate | None = field(default=None, metadata={"legacy": TargetTemplate.as_is})
    # task -> its shots, never rows that are evaluated; their groups are tasks of their own. Empty: the assessment rows
    targets: dict[str, RowsConfig] = field(default_factory=dict, metadata={"legacy": {}})
    shot_mean: ShotMean = field(default=ShotMean.cosines, metadata={"legacy": ShotMean.cosines})
    warmup_fraction: float = number(0.05, above=0, at_most=1)  # of the rows, at random
    warmup_seed: int = number(3, at_least=0)
    repeats: int = repeats_field()
    epochs: int = number(4, at_least=1)  # of the warm-up; gradients are taken after each
    learning_rate: float = number(2e-5, above=0)
    global_batch_size: int = number(32, at_least=1)
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(r=128, alpha=512, dropout=0.1))
    max_length: int = number(2048, at_least=8)  # tokens, in warm-up and gradients
    dimensions: int = number(8192, at_least=64)  # of projection=rademacher; a multiple of 64
    projection_seed: int = number(0, at_least=0)
    # of memory for the tasks' mean gradients with projection=exact: tasks x LoRA weights x 4 bytes
    max_gib: float = field(default=8.0, metadata={"hash": False, "above": 0})
    dtype: Dtype = Dtype.float32  # of the weights
    shard_rows: int = number(256, at_least=1)


def less_resolved(less: LessConfig) -> LessConfig:
    """``less`` with every option that ``compat`` decides filled in."""
    published = less.compat is LessCompat.published
    preset: dict[str, Any] = {
        "adam": AdamFormula.code if published else AdamFormula.paper,
        "projection": LessProjection.rademacher if published else LessProjection.exact,
        "target_template": TargetTemplate.as_is if published else TargetTemplate.tuning,
    }
    return filled(less, **preset)


class Direction(enum.Enum):
    adam = "adam"  # the step that Adam would take, from the warm-up's moments: rows of the pool
    sgd = "sgd"  # the gradient itself: targets


@dataclass
class LessShard:
    """Rows ``start`` to ``stop`` (exclusive) after an epoch of the warm-up, counted from 1."""

    less: LessConfig
    direction: Direction
    epoch: int
    start: int
    stop: int | None


@dataclass
class LessMeans:
    """Mean gradients of the tasks among the targets, after an epoch of the warm-up, counted from 1."""

    less: LessConfig
    epoch: int
    tasks: int = field(default=1, metadata={"hash": False})  # as many as are known to a plan, for its estimate of disk


@dataclass
class LessProducts:
    """Rows ``start`` to ``stop`` (exclusive) against the tasks, after an epoch of the warm-up, counted from 1."""

    less: LessConfig
    epoch: int
    start: int
    stop: int | None


@dataclass
class LessExact:
    """The sum over the epochs."""

    epochs: int
