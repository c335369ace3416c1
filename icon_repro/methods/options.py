"""Schema of the selection methods: a class a method, and one for each of its steps. See ``icon_repro.config.load``.

ICon's classes are in ``icon_repro.methods.icon.options``, those of IFD, RDS+, Nuggets and SelectIT in
``icon_repro.methods.baseline_options``, those of steps that methods share in ``icon_repro.methods.common.options``.
"""

import enum
from dataclasses import dataclass, field, replace
from typing import Any

from icon_repro.data.options import Dtype, ModelConfig, RowsConfig
from icon_repro.data.prompts import Template
from icon_repro.engine.schema import number, unhashed
from icon_repro.lm.options import EndpointConfig, LoraConfig
from icon_repro.methods.baseline_options import IfdConfig, NuggetsConfig, RdsConfig, SelectitConfig
from icon_repro.methods.common.options import AnswerPart
from icon_repro.methods.icon.options import IconConfig


@dataclass
class RandomConfig:
    """A seeded random order, or rows drawn at random with the response lengths of another method's selection."""

    kind: str = "random"
    seed: int = number(0, at_least=0)
    # a name in ``methods``: as many rows of each decile of response length as its selection holds. Not hashed: the
    # selection itself is an input of the step
    matched_to: str | None = unhashed(None)
    repeats: int = field(default=1, metadata={"hash": False, "at_least": 1})  # see ``repetitions``


@dataclass
class LongestConfig:
    """The longest responses first, in characters (long-is-more, arXiv 2402.04833, counts tokens)."""

    kind: str = "longest"


class Best(enum.Enum):
    lowest = "lowest"
    highest = "highest"


@dataclass
class PerplexityConfig:
    """Rows by the perplexity that the model has on their response (or on the whole text)."""

    kind: str = "perplexity"
    best: Best = Best.lowest
    text: AnswerPart = AnswerPart.conditioned
    template: Template = Template.alpaca
    max_length: int = number(2048, at_least=8)
    dtype: Dtype = Dtype.float32
    shard_rows: int = number(2048, at_least=1)


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
    repeats: int = field(default=1, metadata={"hash": False, "at_least": 1})  # see ``repetitions``
    epochs: int = number(4, at_least=1)  # of the warm-up; gradients are taken after each
    learning_rate: float = number(2e-5, above=0)
    global_batch_size: int = number(32, at_least=1)
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(r=128, alpha=512, dropout=0.1))
    max_length: int = number(2048, at_least=8)  # tokens, in warm-up and gradients
    dimensions: int = number(8192, at_least=64)  # of projection=rademacher; a multiple of 64
    projection_seed: int = number(0, at_least=0)
    # of memory for the tasks' mean gradients with projection=exact: tasks x LoRA weights x 4 bytes
    max_gib: float = field(default=8.0, metadata={"hash": False, "above": 0})
    dtype: Dtype = Dtype.float32
    shard_rows: int = number(256, at_least=1)


def less_resolved(less: LessConfig) -> LessConfig:
    """``less`` with every option that ``compat`` decides filled in."""
    published = less.compat is LessCompat.published
    preset: dict[str, Any] = {
        "adam": AdamFormula.code if published else AdamFormula.paper,
        "projection": LessProjection.rademacher if published else LessProjection.exact,
        "target_template": TargetTemplate.as_is if published else TargetTemplate.tuning,
    }
    return replace(less, **{name: value for name, value in preset.items() if getattr(less, name) is None})


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


@dataclass
class DeitaConfig:
    """DEITA (arXiv 2312.15685): complexity times quality by two scorers, without rows too near to a better one."""

    kind: str = "deita"
    complexity: ModelConfig = field(kw_only=True)
    quality: ModelConfig = field(kw_only=True)
    embedding: ModelConfig | None = None  # None: the model that is tuned; the paper takes Mistral-7B
    threshold: float = number(0.9, at_least=-1, at_most=1)  # largest cosine to a better row that is kept
    template: Template = Template.alpaca  # of the embedded text
    max_length: int = number(2048, at_least=8)  # tokens; longer questions aren't scored, longer embedded texts are cut
    dtype: Dtype = Dtype.float32
    shard_rows: int = number(512, at_least=1)


class DeitaQuestion(enum.Enum):
    complexity = "complexity"  # of the prompt
    quality = "quality"  # of the response to it


