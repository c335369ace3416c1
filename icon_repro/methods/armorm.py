"""ArmoRM: rows whose response a reward model likes best.

In: a reward model, rows.  Out: shards: rewards.npy, (rows, 1 + objectives) float64; scores.jsonl, the reward; parts:
the attributes that the reward is made of, if the model has any.
Source: Wang et al., arXiv 2406.12845 (ArmoRM); the model's own chat template, prompt and response as its two turns.
Differs: a longer chat is a failure, not cut. Of a chat of several turns only the last response stands in a turn of its
own, after all that comes before.
Known gap: see ``icon_repro.lm.reward``. As published, the end of the prompt is where its tokens last start, so that a
response that spells out the template's special tokens moves it.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icon_repro.data.options import Dtype, ModelConfig
from icon_repro.data.prompts import request
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import read_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import number
from icon_repro.lm.tokens import readable, text_ids
from icon_repro.methods.base import Build, Method
from icon_repro.methods.common.outcome import write_scores
from icon_repro.methods.common.shards import finite_numbers, write_shard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# of RLHFlow/ArmoRM-Llama3-8B-v0.1, in the order of its outputs
ATTRIBUTES = (
    "helpsteer_helpfulness",
    "helpsteer_correctness",
    "helpsteer_coherence",
    "helpsteer_complexity",
    "helpsteer_verbosity",
    "ultrafeedback_overall_score",
    "ultrafeedback_instruction_following",
    "ultrafeedback_truthfulness",
    "ultrafeedback_honesty",
    "ultrafeedback_helpfulness",
    "beavertails_is_safe",
    "prometheus_score",
    "argilla_overall_quality",
    "argilla_judge_lm",
    "code_complexity",
    "code_style",
    "code_explanation",
    "code_instruction_following",
    "code_readability",
)


_CHAT_TOKENS = 15  # around a row in a chat, about


class RewardArchitecture(enum.Enum):
    armorm = "armorm"  # attributes weighted by a gating network, as RLHFlow/ArmoRM-Llama3-8B-v0.1
    classifier = "classifier"  # transformers' sequence classifier with one label


@dataclass
class ArmormConfig:
    """A reward model's score of prompt and response, as a chat (ArmoRM: arXiv 2406.12845)."""

    kind: str = "armorm"
    reward: ModelConfig = field(kw_only=True)  # the reward model
    architecture: RewardArchitecture = RewardArchitecture.armorm
    # of the chat template, before a response; armorm weights its attributes by the state where it last starts
    prompt_end: str = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    max_length: int = number(4096, at_least=8)  # tokens of the chat; longer rows aren't scored, with that reason
    dtype: Dtype = Dtype.float32  # of the backbone; armorm's heads stay float32
    shard_rows: int = number(512, at_least=1)


@dataclass
class ArmormShard:
    """Rewards of rows ``start`` to ``stop`` (exclusive)."""

    architecture: RewardArchitecture
    prompt_end: str
    max_length: int
    dtype: Dtype
    start: int
    stop: int | None


@dataclass
class ArmormScores:
    """All shards of rewards together."""


class ArmormError(ValueError):
    """The reward model has no chat template."""


def plan(build: Build, name: str, options: ArmormConfig) -> Step:
    """Rewards in parts, then the scores."""
    model = build.planner.model(options.reward, f"methods.{name}.reward")
    end_of_prompt = options.prompt_end if options.architecture is RewardArchitecture.armorm else ""

    def params(first: int, stop: int | None) -> ArmormShard:
        return ArmormShard(options.architecture, end_of_prompt, options.max_length, options.dtype, first, stop)

    inputs = {"model": model, "candidates": build.universe}
    tokens = min(build.row_tokens + _CHAT_TOKENS, options.max_length)
    parts = build.parts(shard, name, options.shard_rows, params, inputs, tokens, model=options.reward)
    return build.step(run, name, ArmormScores(), parts)


def chat_ids(tokenizer: "PreTrainedTokenizerBase", row: Example) -> list[int]:
    """Token ids of a row as a chat of two turns, in the tokenizer's own template.

    Raises:
        ArmormError: the tokenizer has no template.
    """
    import icon_repro.lm.chat as template  # jinja2 takes a moment to import

    if tokenizer.chat_template is None:
        raise ArmormError("the reward model's tokenizer has no chat template, so its turns can't be marked.")
    turns = [{"role": "user", "content": request(row)}, {"role": "assistant", "content": row.response}]
    return template.chat_ids(tokenizer, template.chat_text(tokenizer, turns, reply=False))


def last_start(ids: Sequence[int], pattern: Sequence[int]) -> int | None:
    """Where ``pattern`` last starts in ``ids``; None: nowhere."""
    size = len(pattern)
    return next((i for i in range(len(ids) - size, -1, -1) if list(ids[i : i + size]) == list(pattern)), None)


def shard(cfg: ArmormShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write rewards.npy of rows ``start`` to ``stop``. Needs inputs["model"] and inputs["candidates"]."""
    from icon_repro.lm.load import load_tokenizer
    from icon_repro.lm.reward import open_reward_model, rewards

    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    gated = cfg.architecture is RewardArchitecture.armorm
    result = np.empty((0, 0))
    reasons, tokens, parameters = dict[str, str](), 0, 0
    if rows:
        tokenizer = load_tokenizer(inputs["model"])
        chats = [chat_ids(tokenizer, row) for row in rows]
        pattern = text_ids(tokenizer, cfg.prompt_end, control=True)[0]
        ends = [last_start(ids, pattern) if gated else 0 for ids in chats]
        for row, ids, end in zip(rows, chats, ends, strict=True):
            if len(ids) > cfg.max_length:
                reasons[row.id] = f"longer than {cfg.max_length} tokens"
            elif any(
                text.strip() and not readable(tokenizer, text_ids(tokenizer, text)[0])
                for text in (request(row), row.response)
            ):
                reasons[row.id] = "text that the tokenizer can't read"
            elif end is None:
                reasons[row.id] = f"the chat doesn't hold the end of the prompt, {cfg.prompt_end!r}"
        model, budget = open_reward_model(inputs["model"], cfg.dtype, runtime, gated=gated)
        parameters = model.num_parameters()
        present = [i for i, row in enumerate(rows) if row.id not in reasons]
        places = [end for i in present if (end := ends[i]) is not None]
        with runtime.progress(len(present), "row") as progress:
            scores, attributes = rewards(model, [chats[i] for i in present], places, budget, progress)
            tokens = progress.tokens
        result = np.full((len(rows), 1 + attributes.shape[1]), np.nan)
        result[present] = np.column_stack([scores, attributes])
    return write_shard(out, {"rewards": result}, rows, reasons, tokens, parameters)


def run(cfg: ArmormScores, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs named part-NNNN."""
    rewards, reasons = finite_numbers(inputs, "part", "rewards", "reward isn't finite")
    scores = []
    for identifier, values in rewards.items():
        reward, *attributes = values.tolist()
        published = len(attributes) == len(ATTRIBUTES)
        names = ATTRIBUTES if published else [f"attribute_{i}" for i in range(len(attributes))]
        scores.append(Score(identifier, reward, dict(zip(names, attributes, strict=True))))
    return {**write_scores(out, scores, reasons), "tokens": 0, "flops": 0}


METHOD = Method(ArmormConfig, plan, "a reward model's reward of the response")
