"""Schema of the baselines whose published code ranks otherwise than ours: IFD, RDS+, Nuggets, SelectIT.

Each difference is an option; ``compat`` sets all of a method that are left null. See ``icon_repro.config.load``.
"""

import enum
from dataclasses import dataclass, field, replace
from typing import Any

from icon_repro.data.options import Dtype, ModelConfig
from icon_repro.data.prompts import Template
from icon_repro.engine.schema import number, unhashed
from icon_repro.lm.options import LoraConfig
from icon_repro.methods.common.options import Baseline, LongRows, RowOrder, Tokenise
from icon_repro.train.options import Tuning


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
    """Instruction-following difficulty (arXiv 2308.12032): loss of a response with its prompt over that without.

    ``compat`` sets the options after it that are left null, for the code that ``ratio`` names.
    """

    kind: str = "ifd"
    compat: Baseline = field(default=Baseline.ours, metadata={"hash": False})  # its options are hashed
    long_rows: LongRows | None = field(default=None, metadata={"legacy": LongRows.drop})  # published: cut
    tokenise: Tokenise | None = field(default=None, metadata={"legacy": Tokenise.separate})  # published: joint
    direct_room: int | None = number(None, at_least=1, legacy=None)  # published: 4 (loss), 1 (perplexity)
    drop_one: bool | None = field(default=None, metadata={"legacy": False})  # published: with ratio=perplexity
    ratio: Ratio = Ratio.loss
    drop_above_one: bool = True  # rows whose prompt makes the response less likely; drop_one: those at exactly 1 too
    template: Template = Template.alpaca
    direct: str = "### Response:"
    max_length: int = number(1024, at_least=8)  # tokens
    dtype: Dtype = Dtype.float32
    proxy: ModelConfig | None = None  # None: the model that is tuned; Superfiltering (arXiv 2402.00530) takes GPT-2
    pre_experienced: PreExperiencedConfig | None = field(default=None, metadata={"legacy": None})
    diversity: DiversityConfig | None = field(default=None, metadata={"legacy": None})
    shard_rows: int = number(2048, at_least=1)


class Turn(enum.Enum):
    """What a query does whose nearest row is taken."""

    next = "next"  # it takes its next one
    lose = "lose"  # it waits for its next turn


@dataclass
class RdsConfig:
    """RDS+ (arXiv 2503.01807): nearest to the assessment rows in hidden states, the queries taking turns.

    ``compat`` sets the options after it that are left null.
    """

    kind: str = "rds"
    compat: Baseline = field(default=Baseline.ours, metadata={"hash": False})  # its options are hashed
    turn: Turn | None = field(default=None, metadata={"legacy": Turn.next})  # published: lose
    ties: RowOrder | None = field(default=None, metadata={"legacy": RowOrder.id})  # published: file
    # None: that of the rows, into which ready prompts go too; published: as_is
    query_template: Template | None = field(default=None, metadata={"hash": False})  # in the queries' embeddings
    template: Template = Template.alpaca
    max_length: int = number(2048, at_least=8)
    dtype: Dtype = Dtype.float32
    shard_rows: int = number(2048, at_least=1)


@dataclass
class AnchorsConfig:
    """Rows nearest to the centres of K-means, or rows of your own."""

    count: int = number(100, at_least=1)
    seed: int = number(0, at_least=0)
    ids: str | None = unhashed(None)  # a JSON list of ids to take instead; hashed by content
    padding: bool | None = field(default=None, metadata={"legacy": False})  # counts in the means; published: true
    order: RowOrder | None = field(default=None, metadata={"legacy": RowOrder.id})  # in K-means; published: file


class Counted(enum.Enum):
    """The anchors that a row's score is a share of."""

    scored = "scored"  # those with a response token within the limit, and not the row itself
    all = "all"  # the row itself too; one without a response token isn't helped


