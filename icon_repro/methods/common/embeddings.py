"""Embed rows by a causal language model or an encoder, a shard of rows at a time.

In: model, maybe as a train step tuned it, rows (or an assessment set).  Out: vectors.npy, (rows, hidden size) float32,
NaN where a row has none; ids.json with the ids and, of rows without a vector, the reason.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.prompts import PROMPTS, prompt_of
from icon_repro.data.rows import Example, stripped
from icon_repro.engine.records import read_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.tokens import bos_ids, readable, text_ids
from icon_repro.methods.common.options import EmbeddedText, EmbeddingConfig, EmbeddingShard, PoolingKind
from icon_repro.methods.common.shards import read_shards, write_shard


class EmbeddingsError(ValueError):
    """No row has a vector."""


def embedded_text(row: Example, cfg: EmbeddingConfig) -> str:
    """The text of a row that is embedded."""
    if cfg.strip:
        row = stripped(row)
    prompt = prompt_of(row, cfg.template) if cfg.wrap else PROMPTS[cfg.template](row)
    return prompt if cfg.text is EmbeddedText.prompt else prompt + row.response


def encoded(text: str, cfg: EmbeddingConfig, tokenizer: Any, start: list[int]) -> tuple[list[int], int] | str:
    """Ids of ``text``, cut to ``max_length``, and how many were cut; or why there is nothing to embed.

    Args:
        start: what the tokenizer puts first; an encoder's puts something last as well.
    """
    text_tokens = text_ids(tokenizer, text)[0]
    if not text_tokens:
        return "nothing to embed"
    if not readable(tokenizer, text_tokens):
        return "text that the tokenizer can't read"
    if cfg.encoder:
        letters = {"split_special_tokens": True}  # "[SEP]" in a text is no control token
        ids = list(tokenizer(text, truncation=True, max_length=cfg.max_length, **letters)["input_ids"])
        return ids, max(0, len(tokenizer(text, verbose=False, **letters)["input_ids"]) - len(ids))
    ids = start + text_tokens
    return ids[: cfg.max_length], max(0, len(ids) - cfg.max_length)


def shard(cfg: EmbeddingShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Embed rows ``start`` to ``stop``, cut from the end to ``max_length``.

    Needs inputs["model"], inputs["rows"]; may have inputs["tuned"], a train step.
    """
    from icon_repro.lm.hidden import Pooling, pooled
    from icon_repro.lm.load import load_tokenizer, open_encoder, open_model

    wanted = cfg.embedding
    rows = read_rows(inputs["rows"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    vectors: NDArray[np.float32] = np.empty((0, 0), np.float32)
    reasons, cut, tokens, parameters = dict[str, str](), 0, 0, 0
    if rows:
        tokenizer = load_tokenizer(inputs["model"])
        start = bos_ids(tokenizer)
        texts = [encoded(embedded_text(row, wanted), wanted, tokenizer, start) for row in rows]
        reasons = {row.id: item for row, item in zip(rows, texts, strict=True) if isinstance(item, str)}
        cut = sum(item[1] > 0 for item in texts if not isinstance(item, str))
        if wanted.encoder:
            model, budget = open_encoder(inputs["model"], wanted.dtype, runtime)
        else:
            model, budget = open_model(inputs["model"], wanted.dtype, runtime, inputs.get("tuned"))
        parameters = model.num_parameters()
        padding = None
        if wanted.pooling is PoolingKind.padded:
            assert isinstance(tokenizer.pad_token_id, int)
            padding = (tokenizer.pad_token_id, wanted.max_length)
        present = [i for i, item in enumerate(texts) if not isinstance(item, str)]
        with runtime.progress(len(present), "row") as progress:
            embedded = pooled(
                model,
                [item[0] for item in texts if not isinstance(item, str)],
                Pooling(wanted.pooling.value),
                budget,
                padding=padding,
                normalise=wanted.normalise,
                progress=progress,
                encoder=wanted.encoder,
            )
            tokens = progress.tokens
        vectors = np.full((len(rows), embedded.shape[1]), np.nan, np.float32)
        vectors[present] = embedded
    return {**write_shard(out, {"vectors": vectors}, rows, reasons, tokens, parameters), "rows_cut": cut}


def joined(inputs: Mapping[str, Path], prefix: str) -> tuple[list[str], NDArray[np.float32], dict[str, str]]:
    """Shards named ``<prefix>-NNNN``: ids and vectors (rows, hidden size) of all rows that have one; others' reasons.

    Raises:
        EmbeddingsError: no row has a vector.
        ShardError: a row is in two shards, or a shard's numbers don't fit its ids.
    """
    ids, parts, reasons = list[str](), list[NDArray[np.float32]](), dict[str, str]()
    for part in read_shards(inputs, prefix, "vectors"):
        reasons |= part.reasons
        if with_vector := [place for place, identifier in enumerate(part.ids) if identifier not in part.reasons]:
            ids += [part.ids[place] for place in with_vector]
            parts.append(part.numbers[with_vector])
    if not ids:
        raise EmbeddingsError(f"none of {len(reasons)} rows has a vector.")
    return ids, np.concatenate(parts), reasons
