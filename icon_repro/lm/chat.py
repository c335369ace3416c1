"""Put turns into a tokenizer's chat template, where a user's text stays text.

In: a tokenizer with a chat template; turns {role, content}.  Out: the whole text, and its token ids.
A template marks turns by control tokens ("<|im_end|>"). The same letters in a turn's content are no mark: marks that
nobody writes stand in for them in the text (``CONTROL``), and they are tokenised as any other letters.
A template that has no place for a system's text, or leaves it out, gets it before the first user's; one that writes
today's date (Llama 3.2's) writes the same date on every day.
Known gap: a reply's own turn may be changed by the template (Qwen3's removes thoughts).
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from icon_repro.lm.tokens import control_tokens, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTROL = re.compile("\ufdd0(\\d+)\ufdd1")  # in the place of the control token of that id; Unicode has no such signs
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(?P<form>.*?)\1\s*\)""")
_DAY = date(2024, 7, 26)  # Llama's own, where it doesn't know the day


class ChatError(ValueError):
    """The template can't take the turns."""


def chat_text(tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Mapping[str, str]], *, reply: bool) -> str:
    """The turns in the tokenizer's template, for ``chat_ids``.

    Args:
        reply: with the beginning of a turn for the model's reply.

    Raises:
        ChatError: the template refuses the turns, or leaves out a user's text.
    """
    controls = control_tokens(tokenizer)
    guarded = [dict(turn) for turn in turns]
    for turn in guarded:
        if controls is not None:
            turn["content"] = controls.sub(
                lambda match: f"\ufdd0{tokenizer.convert_tokens_to_ids(match[0])}\ufdd1", turn["content"]
            )
    first, *rest = guarded
    try:
        text = _rendered(tokenizer, guarded, reply)
    except ChatError:
        if first["role"] != "system":
            raise
        text = ""
    if first["role"] == "system" and first["content"].strip() not in text:
        rest[0]["content"] = f"{first['content']}\n\n{rest[0]['content']}"
        text = _rendered(tokenizer, rest, reply)
    for turn in guarded:
        if turn["role"] != "assistant" and turn["content"].strip() not in text:
            raise ChatError(f"the tokenizer's chat template leaves out what a turn of the {turn['role']} says.")
    return text


def _rendered(tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Mapping[str, str]], reply: bool) -> str:
    try:
        template = _TODAY.sub(lambda call: repr(_DAY.strftime(call["form"])), tokenizer.get_chat_template())
        return str(
            tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=reply, chat_template=template
            )
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise ChatError(
            f"the tokenizer's chat template can't take the turns {', '.join(turn['role'] for turn in turns)} ({error})."
        ) from error


def chat_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a text of ``chat_text``."""
    ids: list[int] = []
    for place, part in enumerate(CONTROL.split(text)):  # texts and, between two, the id of a control token
        letters: Any = tokenizer.convert_ids_to_tokens(int(part)) if place % 2 else part
        ids += text_ids(tokenizer, letters, control=place % 2 == 0)[0]
    return ids
