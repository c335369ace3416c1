"""Define the options of IFD, of the brief experience that its model may get first, and of an order by diversity."""

import enum
from dataclasses import dataclass, field

from icon_repro.data.options import Dtype, ModelConfig
from icon_repro.data.prompts import Template
from icon_repro.engine.schema import number
from icon_repro.lm.options import LoraConfig
from icon_repro.methods.common.options import Baseline, LongRows, Tokenise
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
    tuning: Tuning = Tuning.full  # of the model that is tuned first
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
    direct: str = "### Response:"  # stands before the response where it has no prompt
    max_length: int = number(1024, at_least=8)  # tokens
    dtype: Dtype = Dtype.float32  # of the weights
    proxy: ModelConfig | None = None  # None: the model that is tuned; Superfiltering (arXiv 2402.00530) takes GPT-2
    pre_experienced: PreExperiencedConfig | None = field(default=None, metadata={"legacy": None})
    diversity: DiversityConfig | None = field(default=None, metadata={"legacy": None})
    shard_rows: int = number(2048, at_least=1)
