"""Remove a model's thoughts from its reply: a draft in there is no verdict.

In: a reply.  Out: what follows the thoughts.
Read as thoughts: think, thought, reasoning, reflection, scratchpad, analysis and the like, alone or as a part of a name
(seed:think, chain_of_thought), in <..>, [..] or <|..|>, nested or not; with no opening mark (a chat template wrote it),
all before the last closing one; with no closing mark, the reply ended within them, and nothing is left. Also the
channels of gpt-oss ("<|channel|>final").
Known gap: thoughts in plain words, without marks, are read as the answer.
"""

import re

_NAME = "think|thinking|thinks|thoughts?|reasoning|reflection|scratchpad|analysis|monologue|deliberation|cot|draft"
# also seed:think, inner_monologue, chain_of_thought, thought_process, reasoning_content
_NAMES = rf"(?:[a-z]{{1,12}}[:_-]){{0,3}}(?:{_NAME})(?:[:_-][a-z]{{1,12}})?"
_MARK = re.compile(
    r"(?:(?P<open>◁think▷|<\|(?:begin|start)_(?:of_)?(?:thought|thinking)\|>)"
    r"|(?P<close>◁/think▷|<\|end_(?:of_)?(?:thought|thinking)\|>)"
    rf"|(?:<|&lt;)(?P<a>/?)\s*(?:{_NAMES})(?:\s[^<>]{{0,100}})?(?:>|&gt;)|\[(?P<b>/?)\s*(?:{_NAMES})\s*\]"
    rf"|<\|(?P<c>/?)\s*(?:{_NAMES})\s*\|>)",
    re.I,
)
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>[a-z]+)[^<]{0,100}<\|message\|>", re.I)
_END = re.compile(r"<\|(?:end|return|start|call|im_end|eot_id)\|>.*", re.I | re.S)


def without_thoughts(text: str) -> str:
    """``text`` after its thoughts, as it is if there are none; empty if it ends within them."""
    text = _final_channel(text)
    if _MARK.search(text) is None:
        return text
    depth, kept, start = 0, list[str](), 0
    for mark in _MARK.finditer(text):
        closing = mark["close"] is not None or "/" in (mark["a"], mark["b"], mark["c"])
        if not closing:
            if depth == 0:
                kept.append(text[start : mark.start()])
            depth += 1
        elif depth:
            depth -= 1
        else:
            kept.clear()  # the opening mark was in the prompt
        if depth == 0:
            start = mark.end()
    if depth == 0:
        kept.append(text[start:])
    return "\n".join(part.strip() for part in kept if part.strip())


def _final_channel(text: str) -> str:
    """The last final message, where the reply has channels; nothing if it has only others."""
    channels = list(_CHANNEL.finditer(text))
    if not channels:
        return text
    final = [mark for mark in channels if mark["name"].lower() == "final"]
    return _END.sub("", text[final[-1].end() :]) if final else ""
