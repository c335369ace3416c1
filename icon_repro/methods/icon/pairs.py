"""Compute the candidate x assessment matrices of mean answer NLL, a shard of candidates at a time.

In: model, order of the pool, assessment.  Out: candidate.npy or control.npy, (candidates, assessment) float32, in
nats per token; ids.json with the ids of both axes.  ``baseline``: nll.npy and tokens.npy, (assessment,), no context.
``bank``: bank.npy (lengths, draws, assessment), bank.json with the lengths and each candidate's length in tokens.
Source: Yang et al., arXiv 2505.05327; layout BOS + context + separator + prompt + response.
Differs: the released scripts score one pair a forward pass; here a context's prefix is computed once, and
assessment rows are batched by length in an order that never changes. ``layout`` says how their defects are options.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from icon_repro.data.cost import forward_flops
from icon_repro.data.options import Dtype
from icon_repro.data.prompts import scoring_prompt
from icon_repro.data.rows import Example
from icon_repro.engine.progress import Progress
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.budget import TokenBudget, measured_peak
from icon_repro.lm.load import load_tokenizer, open_model
from icon_repro.lm.low_precision import Low, lower
from icon_repro.lm.mean_nll import mean_nll
from icon_repro.lm.nll import NonFiniteError
from icon_repro.lm.tokens import Encoded
from icon_repro.methods.icon.control import bank_lengths, noise_ids, noise_text
from icon_repro.methods.icon.layout import Layout, Row
from icon_repro.methods.icon.options import Control, IconConfig, IconShard, NoiseUnit, ScoreDtype, resolved

_PEAK_FROM = 1e13  # operations of a step from which measuring the device's peak is worth its half second


@dataclass
class Engine:
    """A model with everything that scoring a pair needs."""

    model: PreTrainedModel
    layout: Layout
    cfg: IconConfig  # resolved
    budget: TokenBudget  # padded tokens of assessment rows in one batch
    noise: Callable[[str, str], str] | None = None  # (candidate, assessment id) -> text to use instead
    weights: int | None = None  # of the model in full precision; None: it is

    @property
    def parameters(self) -> int:
        """Weights of the model, those in lower precision too: what FLOPs are counted by."""
        return self.model.num_parameters() if self.weights is None else self.weights

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
        pad = self.layout.tokenizer.pad_token_id
        assert isinstance(pad, int)
        return mean_nll(self.model, pad, prefix, rows, self.budget, progress)

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


def make_engine(
    cfg: IconConfig, inputs: Mapping[str, Path], runtime: Runtime, dtype: ScoreDtype | None = None
) -> Engine:
    """Model and tokenizer of inputs["model"], in ``dtype``, else in that of ``cfg`` or, if auto, of inputs["dtype"]."""
    if dtype is None:
        chosen = read_json(inputs["dtype"] / "dtype.json")["dtype"] if cfg.dtype is ScoreDtype.auto else cfg.dtype.value
        dtype = ScoreDtype(chosen)
    layout = Layout(load_tokenizer(inputs["model"]), cfg)
    low = Low(dtype.value) if dtype in (ScoreDtype.int8, ScoreDtype.float8) else None
    model, budget = open_model(inputs["model"], Dtype(low.around if low else dtype.value), runtime)
    weights = model.num_parameters()
    if low is not None:
        lower(model, low)
    return Engine(model, layout, cfg, budget, weights=weights)


def baseline(cfg: IconConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write nll.npy, tokens.npy and ids.json of the assessment rows. Needs inputs["model"], inputs["assessment"]."""
    engine = make_engine(resolved(cfg), inputs, runtime)
    examples = _assessment(inputs)
    rows = [engine.layout.row(example).alone for example in examples]
    with runtime.progress(len(rows), "row") as progress:
        np.save(out / "nll.npy", engine.mean_nll([], rows, progress), allow_pickle=False)
    tokens = np.array([row.answer_tokens if row else 0 for row in rows])
    np.save(out / "tokens.npy", tokens, allow_pickle=False)
    write_json(
        out / "ids.json",
        {"assessment": [example.id for example in examples], "groups": [example.group for example in examples]},
    )
    cuts = [row.cut for row in rows if row]
    return {
        "rows": len(rows),
        "rows_cut": sum(cut > 0 for cut in cuts),
        "tokens_cut": sum(cuts),
        "rows_without_scored_token": sum(row is None for row in rows),
        **_cost(engine, progress.tokens),
    }


