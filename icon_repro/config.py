"""Every knob of an experiment as a typed schema, and the one place that checks them.

In: the composed Hydra config (conf/ holds the values).  Out: a ``Config``, or one ConfigError with all problems.
``cluster``, ``paths``, ``tracking``, ``action`` and fields marked ``unhashed`` never change results and never enter
a fingerprint. A knob without a schema here doesn't exist.
"""

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from icon_repro.schema import SchemaError, build, nearest, number, unhashed


class ConfigError(ValueError):
    """The configuration can't be run; the message lists every problem with its key."""


def conf_dir() -> Path:
    """The folder with config.yaml: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


class Dtype(enum.Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class LoraConfig:
    r: int = number(8, at_least=1)
    alpha: int = number(16, at_least=1)
    dropout: float = number(0.05, at_least=0, below=1)
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])


class Action(enum.Enum):
    run = "run"
    plan = "plan"
    status = "status"
    report = "report"
    compare = "compare"


# ---------------------------------------------------------------- data


class SourceKind(enum.Enum):
    hub = "hub"
    file = "file"
    registry = "registry"


class RowFormat(enum.Enum):
    alpaca = "alpaca"  # instruction, input, output: a template is applied
    prompt_response = "prompt_response"  # prompt is used as it stands
    messages = "messages"  # a list of {role, content}; the last assistant turn is the response
    multiple_choice = "multiple_choice"  # benchmark rows: question, options "A. ..\nB. ..", answer


class ArchiveKind(enum.Enum):
    wheel = "wheel"
    sdist = "sdist"


@dataclass
class RegistryFile:
    """A file inside a released Python package; read from the archive, the package is never imported."""

    package: str
    version: str
    sha256: str  # of the archive
    archive: ArchiveKind
    member: str  # path inside the archive


@dataclass
class Fields:
    """Names of the columns of a source; only those that its format needs are read."""

    id: str | None = None  # None: the id is made from the content
    instruction: str = "instruction"
    input: str | None = "input"  # None: rows have no input
    response: str = "output"
    prompt: str = "prompt"
    messages: str = "messages"
    group: str | None = None  # None: one group


@dataclass
class SourceConfig:
    """Where rows come from and how to read them. Exactly one of path, hub_id and registry is set, as ``kind`` says."""

    kind: SourceKind
    format: RowFormat
    name: str = unhashed()
    path: str | None = unhashed(None)  # JSON, JSONL or Parquet; hashed by content
    hub_id: str | None = None
    revision: str | None = None  # commit, branch or tag; what it resolves to is hashed
    subset: str | None = None
    split: str = "train"
    registry: RegistryFile | None = None
    fields: Fields = field(default_factory=Fields)
    licence: str = unhashed("not stated")


@dataclass
class RowsConfig:
    """One set of rows: source, filters, sample."""

    source: SourceConfig
    drop_urls: bool = False  # rows with http(s):// in instruction or input, as the paper
    min_response_chars: int = number(1, at_least=1)
    max_chars: int | None = number(None, at_least=1)  # prompt and response together
    max_prompt_chars: int | None = number(None, at_least=1, legacy=None)
    sample: int | None = number(None, at_least=1)  # rows kept, drawn at random; None keeps all
    stratify: bool = False  # draw evenly over groups
    seed: int = number(42, at_least=0)
    # what the plan assumes before the rows have been read
    expected_rows: int = field(default=1000, metadata={"hash": False, "at_least": 1})
    expected_prompt_chars: int = field(default=200, metadata={"hash": False, "at_least": 1})
    expected_response_chars: int = field(default=300, metadata={"hash": False, "at_least": 1})


class Overlap(enum.Enum):
    drop = "drop"
    keep = "keep"


@dataclass
class OrderConfig:
    """A seeded order of the pool; candidates are its first rows, so that more candidates extend fewer."""

    seed: int = number(42, at_least=0)
    overlap: Overlap = Overlap.drop  # rows that share text with the assessment set; always counted
    ngram: int = number(13, at_least=2)  # words in a row that count as shared text


@dataclass
class CandidatesSize:
    size: int | None


@dataclass
class CandidatesConfig:
    """The sample of the pool that every method ranks."""

    size: int | None = number(None, at_least=1)  # None: the whole pool
    order: OrderConfig = field(default_factory=OrderConfig)


@dataclass
class DataConfig:
    name: str
    pool: RowsConfig
    assessment: RowsConfig
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)


# ---------------------------------------------------------------- model


class ModelKind(enum.Enum):
    hub = "hub"
    local = "local"
    registry = "registry"  # a GGUF file inside a Python package, converted once to safetensors
    random = "random"  # a Llama of the given shape with random weights: trials of the machinery only


@dataclass
class RandomShape:
    vocab_size: int = number(512, at_least=300)
    hidden_size: int = number(64, at_least=8)
    layers: int = number(2, at_least=1)
    heads: int = number(4, at_least=1)
    kv_heads: int = number(2, at_least=1)
    intermediate_size: int = number(128, at_least=8)
    max_positions: int = number(4096, at_least=64)
    bos: bool = True
    seed: int = number(0, at_least=0)


@dataclass
class ModelConfig:
    kind: ModelKind
    name: str = unhashed()
    hub_id: str | None = None
    revision: str | None = None
    path: str | None = unhashed(None)
    registry: RegistryFile | None = None
    random: RandomShape | None = None
    parameters: int = field(default=0, metadata={"hash": False, "at_least": 0})  # for cost estimates
    licence: str = unhashed("not stated")


# ---------------------------------------------------------------- training


class Tuning(enum.Enum):
    lora = "lora"
    full = "full"


class Schedule(enum.Enum):
    linear = "linear"
    cosine = "cosine"
    constant_with_warmup = "constant_with_warmup"


@dataclass
class TrainConfig:
    tuning: Tuning
    learning_rate: float = number(above=0)
    epochs: float = number(3.0, above=0)
    schedule: Schedule = Schedule.linear  # of the learning rate, after the warm-up; linear and cosine fall to 0
    warmup_ratio: float = number(0.03, at_least=0, below=1)
    weight_decay: float = number(0.0, at_least=0)
    global_batch_size: int = number(128, at_least=1)  # sequences an optimizer step, over all processes
    max_length: int = number(512, at_least=8)  # tokens; longer rows are cut and counted
    max_grad_norm: float = number(1.0, above=0)
    dtype: Dtype = Dtype.bfloat16  # of the forward pass; weights stay float32
    lora: LoraConfig = field(default_factory=LoraConfig)
    keep_epochs: bool = field(default=False, metadata={"legacy": False})  # weights and Adam's moments of each epoch


# ---------------------------------------------------------------- methods


class Compat(enum.Enum):
    paper = "paper"  # the paper's formulas
    official = "official"  # the released scripts with their defects


class Control(enum.Enum):
    bank = "bank"  # noise texts of a few lengths, shared by all candidates, interpolated at the candidate's length
    per_candidate = "per_candidate"  # one seeded noise text a candidate
    per_pair = "per_pair"  # one a pair, as the released scripts (which draw it without a seed)
    none = "none"  # the zero-shot perplexity takes the control's place


class NoiseUnit(enum.Enum):
    tokens = "tokens"
    characters = "characters"


class EmptyPair(enum.Enum):
    error = "error"
    nan = "nan"  # the pair is left out of mean and variance, but counted by consistency and coverage


class ScoreDtype(enum.Enum):
    auto = "auto"  # the fastest that ranks as float32 does, measured on a sample
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class BankConfig:
    """Noise texts that all candidates share."""

    lengths: list[int] = number([8, 32, 128, 512, 2040], at_least=1)  # tokens; those around the candidates' are scored
    draws: int = number(4, at_least=1)  # of each length


@dataclass
class FidelityConfig:
    """The sample that is scored in float32 as well when another dtype is asked for, or any (auto)."""

    candidates: int = number(12, at_least=3)
    rows: int = number(48, at_least=8)
    max_rms: float = number(1 / 3, above=0)  # of the standard error of a score at the number of rows in use


class Budget(enum.Enum):
    full = "full"  # all pairs
    adaptive = "adaptive"  # rounds of rows; a candidate that lies clear of every cut is left alone
    auto = "auto"  # adaptive, with candidates and rows chosen by a pilot block


@dataclass
class AdaptiveConfig:
    """Rounds of assessment rows in one order for all candidates, seeded and stratified by group."""

    first_rows: int = number(16, at_least=4)  # of the first round
    growth: float = number(1.5, above=1)  # rows scored after a round over those before
    error: float = number(0.05, above=0, below=1)  # aimed at: expected share of the selected set that differs
    seed: int = number(0, at_least=0)  # of the order of the rows


def round_ends(rows: int, cfg: AdaptiveConfig, rounds: int | None = None) -> list[int]:
    """How many rows are scored after each of at most ``rounds`` rounds; the last is ``rows``."""
    ends = [min(cfg.first_rows, rows)]
    while ends[-1] < rows:
        ends.append(min(rows, max(ends[-1] + 1, math.ceil(ends[-1] * cfg.growth))))
    return ends if rounds is None or len(ends) <= rounds else [*ends[: rounds - 1], rows]


@dataclass
class AutoConfig:
    """How ``budget=auto`` chooses."""

    reliability: float = number(0.95, above=0, below=1)  # of the scores: correlation with those of other rows
    pilot_candidates: int = number(48, at_least=8)
    pilot_rows: int = number(96, at_least=16)
    cost_ratio: float = number(0.8, above=0)  # FLOPs of selection over FLOPs of tuning that it saves, at most
    least_candidates: int = number(64, at_least=8)  # however little the saved tuning pays for
    expected_rows: int = field(default=128, metadata={"hash": False, "at_least": 8})  # what the plan assumes


class SelectorTarget(enum.Enum):
    rank = "rank"  # regression on the score's rank: one model, nested selections
    top_fraction = "top_fraction"  # one binary classifier for each fraction, as released (D9)


class SelectorHead(enum.Enum):
    trained = "trained"
    frozen = "frozen"  # at its random initialisation, as released (D8)


@dataclass
class SelectorConfig:
    """A classifier with LoRA, trained on the scored candidates, that scores the whole pool."""

    target: SelectorTarget | None = None  # None: as ``compat`` says
    head: SelectorHead | None = None
    learning_rate: float = number(5e-5, above=0)
    epochs: float = number(5.0, above=0)
    batch_size: int = number(128, at_least=1)
    warmup_ratio: float = number(0.03, at_least=0, below=1)
    held_out: float = number(0.1, above=0, below=1)  # share of the candidates that it is tested on
    max_length: int = number(2048, at_least=8)  # tokens, in training
    pool_max_length: int = number(1024, at_least=8)  # tokens, in scoring the pool
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(r=8, alpha=8, targets=["q_proj", "v_proj"]))
    dtype: Dtype = Dtype.bfloat16  # of the forward pass; weights stay float32
    seed: int = number(0, at_least=0)
    repeats: int = number(
        1, at_least=1
    )  # models with seeds from ``seed`` on; the first selects, the rest say how stable
    shard_rows: int = number(4096, at_least=1)  # of the pool, in one step


@dataclass
class IconConfig:
    """In-context contribution (arXiv 2505.05327).

    ``compat`` sets the options after it that are left null: D1 to D5 name the defects of the released scripts.
    """

    kind: str = "icon"
    compat: Compat = field(default=Compat.paper, metadata={"hash": False})  # its options are hashed
    skip_first_tokens: bool | None = field(default=None, metadata={"legacy": False})  # D1
    empty_pairs: EmptyPair | None = field(default=None, metadata={"legacy": EmptyPair.error})  # D2
    drop_first_token: bool | None = field(default=None, metadata={"legacy": False})  # D3
    noise_unit: NoiseUnit | None = field(default=None, metadata={"legacy": NoiseUnit.tokens})  # D4
    control: Control | None = None  # D5
    bank: BankConfig = field(default_factory=BankConfig, metadata={"legacy": BankConfig()})
    seed: int = number(0, at_least=0)  # of the random contexts
    dtype: ScoreDtype = ScoreDtype.float32
    fidelity: FidelityConfig = field(default_factory=FidelityConfig, metadata={"legacy": FidelityConfig()})
    budget: Budget = field(default=Budget.full, metadata={"legacy": Budget.full})
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig, metadata={"legacy": AdaptiveConfig()})
    auto: AutoConfig = field(default_factory=AutoConfig, metadata={"legacy": AutoConfig()})
    selector: SelectorConfig | None = field(default=None, metadata={"legacy": None})
    separator: str = "\n\n\n"
    max_context_tokens: int = number(2040, at_least=1)
    max_prompt_tokens: int = number(1024, at_least=1)
    max_response_tokens: int = number(1024, at_least=1)
    epsilon: float = number(1e-6, at_least=0)
    shard_candidates: int = number(16, at_least=1)  # candidates in one shard, the unit of loss after a crash


def resolved(icon: IconConfig) -> IconConfig:
    """``icon``, and its selector, with every option that ``compat`` decides filled in."""
    official = icon.compat is Compat.official
    preset: dict[str, Any] = {
        "skip_first_tokens": official,
        "empty_pairs": EmptyPair.nan if official else EmptyPair.error,
        "drop_first_token": official,
        "noise_unit": NoiseUnit.characters if official else NoiseUnit.tokens,
        "control": Control.per_pair if official else Control.bank,
    }
    filled = replace(icon, **{name: value for name, value in preset.items() if getattr(icon, name) is None})
    if filled.selector is None:
        return filled
    released = {
        "target": SelectorTarget.top_fraction if official else SelectorTarget.rank,
        "head": SelectorHead.frozen if official else SelectorHead.trained,
    }
    unset: dict[str, Any] = {k: v for k, v in released.items() if getattr(filled.selector, k) is None}
    return replace(filled, selector=replace(filled.selector, **unset))


@dataclass
class IconShard:
    """Candidates ``start`` to ``stop`` (exclusive) of the pool's order."""

    icon: IconConfig
    start: int
    stop: int | None  # None: to the end


