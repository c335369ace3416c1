"""Ask lm-eval's model in parts that are kept on disk, so that an interrupted task goes on.

In: requests of lm-eval.  Out: the same results as the model's own; a sealed JSON file a finished part.
A part's file is named after the texts in it and the version of lm-eval, so that other requests never get its results.
Parts depend on the task alone, not on where it was interrupted: an interrupted task ends with the same numbers, if
batch size and device stay the same. Texts that are sampled are asked for at once and not kept: a part would be drawn
from the random numbers of another.
Known gap: one process. No more than a part's requests are in flight.
"""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from icon_repro.engine.console import say
from icon_repro.engine.records import RecordError, read_sealed, write_sealed
from icon_repro.evaluate.tasks import EvaluationError

_RANKED = 2048  # requests of a part: choices, of which the model reads each once
_SHOWN = 80  # characters of a text in a message
_GENERATED = 256  # and texts that it writes


class InParts(LM):
    """``model``, with what it answered in ``folder``.

    Raises:
        EvaluationError: a log-likelihood isn't finite: choices would be ranked by it, the value look like any other.
    """

    def __init__(self, model: LM, folder: Path) -> None:
        super().__init__()
        self._model, self._folder = model, folder
        self.cut: set[tuple[str, int]] = set()  # task and number of items whose text doesn't fit the model's length

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        return [(float(value), bool(greedy)) for value, greedy in self._ask("loglikelihood", requests, _RANKED)]

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        return self._ask("loglikelihood_rolling", requests, _RANKED)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        return self._ask("generate_until", requests, _GENERATED)

    def _ask(self, kind: str, requests: Sequence[Instance], size: int) -> list[Any]:
        if kind == "generate_until" and any(request.args[1].get("do_sample") for request in requests):
            self._note([list(one) for one in cut_items(self._model, kind, requests)])
            return list(self._model.generate_until(list(requests)))
        answers: list[Any] = []
        for start in range(0, len(requests), size):
            part = list(requests[start : start + size])
            path = self._folder / f"{_name(kind, part)}.json"
            stored = _stored(path)
            if stored is None:
                cut = [list(one) for one in cut_items(self._model, kind, part)]
                replies = getattr(self._model, kind)(part)
                _check_finite(part, replies)
                self._folder.mkdir(exist_ok=True)
                stored = {"found": replies, "cut": cut}
                write_sealed(path, stored)
            self._note(stored["cut"])
            answers += stored["found"]
        return answers

    def _note(self, cut: Sequence[Sequence[Any]]) -> None:
        self.cut |= {(str(task), int(number)) for task, number in cut}


def cut_items(model: Any, kind: str, requests: Sequence[Instance]) -> set[tuple[str, int]]:
    """Items whose text lm-eval cuts on the left, as it is longer than the model reads: (task, number of the item).

    Args:
        model: lm-eval's; one without a tokenizer of ours (vLLM's) has none that are known.
    """
    if kind == "loglikelihood_rolling" or not hasattr(model, "tok_encode"):  # rolling reads all, window by window
        return set()
    cut = set()
    for request in requests:
        item = (str(request.task_name), int(request.doc_id))
        if item in cut:
            continue
        context, second = request.args[0], request.args[1]
        if kind == "loglikelihood":
            # of ids, the model reads all but the last one. A token is a byte or more, so short texts fit
            text, room = str(context) + str(second), int(model.max_length) + 1
        else:
            text, room = str(context), int(model.max_length) - int(second.get("max_gen_toks", model.max_gen_toks))
        if len(text.encode("utf-8", "replace")) + 2 > room and len(model.tok_encode(text)) > room:
            cut.add(item)
    return cut


def _name(kind: str, requests: Sequence[Instance]) -> str:
    texts = [kind, importlib.metadata.version("lm-eval"), [request.args for request in requests]]
    return hashlib.sha256(json.dumps(texts, default=str).encode()).hexdigest()[:32]


def _check_finite(requests: Sequence[Instance], found: Sequence[Any]) -> None:
    for request, result in zip(requests, found, strict=True):
        value = result[0] if isinstance(result, tuple) else result
        if isinstance(value, float) and not math.isfinite(value):
            raise EvaluationError(
                f"{request.task_name}, item {request.doc_id}: the log-likelihood of {request.args[-1][:_SHOWN]!r} is "
                f"{value}. Look at the model's weights; a 16-bit evaluation.dtype may be too narrow for them."
            )


def _stored(path: Path) -> dict[str, Any] | None:
    """What an earlier attempt got; None if nothing, or if it was altered, which is said."""
    try:
        stored = read_sealed(path)
        return stored if isinstance(stored, dict) else None  # a list: of a version that didn't count what was cut
    except FileNotFoundError:
        return None
    except RecordError as error:
        say(f"{error} The requests are asked again.")
        return None
