"""The bank of noise texts: what interpolates, which lengths are scored, and that it estimates the paper's control."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example
from icon_repro.lm.budget import TokenBudget
from icon_repro.lm.load import load_model, load_tokenizer
from icon_repro.lm.tokens import Encoded
from icon_repro.methods.icon.control import bank_control, bank_lengths, noise_ids
from icon_repro.methods.icon.layout import Layout
from icon_repro.methods.icon.options import Control, IconConfig, resolved
from icon_repro.methods.icon.pairs import Engine, candidate_text

GRID = [8, 32, 128, 512, 2040]


def slow_control(bank: Any, lengths: list[int], wanted: list[int]) -> np.ndarray:
    """One candidate and one assessment row at a time."""
    _, draws, n = bank.shape
    result = np.empty((len(wanted), n))
    for c, length in enumerate(wanted):
        for i in range(n):
            perplexity = [sum(math.exp(bank[b, d, i]) for d in range(draws)) / draws for b in range(len(lengths))]
            if length <= lengths[0]:
                value = perplexity[0]
            elif length >= lengths[-1]:
                value = perplexity[-1]
            else:
                above = next(b for b in range(len(lengths)) if lengths[b] >= length)
                low, high = math.log(lengths[above - 1]), math.log(lengths[above])
                share = (math.log(length) - low) / (high - low)
                value = (1 - share) * perplexity[above - 1] + share * perplexity[above]
            result[c, i] = math.log(value)
    return result


@pytest.mark.parametrize("lengths", [[16], [8, 32], GRID])
@pytest.mark.parametrize("draws", [1, 3])
def test_bank_control_equals_an_obvious_loop(lengths: list[int], draws: int) -> None:
    bank = np.random.default_rng(0).gamma(4, 0.6, (len(lengths), draws, 5)).astype(np.float32)
    wanted = [1, 7, 8, 9, 16, 31, 32, 100, 128, 511, 2039, 2040, 9000]
    found = bank_control(bank, lengths, wanted)
    assert found.shape == (13, 5) and found.dtype == np.float64
    np.testing.assert_allclose(found, slow_control(bank, lengths, wanted), rtol=0, atol=1e-12)


def test_bank_control_at_a_length_of_the_bank_is_that_length_alone() -> None:
    bank = np.random.default_rng(1).gamma(4, 0.6, (5, 2, 3))
    expected = np.log(np.exp(bank).mean(axis=1))
    np.testing.assert_allclose(bank_control(bank, GRID, GRID), expected, rtol=0, atol=1e-12)
    one = bank_control(bank[:, :1], GRID, GRID)
    np.testing.assert_allclose(one, bank[:, 0], rtol=0, atol=1e-12)


def test_bank_control_beyond_its_ends_is_the_nearest_end() -> None:
    bank = np.random.default_rng(2).gamma(4, 0.6, (2, 2, 3))
    found = bank_control(bank, [8, 32], [1, 7, 8, 32, 33, 4000])
    assert np.array_equal(found[[0, 1]], found[[2, 2]]) and np.array_equal(found[[4, 5]], found[[3, 3]])


def test_bank_control_keeps_rows_that_are_not_scored_apart() -> None:
    bank = np.random.default_rng(3).gamma(4, 0.6, (3, 2, 4))
    bank[:, :, 2] = np.nan
    found = bank_control(bank, [8, 32, 128], [4, 8, 20, 128, 500])
    assert np.isnan(found[:, 2]).all() and np.isfinite(found[:, [0, 1, 3]]).all()


def test_bank_control_is_monotone_between_two_lengths() -> None:
    bank = np.log(np.array([[[2.0]], [[6.0]]]))
    found = np.exp(bank_control(bank, [10, 1000], [10, 32, 100, 316, 1000])[:, 0])
    assert (np.diff(found) > 0).all()
    assert found[2] == pytest.approx(4)  # as its logarithm, 100 is half-way between 10 and 1000


@pytest.mark.parametrize(
    "wanted, expected",
    [
        ([], []),
        ([8], [8]),
        ([9], [8, 32]),
        ([40, 100], [32, 128]),
        ([32, 128], [32, 128]),
        ([3], [8]),  # shorter than all
        ([3, 9], [8, 32]),
        ([5000], [2040]),  # longer than all
        ([600, 5000], [512, 2040]),
        ([0, 9000], GRID),
    ],
    ids=str,
)
def test_bank_lengths_lie_around_those_wanted(wanted: list[int], expected: list[int]) -> None:
    assert bank_lengths(GRID, wanted) == expected
    assert bank_lengths([*GRID[::-1], 8], wanted) == expected


def test_bank_lengths_never_extrapolate_within_the_grid() -> None:
    for low in range(1, 600, 7):
        for high in range(low, 2040, 61):
            lengths = bank_lengths(GRID, [high, low])
            assert lengths == [g for g in GRID if lengths[0] <= g <= lengths[-1]]
            assert lengths[0] <= max(low, 8) and lengths[-1] >= high


def test_bank_over_many_draws_is_what_a_text_of_each_candidates_own_gives_on_average(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The paper's control is one random text of the candidate's length: the bank estimates its expectation."""
    (tmp_path / "weights").symlink_to(tiny_model)
    (tmp_path / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    cfg = resolved(IconConfig(control=Control.per_pair))
    model, tokenizer = load_model(tmp_path, Dtype.float32, torch.device("cpu")), load_tokenizer(tmp_path)
    with torch.no_grad():
        for weights in model.parameters():  # else the context hardly matters
            weights *= 5.0 if weights.ndim == 2 else 1.0
    layout = Layout(tokenizer, cfg)
    engine = Engine(model, layout, cfg, TokenBudget(model, 8192))
    row = layout.row(Example("a", "Name an animal.", "", "A dog, two cats"))
    assert row.after_context is not None

    def perplexities(length: int, draws: int) -> np.ndarray:
        whole = []
        for draw in range(draws):
            ids = layout.bos + noise_ids(tokenizer, length, 0, f"bank:{length}:{draw}") + layout.separator()
            whole.append(Encoded(ids + row.after_context.ids, len(ids) + row.after_context.answer_start))
        return np.exp(engine.mean_nll([], whole))

    draws = 200
    candidate = Example("c", "Say why.", "", "Because.")
    length = len(layout.context(candidate_text(candidate))[0]) - len(layout.bos)
    own = np.exp(engine.control(candidate, [row] * draws, [str(k) for k in range(draws)]))
    lengths = bank_lengths([length // 2, 2 * length], [length])
    assert len(lengths) == 2
    bank = np.array([perplexities(of, draws) for of in lengths])
    found = float(np.exp(bank_control(np.log(bank)[:, :, None], lengths, [length])[0, 0]))
    error = math.hypot(*(values.std(ddof=1) / math.sqrt(draws) for values in (own, *bank)))
    assert abs(found - own.mean()) < 3 * error
    assert error < 0.05 * own.mean()
    assert abs(perplexities(1, draws).mean() - own.mean()) > 3 * error  # a text of another length wouldn't do