@dataclass
class TuningSaved:
    """What selection saves, for budget auto: tuning on all of the pool but the largest fraction selected."""

    epochs: float
    max_length: int
    frozen: bool  # LoRA
    fraction: float


@dataclass
class IconRound:
    """What is known when a round of adaptive scoring starts, or, for the scores, when the last one has ended."""

    icon: IconConfig
    stop: int | None  # candidates are the first ``stop`` rows of the order; None: all
    fractions: list[float]
    rounds: int  # planned; the last one scores all rows that are left
    saved: TuningSaved | None = None  # for budget auto with a selection model: it chooses the number of candidates


@dataclass
class SelectorJob:
    """One selection model: which scores it learns and with which seed."""

    selector: SelectorConfig  # resolved
    fractions: list[float]  # tested on held-out candidates; a binary target learns the only one
    seed: int


@dataclass
class SelectorShard:
    """Rows ``start`` to ``stop`` (exclusive) of the pool's order, scored by a selection model."""

    selector: SelectorConfig
    start: int
    stop: int | None


@dataclass
class SelectorScores:
    """All rows of the pool with the scores of the first model, and how far the others agree with it."""

    fractions: list[float]
    repeats: int


@dataclass
class RandomConfig:
    """A seeded random order."""

    kind: str = "random"
    seed: int = number(0, at_least=0)


