"""Continue many prompts greedily, in batches of similar length that are padded on the left.

In: a model, prompts as token ids.  Out: the new ids of each prompt and why they end.
What a hub model's own generation settings add (sampling, penalties) is left out; its further end tokens are kept.
Batches depend on the prompts and the batch size only; another batch size moves logits by rounding alone.
Known gap: where two tokens are equally likely but for rounding, another batch size may take the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from icon_repro.lm.budget import OutOfMemoryError, TokenBudget, in_batches

EOS, LENGTH = "eos", "length"


class GenerationError(ValueError):
    """The prompts can't be continued."""


@dataclass(frozen=True)
class Continuation:
    """New ids without the end token, and why they end."""

    ids: list[int]
    stop: str  # eos or length


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    done: Callable[[dict[int, Continuation]], None],
    skip: Callable[[int], bool] = lambda index: False,
) -> None:
    """Continue every prompt with the likeliest token until an end token or ``max_new_tokens``.

    Args:
        prompts: ids with BOS where the model wants one; at least one each.
        batch_size: prompts at a time; halved when memory runs out.
        done: gets the continuations of each finished batch by the prompts' indices.
        skip: a batch of whose prompts all are skipped isn't run.

    Raises:
        GenerationError: an empty prompt, or a single one that doesn't fit into memory.
    """
    if empty := [index for index, ids in enumerate(prompts) if not ids]:
        raise GenerationError(f"prompts {empty[:5]} have no token; there is nothing to continue.")
    settings = _settings(model, tokenizer, max_new_tokens)
    by_length = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    size = TokenBudget(model, batch_size)  # of prompts here: each counts as one

    def work(places: list[int]) -> None:
        batch = [by_length[place] for place in places]
        if not all(skip(index) for index in batch):
            continuations = _continue(model, [prompts[index] for index in batch], settings)
            done(dict(zip(batch, continuations, strict=True)))

    try:
        in_batches([1] * len(prompts), size, work)
    except OutOfMemoryError as error:
        raise GenerationError(
            "a single prompt doesn't fit into memory. Lower max_new_tokens or max_length, or use bfloat16."
        ) from error


def _settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> dict[str, Any]:
    ends = drop_own_settings(model, tokenizer)
    return {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": max_new_tokens,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": ends,
    }


def drop_own_settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """Leave nothing of a model's own generation settings but the tokens that end a text; returns these.

    transformers mixes the settings of generation_config.json (penalties, suppressed tokens) into all that it is given.
    """
    eos = getattr(model.generation_config, "eos_token_id", None)
    ends = {eos} if isinstance(eos, int) else set(eos or [])
    if isinstance(tokenizer.eos_token_id, int):
        ends.add(tokenizer.eos_token_id)
    # transformers fills what a given config leaves open from the model's own, so that one has to go
    model.generation_config = GenerationConfig(eos_token_id=sorted(ends) or None)
    return sorted(ends) or None


@torch.inference_mode()
def _continue(model: PreTrainedModel, prompts: Sequence[Sequence[int]], settings: dict[str, Any]) -> list[Continuation]:
    width = max(map(len, prompts))
    pad = settings["pad_token_id"]
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    output: Any = model.generate(input_ids=ids, attention_mask=mask, **settings)
    ends = set(settings["eos_token_id"] or [])
    continuations = []
    for row in output[:, width:].tolist():
        at = next((place for place, token in enumerate(row) if token in ends), None)
        continuations.append(Continuation(row, LENGTH) if at is None else Continuation(row[:at], EOS))
    return continuations
