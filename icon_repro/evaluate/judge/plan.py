"""Plan the judging: each arm's answers to each set of prompts, verdicts against another's, sets pooled.

Answers bear the arm's name and serve every comparison that the arm takes part in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from icon_repro.data.cost import forward_flops, tokens_of
from icon_repro.data.options import ModelConfig, RowsConfig
from icon_repro.data.planner import Planner
from icon_repro.engine.artifact import Cost, Step
from icon_repro.evaluate.judge.options import (
    EndpointJudge,
    JudgeConfig,
    JudgeKind,
    LocalJudge,
    NllJudge,
    PooledSets,
    ReferenceAnswers,
    ServedAnswers,
)
from icon_repro.lm.options import Asking

OVERALL = "overall"  # all sets together
SERVED = "served"
_ORDERS = 2
_FORM_TOKENS = 300  # of what a judge is told besides question and answers


@dataclass(frozen=True)
class Contestant:
    """A model that answers: tuned by a train step, or the experiment's own as it is."""

    method: str
    fraction: float | None
    seed: int | None
    selection_seed: int | None
    train: Step | None

    @property
    def label(self) -> str:
        return self.method if self.train is None else self.train.name


def judged(planner: Planner, judge: JudgeConfig, model: Step, arms: Sequence[Contestant]) -> list[dict[str, Step]]:
    """For each arm the verdict steps by set (and ``overall``, if there are several); empty where it isn't judged."""
    if judge.kind is JudgeKind.none:
        return [{} for _ in arms]
    return [_Comparisons(planner, judge, model).of(arm, arms) for arm in arms]


def opponent(arm: Contestant, arms: Sequence[Contestant], against: str) -> Contestant | None:
    """The arm of method ``against`` that ``arm`` is compared with; None for that method itself.

    Of a method's arms it is that of the same fraction; of several seeds the same one, or else the first.
    """
    others = [other for other in arms if other.method == against]
    if arm.method == against or not others:
        return None
    if len({other.fraction for other in others}) > 1:
        others = [other for other in others if other.fraction == arm.fraction]
    return min(
        others, key=lambda o: (o.seed != arm.seed, o.selection_seed != arm.selection_seed), default=None
    )  # the first of equals


def _at(arm: Contestant, fractions: Sequence[float]) -> bool:
    """Whether the arm is one of these fractions (empty: all); base and full always are."""
    return arm.method in ("base", "full") or not fractions or arm.fraction in fractions


def expected_calls(steps: Iterable[Step]) -> list[str]:
    """A line for each endpoint that ``steps`` ask, judges or others: calls, tokens, and money if prices are set."""
    by_endpoint: dict[tuple[str, str], list[float]] = {}
    unpriced: dict[tuple[str, str], str] = {}
    for step in steps:
        params = step.params
        if isinstance(params, Asking):
            endpoint = params.endpoint
            totals = by_endpoint.setdefault((endpoint.model, endpoint.base_url), [0.0, 0.0, 0.0, 0.0])
            tokens = (params.expected_tokens_in, params.expected_tokens_out)
            known = endpoint.price_in or endpoint.price_out
            unpriced[endpoint.model, endpoint.base_url] = (
                f"prices are known of {endpoint.prices_of} alone" if known and endpoint.prices_of else "no prices set"
            )
            more = (params.expected_calls, *tokens, endpoint.cost(*tokens))
            for place, value in enumerate(more):
                totals[place] += value
    return [
        f"{name} at {url}: about {calls:,.0f} calls, {tokens_in:,.0f} tokens in, {tokens_out:,.0f} out, "
        + (f"cost {cost:.4g}" if cost else unpriced[name, url])
        for (name, url), (calls, tokens_in, tokens_out, cost) in by_endpoint.items()
    ]