@dataclass
class LongestConfig:
    """The longest responses first, in characters (long-is-more, arXiv 2402.04833, counts tokens)."""

    kind: str = "longest"


class Template(enum.Enum):
    alpaca = "alpaca"  # as in tuning
    scoring = "scoring"  # as ICon's candidates
    plain = "plain"  # instruction and input, a line each
    labelled = "labelled"  # Instruction:, Input: and Response:, each on a line of its own (nuggets)


class AnswerPart(enum.Enum):
    conditioned = "conditioned"  # response after its prompt
    direct = "direct"  # response after a fixed text, or after nothing
    whole = "whole"  # prompt and response, all tokens but the first


@dataclass
class AnswersConfig:
    """Mean NLLs of the rows of a pool: what perplexity, IFD and Superfiltering are made of."""

    parts: list[AnswerPart]
    template: Template = Template.alpaca
    direct: str = ""  # stands before the response in the direct part
    max_length: int = number(2048, at_least=8)  # tokens; a longer row isn't scored, with that reason
    dtype: Dtype = Dtype.float32


@dataclass
class AnswersShard:
    """Rows ``start`` to ``stop`` (exclusive)."""

    answers: AnswersConfig
    start: int
    stop: int | None


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


class Ratio(enum.Enum):
    loss = "loss"  # of mean NLLs, as Cherry_LLM's code
    perplexity = "perplexity"  # as Superfiltering


