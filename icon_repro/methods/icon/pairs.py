"""The candidate x assessment matrices of mean answer NLL, a shard of candidates at a time.

In: model, order of the pool, assessment.  Out: candidate.npy and control.npy, (candidates, assessment) float32, in
nats per token; ids.json with the ids of both axes.  ``baseline``: nll.npy and tokens.npy, (assessment,), no context.
Source: Yang et al., arXiv 2505.05327; layout BOS + context + separator + prompt + response.
Differs: the released scripts score one pair a forward pass; here a candidate's prefix is computed once, and
assessment rows are batched by length in an order that never changes. ``layout`` says how their defects are options.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from icon_repro.config import Control, IconConfig, IconShard, NoiseUnit, resolved
from icon_repro.cost import forward_flops
from icon_repro.engine.progress import Progress
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_model, load_tokenizer, pick_device
from icon_repro.lm.nll import NonFiniteError, answer_nll, make_prefix
from icon_repro.lm.tokens import Encoded, TokenError, pack
from icon_repro.methods.icon.control import noise_ids, noise_text
from icon_repro.methods.icon.layout import Layout, Row
from icon_repro.prompts import scoring_prompt
from icon_repro.records import Example, read_rows, write_json


@dataclass
class Engine:
    """A model with everything that scoring a pair needs."""

    model: PreTrainedModel
    layout: Layout
    cfg: IconConfig  # resolved
    batch_tokens: int  # padded tokens of assessment rows in one batch
    noise: Callable[[str, str], str] | None = None  # (candidate, assessment id) -> text to use instead

    def mean_nll(
        self, prefix: Sequence[int], rows: Sequence[Encoded | None], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Mean NLL of each row's scored tokens after a shared prefix, whose keys and values are computed once.

        Args:
            prefix: ids before every row; may be empty.
            rows: None where no token is scored.

        Returns:
            (len(rows),) float64, nats per scored token; NaN where the row is None.
        """
        # The last token before the row goes with the row: it predicts the first answer token if the prompt is empty.
        shared, last = list(prefix[:-1]), list(prefix[-1:])
        present = {i: Encoded(last + r.ids, r.answer_start + len(last)) for i, r in enumerate(rows) if r is not None}
        result = np.full(len(rows), np.nan)
        if not present:
            return result
        longest = len(shared) + max(len(row.ids) for row in present.values())
        limit = getattr(self.model.config, "max_position_embeddings", longest)
        if longest > limit:
            raise TokenError(
                f"context and assessment row take {longest} tokens, the model has {limit} positions. Lower "
                "max_context_tokens, max_prompt_tokens or max_response_tokens of the method."
            )
        pad = self.layout.tokenizer.pad_token_id
        assert isinstance(pad, int)
        cache = make_prefix(self.model, shared)
        indices = list(present)
        for packed in pack([len(present[i].ids) for i in indices], self.batch_tokens):
            batch = [indices[k] for k in packed]
            sums, counts = answer_nll(self.model, [present[i] for i in batch], pad, cache)
            result[batch] = (sums / counts).numpy()
            if progress:
                progress.advance(len(batch), sum(len(present[i].ids) for i in batch))
        if progress:
            progress.advance(len(rows) - len(present), len(shared))
        return result

    def candidate(self, row: Example, rows: Sequence[Row], progress: Progress | None = None) -> NDArray[np.float64]:
        """(len(rows),) mean NLL of the assessment rows after a candidate."""
        context, _ = self.layout.context(candidate_text(row))
        return self.mean_nll(context + self.layout.separator(), [r.after_context for r in rows], progress)

    def control(
        self, row: Example, rows: Sequence[Row], ids: Sequence[str], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """(len(rows),) mean NLL of the assessment rows (with these ids) after the candidate's random context."""
        separator = self.layout.separator()
        if self.cfg.control is Control.per_candidate:
            prefix = self.random_context(row, row.id) + separator
            return self.mean_nll(prefix, [r.after_context for r in rows], progress)
        whole: list[Encoded | None] = []
        for item, identifier in zip(rows, ids, strict=True):
            after = item.after_context
            if after is not None:
                if self.noise is None:
                    context = self.random_context(row, f"{row.id}:{identifier}")
                else:
                    context, _ = self.layout.context(self.noise(row.id, identifier))
                before = context + separator
                after = Encoded(before + after.ids, len(before) + after.answer_start)
            whole.append(after)
        return self.mean_nll([], whole, progress)

    def random_context(self, row: Example, key: str) -> list[int]:
        """Ids of the random context of a candidate, with BOS; ``key`` and the method's seed decide what is drawn."""
        text = candidate_text(row)
        if self.cfg.noise_unit is NoiseUnit.characters:
            return self.layout.context(noise_text(len(text), self.cfg.seed, key))[0]
        start = len(self.layout.bos)
        length = len(self.layout.context(text)[0]) - start
        return self.layout.bos + noise_ids(self.layout.tokenizer, length, self.cfg.seed, key)


def candidate_text(row: Example) -> str:
    """Prompt and response of a candidate as one text, as it stands in the context."""
    return scoring_prompt(row) + row.response


def _engine(cfg: IconConfig, inputs: Mapping[str, Path], runtime: Runtime) -> Engine:
    if runtime.cluster.threads:
        torch.set_num_threads(runtime.cluster.threads)
    device = pick_device(runtime.cluster.device)
    layout = Layout(load_tokenizer(inputs["model"]), cfg)
    model = load_model(inputs["model"], cfg.dtype, device, runtime.cluster.attention)
    return Engine(model, layout, cfg, runtime.cluster.score_batch_tokens)


def baseline(cfg: IconConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write nll.npy, tokens.npy and ids.json of the assessment rows. Needs inputs["model"], inputs["assessment"]."""
    engine = _engine(resolved(cfg), inputs, runtime)
    examples = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    rows = [engine.layout.row(example).alone for example in examples]
    with runtime.progress(len(rows), "row") as progress:
        np.save(out / "nll.npy", engine.mean_nll([], rows, progress), allow_pickle=False)
    tokens = np.array([row.answer_tokens if row else 0 for row in rows])
    np.save(out / "tokens.npy", tokens, allow_pickle=False)
    write_json(out / "ids.json", {"assessment": [example.id for example in examples]})
    cuts = [row.cut for row in rows if row]
    return {
        "rows": len(rows),
        "rows_cut": sum(cut > 0 for cut in cuts),
        "tokens_cut": sum(cuts),
        "rows_without_scored_token": sum(row is None for row in rows),
        **_cost(engine, progress.tokens),
    }


def shard(cfg: IconShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write the matrices of rows ``start`` to ``stop`` of the order. Needs inputs model, order, assessment."""
    icon = resolved(cfg.icon)
    engine = _engine(icon, inputs, runtime)
    candidates = read_rows(inputs["order"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    assessment = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    ids = [row.id for row in assessment]
    rows = [engine.layout.row(row) for row in assessment]
    names = ["candidate", *(["control"] if icon.control is not Control.none else [])]
    matrices = {name: np.empty((len(candidates), len(rows)), dtype=np.float32) for name in names}
    cuts = [engine.layout.context(candidate_text(row))[1] for row in candidates]
    with runtime.progress(len(candidates) * len(rows) * len(names), "pair") as progress:
        for index, row in enumerate(candidates):
            try:
                matrices["candidate"][index] = engine.candidate(row, rows, progress)
                if "control" in matrices:
                    matrices["control"][index] = engine.control(row, rows, ids, progress)
            except NonFiniteError as error:
                raise NonFiniteError(f"candidate {row.id} or its control: {error}") from error
    for name, matrix in matrices.items():
        np.save(out / f"{name}.npy", matrix, allow_pickle=False)
    write_json(out / "ids.json", {"candidates": [row.id for row in candidates], "assessment": ids})
    return {
        "candidates": len(candidates),
        "pairs": sum(matrix.size for matrix in matrices.values()),
        "contexts_cut": sum(cut > 0 for cut in cuts),
        "tokens_cut": sum(cuts),
        **_cost(engine, progress.tokens),
    }


def _cost(engine: Engine, tokens: int) -> dict[str, Any]:
    return {"tokens": tokens, "flops": forward_flops(engine.model.num_parameters(), tokens)}
