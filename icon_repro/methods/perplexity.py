"""Rows by the model's perplexity on their response, lowest or highest first.

In: shards of ``methods.common.answers``.  Out: scores.jsonl; the score is the perplexity, negative if lowest is best.
Source: the baselines Low PPL and Top PPL of arXiv 2505.05327, which doesn't define them; response perplexity under the
target model is the natural reading, whole-text perplexity (``text=whole``) that of RDS's repository.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.options import Dtype
from icon_repro.data.prompts import Template
from icon_repro.data.rows import Score
from icon_repro.engine.artifact import Step
from icon_repro.engine.runtime import Runtime
from icon_repro.engine.schema import number
from icon_repro.methods.base import Build, Method
from icon_repro.methods.common.answers import joined, scored
from icon_repro.methods.common.options import AnswerPart, AnswersConfig
from icon_repro.methods.common.outcome import write_scores


class Best(enum.Enum):
    lowest = "lowest"
    highest = "highest"


@dataclass
class PerplexityConfig:
    """Rows by the perplexity that the model has on their response (or on the whole text)."""

    kind: str = "perplexity"
    best: Best = Best.lowest  # which perplexity is selected
    text: AnswerPart = AnswerPart.conditioned
    template: Template = Template.alpaca
    max_length: int = number(2048, at_least=8)
    dtype: Dtype = Dtype.float32  # of the weights
    shard_rows: int = number(2048, at_least=1)


def plan(build: Build, name: str, options: PerplexityConfig) -> Step:
    """NLLs in shards, then the scores."""
    answers = AnswersConfig([options.text], options.template, "", options.max_length, options.dtype)
    shards = build.answers(answers, build.planner.config.model, build.model, options.shard_rows)
    # what only the shards use is set to the default: another value of it is in their fingerprints
    return build.step(run, name, PerplexityConfig(best=options.best, text=options.text), shards)


def run(cfg: PerplexityConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs an input a shard."""
    answers = joined(inputs, [cfg.text])
    nll = answers.parts[cfg.text]
    sign = 1.0 if cfg.best is Best.highest else -1.0

    def score(place: int) -> Score | str:
        perplexity = float(np.exp(nll[place]))
        if not np.isfinite(perplexity):
            return "perplexity isn't finite"
        return Score(answers.ids[place], sign * perplexity, {"nll": float(nll[place])})

    return {**write_scores(out, *scored(answers, score)), "tokens": 0, "flops": 0}


METHOD = Method(
    PerplexityConfig, plan, meaning="perplexity of the response under the model; negative if the lowest is best"
)
