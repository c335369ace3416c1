"""Schema of what methods share: prompt templates, NLLs of answers, embeddings. See ``icon_repro.config``."""

import enum
from dataclasses import dataclass, field

from icon_repro.config_data import Dtype
from icon_repro.schema import number


class Template(enum.Enum):
    alpaca = "alpaca"  # as in tuning
    scoring = "scoring"  # as ICon's candidates
    plain = "plain"  # instruction and input, a line each
    labelled = "labelled"  # Instruction:, Input: and Response:, each on a line of its own (nuggets)
    as_is = "as_is"  # no template: a ready prompt as it stands, else instruction and input


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