@dataclass
class DeitaShard:
    """One scorer's ratings of rows ``start`` to ``stop`` (exclusive)."""

    question: DeitaQuestion
    max_length: int
    dtype: Dtype
    start: int
    stop: int | None


@dataclass
class DeitaFilter:
    """Rows by score, without those too near to a better one."""

    threshold: float


class RewardArchitecture(enum.Enum):
    armorm = "armorm"  # attributes weighted by a gating network, as RLHFlow/ArmoRM-Llama3-8B-v0.1
    classifier = "classifier"  # transformers' sequence classifier with one label


@dataclass
class ArmormConfig:
    """A reward model's score of prompt and response, as a chat (ArmoRM: arXiv 2406.12845)."""

    kind: str = "armorm"
    reward: ModelConfig = field(kw_only=True)
    architecture: RewardArchitecture = RewardArchitecture.armorm
    # of the chat template, before a response; armorm weights its attributes by the state where it last starts
    prompt_end: str = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    max_length: int = number(4096, at_least=8)  # tokens of the chat; longer rows aren't scored, with that reason
    dtype: Dtype = Dtype.float32  # of the backbone; armorm's heads stay float32
    shard_rows: int = number(512, at_least=1)


@dataclass
class ArmormShard:
    """Rewards of rows ``start`` to ``stop`` (exclusive)."""

    architecture: RewardArchitecture
    prompt_end: str
    max_length: int
    dtype: Dtype
    start: int
    stop: int | None


@dataclass
class ArmormScores:
    """All shards of rewards together."""


@dataclass
class AlpagasusConfig:
    """AlpaGasus (arXiv 2307.08701): rows by the rating from 0 to 5 that an endpoint, or a file, gives them."""

    kind: str = "alpagasus"
    endpoint: EndpointConfig | None = None
    ratings: str | None = unhashed(None)  # JSON or JSONL {id or instruction, input, output; rating}; hashed by content
    ties_seed: int = number(0, at_least=0)  # of the order among equal ratings


@dataclass
class AlpagasusRatings:
    endpoint: EndpointConfig


@dataclass
class ExternalConfig:
    """A method in a Python file of yours; see ``icon_repro.methods.external``."""

    kind: str = "external"
    path: str = unhashed("")  # hashed by content
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class IdsConfig:
    """A released selection, or one of yours, as a list of ids; see ``icon_repro.methods.ids``."""

    kind: str = "ids"
    path: str = unhashed("")  # hashed by content


METHOD_KINDS: dict[str, type] = {
    "icon": IconConfig,
    "random": RandomConfig,
    "longest": LongestConfig,
    "perplexity": PerplexityConfig,
    "ifd": IfdConfig,
    "rds": RdsConfig,
    "nuggets": NuggetsConfig,
    "selectit": SelectitConfig,
    "less": LessConfig,
    "deita": DeitaConfig,
    "armorm": ArmormConfig,
    "alpagasus": AlpagasusConfig,
    "external": ExternalConfig,
    "ids": IdsConfig,
}


class SelectBudget(enum.Enum):
    rows = "rows"  # the best ``fraction`` of the rows
    tokens = "tokens"  # best first, until as many tokens as a random selection of ``fraction`` has on average


@dataclass
class SelectConfig:
    fraction: float = number(above=0, at_most=1)
    budget: SelectBudget = field(default=SelectBudget.rows, metadata={"legacy": SelectBudget.rows})


@dataclass
class RowTokens:
    """Tokens that a training sees of each row."""

    max_length: int  # training.max_length


def repetitions(method: Any) -> list[tuple[int | None, Any]]:
    """The methods that ``repeats`` asks for, each with the seed of its selection: from its own seed on.

    Returns:
        One pair with the seed None for a method that isn't repeated.
    """
    if getattr(method, "repeats", 1) == 1:
        return [(None, method)]

    def seeded(extra: int) -> tuple[int, Any]:
        once = replace(method, repeats=1)
        if isinstance(once, LessConfig):
            seed = once.warmup_seed + extra
            return seed, replace(once, warmup_seed=seed)
        if isinstance(once, NuggetsConfig):
            seed = once.anchors.seed + extra
            return seed, replace(once, anchors=replace(once.anchors, seed=seed))
        return once.seed + extra, replace(once, seed=once.seed + extra)

    return [seeded(extra) for extra in range(method.repeats)]