def bank(cfg: IconShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Score the noise texts that candidates ``start`` to ``stop`` share. Needs inputs model, order, assessment."""
    icon = resolved(cfg.icon)
    engine = make_engine(icon, inputs, runtime)
    layout = engine.layout
    bos, separator = len(layout.bos), layout.separator()
    examples = read_rows(inputs["order"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    contexts = {row.id: len(layout.context(candidate_text(row))[0]) - bos for row in examples}
    lengths = bank_lengths(icon.bank.lengths, list(contexts.values()))
    assessment = _assessment(inputs)
    rows = [layout.row(row).after_context for row in assessment]
    nll = np.empty((len(lengths), icon.bank.draws, len(rows)), dtype=np.float32)
    with _progress(engine, runtime, nll.size, "pair", rows) as progress:
        for place, length in enumerate(lengths):
            for draw in range(icon.bank.draws):
                noise = noise_ids(layout.tokenizer, length, icon.seed, f"bank:{length}:{draw}")
                try:
                    nll[place, draw] = engine.mean_nll(layout.bos + noise + separator, rows, progress)
                except NonFiniteError as error:
                    raise NonFiniteError(f"noise of {length} tokens, draw {draw}: {error}") from error
    np.save(out / "bank.npy", nll, allow_pickle=False)
    write_json(out / "bank.json", {"lengths": lengths, "contexts": contexts})
    write_json(out / "ids.json", {"assessment": [row.id for row in assessment]})
    return {"contexts": len(lengths) * icon.bank.draws, "pairs": nll.size, **_cost(engine, progress.tokens)}


def shard(cfg: IconShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write candidate.npy of rows ``start`` to ``stop`` of the order. Needs inputs model, order, assessment.

    inputs["dtype"] is needed for dtype auto. inputs["sequence"] restricts candidates and assessment rows to those that
    an adaptive round asks for.
    """
    return _matrix("candidate", cfg, inputs, out, runtime)


def control_shard(cfg: IconShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write control.npy, the random contexts of the same rows as ``shard``'s."""
    return _matrix("control", cfg, inputs, out, runtime)


def _matrix(name: str, cfg: IconShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    icon = resolved(cfg.icon)
    candidates = read_rows(inputs["order"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    assessment = _assessment(inputs)
    if "sequence" in inputs:
        wanted = set(read_json(inputs["sequence"] / "sequence.json")["active"])
        candidates = [row for row in candidates if row.id in wanted]
    ids = [row.id for row in assessment]
    matrix = np.empty((len(candidates), len(ids)), dtype=np.float32)
    metrics = {"candidates": len(candidates), "pairs": matrix.size, "contexts_cut": 0, "tokens_cut": 0}
    metrics |= {"tokens": 0, "flops": 0}
    if matrix.size:  # an empty one needs no model
        engine = make_engine(icon, inputs, runtime)
        rows = [engine.layout.row(row) for row in assessment]
        cuts = [engine.layout.context(candidate_text(row))[1] for row in candidates]
        after = [row.after_context for row in rows]
        with _progress(engine, runtime, matrix.size, "pair", after) as progress:
            for index, row in enumerate(candidates):
                try:
                    if name == "candidate":
                        matrix[index] = engine.candidate(row, rows, progress)
                    else:
                        matrix[index] = engine.control(row, rows, ids, progress)
                except NonFiniteError as error:
                    raise NonFiniteError(f"{name} context of {row.id}: {error}") from error
        metrics |= {"contexts_cut": sum(cut > 0 for cut in cuts), "tokens_cut": sum(cuts)}
        metrics |= _cost(engine, progress.tokens)
    np.save(out / f"{name}.npy", matrix, allow_pickle=False)
    write_json(out / "ids.json", {"candidates": [row.id for row in candidates], "assessment": ids})
    return metrics


def own_shard(cfg: IconShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write candidate.npy, (pairs,), of rows ``start`` to ``stop`` of the order, each with assessment rows of its own.

    Needs inputs model, order, assessment, sequence (which names the rows by candidate), and dtype for dtype auto.
    ids.json: ``candidates``, and ``assessment``, the ids of the rows of each; pairs are in this order; ``contexts``,
    the tokens of each candidate's text.
    """
    icon = resolved(cfg.icon)
    asked: dict[str, list[str]] = read_json(inputs["sequence"] / "sequence.json")["own"]
    candidates = [
        row for row in read_rows(inputs["order"] / "rows.jsonl", Example)[cfg.start : cfg.stop] if asked.get(row.id)
    ]
    pairs = sum(len(asked[row.id]) for row in candidates)
    nll = np.empty(pairs, dtype=np.float32)
    metrics = {"candidates": len(candidates), "pairs": pairs, "contexts_cut": 0, "tokens_cut": 0}
    metrics |= {"tokens": 0, "flops": 0}
    lengths: list[int] = []
    if candidates:  # without any no model is needed
        engine = make_engine(icon, inputs, runtime)
        rows = {
            row.id: engine.layout.row(row).after_context for row in _assessment({"assessment": inputs["assessment"]})
        }
        contexts = [engine.layout.context(candidate_text(row)) for row in candidates]
        lengths = [len(context) - len(engine.layout.bos) for context, _ in contexts]
        with _progress(
            engine, runtime, pairs, "pair", [rows[i] for row in candidates for i in asked[row.id]]
        ) as progress:
            first = 0
            for row, (context, _) in zip(candidates, contexts, strict=True):
                each = [rows[i] for i in asked[row.id]]
                try:
                    values = engine.mean_nll(context + engine.layout.separator(), each, progress)
                except NonFiniteError as error:
                    raise NonFiniteError(f"context of {row.id}: {error}") from error
                nll[first : first + len(each)] = values
                first += len(each)
        cuts = [cut for _, cut in contexts]
        metrics |= {"contexts_cut": sum(cut > 0 for cut in cuts), "tokens_cut": sum(cuts)}
        metrics |= _cost(engine, progress.tokens)
    np.save(out / "candidate.npy", nll, allow_pickle=False)
    ids = {"candidates": [row.id for row in candidates], "assessment": [asked[row.id] for row in candidates]}
    write_json(out / "ids.json", {**ids, "contexts": lengths})
    return metrics


def _assessment(inputs: Mapping[str, Path]) -> list[Example]:
    """The assessment rows, or those that inputs["sequence"] asks for, in its order."""
    assessment = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    if "sequence" not in inputs:
        return assessment
    by_id = {row.id: row for row in assessment}
    return [by_id[i] for i in read_json(inputs["sequence"] / "sequence.json")["rows"]]


def _progress(engine: Engine, runtime: Runtime, pairs: int, unit: str, rows: Sequence[Encoded | None]) -> Progress:
    """Progress that knows the device's peak, where the work is worth measuring it."""
    progress = runtime.progress(pairs, unit)
    per_token = forward_flops(engine.parameters, 1)
    mean_tokens = sum(len(row.ids) for row in rows if row is not None) / max(1, len(rows))
    if pairs * mean_tokens * per_token >= _PEAK_FROM:
        progress.peak(measured_peak(engine.model.device, engine.model.dtype), per_token)
    return progress


def _cost(engine: Engine, tokens: int) -> dict[str, Any]:
    return {"tokens": tokens, "flops": forward_flops(engine.parameters, tokens)}