@dataclass
class IfdConfig:
    """Instruction-following difficulty (arXiv 2308.12032): loss of a response with its prompt over that without."""

    kind: str = "ifd"
    ratio: Ratio = Ratio.loss
    drop_above_one: bool = True  # rows whose prompt makes the response less likely, as published
    template: Template = Template.alpaca
    direct: str = "### Response:"
    max_length: int = number(1024, at_least=8)  # tokens; longer rows are left out, as published
    dtype: Dtype = Dtype.float32
    proxy: ModelConfig | None = None  # None: the model that is tuned; Superfiltering (arXiv 2402.00530) takes GPT-2
    shard_rows: int = number(2048, at_least=1)


class PoolingKind(enum.Enum):
    mean = "mean"
    weighted = "weighted"  # later tokens count more
    last = "last"


class EmbeddedText(enum.Enum):
    prompt = "prompt"
    row = "row"  # prompt and response


@dataclass
class EmbeddingConfig:
    """Vectors of rows: pooled last hidden states."""

    text: EmbeddedText
    pooling: PoolingKind
    template: Template = Template.alpaca
    normalise: bool = True
    max_length: int = number(2048, at_least=1)  # tokens; longer texts are cut and counted
    dtype: Dtype = Dtype.float32


@dataclass
class EmbeddingShard:
    """Rows ``start`` to ``stop`` (exclusive)."""

    embedding: EmbeddingConfig
    start: int
    stop: int | None


