"""Schema of data, models and tuning: what methods and evaluations share. See ``icon_repro.config``."""

import enum
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from icon_repro.schema import number, unhashed


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


class SourceKind(enum.Enum):
    hub = "hub"
    file = "file"
    registry = "registry"


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
    response: str | None = "output"  # None: rows are prompts alone, for judging; refused with an id twice
    prompt: str = "prompt"
    messages: str = "messages"
    group: str | None = None  # None: one group


@dataclass
class SourceConfig:
    """Where rows come from and how to read them. Exactly one of path, hub_id and registry is set, as ``kind`` says."""

    kind: SourceKind
    format: RowFormat
    name: str = unhashed()
    # JSON, JSONL (also .gz, .zst), Parquet or Arrow: a file, a folder or a pattern; hashed by content
    path: str | None = unhashed(None)
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
    ngram: int = number(13, at_least=2)  # words in a row that count as shared text


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
    name: str
    pool: RowsConfig
    assessment: RowsConfig
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
    # weights that its files lack and that are meant to be drawn at random, and weights in its files that aren't used:
    # names as in the error that asks for them, * for any text. All others must fit, by name and shape
    new_weights: list[str] = field(default_factory=list, metadata={"legacy": []})
    unused_weights: list[str] = field(default_factory=list, metadata={"legacy": []})
    parameters: int = field(default=0, metadata={"hash": False, "at_least": 0})  # for cost estimates
    licence: str = unhashed("not stated")


class Tuning(enum.Enum):
    lora = "lora"
    full = "full"


class Schedule(enum.Enum):
    linear = "linear"
    cosine = "cosine"
    constant_with_warmup = "constant_with_warmup"


@dataclass
class DeepspeedConfig:
    """How the processes of a training share its memory. Changes the last digits of a result only."""

    stage: int = number(2, at_least=2, at_most=3)  # of ZeRO: 2 splits optimizer state and gradients, 3 weights too
    offload: bool = False  # what is split lies in main memory, not on the GPU; slower. Nothing on a CPU


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
    # weights after these epochs are saved too, for tasks with ``epoch``; the schedule is that of all epochs
    kept_epochs: list[int] = number([], at_least=1, legacy=[])
    # None: every process holds everything. One process without offload has nothing to share, and doesn't use it
    deepspeed: DeepspeedConfig | None = unhashed(None)


@dataclass
class TrainJob:
    train: TrainConfig
    seed: int


class TokensField(enum.Enum):
    """What a server calls the limit of a reply."""

    max_tokens = "max_tokens"
    max_completion_tokens = "max_completion_tokens"  # OpenAI's o-series, gpt-5; thoughts count too


@dataclass
class EndpointConfig:
    """An OpenAI-compatible chat endpoint. What it charges is in any one currency, for a million tokens."""

    model: str
    temperature: float | None = number(0.0, at_least=0)  # None: not sent, for models that take none
    max_tokens: int = number(512, at_least=1)  # of a reply
    max_tokens_field: TokensField = field(default=TokensField.max_tokens, metadata={"legacy": TokensField.max_tokens})
    extra: dict[str, Any] = field(default_factory=dict, metadata={"legacy": {}})  # sent along: {reasoning_effort: low}
    seed: int | None = number(None, at_least=0)  # sent along, one higher with each time that a request is asked again
    reasks: int = number(2, at_least=0)  # a reply that can't be read is asked for again so often
    base_url: str = unhashed("https://api.openai.com/v1")
    api_key_env: str = unhashed("OPENAI_API_KEY")  # environment variable that holds the key; never the key itself
    concurrency: int = field(default=8, metadata={"hash": False, "at_least": 1})  # requests at a time
    timeout_s: float = field(default=120.0, metadata={"hash": False, "above": 0})  # of a try, from start to end
    retries: int = field(default=8, metadata={"hash": False, "at_least": 0})  # tries of a request after its first
    backoff_s: float = field(default=1.0, metadata={"hash": False, "above": 0})  # before the first; doubles each time
    # share of the requests without any reply that doesn't end the step
    max_unanswered: float = field(default=0.0, metadata={"hash": False, "at_least": 0, "at_most": 1})
    max_wait_s: float = field(default=300.0, metadata={"hash": False, "above": 0})  # longest pause before a try
    max_cost: float | None = field(default=None, metadata={"hash": False, "at_least": 0})  # of one step
    price_in: float = field(default=0.0, metadata={"hash": False, "at_least": 0})
    price_out: float = field(default=0.0, metadata={"hash": False, "at_least": 0})

    @property
    def local(self) -> bool:
        """On this machine: needs no key."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Money for so many tokens; 0 where no prices are set."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


# fields of a request that aren't for ``extra``
_SENT = {"model", "messages", "temperature", "seed", "stream", "n", *(name.value for name in TokensField)}


def endpoint_problems(where: str, endpoint: EndpointConfig) -> list[str]:
    """What no single value's type or range shows. Values that may be keys aren't repeated."""
    problems = []
    try:
        url = urlsplit(endpoint.base_url)
        good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        good = False
    if not good:
        problems.append(f"{where}.base_url: must be like https://host:port/v1.")
    elif url.username or url.password or url.query or url.fragment:
        problems.append(f"{where}.base_url: must hold no user, password or query; the key is in the environment.")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", endpoint.api_key_env):
        problems.append(f"{where}.api_key_env: must be the name of an environment variable, not the key itself.")
    if own := sorted(_SENT & endpoint.extra.keys()):
        problems.append(f"{where}.extra.{own[0]}: has a key of its own, or is fixed; extra holds other fields alone.")
    if endpoint.max_cost is not None and not (endpoint.price_in or endpoint.price_out):
        problems.append(f"{where}.max_cost={endpoint.max_cost:g}: needs price_in and price_out, for a million tokens.")
    return problems
