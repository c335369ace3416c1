"""Define the options of judging: who judges, by which protocol, which sets, and the jobs of its steps."""

import enum
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from icon_repro.data.options import Dtype, ModelConfig, RowFormat, RowsConfig
from icon_repro.data.prompts import Template
from icon_repro.engine.schema import nearest, number, unhashed
from icon_repro.lm.options import EndpointConfig, endpoint_problems


class JudgeKind(enum.Enum):
    none = "none"
    endpoint = "endpoint"  # a chat model behind an OpenAI-compatible server
    local = "local"  # a model of ours reads the same prompts
    nll = "nll"  # no judge that reads: the answer is preferred that a model finds likelier, a token


class Protocol(enum.Enum):
    vicuna10 = "vicuna10"  # two scores from 1 to 10
    pair_v2 = "pair_v2"  # a verdict A, B or C


class LocalReading(enum.Enum):
    generate = "generate"  # the model's greedy reply is read, as an endpoint's is
    letters = "letters"  # pair_v2 only: the likeliest of the letters A, B and C where the verdict starts


@dataclass
class GenerationConfig:
    """Greedy answers of the models that are compared."""

    max_new_tokens: int = number(512, at_least=1)
    max_length: int = number(2048, at_least=8)  # prompt and answer; a longer prompt has no answer and is counted
    dtype: Dtype = Dtype.float32  # of the weights
    expected_tokens: int = field(default=200, metadata={"hash": False, "at_least": 1})  # of an answer


@dataclass
class EndpointJudge:
    protocol: Protocol
    endpoint: EndpointConfig
    expected_calls: int = unhashed()  # and the tokens of all of them
    expected_tokens_in: float = unhashed()
    expected_tokens_out: float = unhashed()


@dataclass
class LocalJudge:
    protocol: Protocol
    reading: LocalReading
    max_length: int = number(at_least=8)
    max_new_tokens: int = number(at_least=1)
    dtype: Dtype = field(kw_only=True)


@dataclass
class NllJudge:
    template: Template
    max_length: int = number(at_least=8)
    dtype: Dtype = field(kw_only=True)


@dataclass
class ServedAnswers:
    endpoint: EndpointConfig
    expected_calls: int = unhashed()
    expected_tokens_in: float = unhashed()
    expected_tokens_out: float = unhashed()


@dataclass
class ReferenceAnswers:
    """The responses of a set's own rows."""


@dataclass
class PooledSets:
    """All sets of one comparison together."""

    ordered: bool  # the judge saw the answers in an order


@dataclass
class JudgeConfig:
    """Whose answers are compared with whose, on which prompts, and by whom."""

    kind: JudgeKind = JudgeKind.none
    protocol: Protocol = Protocol.vicuna10  # of endpoint and local
    # name -> prompts, answered by each arm and by what it is compared with; no responses (fields.response: null)
    sets: dict[str, RowsConfig] = field(default_factory=dict)
    # name -> prompts with the answers of a reference, e.g. AlpacaEval's; each arm is compared with these
    references: dict[str, RowsConfig] = field(default_factory=dict)
    # name of a reference -> group: its win rate is a benchmark of that group too
    benchmarks: dict[str, str] = field(default_factory=dict, metadata={"hash": False})
    # base, full, a method (of the same fraction and seed), or served: whom the sets compare with
    against: str = "full"
    # method -> whom it is compared with, where that isn't ``against``: each arm is compared with one
    opponents: dict[str, str] = field(default_factory=dict)
    served: EndpointConfig | None = None  # for against=served: any model behind an OpenAI-compatible server
    methods: list[str] = field(default_factory=list)  # arms that are judged, with base and full; empty: all
    fractions: list[float] = number([], above=0, at_most=1)  # of these methods; empty: all
    # method -> its fractions that are compared with references, where these aren't ``fractions``; empty: all
    references_at: dict[str, list[float]] = field(default_factory=dict, metadata={"above": 0, "at_most": 1})
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    endpoint: EndpointConfig | None = None  # for kind endpoint
    model: ModelConfig | None = None  # for local and nll; None: the experiment's own, untuned
    reading: LocalReading = LocalReading.generate  # of local
    max_length: int = number(2048, at_least=8)  # of local and nll: tokens of all that the model reads and writes
    max_new_tokens: int = number(256, at_least=1)  # of local: a reply
    dtype: Dtype = Dtype.float32  # of local and nll
    template: Template = Template.alpaca  # of nll: the prompt before an answer
    expected_reply_tokens: int = field(default=200, metadata={"hash": False, "at_least": 1})

    def whom(self, method: str) -> str:
        """Whom a method's answers are compared with."""
        return self.opponents.get(method, self.against)