@dataclass
class RdsConfig:
    """RDS+ (arXiv 2503.01807): nearest to the assessment rows in hidden states, the queries taking turns."""

    kind: str = "rds"
    template: Template = Template.alpaca
    max_length: int = number(2048, at_least=8)
    dtype: Dtype = Dtype.float32
    shard_rows: int = number(2048, at_least=1)


@dataclass
class AnchorsConfig:
    """Rows nearest to the centres of K-means."""

    count: int = number(100, at_least=1)
    seed: int = number(0, at_least=0)


@dataclass
class NuggetsConfig:
    """Nuggets (arXiv 2312.10302): the share of anchors whose response a row makes likelier when shown before them."""

    kind: str = "nuggets"
    anchors: AnchorsConfig = field(default_factory=AnchorsConfig)
    template: Template = Template.labelled
    separator: str = "\n\n"
    anchor_tokens: int = number(200, at_least=8)  # longer anchors are cut
    shot_tokens: int = number(1024, at_least=8)  # longer rows are cut where they are shown
    max_length: int = number(512, at_least=8)  # of the embedded prompt and response
    dtype: Dtype = Dtype.float32
    shard_rows: int = number(64, at_least=1)


@dataclass
class NuggetsShard:
    """Rows ``start`` to ``stop`` (exclusive) against all anchors."""

    nuggets: NuggetsConfig
    start: int
    stop: int | None


