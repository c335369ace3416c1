"""Define the options of language models: LoRA, and a chat model behind an OpenAI-compatible server."""

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from icon_repro.data.options import _SENT, TokensField
from icon_repro.engine.schema import number, unhashed


@dataclass
class LoraConfig:
    """A low-rank adapter beside the weights (LoRA: arXiv 2106.09685)."""

    r: int = number(8, at_least=1)
    alpha: int = number(16, at_least=1)
    dropout: float = number(0.05, at_least=0, below=1)
    # names of the linear layers that get one
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])

    def problems(self, where: str) -> list[str]:
        """Problems of the options with the key ``where``; which layers a model has isn't known yet."""
        if self.targets and not any(re.search("all.linear", target) for target in self.targets):
            return []
        layers = "[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]"
        return [
            f"{where}.targets={self.targets}: name layers; all linear ones of a Llama are {where}.targets={layers}."
        ]


OPENAI = "https://api.openai.com/v1"


@dataclass
class EndpointConfig:
    """An OpenAI-compatible chat endpoint. What it charges is in any one currency, for a million tokens."""

    model: str  # as the server names it
    temperature: float | None = number(0.0, at_least=0)  # None: not sent, for models that take none
    max_tokens: int = number(512, at_least=1)  # of a reply
    max_tokens_field: TokensField = field(default=TokensField.max_tokens, metadata={"legacy": TokensField.max_tokens})
    extra: dict[str, Any] = field(default_factory=dict, metadata={"legacy": {}})  # sent along: {reasoning_effort: low}
    seed: int | None = number(None, at_least=0)  # sent along, one higher with each time that a request is asked again
    reasks: int = number(2, at_least=0)  # a reply that can't be read is asked for again so often
    # nobody is asked: ``icon_repro.lm.stand_in_endpoint`` answers, for a rehearsal
    stand_in: bool = field(default=False, metadata={"legacy": False})
    served_as: str | None = field(default=None, metadata={"legacy": None})  # the model that replies name, if another
    base_url: str = field(default=OPENAI, metadata={"legacy": OPENAI})  # up to /v1
    # who answers at base_url, for a server of yours whose address changes; hashed in its place
    server: str | None = unhashed(None)
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
    # whose the prices are, as "MODEL at BASE_URL": for others none are known; None: of whatever is asked
    prices_of: str | None = unhashed(None)

    @property
    def server_name(self) -> str:
        """Who answers: another server may have another model of the same name."""
        return self.server if self.server is not None else self.base_url.rstrip("/")

    def as_hashed(self) -> "EndpointConfig":
        """What enters a fingerprint: who answers, wherever that is; nobody, of a stand-in."""
        return replace(self, base_url=OPENAI if self.stand_in else self.server_name, server=None)

    @property
    def local(self) -> bool:
        """On this machine: needs no key."""
        if self.stand_in:
            return True
        host = urlsplit(self.base_url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def priced(self) -> bool:
        """Whether prices are set, of this model at this server."""
        of = self.prices_of is None or self.prices_of == f"{self.model} at {self.base_url.rstrip('/')}"
        return of and bool(self.price_in or self.price_out)

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Money for so many tokens; 0 where no prices are known."""
        if not self.priced:
            return 0.0
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@runtime_checkable
class Asking(Protocol):
    """Options of a step that asks an endpoint, with what the plan expects of it if no request is asked again."""

    endpoint: EndpointConfig
    expected_calls: int
    expected_tokens_in: float
    expected_tokens_out: float


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
    if fixed := sorted(_SENT & endpoint.extra.keys()):
        problems.append(f"{where}.extra.{fixed[0]}: has a key of its own, or is fixed; extra holds other fields alone.")
    if endpoint.max_cost is not None and not endpoint.priced:
        limit = f"{where}.max_cost={endpoint.max_cost:g}"
        if not (endpoint.price_in or endpoint.price_out):
            problems.append(f"{limit}: needs price_in and price_out, for a million tokens.")
        elif not endpoint.local:  # one of one's own charges nothing
            problems.append(
                f"{limit}: price_in and price_out are those of {endpoint.prices_of}. Set those of {endpoint.model} at "
                f"{endpoint.base_url} with {where}.prices_of=null; or {where}.max_cost=null."
            )
    return problems
