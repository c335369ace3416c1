"""Count the tokens of each row in tuning: the unit of ``budget: tokens``.

In: model (its tokenizer), candidates.  Out: tokens.json, id -> tokens.
Counted is what a training sees of a row: BOS, prompt in tuning's template, response and eos, cut at ``max_length``; 0
for a row that it drops, as no response token is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Example
from icon_repro.engine.records import read_rows, write_json
from icon_repro.engine.runtime import Runtime


@dataclass
class RowTokens:
    """Tokens that a training sees of each row."""

    max_length: int  # training.max_length


def run(cfg: RowTokens, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write tokens.json. Needs inputs["model"] and inputs["candidates"]."""
    from icon_repro.lm.labels import tokenise
    from icon_repro.lm.load import load_tokenizer

    rows = sorted(read_rows(inputs["candidates"] / "rows.jsonl", Example), key=lambda row: row.id)
    tokenised, notes = tokenise(rows, load_tokenizer(inputs["model"]), cfg.max_length)
    dropped = set(notes["dropped"])
    counts = dict.fromkeys((row.id for row in rows), 0)
    counts |= {
        row.id: len(item["input_ids"])
        for row, item in zip((row for row in rows if row.id not in dropped), tokenised, strict=True)
    }
    write_json(out / "tokens.json", counts)
    return {"rows": len(rows), "rows_cut": len(notes["cut"]), "total": sum(counts.values()), "tokens": 0, "flops": 0}