@dataclass
class SelectitConfig:
    """SelectIT (arXiv 2402.16705): the model rates each row from 1 to 5 under five wordings of the question."""

    kind: str = "selectit"
    alpha: float = number(0.2, at_least=0)  # weight of the spread over the wordings
    max_length: int = number(2048, at_least=8)  # tokens; longer rows aren't rated, with that reason
    dtype: Dtype = Dtype.float32
    shard_rows: int = number(512, at_least=1)


@dataclass
class SelectitShard:
    """Rows ``start`` to ``stop`` (exclusive)."""

    selectit: SelectitConfig
    start: int
    stop: int | None


@dataclass
class LessConfig:
    """LESS (arXiv 2402.04333): rows whose gradients point where those of the assessment rows do."""

    kind: str = "less"
    warmup_fraction: float = number(0.05, above=0, at_most=1)  # of the rows, at random
    warmup_seed: int = number(3, at_least=0)
    epochs: int = number(4, at_least=1)  # of the warm-up; gradients are taken after each
    learning_rate: float = number(2e-5, above=0)
    global_batch_size: int = number(32, at_least=1)
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(r=128, alpha=512, dropout=0.1))
    max_length: int = number(2048, at_least=8)  # tokens, in warm-up and gradients
    dimensions: int = number(8192, at_least=64)  # of the projection; a multiple of 64
    projection_seed: int = number(0, at_least=0)
    dtype: Dtype = Dtype.float32
    shard_rows: int = number(256, at_least=1)


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
class ExternalConfig:
    """A method in a Python file of yours; see ``icon_repro.methods.external``."""

    kind: str = "external"
    path: str = unhashed("")  # hashed by content
    options: dict[str, Any] = field(default_factory=dict)


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
    "external": ExternalConfig,
}


class SelectFrom(enum.Enum):
    candidates = "candidates"  # the rows that ICon scores
    pool = "pool"  # all rows; ICon needs its selection model then


@dataclass
class SelectConfig:
    fraction: float = number(above=0, at_most=1)


# ---------------------------------------------------------------- training and evaluation


@dataclass
class TrainJob:
    train: TrainConfig
    seed: int


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


# ---------------------------------------------------------------- what doesn't change results


class JudgeKind(enum.Enum):
    none = "none"


@dataclass
class JudgeConfig:
    kind: JudgeKind = JudgeKind.none


class Executor(enum.Enum):
    process = "process"  # each step in a fresh process
    inline = "inline"  # in this one: for a debugger


@dataclass
class ClusterConfig:
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    threads: int | None = number(None, at_least=1)  # None: torch decides
    attention: str = "sdpa"  # transformers' attn_implementation
    # padded tokens of assessment rows in one scoring batch; None: found from the device's free memory
    score_batch_tokens: int | None = number(None, at_least=1)
    micro_batch_size: int = number(4, at_least=1)  # sequences in one forward pass of training
    eval_batch_size: int = number(8, at_least=1)
    gradient_checkpointing: bool = False
    checkpoint_steps: int = number(0, at_least=0)  # optimizer steps between trainer checkpoints; 0: none
    executor: Executor = Executor.process
    lease_s: float = number(60.0, at_least=1)  # a claim unrefreshed for so long may be taken from another host


class WandbMode(enum.Enum):
    auto = "auto"  # online if a key is set, else offline
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class TrackingConfig:
    wandb: WandbMode = WandbMode.auto
    project: str = "icon_repro"
    entity: str | None = None


@dataclass
class PathsConfig:
    work: str = "work"  # steps, logs, claims: large
    cache: str = "~/.cache/icon_repro"  # downloads
    results: str = "results"  # tables: small, committed


