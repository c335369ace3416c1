"""The token budget of a batch: where it comes from, how it shrinks, what is remembered, what counts as no memory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from icon_repro.data.options import Dtype
from icon_repro.engine.records import read_json
from icon_repro.lm.budget import OutOfMemoryError, TokenBudget, automatic, in_batches, measured_peak, ran_out
from icon_repro.lm.load import load_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    (made / "weights").symlink_to(tiny_model)
    (made / "model.json").write_text('{"hub_id": null, "commit": null}', encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder, Dtype.float32, CPU)


@pytest.mark.parametrize("wanted, expected", [(None, 1024), (7, 7), (5000, 5000)])
def test_budget_is_what_was_asked_for_or_the_devices(model: Any, wanted: int | None, expected: int) -> None:
    assert TokenBudget(model, wanted).tokens == expected


def test_halve_is_remembered_for_the_same_model_dtype_and_wish(model: Any, folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "new" / "budget.json"
    budget = TokenBudget(model, None, memory)
    for expected in (512, 256):
        budget.halve(2, MemoryError())
        assert budget.tokens == expected == TokenBudget(model, None, memory).tokens
    assert TokenBudget(model, 4096, memory).tokens == 4096
    assert TokenBudget(load_model(folder, Dtype.bfloat16, CPU), None, memory).tokens == 1024
    other = TokenBudget(model, 4096, memory)
    other.halve(9, MemoryError())
    assert sorted(read_json(memory).values()) == [256, 2048]


def test_halve_stops_at_one_token_and_at_one_row(model: Any, tmp_path: Path) -> None:
    budget = TokenBudget(model, 3, tmp_path / "budget.json")
    for expected in (1, 1):
        budget.halve(2, MemoryError())
        assert budget.tokens == expected
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(OutOfMemoryError, match=r"single row.*max_context_tokens.*bfloat16") as caught:
        budget.halve(1, error)
    assert caught.value.__cause__ is error


def test_halve_without_a_memory_writes_nothing(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TokenBudget(model, None).halve(2, MemoryError())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", "7"])
def test_budget_memory_that_cant_be_read_is_only_a_hint(model: Any, tmp_path: Path, content: str) -> None:
    memory = tmp_path / "budget.json"
    memory.write_text(content)
    budget = TokenBudget(model, None, memory)
    assert budget.tokens == 1024
    budget.halve(2, MemoryError())
    assert TokenBudget(model, None, memory).tokens == 512


def test_budget_memory_that_cant_be_written_is_only_a_hint(model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    budget = TokenBudget(model, None, tmp_path / "file" / "budget.json")
    budget.halve(2, MemoryError())
    assert budget.tokens == 512


def test_ran_out_knows_what_torch_says_on_a_cpu() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.float32)
    assert ran_out(caught.value)


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("memory"), False),
    ],
    ids=str,
)
def test_ran_out_is_about_memory_only(error: Exception, expected: bool) -> None:
    assert ran_out(error) is expected


@pytest.mark.parametrize("capacity", [40, 64, 100, 500, 5000])
@pytest.mark.parametrize("wanted", [1, 50, 1000, 100_000])
def test_in_batches_every_row_once_and_no_smaller_budget_than_needed(model: Any, wanted: int, capacity: int) -> None:
    lengths = [3 + (7 * i) % 38 for i in range(120)]
    budget, done, failed = TokenBudget(model, wanted), list[int](), list[int]()

    def work(batch: list[int]) -> None:
        padded = len(batch) * max(lengths[i] for i in batch)
        if padded > capacity:
            failed.append(padded)
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(batch)

    in_batches(lengths, budget, work)
    assert sorted(done) == list(range(120))
    assert budget.tokens >= min(wanted, capacity // 2)
    if capacity >= wanted:
        assert not failed and budget.tokens == wanted


def test_in_batches_a_row_that_doesnt_fit_and_other_errors_end_it(model: Any) -> None:
    def work(batch: list[int]) -> None:
        raise error

    error: Exception = MemoryError()
    with pytest.raises(OutOfMemoryError, match="single row"):
        in_batches([5, 5, 5], TokenBudget(model, 100), work)
    error = RuntimeError("device-side assert")
    budget = TokenBudget(model, 100)
    with pytest.raises(RuntimeError, match="device-side"):
        in_batches([5, 5, 5], budget, work)
    assert budget.tokens == 100


def fake(free: int, monkeypatch: pytest.MonkeyPatch, **config: Any) -> Any:
    """A model of 8 B parameters' shape that claims to be on a GPU with ``free`` bytes."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 2**30))
    shape = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336}
    text = SimpleNamespace(**{**shape, **config})
    found = SimpleNamespace(get_text_config=lambda: text)
    return SimpleNamespace(device=torch.device("cuda"), config=found, dtype=torch.bfloat16)


def test_automatic_on_a_gpu_is_a_power_of_two_that_follows_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [automatic(fake(gb * 2**30, monkeypatch, num_key_value_heads=8)) for gb in (0, 1, 2, 4, 8, 16, 40, 200)]
    assert found == sorted(found) and found[0] == 1 and found[-1] == 32768
    assert all(tokens & (tokens - 1) == 0 for tokens in found)
    assert found[2:5] == [2 * found[1], 4 * found[1], 8 * found[1]]
    nearly = automatic(fake(int(15.9 * 2**30), monkeypatch, num_key_value_heads=8))
    assert nearly in (found[5], found[5] // 2)
    assert automatic(fake(8 * 2**30, monkeypatch)) < found[4]  # every head has keys and values of its own


def test_measured_peak_is_a_speed(model: Any) -> None:
    assert 1e8 < measured_peak(CPU, torch.float32, seconds=0) < 1e14
