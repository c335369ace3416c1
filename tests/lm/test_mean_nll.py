"""Rows that begin alike share their beginning, and get the NLLs that they get alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icon_repro.data.options import Dtype
from icon_repro.lm.budget import TokenBudget
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.lm.mean_nll import beginnings, bins, mean_nll, mean_nll_alone
from icon_repro.lm.tokens import Encoded, bos_ids, encode


def alike(start: list[int], count: int, answer_start: int) -> list[Encoded]:
    return [Encoded([*start, 50 + i, 60 + i, 70], answer_start) for i in range(count)]


def test_beginnings_groups_are_what_rows_have_in_common_before_any_answer() -> None:
    long, other = list(range(20)), list(range(100, 120))
    rows: list[Encoded | None] = [*alike(long, 9, 22), *alike(other, 8, 18), None, *alike([1, 2, 3], 2, 3)]
    groups = beginnings(rows)
    assert [(members, len(common)) for members, common in groups] == [
        (list(range(9)), 20),
        (list(range(9, 17)), 18),  # the answers begin there
        ([18, 19], 0),
    ]
    assert groups[0][1] == long and groups[1][1] == other[:18]


def test_beginnings_of_rows_with_little_in_common_are_one_group() -> None:
    rows = [Encoded([7, 8, 9, 10, i, *range(i, i + 20)], 5) for i in range(20, 32)]
    assert beginnings(rows) == [(list(range(12)), [7, 8, 9, 10])]
    assert beginnings(rows[:7]) == [(list(range(7)), [])], "too few to share"
    assert beginnings([None, None]) == []


def test_bins_hold_rows_of_similar_length() -> None:
    lengths = [10, 100, 84, 86, 9, 100, 8]
    assert bins(lengths, 0.85) == [[1, 5, 3], [2], [0, 4], [6]]
    assert bins(lengths, 0.0) == [[1, 5, 3, 2, 0, 4, 6]]
    assert bins([], 0.85) == []


@pytest.mark.parametrize("preamble", ["", "Below is an instruction that describes a task. Write a response.\n\n"])
def test_mean_nll_alone_equals_single_rows_and_saves_tokens(model_step: Path, preamble: str) -> None:
    model: Any = load_model(model_step, Dtype.float32, torch.device("cpu"))
    tokenizer = load_tokenizer(model_step)
    start = bos_ids(tokenizer)
    rows: list[Encoded | None] = []
    for i in range(19):
        made = encode(
            tokenizer, f"{preamble}Why is {'the sky ' * (i % 5)}blue {i}?", f"Because {i} is red" + " too" * i
        )
        rows.append(Encoded(start + made.ids, len(start) + made.answer_start))
    rows.insert(4, None)
    pad = tokenizer.pad_token_id
    budget = TokenBudget(model, 256)
    found = mean_nll_alone(model, pad, rows, budget)
    expected = [np.nan if row is None else mean_nll(model, pad, [], [row], budget)[0] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.nanstd(found) > 1e-2
    shared = sum(len(common) * (len(group) - 1) for group, common in beginnings(rows))
    assert shared >= 18 * len(preamble) / 6


def test_mean_nll_alone_where_the_answer_follows_the_beginning_at_once(model_step: Path) -> None:
    model: Any = load_model(model_step, Dtype.float32, torch.device("cpu"))
    tokenizer = load_tokenizer(model_step)
    rows = [encode(tokenizer, "### Response:", f"{word} {i}") for i in range(4) for word in ("Red", "Two", "It is")]
    (group,) = beginnings(rows)
    assert len(group[1]) == rows[0].answer_start >= 4
    budget = TokenBudget(model, 256)
    expected = [mean_nll(model, tokenizer.pad_token_id, [], [row], budget)[0] for row in rows]
    np.testing.assert_allclose(mean_nll_alone(model, tokenizer.pad_token_id, rows, budget), expected, rtol=0, atol=1e-5)
