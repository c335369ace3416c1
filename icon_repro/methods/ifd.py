"""Instruction-following difficulty (IFD): the loss of a response with its prompt over the loss without it.

In: shards of ``methods.common.answers``.  Out: scores.jsonl {id, score, parts: conditioned, direct (NLL, nats)}.
Source: Li et al., arXiv 2308.12032, and its code (Cherry_LLM, 01fac8d): ratio of mean losses, direct after the bare
"### Response:", rows above 1 dropped. With ``ratio=perplexity`` and a small proxy model: Superfiltering, arXiv
2402.00530 (f0764af).
Differs: both codes tokenise prompt and response as one text (``tokenise``), cut rows longer than max_length and keep
them (``long_rows``, ``direct_room``); Superfiltering's keeps what lies below 1 strictly (``drop_one``).
``compat=published`` sets them all.
The model may have had a brief experience first (``pre_experienced``); ``diversity`` orders the best rows anew.
Known gap: none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.rows import Score
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.baseline_options import IfdConfig, Ratio
from icon_repro.methods.common.answers import joined, scored
from icon_repro.methods.common.options import AnswerPart
from icon_repro.methods.common.outcome import write_scores


def run(cfg: IfdConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs an input a shard."""
    answers = joined(inputs, [AnswerPart.conditioned, AnswerPart.direct])
    conditioned, direct = answers.parts[AnswerPart.conditioned], answers.parts[AnswerPart.direct]

    def score(place: int) -> Score | str:
        with_prompt, without = float(conditioned[place]), float(direct[place])
        if cfg.ratio is Ratio.perplexity:
            value = float(np.exp(with_prompt - without))
        elif without > 0:
            value = with_prompt / without
        else:
            return "the response is certain without its prompt"
        if cfg.drop_above_one and value > 1:
            return "IFD above 1"
        if cfg.drop_above_one and cfg.drop_one and value == 1:
            return "IFD of 1"
        return Score(answers.ids[place], value, {"conditioned": with_prompt, "direct": without})

    return {**write_scores(out, *scored(answers, score)), "tokens": 0, "flops": 0}
