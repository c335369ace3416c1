"""The candidate x assessment matrices of mean answer NLL, a shard of candidates at a time.

In: model, order of the pool, assessment.  Out: candidate.npy and control.npy, (candidates, assessment) float32, in
nats per token; ids.json with the ids of both axes.  ``baseline``: nll.npy and tokens.npy, (assessment,), no context.
Source: Yang et al., arXiv 2505.05327; layout BOS + context + separator + prompt + response.
Differs: the released scripts score one pair a forward pass; here a candidate's prefix is computed once, and
assessment rows are batched by length in an order that never changes. They also lose tokens (defects D1-D3 in the
README), which this layout cannot.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icon_repro.config import Control, IconConfig, IconShard
from icon_repro.cost import forward_flops
from icon_repro.engine.progress import Progress
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_model, load_tokenizer, pick_device
from icon_repro.lm.nll import NonFiniteError, answer_nll, make_prefix
from icon_repro.lm.tokens import Encoded, TokenError, bos_ids, encode, pack, text_ids
from icon_repro.methods.icon.control import noise_ids
from icon_repro.prompts import scoring_prompt
from icon_repro.records import Example, read_rows, write_json


@dataclass
class Engine:
    """A model with everything that scoring a pair needs."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    cfg: IconConfig
    batch_tokens: int  # padded tokens of assessment rows in one batch

    def encode_assessment(self, rows: Sequence[Example]) -> list[Encoded]:
        """Ids of prompt + response of each row, cut to the limits.

        Raises:
            TokenError: a response without tokens; a prompt without tokens where no BOS stands before it.
        """
        encoded = [
            encode(
                self.tokenizer,
                scoring_prompt(row),
                row.response,
                max_prompt_tokens=self.cfg.max_prompt_tokens,
                max_answer_tokens=self.cfg.max_response_tokens,
                name=f"assessment row {row.id}",
            )
            for row in rows
        ]
        for row, item in zip(rows, encoded, strict=True):
            if not item.answer_start and not bos_ids(self.tokenizer):
                raise TokenError(f"assessment row {row.id}: the prompt has no tokens and the tokenizer adds no BOS.")
        return encoded

    def encode_candidate(self, row: Example) -> tuple[list[int], int]:
        """Context ids of a candidate, at most ``max_context_tokens``; and how many tokens were cut.

        Prompt and response are tokenised as one text, as the released scripts do.
        """
        return text_ids(self.tokenizer, scoring_prompt(row) + row.response, self.cfg.max_context_tokens)

    def mean_nll(
        self, context: Sequence[int] | None, rows: Sequence[Encoded], progress: Progress | None = None
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Mean NLL of each row's response after ``context``.

        Args:
            context: ids of the context without BOS and separator; None for no context.
            rows: from ``encode_assessment``.

        Returns:
            (len(rows),) float64, nats per response token.
        """
        prefix = list(bos_ids(self.tokenizer))
        if context is not None:
            prefix += [*context, *text_ids(self.tokenizer, self.cfg.separator)[0]]
        # The last token before the row goes with the row: it predicts the first answer token if the prompt is empty.
        shared, last = prefix[:-1], prefix[-1:]
        rows = [Encoded(last + row.ids, row.answer_start + len(last)) for row in rows]
        longest = len(shared) + max(len(row.ids) for row in rows)
        limit = getattr(self.model.config, "max_position_embeddings", longest)
        if longest > limit:
            raise TokenError(
                f"context and assessment row take {longest} tokens, the model has {limit} positions. Lower "
                "max_context_tokens, max_prompt_tokens or max_response_tokens of the method."
            )
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        cache = make_prefix(self.model, shared)
        result = np.empty(len(rows), dtype=np.float64)
        for batch in pack([len(row.ids) for row in rows], self.batch_tokens):
            sums, counts = answer_nll(self.model, [rows[i] for i in batch], pad, cache)
            result[batch] = (sums / counts).numpy()
            if progress:
                progress.advance(len(batch), sum(len(rows[i].ids) for i in batch))
        if progress:
            progress.advance(0, len(shared))
        return result

    def contexts(self, row: Example) -> Iterator[tuple[str, list[int], int]]:
        """(matrix name, context ids, tokens cut) of a candidate and of its control."""
        ids, cut = self.encode_candidate(row)
        yield "candidate", ids, cut
        if self.cfg.control is Control.per_candidate:
            yield "control", noise_ids(self.tokenizer, len(ids), self.cfg.seed, row.id), 0


def _engine(cfg: IconConfig, inputs: Mapping[str, Path], runtime: Runtime) -> Engine:
    if runtime.cluster.threads:
        torch.set_num_threads(runtime.cluster.threads)
    device = pick_device(runtime.cluster.device)
    tokenizer = load_tokenizer(inputs["model"])
    model = load_model(inputs["model"], cfg.dtype, device, runtime.cluster.attention)
    return Engine(model, tokenizer, cfg, runtime.cluster.score_batch_tokens)


def baseline(cfg: IconConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write nll.npy, tokens.npy and ids.json of the assessment rows. Needs inputs["model"], inputs["assessment"]."""
    engine = _engine(cfg, inputs, runtime)
    rows = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    encoded = engine.encode_assessment(rows)
    with runtime.progress(len(rows), "row") as progress:
        np.save(out / "nll.npy", engine.mean_nll(None, encoded, progress), allow_pickle=False)
    np.save(out / "tokens.npy", np.array([item.answer_tokens for item in encoded]), allow_pickle=False)
    write_json(out / "ids.json", {"assessment": [row.id for row in rows]})
    return {
        "rows": len(rows),
        "rows_cut": sum(item.cut > 0 for item in encoded),
        "tokens_cut": sum(item.cut for item in encoded),
        **_cost(engine, progress.tokens),
    }


def shard(cfg: IconShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write the matrices of rows ``start`` to ``stop`` of the order. Needs inputs model, order, assessment."""
    engine = _engine(cfg.icon, inputs, runtime)
    candidates = read_rows(inputs["order"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    assessment = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    encoded = engine.encode_assessment(assessment)
    names = ["candidate", *(["control"] if cfg.icon.control is Control.per_candidate else [])]
    matrices = {name: np.empty((len(candidates), len(assessment)), dtype=np.float32) for name in names}
    cut = []
    with runtime.progress(len(candidates) * len(assessment) * len(names), "pair") as progress:
        for index, row in enumerate(candidates):
            for name, context, tokens_cut in engine.contexts(row):
                try:
                    matrices[name][index] = engine.mean_nll(context, encoded, progress)
                except NonFiniteError as error:
                    raise NonFiniteError(f"candidate {row.id}, {name} context: {error}") from error
                cut += [tokens_cut] if tokens_cut else []
    for name, matrix in matrices.items():
        np.save(out / f"{name}.npy", matrix, allow_pickle=False)
    ids = {"candidates": [row.id for row in candidates], "assessment": [row.id for row in assessment]}
    write_json(out / "ids.json", ids)
    return {
        "candidates": len(candidates),
        "pairs": sum(matrix.size for matrix in matrices.values()),
        "contexts_cut": len(cut),
        "tokens_cut": sum(cut),
        **_cost(engine, progress.tokens),
    }


def _cost(engine: Engine, tokens: int) -> dict[str, Any]:
    return {"tokens": tokens, "flops": forward_flops(engine.model.num_parameters(), tokens)}