@dataclass
class NuggetsConfig:
    """Nuggets (arXiv 2312.10302): the share of anchors whose response a row makes likelier when shown before them.

    ``compat`` sets the options after it, and two of ``anchors``, that are left null.
    """

    kind: str = "nuggets"
    compat: Baseline = field(default=Baseline.ours, metadata={"hash": False})  # its options are hashed
    separator: str | None = None  # between row and anchor; ours: a blank line, published: nothing
    anchor_bos: bool | None = field(default=None, metadata={"legacy": True})  # before an anchor alone; published: no
    strip: bool | None = field(default=None, metadata={"legacy": False})  # spaces around texts; published: yes
    tokenise: Tokenise | None = field(default=None, metadata={"legacy": Tokenise.separate})  # published: joint
    counted: Counted | None = field(default=None, metadata={"legacy": Counted.scored})  # published: all
    shot_tokens: int | None = number(None, at_least=0)  # longer rows are cut where they are shown; 0: never. Ours: 1024
    anchors: AnchorsConfig = field(default_factory=AnchorsConfig)
    repeats: int = field(default=1, metadata={"hash": False, "at_least": 1})  # see ``repetitions``
    template: Template = Template.labelled
    anchor_tokens: int = number(200, at_least=8)  # longer anchors are cut
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
    """SelectIT (arXiv 2402.16705): the model rates each row from 1 to 5 under five wordings of the question.

    ``compat`` sets the options after it that are left null. Wording and layout decide the ranking, and the published
    wording isn't part of this project: ``questions`` names a file with it.
    """

    kind: str = "selectit"
    compat: Baseline = field(default=Baseline.ours, metadata={"hash": False})  # its options are hashed
    layout: Baseline | None = field(default=None, metadata={"legacy": Baseline.ours})  # of question, row and answer
    max_length: int | None = number(None, at_least=0)  # tokens; longer rows aren't rated; 0: no limit. Ours: 2048
    questions: str | None = unhashed(None)  # a file of five lines; None: ours. Hashed by content
    alpha: float = number(0.2, at_least=0)  # weight of the spread over the wordings
    dtype: Dtype = Dtype.float32
    shard_rows: int = number(512, at_least=1)


@dataclass
class SelectitShard:
    """Rows ``start`` to ``stop`` (exclusive)."""

    selectit: SelectitConfig
    start: int
    stop: int | None


def as_compat_says(method: Any) -> Any:
    """``method`` with every option that its ``compat`` decides filled in: of IFD, RDS+, Nuggets and SelectIT."""
    preset: dict[str, Any] = {}
    published = getattr(method, "compat", None) is Baseline.published
    if isinstance(method, IfdConfig):
        preset = {
            "long_rows": LongRows.cut if published else LongRows.drop,
            "tokenise": Tokenise.joint if published else Tokenise.separate,
            "direct_room": {Ratio.loss: 4, Ratio.perplexity: 1}[method.ratio] if published else None,
            "drop_one": published and method.ratio is Ratio.perplexity,
        }
    elif isinstance(method, RdsConfig):
        preset = {
            "turn": Turn.lose if published else Turn.next,
            "ties": RowOrder.file if published else RowOrder.id,
            "query_template": Template.as_is if published else None,
        }
    elif isinstance(method, NuggetsConfig):
        anchors = method.anchors
        anchors = replace(
            anchors,
            padding=published if anchors.padding is None else anchors.padding,
            order=anchors.order or (RowOrder.file if published else RowOrder.id),
        )
        method = replace(method, anchors=anchors)
        preset = {
            "separator": "" if published else "\n\n",
            "anchor_bos": not published,
            "strip": published,
            "tokenise": Tokenise.joint if published else Tokenise.separate,
            "counted": Counted.all if published else Counted.scored,
            "shot_tokens": 0 if published else 1024,
        }
    elif isinstance(method, SelectitConfig):
        preset = {"layout": Baseline.published if published else Baseline.ours, "max_length": 0 if published else 2048}
    return replace(method, **{name: value for name, value in preset.items() if getattr(method, name) is None})
