"""Define the options of data and models: sources of rows, samples, candidates, weights."""

import enum
from dataclasses import dataclass, field

from icon_repro.engine.schema import number, unhashed


class Dtype(enum.Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class SourceKind(enum.Enum):
    hub = "hub"
    file = "file"
    registry = "registry"
    stand_in = "stand_in"  # rows of ours, made from a seed: for a rehearsal


class RowFormat(enum.Enum):
    alpaca = "alpaca"  # instruction, input, output: a template is applied
    prompt_response = "prompt_response"  # prompt is used as it stands
    messages = "messages"  # a list of {role, content}; the last assistant turn is the response
    turns = "turns"  # a list of a user's turns, the column ``prompt``; the first is the instruction (MT-bench)
    multiple_choice = "multiple_choice"  # benchmark rows: question, options "A. ..\nB. ..", answer


class ArchiveKind(enum.Enum):
    wheel = "wheel"
    sdist = "sdist"


@dataclass
class RegistryFile:
    """A file inside a released Python package; read from the archive, the package is never imported."""

    package: str  # its name
    version: str  # exactly this one
    sha256: str  # of the archive
    archive: ArchiveKind  # which of its files is downloaded
    member: str  # path inside the archive


@dataclass
class Fields:
    """Names of the columns of a source; only those that its format needs are read."""

    id: str | None = None  # None: the id is made from the content
    instruction: str = "instruction"  # of format alpaca
    input: str | None = "input"  # None: rows have no input
    response: str | None = "output"  # None: rows are prompts alone, for judging; refused with an id twice
    prompt: str = "prompt"  # of formats prompt_response and turns
    messages: str = "messages"  # of format messages
    group: str | None = None  # None: one group
    # columns that say more of a row (system, history, tools, images) and are left out on purpose
    left_out: list[str] = field(default_factory=list, metadata={"legacy": []})


@dataclass
class StandInRows:
    """Rows that ``icon_repro.data.stand_ins`` makes."""

    rows: int = number(at_least=1)
    seed: int = number(at_least=0)


@dataclass
class SourceConfig:
    """Where rows come from and how to read them. Exactly one of path, hub_id and registry is set, as ``kind`` says."""

    kind: SourceKind
    format: RowFormat
    name: str = unhashed()  # in messages and labels
    # JSON, JSONL, CSV, TSV (also .gz, .zst), Parquet or Arrow: a file, a folder or a pattern; hashed by content
    path: str | None = unhashed(None)
    hub_id: str | None = None  # for kind hub: owner/name
    revision: str | None = None  # commit, branch or tag; what it resolves to is hashed
    subset: str | None = None  # the hub's name of a configuration
    split: str = "train"  # of a hub data set
    registry: RegistryFile | None = None  # for kind registry
    stand_in: StandInRows | None = field(default=None, metadata={"legacy": None})
    fields: Fields = field(default_factory=Fields)
    licence: str = unhashed("not stated")  # said at the first use


def column_problems(where: str, source: SourceConfig) -> list[str]:
    """Problems of the columns of the source with the key ``where``: a prompt that would hold the response."""
    prompts = {
        RowFormat.alpaca: ("instruction", "input"),
        RowFormat.prompt_response: ("prompt",),
        RowFormat.turns: ("prompt",),
    }
    fields = source.fields
    return [
        f"{where}.fields.{name}={fields.response}: is the column of the response too (fields.response); the prompt "
        "would give it away. Name the column of the prompt."
        for name in prompts.get(source.format, ())
        if getattr(fields, name) is not None and getattr(fields, name) == fields.response
    ]


@dataclass
class RowsConfig:
    """One set of rows: source, filters, sample."""

    source: SourceConfig
    # rows that can't be read (a null response, malformed JSON) are left out, counted by reason; else they are an error
    drop_unreadable: bool = field(default=False, metadata={"legacy": False})
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
    # words in a row that count as shared text; of Chinese, Japanese, Thai and the like: signs
    ngram: int = number(13, at_least=2)


@dataclass
class CandidatesSize:
    size: int | None
    start: int = field(default=0, metadata={"legacy": 0})  # rows of the order before the first


@dataclass
class CandidatesConfig:
    """The sample of the pool that every method ranks."""

    size: int | None = number(None, at_least=1)  # None: the whole pool
    order: OrderConfig = field(default_factory=OrderConfig)


@dataclass
class DataConfig:
    """The rows to select from, and those that say what for."""

    name: str  # in labels of steps
    pool: RowsConfig  # rows to select from
    assessment: RowsConfig  # rows that say what the tuned model should be good at
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    # disjoint sets of candidates, slices of one order; each method selects from each, a unit of replication each
    pools: int = number(1, at_least=1)
    # another pool that all methods select from (select_from=pool); ICon's candidates and selection model keep ``pool``
    target: RowsConfig | None = None

    @property
    def selected_from(self) -> RowsConfig:
        """What select_from=pool means."""
        return self.pool if self.target is None else self.target


class ModelKind(enum.Enum):
    hub = "hub"
    local = "local"
    registry = "registry"  # a GGUF file inside a Python package, converted once to safetensors
    random = "random"  # a Llama of the given shape with random weights: trials of the machinery only


class RandomArchitecture(enum.Enum):
    causal = "causal"
    encoder = "encoder"  # reads in both directions (BERT)
    classifier = "classifier"  # one label
    gated = "gated"  # ArmoRM's heads


@dataclass
class RandomShape:
    vocab_size: int = number(512, at_least=300)
    hidden_size: int = number(64, at_least=8)
    layers: int = number(2, at_least=1)
    heads: int = number(4, at_least=1)
    kv_heads: int = number(2, at_least=1)
    intermediate_size: int = number(128, at_least=8)
    max_positions: int = number(4096, at_least=64)
    bos: bool = True  # the tokenizer begins a text with a token
    seed: int = number(0, at_least=0)
    architecture: RandomArchitecture = field(
        default=RandomArchitecture.causal, metadata={"legacy": RandomArchitecture.causal}
    )
    dtype: Dtype = field(default=Dtype.float32, metadata={"legacy": Dtype.float32})  # of the stored weights
    chat_end: str = field(default="", metadata={"legacy": ""})  # before a reply, in the chat template; empty: none


@dataclass
class ModelConfig:
    """A model: where its weights come from, and what is unusual about them."""

    kind: ModelKind
    name: str = unhashed()  # in tables and folders
    hub_id: str | None = None  # for kind hub: owner/name
    revision: str | None = None  # commit, branch or tag; what it resolves to is hashed
    path: str | None = unhashed(None)  # for kind local: a folder that transformers saved; hashed by content
    registry: RegistryFile | None = None  # for kind registry
    random: RandomShape | None = None  # for kind random
    # weights that its files lack and that are meant to be drawn at random: names as in the error that asks, * for
    # any text. All others must fit, by name and shape
    new_weights: list[str] = field(default_factory=list, metadata={"legacy": []})
    # weights in its files that the model doesn't have
    unused_weights: list[str] = field(default_factory=list, metadata={"legacy": []})
    parameters: int = field(default=0, metadata={"hash": False, "at_least": 0})  # for cost estimates
    licence: str = unhashed("not stated")  # said at the first use


class TokensField(enum.Enum):
    """What a server calls the limit of a reply."""

    max_tokens = "max_tokens"
    max_completion_tokens = "max_completion_tokens"  # OpenAI's o-series, gpt-5; thoughts count too


# fields of a request that aren't for ``extra``
_SENT = {"model", "messages", "temperature", "seed", "stream", "n", *(name.value for name in TokensField)}


class SelectFrom(enum.Enum):
    candidates = "candidates"  # the rows that ICon scores
    pool = "pool"  # all rows; ICon needs its selection model then


@dataclass
class HubData:
    """The hub data set that a task of lm-eval's reads."""

    hub_id: str  # owner/name
    revision: str  # commit, branch or tag; what it resolves to is hashed
