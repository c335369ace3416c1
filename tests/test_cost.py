"""Formulas of the cost model, against numbers worked out by hand."""

import pytest

from icon_repro.data.cost import forward_flops, tokens_of, training_flops


def test_forward_flops_of_the_papers_scoring() -> None:
    # 8B on 4.93e9 tokens: some 7.9e19 operations (paper.md gives 7.4e19 without embeddings)
    assert forward_flops(8_000_000_000, 4.93e9) == pytest.approx(7.888e19)


@pytest.mark.parametrize("frozen, per_token", [(False, 6), (True, 4)])
def test_training_flops_frozen_weights_need_no_gradients_of_their_own(frozen: bool, per_token: int) -> None:
    assert training_flops(1000, 7.0, frozen=frozen) == per_token * 7000


def test_tokens_of_text() -> None:
    assert tokens_of(0) == 0 and tokens_of(500) == 125
