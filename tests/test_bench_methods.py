"""The timings compare like with like, refuse results that differ, and cover all lengths of rows."""

from pathlib import Path

import pytest

from experiments.method_cost.bench_methods import (
    BenchError,
    Prepared,
    Timing,
    agree,
    blocks,
    gradient_timing,
    nll_timings,
    table,
)
from icon_repro.data.rows import Example
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.options import LoraConfig
from icon_repro.methods.less.options import LessConfig

ROWS = [Example(f"r{i:02d}", f"Say {i}.", "to Ann" * (i % 2), "yes " * (i + 1)) for i in range(12)]


@pytest.fixture
def given(model_step: Path, runtime: Runtime) -> Prepared:
    less = LessConfig(lora=LoraConfig(r=4, alpha=8, dropout=0.1), max_length=256)
    return Prepared("tiny", model_step, ROWS, less, runtime)


def test_nll_timings_agree_and_count_both_passes_of_ifd(given: Prepared) -> None:
    perplexity, ifd = nll_timings(given, 8)
    assert (perplexity.what, ifd.what) == ("perplexity", "ifd") and perplexity.rows == ifd.rows == 8
    assert 0 < perplexity.tokens < ifd.tokens < 2 * perplexity.tokens
    assert ifd.loop_s > perplexity.loop_s > 0 and ifd.ours_s > perplexity.ours_s > 0
    assert max(perplexity.difference, ifd.difference) <= 1e-5


def test_gradient_timing_agrees_with_the_loop(given: Prepared) -> None:
    timing = gradient_timing(given, 2, 3)
    assert (
        timing.rows == 6 and timing.difference <= 1e-5 and timing.tokens > 0 and min(timing.loop_s, timing.ours_s) > 0
    )


@pytest.mark.parametrize("difference", [1.1e-5, float("nan")])
def test_agree_refuses_what_differs(difference: float) -> None:
    assert agree("x", 9e-6) == 9e-6
    with pytest.raises(BenchError, match="x: the loop and ours differ"):
        agree("x", difference)


def test_blocks_are_neighbours_at_equal_steps() -> None:
    assert blocks(range(12), 3, 2) == [1, 2, 5, 6, 9, 10]
    assert blocks(range(12), 2, 5) == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert blocks(range(5), 3, 2) == [0, 1, 2, 3, 4]


def test_table_has_the_ratio() -> None:
    assert "2.50" in table([Timing("ifd", "tiny", 3, 100, 5.0, 2.0, 1e-7)]).split()