class _Comparisons:
    """Builds the steps of one judge."""

    def __init__(self, planner: Planner, judge: JudgeConfig, model: Step) -> None:
        self.planner, self.judge, self.model = planner, judge, model
        self.parameters = planner.config.model.parameters

    def of(self, arm: Contestant, arms: Sequence[Contestant]) -> dict[str, Step]:
        """Verdict steps of ``arm`` by set."""
        judge, by_set = self.judge, dict[str, Step]()
        if judge.methods and arm.method not in judge.methods:
            return {}
        whom = judge.whom(arm.method)
        other = opponent(arm, arms, whom)
        against = SERVED if whom == SERVED else other.label if other else None
        if against is not None and _at(arm, judge.fractions):
            for name, rows in judge.sets.items():
                prompts = self._prompts("sets", name, rows)
                theirs = self._answers(other, name, rows, prompts) if other else self._served(name, rows, prompts)
                by_set[name] = self._verdicts(arm, against, name, rows, prompts, theirs)
            if len(by_set) > 1:
                label = f"verdicts-{arm.label}-vs-{against}-{OVERALL}"
                ordered = PooledSets(judge.kind is not JudgeKind.nll)
                by_set[OVERALL] = self.planner.step("judge_pooled", "judge", label, ordered, inputs=dict(by_set))
        compared = _at(arm, judge.references_at.get(arm.method, judge.fractions))
        for name, rows in judge.references.items() if compared else ():
            prompts = self._prompts("references", name, rows)
            inputs = {"prompts": prompts}
            theirs = self.planner.step(
                "judge_reference", "judge", f"answers-reference-{name}", ReferenceAnswers(), inputs=inputs
            )
            by_set[name] = self._verdicts(arm, "reference", name, rows, prompts, theirs)
        return by_set

    def _prompts(self, kind: str, name: str, rows: RowsConfig) -> Step:
        return self.planner.rows(f"judge.{kind}.{name}", f"judge-{name}", rows)

    def _answers(self, arm: Contestant, name: str, rows: RowsConfig, prompts: Step) -> Step:
        generation = self.judge.generation
        tokens = _prompts_of(rows) * (tokens_of(rows.expected_prompt_chars) + self._answer_tokens())
        return self.planner.step(
            "judge_answers",
            "judge",
            f"answers-{arm.label}-{name}",
            generation,
            inputs={"model": self.model, "prompts": prompts, **({"tuned": arm.train} if arm.train else {})},
            cost=Cost(tokens, forward_flops(self.parameters, tokens)),
            resumable=True,
        )

    def _served(self, name: str, rows: RowsConfig, prompts: Step) -> Step:
        assert self.judge.served is not None
        count = _prompts_of(rows)
        tokens_in, tokens_out = count * tokens_of(rows.expected_prompt_chars), count * self._answer_tokens()
        params = ServedAnswers(self.judge.served, count, tokens_in, tokens_out)
        cost = Cost(tokens_in + tokens_out)
        label = f"answers-{SERVED}-{name}"
        inputs = {"prompts": prompts}
        return self.planner.step("judge_served", "judge", label, params, inputs=inputs, cost=cost, resumable=True)

    def _answer_tokens(self) -> float:
        return min(self.judge.generation.expected_tokens, self.judge.generation.max_new_tokens)

    def _verdicts(
        self, arm: Contestant, against: str, name: str, rows: RowsConfig, prompts: Step, theirs: Step
    ) -> Step:
        judge, planner, count = self.judge, self.planner, _prompts_of(rows)
        inputs = {"prompts": prompts, "a": self._answers(arm, name, rows, prompts), "b": theirs}
        label = f"verdicts-{arm.label}-vs-{against}-{name}"
        question, answer = tokens_of(rows.expected_prompt_chars), self._answer_tokens()
        if rows.source.fields.response is not None:  # the other's answers are the rows' own
            answer = (answer + tokens_of(rows.expected_response_chars)) / 2
        params: Any
        if judge.kind is JudgeKind.nll:
            params = NllJudge(judge.template, judge.max_length, dtype=judge.dtype)
            inputs["judge"] = self._judge()
            return planner.step(
                "judge_nll", "judge", label, params, inputs=inputs, cost=self._cost(2 * count * (question + answer))
            )
        calls = _ORDERS * count
        asked, said = calls * (question + 2 * answer + _FORM_TOKENS), calls * judge.expected_reply_tokens
        if judge.kind is JudgeKind.local:
            params = LocalJudge(
                judge.protocol, judge.reading, judge.max_length, judge.max_new_tokens, dtype=judge.dtype
            )
            inputs["judge"] = self._judge()
            return planner.step("judge_local", "judge", label, params, inputs=inputs, cost=self._cost(asked + said))
        assert judge.endpoint is not None
        params = EndpointJudge(judge.protocol, judge.endpoint, calls, asked, said)
        cost = Cost(asked + said)  # the operations are the server's
        return planner.step("judge_endpoint", "judge", label, params, inputs=inputs, cost=cost, resumable=True)

    def _judge(self) -> Step:
        return self.model if self.judge.model is None else self.planner.model(self.judge.model, "judge.model")

    def _cost(self, tokens: float) -> Cost:
        model: ModelConfig = self.judge.model or self.planner.config.model
        return Cost(tokens, forward_flops(model.parameters, tokens))


def _prompts_of(rows: RowsConfig) -> int:
    return min(rows.sample or rows.expected_rows, rows.expected_rows)
