"""Judge by likelihood: the answer whose tokens a model finds likelier after the prompt, on average, wins.

In: judge (a model step), prompts, answers of A and of B.  Out: as ``evaluate.judge.pairwise``; scores are negative
mean NLLs.
A stand-in for trials without a judge, not a judgement of quality: it favours plain and repetitive answers, and long
ones, whose later tokens are easier: read the length-controlled score beside it.
It sees no order: both orders of a pair have the same scores, and equal texts are a tie. An answer without text has no
likelihood and loses to any text, as with a judge that reads: such a pair's scores are 1 for text and 0 for none.
Known gap: none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.data.cost import forward_flops
from icon_repro.data.prompts import PROMPTS
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.judge.options import NllJudge
from icon_repro.evaluate.judge.pairwise import Opinion, Pair, conclude, pairs
from icon_repro.lm.load import load_tokenizer, open_model, positions_of
from icon_repro.lm.mean_nll import mean_nll
from icon_repro.lm.tokens import Encoded, bos_ids, text_ids


def run(cfg: NllJudge, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Prefer the likelier answer. Needs inputs judge (a model step), prompts, a, b."""
    compared, failed = pairs(inputs)
    tokenizer = load_tokenizer(inputs["judge"])
    start = bos_ids(tokenizer)
    model, budget = open_model(inputs["judge"], cfg.dtype, runtime)
    longest = min(cfg.max_length, positions_of(model) or cfg.max_length)
    # a text once: equal answers tie exactly, and it makes no difference which model is called A
    texts = sorted({(pair.id, text) for pair in compared for text in (pair.a, pair.b)})
    rows = {pair.id: pair.row for pair in compared}
    encoded: list[Encoded | None] = []
    reasons: dict[tuple[str, str], str] = {}
    for key in texts:
        prompt, answer = text_ids(tokenizer, PROMPTS[cfg.template](rows[key[0]]))[0], text_ids(tokenizer, key[1])[0]
        count = len(start) + len(prompt) + len(answer)
        if key[1].strip() and not answer:
            reasons[key] = "the answer has no tokens"
        elif key[1].strip() and count > longest:
            reasons[key] = f"prompt and answer have {count} tokens, above {longest}"
        scored = bool(key[1].strip()) and key not in reasons
        encoded.append(Encoded(start + prompt + answer, len(start) + len(prompt)) if scored else None)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    with runtime.progress(len(texts), "answer") as progress:
        values = dict(zip(texts, mean_nll(model, pad, [], encoded, budget, progress).tolist(), strict=True))
        tokens = progress.tokens

    def said(pair: Pair, order: str) -> Opinion:
        sides = {"A": (pair.id, pair.a), "B": (pair.id, pair.b)}
        if wrong := [f"{side}: {reasons[key]}" for side, key in sides.items() if key in reasons]:
            return Opinion(None, "; ".join(wrong))
        first, second = pair.shown(order)
        if not (first.strip() and second.strip()):
            return Opinion((float(bool(first.strip())), float(bool(second.strip()))))
        return Opinion((-values[pair.id, first], -values[pair.id, second]))

    metrics = conclude(out, compared, failed, said, ordered=False)
    return {**metrics, "tokens": tokens, "flops": forward_flops(model.num_parameters(), tokens)}
