"""Mean NLL of held-out responses under a tuned model: smooth where benchmarks of a small model are near chance.

In: model, optionally a train step, rows, and the candidates and assessment rows, which are left out if among them.
Out: items.json (ids and values), metrics; lower is better.
Rows are scored in the prompt of tuning; the value is the mean over rows of each row's mean over response tokens, in
nats.
Known gap: rows are compared with candidates and assessment rows by id (a hash of the text), not by shared n-grams.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.config_evaluation import HeldOutJob
from icon_repro.cost import forward_flops
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.adapter import after_epoch
from icon_repro.lm.batched import mean_nll
from icon_repro.lm.load import load_tokenizer, open_model
from icon_repro.lm.tokens import Encoded, bos_ids, text_ids
from icon_repro.prompts import alpaca_prompt
from icon_repro.records import Example, read_rows, write_json


class HeldOutError(ValueError):
    """No row is left to score, or a value isn't finite."""


def run(cfg: HeldOutJob, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Score. Needs inputs["model"], inputs["rows"], inputs["assessment"], inputs["candidates"]; may have ["tuned"]."""
    read = read_rows(inputs["rows"] / "rows.jsonl", Example)
    seen = {row.id for name in ("assessment", "candidates") for row in read_rows(inputs[name] / "rows.jsonl", Example)}
    tokenizer = load_tokenizer(inputs["model"])
    start = bos_ids(tokenizer)
    dropped = {"in the assessment set or among the candidates": 0, "no response token": 0, "too long": 0}
    items: dict[str, Encoded] = {}
    for row in read:
        prompt, answer = text_ids(tokenizer, alpaca_prompt(row))[0], text_ids(tokenizer, row.response)[0]
        if row.id in seen:
            dropped["in the assessment set or among the candidates"] += 1
        elif not answer:
            dropped["no response token"] += 1
        elif len(start) + len(prompt) + len(answer) > cfg.max_length:
            dropped["too long"] += 1
        else:
            items[row.id] = Encoded(start + prompt + answer, len(start) + len(prompt))
    if not items:
        raise HeldOutError(f"evaluation.tasks.{cfg.name}: none of {len(read)} rows is left ({dropped}).")
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
        "dropped": {reason: count for reason, count in dropped.items() if count},
        "version": 1,
        "tokens": tokens,
        "flops": forward_flops(model.num_parameters(), tokens),
    }
