"""Define the options of ICon, its budgets and its selection model, and of their steps."""

import enum
import math
from dataclasses import dataclass, field, replace
from typing import Any

from icon_repro.data.cost import FROZEN_TRAINING
from icon_repro.data.options import Dtype
from icon_repro.engine.schema import number
from icon_repro.lm.options import LoraConfig
from icon_repro.methods.base import repeats_field


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
    int8 = "int8"  # of linear layers, on CPUs; a scale a token
    float8 = "float8"  # of linear layers, on GPUs that have it; a scale a token


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
    auto = "auto"  # a few rows for each candidate, its own ones, and a probe; more of them near a cut


@dataclass
class AdaptiveConfig:
    """Rounds of assessment rows in one order for all candidates, seeded and stratified by group."""

    first_rows: int = number(16, at_least=4)  # of the first round
    growth: float = number(1.5, above=1)  # rows scored after a round over those before
    error: float = number(0.05, above=0, below=1)  # aimed at: expected share of the selected set that differs
    seed: int = number(0, at_least=0)  # of the order of the rows


@dataclass
class AutoConfig:
    """How ``budget=auto`` spends its pairs: few rows for each candidate, its own ones, and a probe.

    Without a selection model, candidates near a cut get more rows, in rounds. With one there is no probe here: the
    first candidates meet all rows in use, a pilot that says which few rows rank as all do; the others meet these, and
    they are as many as the saved tuning pays for, as the selection model learns better from more of them.
    """

    first_rows: int = number(4, at_least=2)  # that each candidate meets
    growth: float = number(2.0, above=1)  # rows scored after a round over those before
    # in use at all; None: as many as keep the bank's share small, 64 with a selection model
    rows: int | None = number(None, at_least=16)
    pilot_candidates: int = number(16, at_least=8)  # that meet all rows in use, before a selection model
    cost_ratio: float = number(0.3, above=0)  # FLOPs of selection over FLOPs of tuning that it saves, at most
    least_candidates: int = number(64, at_least=8)  # however little the saved tuning pays for
    depths: list[float] = number([0.25, 0.5, 0.75, 1.0], above=0, at_most=1)  # of the layers that the probe reads


POOL_ROWS = 64  # in use before a selection model: the pilot and the bank meet all of them


def round_ends(rows: int, cfg: AdaptiveConfig | AutoConfig, rounds: int | None = None) -> list[int]:
    """How many rows are scored after each of at most ``rounds`` rounds; the last is ``rows``."""
    ends = [min(cfg.first_rows, rows)]
    while ends[-1] < rows:
        ends.append(min(rows, max(ends[-1] + 1, math.ceil(ends[-1] * cfg.growth))))
    return ends if rounds is None or len(ends) <= rounds else [*ends[: rounds - 1], rows]


