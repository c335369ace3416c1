"""Compute the answer NLL. Everything that scores responses uses this module.

In: token ids with the place where the answer starts, optionally after a shared prefix.
Out: (sum of NLL in nats, float64; number of scored tokens, int64) a row.
The prefix's keys and values are computed once and reused; the LM head runs only where an answer token is predicted.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Cache, PreTrainedModel

from icon_repro.lm.tokens import IGNORED, Encoded, TokenError, mask_labels

_HEAD_ROWS = 512  # positions in one call of the LM head: bounds the size of the logits
_CPU_LOGITS = 3_000_000  # in one call on a CPU, if that is 64 positions or more: more leave its caches


class NonFiniteError(ValueError):
    """The model gave NaN or infinity."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a token sequence that many rows share."""

    length: int
    cache: Cache | None


@torch.inference_mode()
def make_prefix(model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
    """Run ``ids`` through the model once and keep its keys and values; an empty ``ids`` is the empty prefix."""
    if not ids:
        return Prefix(0, None)
    output = model.get_decoder()(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=True)
    return Prefix(len(ids), output.past_key_values)


@torch.inference_mode()
def answer_nll(
    model: PreTrainedModel, rows: Sequence[Encoded], pad_id: int, prefix: Prefix | None = None
) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood of each row's answer tokens, after ``prefix``.

    Args:
        model: causal LM in eval mode.
        rows: B encoded rows; each answer needs a token before it within the row.
        pad_id: fills shorter rows on the right; has no influence.
        prefix: from ``make_prefix``; None for no prefix.

    Returns:
        (B,) float64 sums in nats; (B,) int64 numbers of scored tokens. Both on the CPU.

    Raises:
        TokenError: a row has no token before its answer, or no answer token.
        NonFiniteError: NaN or infinite NLL; names the positions in ``rows``.
    """
    if bad := [i for i, row in enumerate(rows) if row.answer_start < 1 or not row.answer_tokens]:
        raise TokenError(f"rows {bad}: an answer token, and a token before it, are needed to score.")
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad_id] * (width - len(row.ids)) for row in rows], device=model.device)
    labels = torch.tensor(
        [mask_labels(row.ids, row.answer_start) + [IGNORED] * (width - len(row.ids)) for row in rows],
        device=model.device,
    )
    row_index, position = torch.nonzero(labels != IGNORED, as_tuple=True)
    targets = labels[row_index, position]
    cache = None
    if prefix is not None and prefix.cache is not None:
        cache = copy.deepcopy(prefix.cache)
        cache.batch_repeat_interleave(len(rows))
    # Rows are padded on the right and attention is causal: no token of a row sees its padding, no mask is needed.
    arguments = {"input_ids": ids, "past_key_values": cache, "use_cache": cache is not None}
    sums = torch.zeros(len(rows), dtype=torch.float64)
    size = _head_rows(model)
    chunks = logits_at(model, row_index, position - 1, arguments)
    for logits, index, target in zip(chunks, row_index.split(size), targets.split(size), strict=True):
        losses = cross_entropy(logits.float(), target, reduction="none")
        sums.index_add_(0, index.cpu(), losses.double().cpu())
    if not torch.isfinite(sums).all():
        bad = torch.nonzero(~torch.isfinite(sums)).flatten().tolist()
        raise NonFiniteError(f"rows {bad}: NaN or infinite NLL from {model.dtype}; use float32 or bfloat16.")
    return sums, torch.tensor([row.answer_tokens for row in rows])


def _head_rows(model: PreTrainedModel) -> int:
    """Positions in one call of the LM head."""
    if model.device.type != "cpu":
        return _HEAD_ROWS
    return min(_HEAD_ROWS, max(64, _CPU_LOGITS // model.config.get_text_config().vocab_size))


def logits_at(model: PreTrainedModel, row: Tensor, position: Tensor, arguments: Mapping[str, Any]) -> Iterator[Tensor]:
    """The logits at some places of a forward pass, a few hundred at a time; the LM head runs at no others.

    Args:
        row, position: (places,) int64.
        arguments: of the forward pass.
    """
    if head_is_plain(model):
        hidden = model.get_decoder()(**arguments).last_hidden_state[row, position]
        head = model.get_output_embeddings()
        assert head is not None
        yield from (head(part) for part in hidden.split(_head_rows(model)))
    else:
        yield from model(**arguments).logits[row, position].split(_head_rows(model))


@torch.inference_mode()
def head_is_plain(model: PreTrainedModel) -> bool:
    """Whether logits are the output embeddings of the decoder's last hidden state and nothing else.

    False for models that cap or scale logits (Gemma 2, Cohere): those run their whole forward pass. Found out once a
    model, by comparing the two on a few tokens.
    """
    known = getattr(model, "_icon_repro_plain_head", None)
    if known is None:
        ids = torch.arange(1, 9, device=model.device)[None]
        head = model.get_output_embeddings()
        ours = head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state) if head is not None else None
        theirs = model(input_ids=ids, use_cache=False).logits
        known = ours is not None and torch.allclose(ours.float(), theirs.float(), rtol=1e-4, atol=1e-4)
        model._icon_repro_plain_head = known
    return bool(known)
