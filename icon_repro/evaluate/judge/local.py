"""Let a model of ours judge: it reads the same prompts as a judge behind a server.

In: judge (a model step), prompts, answers of A and of B.  Out: as ``evaluate.judge.pairwise``.
The prompt is in the model's chat template if it has one. ``generate`` reads a greedy reply. ``letters`` takes the
likeliest of A, B and C after "[[" as the verdict, with no explanation before it; parts hold their log-probabilities.
Known gap: a greedy reply is the same when it is asked for again, so one that can't be read is a failure at once.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icon_repro.data.cost import forward_flops
from icon_repro.engine.console import LOG
from icon_repro.engine.runtime import Runtime
from icon_repro.evaluate.judge.options import LocalJudge, LocalReading, Protocol
from icon_repro.evaluate.judge.pairwise import BACKWARD, FORWARD, JudgeError, Opinion, Pair, conclude, pairs
from icon_repro.evaluate.judge.protocols import FORMS, POINTS, messages
from icon_repro.evaluate.judge.readings import VerdictError
from icon_repro.lm.chat import CONTROL, chat_ids, chat_text
from icon_repro.lm.generate import Continuation, greedy
from icon_repro.lm.load import load_tokenizer, open_model, positions_of
from icon_repro.lm.tokens import bos_ids, text_ids

_OPENING = "[["


def run(cfg: LocalJudge, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Let a model of ours judge. Needs inputs judge (a model step), prompts, a, b."""
    compared, failed = pairs(inputs)
    tokenizer = load_tokenizer(inputs["judge"])
    # sorted by text: which of the models is called A must not move a prompt to another batch
    chats = {(p.id, order): _chat(cfg.protocol, p, order, tokenizer) for p in compared for order in (FORWARD, BACKWARD)}
    texts = sorted(set(chats.values()))
    if controls := sum(CONTROL.search(text) is not None for text in texts):
        LOG.warning(
            "%s", f"{controls} of {len(texts)} prompts hold control tokens of the judge's: they are read as letters."
        )
    model, _ = open_model(inputs["judge"], cfg.dtype, runtime)
    longest = min(cfg.max_length, positions_of(model) or cfg.max_length)
    opening = text_ids(tokenizer, _OPENING)[0]
    room = longest - (cfg.max_new_tokens if cfg.reading is LocalReading.generate else len(opening))
    encoded = {text: _prompt_ids(tokenizer, text) for text in texts}
    said = {
        text: Opinion(None, f"the judge's prompt has {len(ids)} tokens, above {room}")
        for text, ids in encoded.items()
        if len(ids) > room
    }
    fits = [text for text in texts if text not in said]
    read = _generated if cfg.reading is LocalReading.generate else _lettered
    tokens = sum(len(encoded[text]) for text in fits)
    with runtime.progress(len(fits), "verdict") as progress:
        readings = read(cfg, model, tokenizer, [encoded[text] for text in fits], runtime, progress.advance)
    for text, (one, more) in zip(fits, readings, strict=True):
        said[text] = one
        tokens += more
    metrics = conclude(out, compared, failed, lambda pair, order: said[chats[pair.id, order]])
    return {**metrics, "tokens": tokens, "flops": forward_flops(model.num_parameters(), tokens)}


def _chat(protocol: Protocol, pair: Pair, order: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The judge's prompt as text: in the model's chat template, else system and user text and a line "Verdict:"."""
    asked = messages(protocol, pair.question, *pair.shown(order))
    if tokenizer.chat_template:
        return chat_text(tokenizer, asked, reply=True)
    return "\n\n".join([*(message["content"] for message in asked), "Verdict:\n"])


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids with one BOS, which a chat template may have written already."""
    start = bos_ids(tokenizer)
    ids = chat_ids(tokenizer, text) if tokenizer.chat_template else text_ids(tokenizer, text)[0]
    return ids if start and ids[: len(start)] == start else start + ids


def _generated(
    cfg: LocalJudge,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    runtime: Runtime,
    advance: Callable[[int], None],
) -> list[tuple[Opinion, int]]:
    """What greedy replies say, and their tokens."""
    readings: dict[int, tuple[Opinion, int]] = {}

    def done(batch: Mapping[int, Continuation]) -> None:
        for index, continuation in batch.items():
            reply = str(tokenizer.decode(continuation.ids, skip_special_tokens=True))
            try:
                said = Opinion(FORMS[cfg.protocol].parse(reply))
            except VerdictError as error:
                said = Opinion(None, str(error))
            readings[index] = said, len(continuation.ids)
        advance(len(batch))

    greedy(model, tokenizer, prompts, cfg.max_new_tokens, runtime.cluster.eval_batch_size, done)
    return [readings[index] for index in range(len(prompts))]


@torch.inference_mode()
def _lettered(
    cfg: LocalJudge,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    runtime: Runtime,
    advance: Callable[[int], None],
) -> list[tuple[Opinion, int]]:
    """The likeliest letter after "[[", one prompt at a time; parts: log-probabilities of the letters."""
    opening = text_ids(tokenizer, _OPENING)[0]
    letters = [text_ids(tokenizer, letter)[0] for letter in POINTS]
    if any(len(ids) != 1 for ids in letters) or len({ids[0] for ids in letters}) < len(letters):
        raise JudgeError(
            "judge.reading='letters': the judge's tokenizer has no token for each of A, B and C; set reading=generate."
        )
    readings = []
    for ids in prompts:
        logits = model(input_ids=torch.tensor([[*ids, *opening]], device=model.device), logits_to_keep=1).logits[0, -1]
        logs = torch.log_softmax(logits.double(), -1)[[ids[0] for ids in letters]].tolist()
        likely = dict(zip(POINTS, logs, strict=True))
        readings.append((Opinion(POINTS[max(likely, key=likely.__getitem__)], parts=likely), len(opening)))
        advance(1)
    return readings