def rows_in_use(total: int, candidates: int, auto: AutoConfig) -> int:
    """How many assessment rows budget auto uses: each meets many candidates, and the bank's share of the work is small.

    By default the bank (16 texts) costs an eighth of the first round's pairs, and 48 rows are the least.
    """
    return min(total, auto.rows or max(48, candidates * auto.first_rows // 128))


class SelectorTarget(enum.Enum):
    rank = "rank"  # regression on the score's rank: one model, nested selections
    top_fraction = "top_fraction"  # one binary classifier for each fraction, as released (D9)


class SelectorHead(enum.Enum):
    trained = "trained"
    frozen = "frozen"  # at its random initialisation, as released (D8)


class SelectorKind(enum.Enum):
    lora = "lora"  # a classifier with LoRA, as the paper
    probe = "probe"  # ridge regression on the frozen model's hidden states: no training, at the cost of one pass


@dataclass
class ProbeConfig:
    """What the probe reads: hidden states after layers at these shares of the depth."""

    depths: list[float] = number([0.25, 0.5, 0.75, 1.0], above=0, at_most=1)
    dtype: Dtype = Dtype.bfloat16  # ranked the pilot's rows as float32 did, when tried once


@dataclass
class SelectorConfig:
    """A model that learns the candidates' scores and ranks the whole pool.

    ``kind=probe`` uses ``probe``, ``held_out``, ``pool_max_length`` and ``shard_rows``; the rest is of ``kind=lora``.
    """

    # None: lora with ``compat=official``, else probe, which ranks unseen rows better (experiments/price)
    kind: SelectorKind | None = field(default=None, metadata={"legacy": SelectorKind.lora})
    probe: ProbeConfig = field(default_factory=ProbeConfig, metadata={"legacy": ProbeConfig()})
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
    # rows of the pool that lie nearest a cut by the prediction and are then scored themselves: of kind=probe with
    # methods.NAME.budget=auto; their cost is part of cost_ratio
    near: int = number(0, at_least=0, legacy=0)
    # shares of the best that it is tested on finding, and models are compared on; of target=top_fraction its own alone.
    # They aren't the experiment's fractions: one more of these would train the same model again
    tested_fractions: list[float] = field(
        default_factory=lambda: [0.01, 0.05, 0.1, 0.15], metadata={"hash": False, "above": 0, "at_most": 1}
    )

    @property
    def learning_passes(self) -> float:
        """Forward passes that learning from a candidate costs as much as, over all models."""
        return 1.0 if self.kind is SelectorKind.probe else self.epochs * FROZEN_TRAINING * self.repeats


# of SelectorConfig: what a probe has no use for, apart from what has messages of its own
LEAST = 8  # candidates from which budget=auto can learn something
LORA_ONLY = ("learning_rate", "epochs", "batch_size", "warmup_ratio", "max_length", "lora", "dtype", "seed")


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
    repeats: int = repeats_field()
    dtype: ScoreDtype = ScoreDtype.float32
    fidelity: FidelityConfig = field(default_factory=FidelityConfig, metadata={"legacy": FidelityConfig()})
    budget: Budget = field(default=Budget.full, metadata={"legacy": Budget.full})
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig, metadata={"legacy": AdaptiveConfig()})
    auto: AutoConfig = field(default_factory=AutoConfig, metadata={"legacy": AutoConfig()})
    selector: SelectorConfig | None = field(default=None, metadata={"legacy": None})
    # how many of ``data.candidates`` are scored, the first of the order; the selection model ranks the rest. None: all
    candidates: int | None = number(None, at_least=1, legacy=None)
    separator: str = "\n\n\n"  # between context and assessment row
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
        "kind": SelectorKind.lora if official else SelectorKind.probe,
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
    """What selection saves, for budget auto: tuning on all rows that are selected from but the largest fraction."""

    epochs: float
    max_length: int
    frozen: bool  # LoRA
    fraction: float
    rows: int | None = field(default=None, metadata={"legacy": None})  # the first of the order; None: all


@dataclass
class IconRound:
    """What is known when a round of adaptive scoring starts, or, for the scores, when the last one has ended."""

    icon: IconConfig
    stop: int | None  # candidates are the first ``stop`` rows of the order; None: all
    fractions: list[float]
    rounds: int  # planned; the last one scores all rows that are left (budget auto: that are in use)
    saved: TuningSaved | None = None  # for budget auto with a selection model: it chooses the number of candidates


@dataclass
class Features:
    """How alike the first candidates' hidden states are, for budget auto."""

    probe: ProbeConfig
    max_length: int  # tokens
    stop: int | None  # the first so many of the order; None: all


@dataclass
class SelectorJob:
    """One selection model: which scores it learns and with which seed."""

    selector: SelectorConfig  # resolved
    fractions: list[float]  # ``tested_fractions``; a binary target learns the only one
    seed: int


@dataclass
class SelectorShard:
    """Rows ``start`` to ``stop`` (exclusive) of the pool's order, scored by a selection model."""

    selector: SelectorConfig
    start: int
    stop: int | None


@dataclass
class NearRows:
    """What joins a probe's predictions with scores, and chooses ``near`` rows at the cuts to be scored."""

    icon: IconConfig
    near: int
    fractions: list[float]


@dataclass
class SelectorScores:
    """All rows of the pool with the scores of the first model, and how far the others agree with it."""

    fractions: list[float]
    repeats: int
