"""Rows by the model's perplexity on their response, lowest or highest first.

In: shards of ``methods.common.answers``.  Out: scores.jsonl; the score is the perplexity, negative if lowest is best.
Source: the baselines Low PPL and Top PPL of arXiv 2505.05327, which doesn't define them; response perplexity under the
target model is the natural reading, whole-text perplexity (``text=whole``) that of RDS's repository.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.rows import Score
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.common.answers import joined, scored
from icon_repro.methods.common.outcome import write_scores
from icon_repro.methods.options import Best, PerplexityConfig


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
