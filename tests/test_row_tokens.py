"""Tokens of rows are those that a training counts."""

from pathlib import Path

import pytest

from icon_repro.data.prompts import alpaca_prompt
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_tokenizer
from icon_repro.lm.tokens import bos_ids
from icon_repro.methods.row_tokens import RowTokens, run

ROWS = [
    Example("b", "Name a colour.", "", "Blue."),
    Example("a", "Add.", "1 and 2", "It is three. " * 9),
    Example("c", "Repeat this. " * 60, "", "No."),
]


@pytest.mark.parametrize("limit", [40, 200, 2000])
def test_row_tokens_are_bos_prompt_response_and_eos_cut(
    tmp_path: Path, runtime: Runtime, model_step: Path, limit: int
) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    metrics = run(RowTokens(limit), {"model": model_step, "candidates": tmp_path}, tmp_path, runtime)
    tokenizer = load_tokenizer(model_step)

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    expected = {}
    for row in ROWS:
        prompt = len(bos_ids(tokenizer)) + count(alpaca_prompt(row))
        expected[row.id] = min(prompt + count(row.response) + 1, limit) if prompt < limit else 0
    assert read_json(tmp_path / "tokens.json") == expected
    assert metrics["total"] == sum(expected.values())
    assert limit != 2000 or min(expected.values()) > 0
