"""Pooled hidden states against a loop without padding, and what a batch or a full memory must not change."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from icon_repro.data.options import Dtype
from icon_repro.engine.progress import Progress
from icon_repro.lm.budget import OutOfMemoryError, TokenBudget
from icon_repro.lm.hidden import Pooling, pooled
from icon_repro.lm.load import load_model
from icon_repro.lm.nll import NonFiniteError
from icon_repro.lm.tokens import TokenError

_DRAW = torch.Generator().manual_seed(3)
ROWS = [torch.randint(4, 250, (length,), generator=_DRAW).tolist() for length in (5, 1, 17, 9, 2, 40, 9)]

KINDS = [Pooling.mean, Pooling.weighted, Pooling.last]  # that know no padding


@pytest.fixture(scope="module")
def model(model_step: Path) -> Any:
    return load_model(model_step, Dtype.float32, torch.device("cpu"))


def slow(model: Any, row: list[int], pooling: Pooling, *, normalise: bool) -> NDArray[np.float64]:
    """One row alone, its tokens weighted one by one."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0].double().numpy()
    if pooling is Pooling.last:
        vector = states[len(row) - 1]
    else:
        vector, total = np.zeros(states.shape[1]), 0.0
        for place in range(len(row)):
            weight = 1.0 if pooling is Pooling.mean else place + 1.0
            vector, total = vector + weight * states[place], total + weight
        vector = vector / total
    return np.asarray(vector / np.sqrt((vector**2).sum()) if normalise else vector)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("pooling", KINDS)
def test_pooled_equals_a_loop_without_padding(model: Any, pooling: Pooling, normalise: bool) -> None:
    found = pooled(model, ROWS, pooling, TokenBudget(model, 1024), normalise=normalise)
    assert found.dtype == np.float32 and found.shape == (len(ROWS), 64)
    expected = np.array([slow(model, row, pooling, normalise=normalise) for row in ROWS])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    if normalise:
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=0, atol=1e-6)


def test_pooled_padded_is_the_mean_over_tokens_and_padding(model: Any) -> None:
    places, fill = 48, 2
    budget = TokenBudget(model, 100)
    found = pooled(model, ROWS, Pooling.padded, budget, normalise=False, padding=(fill, places))
    for row, vector in zip(ROWS, found, strict=True):
        ids = torch.tensor([row + [fill] * (places - len(row))])
        mask = torch.tensor([[1] * len(row) + [0] * (places - len(row))])
        with torch.no_grad():
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1][0]
        np.testing.assert_allclose(vector, states.double().mean(0).numpy(), rtol=0, atol=1e-5)
    other = pooled(model, ROWS, Pooling.padded, budget, normalise=False, padding=(fill + 1, places))
    assert np.abs(other - found).max(axis=1).min() > 1e-3, "what fills the padding counts"


def test_pooled_kinds_differ(model: Any) -> None:
    made = [pooled(model, ROWS, kind, TokenBudget(model, 1024), normalise=True) for kind in KINDS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        apart = np.abs(made[one] - made[other]).max(axis=1)
        assert apart[1] < 1e-6  # a single token
        assert np.delete(apart, 1).min() > 1e-3


@pytest.mark.parametrize("tokens", [1, 20, 64])
def test_pooled_batch_and_order_have_no_influence(model: Any, tokens: int) -> None:
    together = pooled(model, ROWS, Pooling.weighted, TokenBudget(model, 4096), normalise=False)
    apart = pooled(model, ROWS[::-1], Pooling.weighted, TokenBudget(model, tokens), normalise=False)
    np.testing.assert_allclose(apart[::-1], together, rtol=0, atol=1e-5)


def test_pooled_counts_rows_and_their_own_tokens(model: Any) -> None:
    with Progress("test", len(ROWS), "row", None) as progress:
        pooled(model, ROWS, Pooling.mean, TokenBudget(model, 64), normalise=True, progress=progress)
    assert (progress.done, progress.tokens) == (len(ROWS), sum(map(len, ROWS)))


def test_pooled_no_rows_give_no_vectors(model: Any) -> None:
    assert pooled(model, [], Pooling.mean, TokenBudget(model, 64), normalise=True).shape == (0, 64)


def test_pooled_row_without_tokens_is_refused(model: Any) -> None:
    with pytest.raises(TokenError, match="text 1 has no tokens"):
        pooled(model, [[5], [], [6], []], Pooling.mean, TokenBudget(model, 64), normalise=True)


def test_pooled_row_longer_than_the_positions_is_refused(model: Any) -> None:
    budget = TokenBudget(model, 64)
    with pytest.raises(TokenError, match=r"takes 4097 tokens, the model has 4096 positions. Lower max_length"):
        pooled(model, [[5], [5] * 4097], Pooling.mean, budget, normalise=True)


def test_pooled_nan_names_the_places(model_step: Path) -> None:
    model = load_model(model_step, Dtype.float32, torch.device("cpu"))
    with torch.no_grad():
        model.get_input_embeddings().weight[11] = float("nan")
    with pytest.raises(NonFiniteError, match=r"texts \[1\].*float32"):
        pooled(model, [[5, 6], [5, 11], [7, 8, 9]], Pooling.mean, TokenBudget(model, 64), normalise=True)


@pytest.fixture
def limited(model: Any) -> Iterator[Callable[[int, Exception], list[int]]]:
    """Lets the model hold so many rows at most; gives the list of the sizes that it was asked for."""

    def limit(fits: int, error: Exception) -> list[int]:
        sizes: list[int] = []

        def full(module: Any, arguments: Any, named: dict[str, Any]) -> None:
            sizes.append(len(named["input_ids"]))
            if sizes[-1] > fits:
                raise error

        handles.append(model.get_decoder().register_forward_pre_hook(full, with_kwargs=True))
        return sizes

    handles: list[Any] = []
    yield limit
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["gpu", "cpu"])
def test_pooled_out_of_memory_halves_the_batch(
    model: Any, limited: Callable[[int, Exception], list[int]], error: Exception
) -> None:
    expected = pooled(model, ROWS, Pooling.weighted, TokenBudget(model, 1024), normalise=True)
    sizes = limited(2, error)
    budget = TokenBudget(model, 1024)
    with Progress("test", len(ROWS), "row", None) as progress:
        found = pooled(model, ROWS, Pooling.weighted, budget, normalise=True, progress=progress)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert sizes[0] == len(ROWS) and budget.tokens < 1024
    assert sum(size for size in sizes if size <= 2) == progress.done == len(ROWS)  # each row once
    assert progress.tokens == sum(map(len, ROWS))


def test_pooled_single_row_that_doesnt_fit_says_so(model: Any, limited: Callable[[int, Exception], list[int]]) -> None:
    limited(0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OutOfMemoryError, match="doesn't fit into memory"):
        pooled(model, ROWS, Pooling.mean, TokenBudget(model, 1024), normalise=True)


def test_pooled_other_errors_pass_through(model: Any, limited: Callable[[int, Exception], list[int]]) -> None:
    sizes = limited(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        pooled(model, ROWS, Pooling.mean, TokenBudget(model, 1024), normalise=True)
    assert len(sizes) == 1
