"""Schema of the selection methods: a class a method, and one for each of its steps. See ``icon_repro.config``."""

import enum
import math
from dataclasses import dataclass, field, replace
from typing import Any

from icon_repro.config_data import Dtype, EndpointConfig, LoraConfig, ModelConfig, RowsConfig, Tuning
from icon_repro.schema import number, unhashed


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
    repeats: int = field(default=1, metadata={"hash": False, "at_least": 1})  # see ``repetitions``
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
    repeats: int = field(default=1, metadata={"hash": False, "at_least": 1})  # see ``repetitions``


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
    prompt = "prompt"  # the prompt alone, all tokens but the first


@dataclass
class AnswersConfig:
    """Mean NLLs of the rows of a pool: what perplexity, IFD and Superfiltering are made of."""

    parts: list[AnswerPart]
    template: Template = Template.alpaca
    direct: str = ""  # stands before the response in the direct part
    max_length: int = number(2048, at_least=8)  # tokens; a longer row isn't scored, a longer prompt alone is cut
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
class ChoiceConfig:
    """Rows of every kind of instruction: some of each cluster, their prompts neither the likeliest nor the least."""

    clusters: int = number(100, at_least=1)
    seed: int = number(0, at_least=0)  # of K-means
    per_cluster: int = number(10, at_least=1)  # rows taken of each
    low_percentile: float = number(25.0, at_least=0, at_most=100)  # of the prompts' perplexities in a cluster; the
    high_percentile: float = number(75.0, at_least=0, at_most=100)  # script's values (its code's own are 1 and 99)


@dataclass
class PreExperiencedConfig:
    """IFD under a model that has seen some of the rows first: which ones, and how it is tuned on them."""

    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    prompt_tokens: int = number(512, at_least=8)  # longer prompts are cut where they are embedded and scored alone
    tuning: Tuning = Tuning.full
    learning_rate: float = number(2e-5, above=0)
    epochs: float = number(1.0, above=0)
    global_batch_size: int = number(128, at_least=1)
    max_length: int = number(512, at_least=8)  # tokens, in tuning; longer rows are cut
    dtype: Dtype = Dtype.bfloat16  # of the forward pass in tuning; weights stay float32
    lora: LoraConfig = field(default_factory=LoraConfig)  # for tuning=lora
    seed: int = number(0, at_least=0)  # of tuning


@dataclass
class DiversityConfig:
    """Superfiltering.D: of the rows with the best IFD, first those that represent the others."""

    share: float = number(0.2, above=0, at_most=1)  # of all rows, by IFD below 1; the others aren't ranked
    model: ModelConfig | None = None  # that embeds rows; None: the one that IFD is computed with
    encoder: bool = False  # ``model`` reads in both directions (BERT)
    max_length: int = number(512, at_least=8)  # tokens; longer rows are cut where they are embedded
    max_gib: float = field(default=4.0, metadata={"hash": False, "above": 0})  # of memory for similarities


@dataclass
class ShareConfig:
    """The best rows by IFD."""

    share: float


@dataclass
class OrderByDiversity:
    """The order of facility location."""

    max_gib: float = field(metadata={"hash": False})


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
    pre_experienced: PreExperiencedConfig | None = field(default=None, metadata={"legacy": None})
    diversity: DiversityConfig | None = field(default=None, metadata={"legacy": None})
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
    encoder: bool = field(default=False, metadata={"legacy": False})  # the model reads in both directions


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
    repeats: int = field(default=1, metadata={"hash": False, "at_least": 1})  # see ``repetitions``
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


class AdamFormula(enum.Enum):
    paper = "paper"  # moments corrected for their start at 0
    code = "code"  # moments as they are; the root's 1e-8 weighs more then


class ShotMean(enum.Enum):
    cosines = "cosines"  # of a row with each shot of a task (the released code)
    gradients = "gradients"  # of the shots, then one cosine with it (the paper)


@dataclass
class LessConfig:
    """LESS (arXiv 2402.04333): rows whose gradients point where those of the targets do."""

    kind: str = "less"
    # task -> its shots, never rows that are evaluated; their groups are tasks of their own. Empty: the assessment rows
    targets: dict[str, RowsConfig] = field(default_factory=dict, metadata={"legacy": {}})
    adam: AdamFormula = field(default=AdamFormula.paper, metadata={"legacy": AdamFormula.code})
    shot_mean: ShotMean = field(default=ShotMean.cosines, metadata={"legacy": ShotMean.cosines})
    warmup_fraction: float = number(0.05, above=0, at_most=1)  # of the rows, at random
    warmup_seed: int = number(3, at_least=0)
    repeats: int = field(default=1, metadata={"hash": False, "at_least": 1})  # see ``repetitions``
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
}


class SelectFrom(enum.Enum):
    candidates = "candidates"  # the rows that ICon scores
    pool = "pool"  # all rows; ICon needs its selection model then


@dataclass
class SelectConfig:
    fraction: float = number(above=0, at_most=1)


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