@dataclass
class Config:
    name: str  # of the experiment; results/<name>/
    description: str
    model: ModelConfig
    data: DataConfig
    methods: dict[str, Any]  # name -> one of METHOD_KINDS; load() makes them typed
    training: TrainConfig
    evaluation: EvaluationConfig
    fractions: list[float] = number(above=0, at_most=1)
    seeds: list[int] = number([0], at_least=0)
    select_from: SelectFrom = SelectFrom.candidates  # what every method ranks, and "full" tunes on
    base: bool = True  # evaluate the model without tuning
    full: bool = True  # tune on all rows of select_from
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    action: Action = Action.run


def load(data: Mapping[str, Any]) -> Config:
    """Check a composed config and make it typed.

    Args:
        data: nested dicts with interpolations resolved; ``OmegaConf.to_container(cfg, resolve=True)``.

    Raises:
        ConfigError: one message with all problems: unknown keys (with the nearest name), types, ranges, combinations.
    """
    problems: list[str] = []
    methods = data.get("methods")
    made: dict[str, Any] = {}
    for name, value in methods.items() if isinstance(methods, Mapping) else ():
        where = f"methods.{name}"
        kind = value.get("kind") if isinstance(value, Mapping) else None
        if not isinstance(kind, str) or kind not in METHOD_KINDS:
            problems.append(f"{where}.kind={kind!r}: unknown method.{nearest(str(kind), METHOD_KINDS)}")
            continue
        try:
            made[name] = build(METHOD_KINDS[kind], value, where)
        except SchemaError as error:
            problems += error.problems
    try:
        config = build(Config, {**data, "methods": made} if isinstance(methods, Mapping) else data)
    except SchemaError as error:
        problems += error.problems
    else:
        problems += _combinations(config)
    if problems:
        head = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration:"
        raise ConfigError("\n".join([head, *(f"  {p}" for p in problems)]))
    return config


