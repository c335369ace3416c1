"""Greedy continuations against a loop of one token at a time; end tokens, batch sizes, a model's own settings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from icon_repro.data.options import Dtype
from icon_repro.lm.generate import EOS, LENGTH, Continuation, GenerationError, greedy
from icon_repro.lm.load import load_model, load_tokenizer

TEXTS = [
    "Name a colour.",
    "x",
    "### Instruction:\nExplain why the sky is blue.\n\n### Response:",
    "3 + 4 =",
    "Red, green",
]
NEW = 12


@pytest.fixture
def loaded(model_step: Path) -> tuple[Any, Any, list[list[int]]]:
    tokenizer = load_tokenizer(model_step)
    model = load_model(model_step, Dtype.float32, torch.device("cpu"))
    return model, tokenizer, [tokenizer(text)["input_ids"] for text in TEXTS]


def run(model: Any, tokenizer: Any, prompts: list[list[int]], batch_size: int, new: int = NEW) -> list[Continuation]:
    found: dict[int, Continuation] = {}
    greedy(model, tokenizer, prompts, new, batch_size, found.update)
    return [found[index] for index in range(len(prompts))]


def slow(model: Any, ids: list[int], ends: set[int], new: int = NEW) -> Continuation:
    made: list[int] = []
    for _ in range(new):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + made])).logits[0, -1].argmax())
        if token in ends:
            return Continuation(made, EOS)
        made.append(token)
    return Continuation(made, LENGTH)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_greedy_equals_a_slow_loop_for_any_batch_size(loaded: Any, batch_size: int) -> None:
    model, tokenizer, prompts = loaded
    expected = [slow(model, ids, {tokenizer.eos_token_id}) for ids in prompts]
    assert len({tuple(one.ids) for one in expected}) > 2  # else it shows little
    assert run(model, tokenizer, prompts, batch_size) == expected


def test_greedy_stops_at_any_of_the_models_end_tokens(loaded: Any) -> None:
    model, tokenizer, prompts = loaded
    free = [slow(model, ids, {tokenizer.eos_token_id}) for ids in prompts]
    further = next(one.ids[3] for one in free if len(set(one.ids[:4])) > 1 and one.ids[3] not in one.ids[:3])
    model.generation_config.eos_token_id = [further]
    expected = [slow(model, ids, {tokenizer.eos_token_id, further}) for ids in prompts]
    found = run(model, tokenizer, prompts, 3)
    assert found == expected
    assert {one.stop for one in found} >= {EOS}
    assert all(further not in one.ids for one in found)


def test_greedy_leaves_out_sampling_and_penalties_of_the_model(loaded: Any) -> None:
    model, tokenizer, prompts = loaded
    expected = [slow(model, ids, {tokenizer.eos_token_id}) for ids in prompts]
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=1.9, max_new_tokens=3, eos_token_id=tokenizer.eos_token_id
    )
    assert run(model, tokenizer, prompts, 2) == expected


def test_greedy_skips_batches_that_are_done_only(loaded: Any) -> None:
    model, tokenizer, prompts = loaded
    by_length = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    found: dict[int, Continuation] = {}
    done = set(by_length[:2]) | {by_length[2]}  # the first batch of two, and half of the second
    greedy(model, tokenizer, prompts, NEW, 2, found.update, skip=lambda index: index in done)
    assert set(found) == set(by_length[2:])


def test_greedy_halves_the_batch_when_memory_runs_out(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, prompts = loaded
    expected = run(model, tokenizer, prompts, 1)
    real = model.generate

    def tight(**arguments: Any) -> Any:
        if len(arguments["input_ids"]) > 1:
            raise torch.OutOfMemoryError("no memory")
        return real(**arguments)

    monkeypatch.setattr(model, "generate", tight)
    assert run(model, tokenizer, prompts, 4) == expected
    monkeypatch.setattr(model, "generate", lambda **_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(GenerationError, match="single prompt doesn't fit"):
        run(model, tokenizer, prompts, 4)


def test_greedy_prompt_without_tokens_is_refused(loaded: Any) -> None:
    model, tokenizer, prompts = loaded
    with pytest.raises(GenerationError, match=r"prompts \[1\]"):
        run(model, tokenizer, [prompts[0], []], 2)
