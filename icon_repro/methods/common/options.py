"""Define the options of steps that methods share: NLLs of answers, embeddings."""

import enum
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from icon_repro.data.options import Dtype
from icon_repro.data.prompts import Template
from icon_repro.engine.schema import number

T = TypeVar("T")


def filled(options: T, **preset: Any) -> T:
    """``options`` with those that are None set to their value in ``preset``."""
    unset = {name: value for name, value in preset.items() if getattr(options, name) is None}
    return replace(options, **unset)  # type: ignore[type-var]


class AnswerPart(enum.Enum):
    conditioned = "conditioned"  # response after its prompt
    direct = "direct"  # response after a fixed text, or after nothing
    whole = "whole"  # prompt and response, all tokens but the first
    prompt = "prompt"  # the prompt alone, all tokens but the first


class Baseline(enum.Enum):
    """Which of two ways a baseline takes where its published code differs from ours; each way is an option too."""

    ours = "ours"
    published = "published"  # ranks as the authors' code does


class RowOrder(enum.Enum):
    id = "id"
    file = "file"  # as the rows come


class LongRows(enum.Enum):
    drop = "drop"  # no score, with that reason
    cut = "cut"  # scored on the response tokens that are left


class Tokenise(enum.Enum):
    separate = "separate"  # a response has the same tokens after any prompt
    joint = "joint"  # prompt and response as one text; the prompt alone says where the response starts


@dataclass
class AnswersConfig:
    """Mean NLLs of the rows of a pool: what perplexity, IFD and Superfiltering are made of."""

    parts: list[AnswerPart]
    template: Template = Template.alpaca
    direct: str = ""  # stands before the response in the direct part
    max_length: int = number(2048, at_least=8)  # tokens; for longer rows see long_rows, a longer prompt alone is cut
    dtype: Dtype = Dtype.float32  # of the weights
    long_rows: LongRows = field(default=LongRows.drop, metadata={"legacy": LongRows.drop})
    tokenise: Tokenise = field(default=Tokenise.separate, metadata={"legacy": Tokenise.separate})
    # tokens of a direct text besides those that the prompt leaves of max_length; None: as many as stand before its
    # response, so that both parts score the same tokens. For long_rows=cut
    direct_room: int | None = number(None, at_least=1, legacy=None)


@dataclass
class AnswersShard:
    """Rows ``start`` to ``stop`` (exclusive)."""

    answers: AnswersConfig
    start: int
    stop: int | None


class PoolingKind(enum.Enum):
    mean = "mean"
    padded = "padded"  # mean over max_length places, padding counts too (nuggets' code)
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
    dtype: Dtype = Dtype.float32  # of the weights
    encoder: bool = field(default=False, metadata={"legacy": False})  # the model reads in both directions
    wrap: bool = field(default=False, metadata={"legacy": False})  # ready prompts go through the template too
    strip: bool = field(default=False, metadata={"legacy": False})  # texts lose the spaces around them


@dataclass
class EmbeddingShard:
    """Rows ``start`` to ``stop`` (exclusive)."""

    embedding: EmbeddingConfig
    start: int
    stop: int | None
