"""Compute pooled hidden states: one vector for each text, for every method that embeds.

In: token ids of texts.  Out: (texts, hidden size) float32.
"""

import enum
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from icon_repro.engine.progress import Progress
from icon_repro.lm.budget import TokenBudget, in_batches, padded
from icon_repro.lm.load import positions_of
from icon_repro.lm.nll import NonFiniteError
from icon_repro.lm.tokens import TokenError


class Pooling(enum.Enum):
    mean = "mean"  # over all tokens
    padded = "padded"  # over a fixed number of places, those of the padding too
    weighted = "weighted"  # token i of n counts i / sum(1..n): later tokens have seen more (RDS+)
    last = "last"


@torch.inference_mode()
def pooled(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    pooling: Pooling,
    budget: TokenBudget,
    *,
    normalise: bool,
    progress: Progress | None = None,
    encoder: bool = False,
    padding: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Last hidden layer of each row, pooled over its own tokens (padding never counts but in ``Pooling.padded``).

    Args:
        rows: token ids; none may be empty.
        normalise: to length 1.
        encoder: the model reads in both directions.
        padding: of ``Pooling.padded``: the id after a row's tokens, and the number of places.

    Returns:
        (len(rows), hidden size) float32.

    Raises:
        TokenError: a row without tokens, or longer than the model's positions; names its place.
        NonFiniteError: a vector isn't finite; names its place.
    """
    _check_rows(model, rows, least=padding[1] if padding else 0)
    assert (pooling is Pooling.padded) == (padding is not None)
    width = model.config.get_text_config().hidden_size
    result = np.empty((len(rows), width), np.float32)

    def work(batch: list[int]) -> None:
        result[batch] = _batch(model, [rows[i] for i in batch], pooling, padding, normalise=normalise, encoder=encoder)
        if progress:
            progress.advance(len(batch), sum(len(rows[i]) for i in batch))

    in_batches([padding[1] if padding else len(row) for row in rows], budget, work)
    _check_finite(result, model)
    return result


@torch.inference_mode()
def layer_states(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    layers: Sequence[int],
    budget: TokenBudget,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Hidden states after some layers, as the mean over a row's tokens and at its last token.

    Args:
        rows: token ids; none may be empty.
        layers: 1 to the number of the model's layers (after the last one the final norm is applied).

    Returns:
        (len(rows), len(layers), 2, hidden size) float32: mean, last.

    Raises:
        TokenError: a row without tokens, or longer than the model's positions; names its place.
        NonFiniteError: a state isn't finite; names the row's place.
    """
    _check_rows(model, rows)
    width = model.config.get_text_config().hidden_size
    result = np.empty((len(rows), len(layers), 2, width), np.float32)

    def work(batch: list[int]) -> None:
        ids, lengths = padded([rows[i] for i in batch], model.device)
        states = model.get_decoder()(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        place = torch.arange(ids.shape[1], device=ids.device)[None]
        inside = (place < lengths[:, None]).float() / lengths[:, None]
        at = torch.arange(len(batch), device=ids.device)
        for number, layer in enumerate(layers):
            state = states[layer].float()
            result[batch, number, 0] = torch.einsum("bt,bth->bh", inside, state).cpu().numpy()
            result[batch, number, 1] = state[at, lengths - 1].cpu().numpy()
        if progress:
            progress.advance(len(batch), int(lengths.sum()))

    in_batches([len(row) for row in rows], budget, work)
    _check_finite(result.reshape(len(rows), -1), model)
    return result


def _check_rows(model: PreTrainedModel, rows: Sequence[Sequence[int]], least: int = 0) -> None:
    if empty := [i for i, row in enumerate(rows) if not len(row)]:
        raise TokenError(f"text {empty[0]} has no tokens: there is nothing to embed. Drop the row.")
    longest = max([least, *(len(row) for row in rows)])
    limit = positions_of(model) or longest
    if longest > limit:
        raise TokenError(f"a text takes {longest} tokens, the model has {limit} positions. Lower max_length.")


def _check_finite(vectors: NDArray[np.float32], model: PreTrainedModel) -> None:
    if bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
        raise NonFiniteError(f"texts {bad[:5]}: hidden states aren't finite in {model.dtype}; use float32 or bfloat16.")


def _batch(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    pooling: Pooling,
    padding: tuple[int, int] | None,
    *,
    normalise: bool,
    encoder: bool,
) -> NDArray[np.float32]:
    """Vectors of a batch; an encoder gets a mask, as each of its tokens would see padding.

    With ``padding`` there is a mask too: what counts for a place in the padding are the row's own tokens.
    """
    ids, lengths = padded(rows, model.device, *(padding or ()))
    place = torch.arange(ids.shape[1], device=model.device)[None]
    inside = place < lengths[:, None]
    if encoder:
        output = model(input_ids=ids, attention_mask=inside.long())
    elif padding:
        output = model.get_decoder()(input_ids=ids, attention_mask=inside.long(), use_cache=False)
    else:
        output = model.get_decoder()(input_ids=ids, use_cache=False)
    hidden = output.last_hidden_state.float()
    if pooling is Pooling.last:
        weights = (place == lengths[:, None] - 1).float()
    elif pooling is Pooling.padded:
        weights = torch.ones_like(inside, dtype=torch.float32)
    elif pooling is Pooling.mean:
        weights = inside.float()
    else:
        weights = (place + 1) * inside.float()
    weights = weights / weights.sum(dim=1, keepdim=True)
    vectors = torch.einsum("bt,bth->bh", weights, hidden)
    if normalise:
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    return np.asarray(vectors.cpu().numpy())