def _combinations(config: Config) -> list[str]:
    """Problems that no single value shows."""
    problems = []
    for name in [config.name, config.model.name, config.data.name, *config.methods, *config.evaluation.tasks]:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]*", name):
            problems.append(f"name {name!r}: must be letters, digits, '_' and '.', as it names folders.")
    for reserved in {"base", "full"} & set(config.methods):
        problems.append(f"methods.{reserved}: the name is taken by the {reserved} row; choose another.")
    sources = {"data.pool.source": config.data.pool.source, "data.assessment.source": config.data.assessment.source}
    for name, task in config.evaluation.tasks.items():
        where = f"evaluation.tasks.{name}"
        if task.kind is TaskKind.lm_eval:
            if task.task is None:
                problems.append(f"{where}.task: kind lm_eval needs the name of the lm-eval task.")
        elif task.source is None:
            problems.append(f"{where}.source: kind {task.kind.value} needs a source of rows.")
        else:
            sources[f"{where}.source"] = task.source
            if task.source.format is not RowFormat.multiple_choice:
                problems.append(f"{where}.source.format={task.source.format.value!r}: must be multiple_choice.")
    needs = {SourceKind.hub: "hub_id", SourceKind.file: "path", SourceKind.registry: "registry"}
    for where, source in sources.items():
        if getattr(source, needs[source.kind]) is None:
            problems.append(f"{where}.{needs[source.kind]}: kind {source.kind.value} needs it.")
        if source.kind is SourceKind.hub and source.revision is None:
            problems.append(f"{where}.revision: a hub data set needs a commit (or a branch, which is then resolved).")
    for where in ("data.pool", "data.assessment"):
        if sources[f"{where}.source"].format is RowFormat.multiple_choice:
            problems.append(f"{where}.source.format='multiple_choice': is for benchmarks, not for {where}.")
    model_needs = {
        ModelKind.hub: "hub_id",
        ModelKind.local: "path",
        ModelKind.registry: "registry",
        ModelKind.random: "random",
    }
    if getattr(config.model, model_needs[config.model.kind]) is None:
        problems.append(f"model.{model_needs[config.model.kind]}: kind {config.model.kind.value} needs it.")
    if config.model.kind is ModelKind.hub and config.model.revision is None:
        problems.append("model.revision: a hub model needs a commit (or a branch, which is then resolved).")
    shape = config.model.random
    if shape and (shape.hidden_size % shape.heads or shape.heads % shape.kv_heads):
        problems.append("model.random: heads must divide hidden_size, and kv_heads must divide heads.")
    if config.training.dtype is Dtype.float16:
        problems.append("training.dtype='float16': needs loss scaling, which isn't built; use bfloat16 or float32.")
    for name, method in config.methods.items():
        if isinstance(method, IconConfig):
            problems += _icon_combinations(f"methods.{name}", resolved(method), config)
            if resolved(method).control is Control.bank and method.noise_unit is NoiseUnit.characters:
                problems.append(
                    f"methods.{name}.noise_unit='characters': the bank's texts are counted in tokens; set "
                    "control=per_candidate or per_pair."
                )
        if isinstance(method, LessConfig) and method.dimensions % 64:
            problems.append(f"methods.{name}.dimensions={method.dimensions}: must be a multiple of 64.")
        if isinstance(method, LessConfig) and method.global_batch_size % config.cluster.micro_batch_size:
            problems.append(
                f"methods.{name}.global_batch_size={method.global_batch_size}: must be a multiple of "
                f"cluster.micro_batch_size={config.cluster.micro_batch_size}; set one of them."
            )
        if isinstance(method, ExternalConfig) and not method.path:
            problems.append(f"methods.{name}.path: kind external needs the path of a Python file.")
    if not config.seeds:
        problems.append("seeds=[]: give at least one training seed.")
    if len(set(config.seeds)) < len(config.seeds):
        problems.append(f"seeds={config.seeds}: a seed is given twice.")
    if len(set(config.fractions)) < len(config.fractions):
        problems.append(f"fractions={config.fractions}: a fraction is given twice.")
    if config.methods and not config.fractions:
        problems.append("fractions=[]: give at least one fraction to select, e.g. [0.15].")
    if config.training.global_batch_size % config.cluster.micro_batch_size:
        problems.append(
            f"training.global_batch_size={config.training.global_batch_size}: must be a multiple of "
            f"cluster.micro_batch_size={config.cluster.micro_batch_size}; set one of them."
        )
    return problems


def _icon_combinations(where: str, icon: IconConfig, config: Config) -> list[str]:
    """Problems of an ICon method, with the options that ``compat`` decides filled in."""
    problems = []
    pool = config.select_from is SelectFrom.pool
    if pool and icon.selector is None:
        problems.append(
            f"{where}.selector: select_from=pool needs the selection model, which extends the scores to the pool; "
            f"set {where}.selector={{}}, or select_from=candidates."
        )
    if not pool and icon.selector is not None:
        problems.append(f"{where}.selector: is for select_from=pool; set {where}.selector=null, or select_from=pool.")
    if icon.control is Control.bank and not icon.bank.lengths:
        problems.append(f"{where}.bank.lengths=[]: give at least one length in tokens.")
    if icon.selector is not None and icon.selector.dtype is Dtype.float16:
        problems.append(f"{where}.selector.dtype='float16': needs loss scaling, which isn't built; use bfloat16.")
    if icon.budget is not Budget.full:
        if icon.control not in (None, Control.bank, Control.none):
            problems.append(
                f"{where}.budget={icon.budget.value!r}: needs control=bank or none, not {icon.control.value}: the "
                "others score a random context for each candidate. Set budget=full, or the control."
            )
        if icon.empty_pairs is EmptyPair.nan:
            problems.append(f"{where}.budget={icon.budget.value!r}: can't leave pairs out; set empty_pairs=error.")
    if icon.budget is Budget.auto and icon.control is not Control.bank:
        problems.append(f"{where}.budget='auto': needs control=bank, whose lengths it reads.")
    return problems