def judge_sources(judge: JudgeConfig) -> dict[str, RowsConfig]:
    """All rows that judging reads, by their key in the configuration."""
    sets = {f"judge.sets.{name}": rows for name, rows in judge.sets.items()}
    return sets | {f"judge.references.{name}": rows for name, rows in judge.references.items()}


def judge_problems(judge: JudgeConfig, methods: Collection[str], *, base: bool, full: bool) -> list[str]:
    """Combinations of judge settings that can't work.

    Args:
        methods: names of the experiment's methods.
        base, full: whether it has these rows.
    """
    if judge.kind is JudgeKind.none:
        return []
    problems = []
    arms = {*methods, *(["base"] if base else []), *(["full"] if full else [])}
    if not judge.sets and not judge.references:
        problems.append("judge.sets: give at least one set of prompts (or judge.references), or set judge=none.")
    for name in sorted(set(judge.sets) & set(judge.references)):
        problems.append(f"judge.references.{name}: is a name in judge.sets too; choose another.")
    for where, rows in judge_sources(judge).items():
        name = where.rpartition(".")[2]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name) or name == "overall":
            problems.append(f"{where}: the name must be letters, digits and '_', and not 'overall'.")
        if rows.source.format is RowFormat.multiple_choice:
            problems.append(f"{where}.source.format='multiple_choice': is for benchmarks, not for judging.")
        if (rows.source.fields.response is None) != (name in judge.sets):
            rule = "must be null: the models answer" if name in judge.sets else "must name the reference's answers"
            problems.append(f"{where}.source.fields.response={rows.source.fields.response!r}: {rule}.")
    for name in sorted(set(judge.benchmarks) - set(judge.references)):
        problems.append(f"judge.benchmarks.{name}: judge.references has no {name!r}.{nearest(name, judge.references)}")
    if "served" in methods:
        problems.append("methods.served: the name is taken by judge.against=served; choose another.")
    known = ", ".join([*sorted(arms), "served"])
    whom = {"judge.against": judge.against, **{f"judge.opponents.{name}": one for name, one in judge.opponents.items()}}
    for where, other in whom.items() if judge.sets else ():
        if other == "served" and judge.served is None:
            problems.append(f"judge.served: {where}=served needs the endpoint of that model.")
        elif other not in (*arms, "served"):
            problems.append(
                f"{where}={other!r}: the experiment has no such row. Known: {known}. judge=none does without."
            )
    for where, named in (("opponents", judge.opponents), ("references_at", judge.references_at)):
        problems += [
            f"judge.{where}.{name}: the experiment has no such row.{nearest(name, arms)}"
            for name in named
            if name not in arms
        ]
    for name in judge.methods:
        if name not in arms:
            rest = ",".join(one for one in judge.methods if one in arms)
            remedy = f"Set judge.methods=[{rest}]" + ("" if rest else " to judge all rows") + ", or judge=none."
            problems.append(f"judge.methods: the experiment has no row {name!r}.{nearest(name, arms)} {remedy}")
    if judge.kind is JudgeKind.endpoint and judge.endpoint is None:
        problems.append("judge.endpoint: kind endpoint needs it: base_url, model and the prices.")
    endpoints = {"judge.endpoint": judge.endpoint, "judge.served": judge.served}
    for where, endpoint in endpoints.items():
        if endpoint is not None:
            problems += endpoint_problems(where, endpoint)
    letters = judge.kind is JudgeKind.local and judge.reading is LocalReading.letters
    if letters and judge.protocol is not Protocol.pair_v2:
        problems.append("judge.reading='letters': needs protocol=pair_v2, whose verdict is a letter.")
    if judge.generation.max_new_tokens >= judge.generation.max_length:
        problems.append("judge.generation.max_new_tokens: must be below max_length, which holds the prompt too.")
    if judge.kind is JudgeKind.local and judge.max_new_tokens >= judge.max_length:
        problems.append("judge.max_new_tokens: must be below max_length, which holds the judge's prompt too.")
    return problems
