"""SelectIT: how sure the model is when it rates a row from 1 to 5, over several wordings of the question.

In: model, rows.  Out: shards: ratings.npy, (rows, prompts) float64; scores.jsonl, mean / (1 + alpha x spread); both as
parts.
Source: Liu et al., arXiv 2402.16705 (SelectIT), and its code: probabilities of the five digits at the next position,
scaled to sum 1 and softened by a second softmax; a prompt's rating is the likeliest digit times the mean distance of
its probability from the others'; alpha 0.2.
Differs: the wording of the questions is ours; digits are looked up in the model's own tokenizer, and a tokenizer that
splits one is refused. The published code mixes models of three sizes; here the model that is tuned rates.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icon_repro.config_methods import SelectitConfig, SelectitShard
from icon_repro.cost import forward_flops
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.budget import TokenBudget, in_batches
from icon_repro.lm.load import load_tokenizer, open_model
from icon_repro.lm.tokens import TokenError, bos_ids, text_ids
from icon_repro.methods.common.outcome import write_scores
from icon_repro.records import Example, Score, read_json, read_rows, write_json

QUESTIONS = (
    "Rate how well the response answers the instruction, from 1 (not at all) to 5 (fully).",
    "How good is this answer? Give one number: 1 is very poor, 5 is excellent.",
    "Judge the quality of the response to the instruction on a scale of 1 to 5, where 5 is best.",
    "On a scale from 1 to 5, how helpful and correct is the response?",
    "Score the following pair of instruction and response with a number from 1 (useless) to 5 (perfect).",
)
_DIGITS = "12345"


class SelectitError(ValueError):
    """The tokenizer has no single token for a digit, or shards don't belong together."""


def digit_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token of each digit 1 to 5 as it follows a line break.

    A digit alone may take two tokens all the same: Llama 2's tokenizer puts a word start before every text.

    Raises:
        SelectitError: a digit isn't one token of its own, or two digits have the same one.
    """
    before = text_ids(tokenizer, "\n")[0]
    found = [text_ids(tokenizer, f"\n{digit}")[0] for digit in _DIGITS]
    ids = [item[-1] for item in found if item[:-1] == before]
    if len(ids) < len(_DIGITS):
        bad = next(digit for digit, item in zip(_DIGITS, found, strict=True) if item[:-1] != before)
        raise SelectitError(
            f"the tokenizer has no single token for the digit {bad!r} after a line break: a rating can't be read."
        )
    if len(set(ids)) < len(ids):
        raise SelectitError(f"the tokenizer has one token for several of the digits {_DIGITS}: a rating can't be read.")
    return ids


def rating(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """A prompt's rating from the probabilities of the digits.

    Args:
        probabilities: (..., 5), of the digits 1 to 5; need not sum to 1.

    Returns:
        (...), between 0 and 5.
    """
    scaled = probabilities / probabilities.sum(axis=-1, keepdims=True)
    soft = np.exp(scaled)
    soft /= soft.sum(axis=-1, keepdims=True)
    best = soft.argmax(axis=-1)
    highest = soft.max(axis=-1, keepdims=True)
    return np.asarray((best + 1) * (highest - soft).sum(axis=-1) / (soft.shape[-1] - 1))


def prompt(row: Example, question: str) -> str:
    """The text that ends where a digit is expected."""
    asked = f"{row.instruction}\n{row.input}" if row.input else row.instruction
    return f"{question}\nInstruction: {asked}\nResponse: {row.response}\nThe answer is:\n"


@torch.inference_mode()
def _probabilities(
    model: PreTrainedModel, rows: list[list[int]], digits: list[int], budget: TokenBudget, progress: Any
) -> NDArray[np.float64]:
    """(rows, 5) probabilities of the digits after each row."""
    longest = max(map(len, rows), default=0)
    limit = getattr(model.config, "max_position_embeddings", longest)
    if longest > limit:
        raise TokenError(f"a question takes {longest} tokens, the model has {limit} positions. Lower max_length.")
    result = np.empty((len(rows), len(digits)))

    def work(batch: list[int]) -> None:
        lengths = torch.tensor([len(rows[i]) for i in batch], device=model.device)
        width = int(lengths.max())
        ids = torch.tensor([[*rows[i], *[0] * (width - len(rows[i]))] for i in batch], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits
        last = logits[torch.arange(len(batch), device=model.device), lengths - 1].double()
        result[batch] = last.softmax(dim=-1)[:, digits].cpu().numpy()
        progress.advance(len(batch), int(lengths.sum()))

    in_batches([len(row) for row in rows], budget, work)
    return result


def shard(cfg: SelectitShard, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write ratings.npy of rows ``start`` to ``stop``. Needs inputs["model"], inputs["candidates"]."""
    selectit = cfg.selectit
    rows = read_rows(inputs["candidates"] / "rows.jsonl", Example)[cfg.start : cfg.stop]
    ratings = np.full((len(rows), len(QUESTIONS)), np.nan)
    reasons, tokens, parameters = dict[str, str](), 0, 0
    if rows:
        tokenizer = load_tokenizer(inputs["model"])
        digits, start = digit_ids(tokenizer), bos_ids(tokenizer)
        model, budget = open_model(inputs["model"], selectit.dtype, runtime)
        parameters = model.num_parameters()
        texts = [[start + text_ids(tokenizer, prompt(row, q))[0] for q in QUESTIONS] for row in rows]
        reasons = {
            row.id: f"longer than {selectit.max_length} tokens"
            for row, ids in zip(rows, texts, strict=True)
            if max(map(len, ids)) > selectit.max_length
        }
        kept = [i for i, row in enumerate(rows) if row.id not in reasons]
        with runtime.progress(len(kept) * len(QUESTIONS), "rating") as progress:
            flat = [ids for i in kept for ids in texts[i]]
            found = _probabilities(model, flat, digits, budget, progress)
            tokens = progress.tokens
        ratings[kept] = rating(found).reshape(len(kept), len(QUESTIONS))
    np.save(out / "ratings.npy", ratings, allow_pickle=False)
    write_json(out / "ids.json", {"rows": [row.id for row in rows], "reasons": reasons})
    return {"rows": len(rows), "failed": len(reasons), "tokens": tokens, "flops": forward_flops(parameters, tokens)}


def run(cfg: SelectitConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs named part-NNNN."""
    scores, reasons = list[Score](), dict[str, str]()
    for name in sorted(name for name in inputs if name.startswith("part-")):
        described = read_json(inputs[name] / "ids.json")
        ratings = np.load(inputs[name] / "ratings.npy", allow_pickle=False)
        if len(ratings) != len(described["rows"]):
            raise SelectitError(f"{inputs[name]}: {len(ratings)} ratings of {len(described['rows'])} rows; delete it.")
        reasons |= described["reasons"]
        for identifier, values in zip(described["rows"], ratings, strict=True):
            if identifier in described["reasons"]:
                continue
            if not np.isfinite(values).all():
                reasons[identifier] = "rating isn't finite"
                continue
            mean, spread = float(values.mean()), float(values.std())
            score = mean / (1 + cfg.alpha * spread)
            scores.append(Score(identifier, score, {"rating": mean, "spread": spread}))
    return {**write_scores(out, scores, reasons), "tokens": 0, "flops": 0}
