"""Measure the NLL of held-out responses under a tuned model: smooth where small models' benchmarks are near chance.

In: model, optionally a train step, rows, and the candidates and assessment rows, which are left out if among them.
Out: of ``run`` items.json (ids and each row's mean NLL over its response tokens, in nats), metrics; lower is better;
of ``facts`` facts.json (ids, response tokens and group of the same rows), once for all tuned models.
Rows are scored in the prompt of tuning, ready prompts too, unless ``template`` is as_is. The value in a step's metrics
weighs each row the same; ``icon_repro.evaluate.held_out_measures`` makes the measures of a report from both files.
Known gap: rows are compared with candidates and assessment rows by their whole texts, not by shared n-grams.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.data.cost import forward_flops
from icon_repro.data.prompts import Template, alpaca_prompt, prompt_of
from icon_repro.data.rows import Example, texts_of
from icon_repro.engine.records import read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.held_out_measures import FACTS
from icon_repro.evaluate.options import HeldOutJob, HeldOutRowsJob, HeldOutTemplate
from icon_repro.lm.adapter import after_epoch
from icon_repro.lm.load import load_tokenizer, open_model
from icon_repro.lm.mean_nll import mean_nll
from icon_repro.lm.tokens import Encoded, bos_ids, text_ids


class HeldOutError(ValueError):
    """No row is left to score, or a value isn't finite."""


def run(cfg: HeldOutJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Score. Needs inputs["model"], inputs["rows"], inputs["assessment"], inputs["candidates"]; may have ["tuned"].

    Raises:
        HeldOutError: see the class.
    """
    tokenizer = load_tokenizer(inputs["model"])
    scored, dropped = _scored(cfg, inputs, tokenizer)
    items = {row.id: encoded for row, encoded in scored}
    tuned = after_epoch(inputs["tuned"], cfg.epoch) if "tuned" in inputs else None
    model, budget = open_model(inputs["model"], cfg.dtype, runtime, tuned)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    with runtime.progress(len(items), "row") as progress:
        values = mean_nll(model, pad, [], list(items.values()), budget, progress)
        tokens = progress.tokens
    if bad := [i for i, value in zip(items, values, strict=True) if not math.isfinite(value)]:
        raise HeldOutError(
            f"evaluation.tasks.{cfg.name}: {len(bad)} NLLs aren't finite (first: row {bad[0]!r}); use dtype=float32."
        )
    write_json(out / "items.json", {"ids": list(items), "values": values.tolist()})
    return {
        "task": "held_out",
        "metric": "nll",
        "higher_is_better": False,
        "value": float(values.mean()),
        "stderr": float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None,
        "items": len(values),
        "perplexity": float(np.exp(values).mean()),
        "dropped": dropped,
        "version": 1,
        "tokens": tokens,
        "flops": forward_flops(model.num_parameters(), tokens),
    }


def facts(cfg: HeldOutRowsJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write facts.json of the rows that ``run`` scores. Needs the inputs of ``run``, of the model the tokenizer only.

    Raises:
        HeldOutError: no row is left.
    """
    scored, dropped = _scored(cfg, inputs, load_tokenizer(inputs["model"]))
    tokens = [encoded.answer_tokens for _, encoded in scored]
    row_facts = {
        "ids": [row.id for row, _ in scored],
        "tokens": tokens,
        "groups": [row.group for row, _ in scored],
    }
    write_json(out / FACTS, row_facts)
    return {"rows": len(scored), "response_tokens": sum(tokens), "dropped": dropped}


def prompt(row: Example, template: HeldOutTemplate) -> str:
    """The text before a held-out response."""
    return prompt_of(row, Template.alpaca) if template is HeldOutTemplate.tuning else alpaca_prompt(row)


def _scored(
    cfg: HeldOutJob | HeldOutRowsJob, inputs: Mapping[str, Path], tokenizer: Any
) -> tuple[list[tuple[Example, Encoded]], dict[str, int]]:
    """The rows that are scored, with their tokens; and how many others there are, by reason."""
    read = read_rows(inputs["rows"] / "rows.jsonl", Example)
    others = [row for name in ("assessment", "candidates") for row in read_rows(inputs[name] / "rows.jsonl", Example)]
    seen = set(map(texts_of, others))
    start = bos_ids(tokenizer)
    dropped = {"in the assessment set or among the candidates": 0, "no response token": 0, "too long": 0}
    scored = []
    for row in read:
        before, answer = text_ids(tokenizer, prompt(row, cfg.template))[0], text_ids(tokenizer, row.response)[0]
        if texts_of(row) in seen:
            dropped["in the assessment set or among the candidates"] += 1
        elif not answer:
            dropped["no response token"] += 1
        elif len(start) + len(before) + len(answer) > cfg.max_length:
            dropped["too long"] += 1
        else:
            scored.append((row, Encoded(start + before + answer, len(start) + len(before))))
    if not scored:
        raise HeldOutError(f"evaluation.tasks.{cfg.name}: none of {len(read)} rows is left ({dropped}).")
    return scored, {reason: count for reason, count in dropped.items() if count}
