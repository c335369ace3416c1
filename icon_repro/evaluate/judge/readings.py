"""Read scores and verdicts from a judge's reply; what can be read in two ways isn't read.

In: a reply.  Out: the scores of the assistants shown first and second, or one of A, B, C; else a VerdictError.
Forms of scores that are read, once emphasis, quotes, tables and fullwidth signs are plain text:
1. the first line with a number that isn't an assistant's own: "8 9", "8, 9", "8/9", "8/10 9/10", "Scores: 8 9", with or
   without a sentence after it; or two such lines with one number each;
2. else lines that name what they give, anywhere: "Assistant 1: 8" and "Assistant 2 score: 9", "Final scores: 8, 9", or
   "Scores:" with "8 9" on the next line. They must agree with each other.
Numbers within sentences are never read: before a colon stands a word for scores, the assistants, or "Here", "Answer"
and the like alone. "8/10" on its own may be two scores or one of ten, so it is refused.
Differs: the scale that is asked for is 1 to 10; 0 is read too, as GPT-4 gives it to an answer that isn't there (14
of the 1,040 scores of the stored reviews). Everything else outside 1 to 10 is refused.
Thoughts (``icon_repro.lm.thoughts``) are taken away first. "8,5" may be one score or two, so it is refused as "8/10"
is;
"10,9" isn't, nor is "8, 5".
Known gap: words for numbers aren't read.
"""

import contextlib
import math
import re
from collections.abc import Sequence

from icon_repro.lm.thoughts import without_thoughts

_SCORE = r"[+-]?\d+(?:\.\d+)?"
_TEN = r"\s*(?:/|out\s+of)\s*10(?:\.0+)?"
_POINTS = r"(?:\s*(?:points?|pts\.?))?"
_BETWEEN = r"(?:\s*[,;|&]\s*(?:and\s+)?|\s+(?:and|vs\.?|versus)\s+|\s+[-–—:]\s+|\s*/\s*|\s+)"
_PLAIN_PAIR = re.compile(rf"(?P<first>{_SCORE}){_POINTS}(?P<between>{_BETWEEN})(?P<second>{_SCORE}){_POINTS}", re.I)
_PAIR_OF_TEN = re.compile(
    rf"(?P<first>{_SCORE}){_TEN}{_POINTS}(?P<between>{_BETWEEN})(?P<second>{_SCORE}){_TEN}{_POINTS}", re.I
)
_OF_TEN = re.compile(rf"{_SCORE}{_TEN}{_POINTS}", re.I)
_LONE = re.compile(rf"(?P<score>{_SCORE})(?:{_TEN})?{_POINTS}", re.I)

_WHO = r"(?:assistant|model|response|answer|chatbot|system)\s*#?\s*(?:1|2|[AB]\b)(?!\d|\.\d)"
_TITLE = r"(?:(?:overall|final|total)\s+)?(?:scores?|ratings?|grades?)"
_ITEM = re.compile(
    rf"(?:(?:the\s+)?{_TITLE}\s+(?:for|of|to)\s+)?(?:the\s+)?(?:AI\s+)?(?P<who>{_WHO})(?:['’]s)?(?:\s+(?:response|answer))?"
    rf"(?:\s+{_TITLE})?(?:\s+(?:is|gets|receives))?\s*(?:[:=|→]|[-–—](?=\s))?\s*"
    rf"(?P<score>{_SCORE})(?:{_TEN})?{_POINTS}(?![\w/])",
    re.I,
)
_LABELS = re.compile(rf"{_WHO}(?:\s*(?:,|and|&|/|vs\.?)\s*(?:[12]|[AB]\b)(?!\w))?", re.I)
_LIST_MARK = re.compile(r"^(?:[-•]\s+|\d+[.)]\s+(?=[^\W\d]))")
_SIGNS: dict[int, int | None] = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # fullwidth forms
_SIGNS |= {0x3000: 0x20, 0xA0: 0x20, 0x3001: 0x2C, 0x3002: 0x2E}  # spaces, comma, full stop
_SIGNS |= dict.fromkeys([0, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A)])  # unseen
_BRACKETS = str.maketrans("[](){}", " " * 6)
# what may follow a pair: a new sentence (in scripts without spaces right after the full stop), or the reason
_SENTENCE = re.compile(r"(?:(?:\s*[.:;,]|\s+[-–—])?\s+[\"'“(]?[^\W\d_a-z]|\.[^\W\d_A-Za-z]|,?\s+because\s)")
_LONGEST = 200  # characters of a line that gives scores and nothing else
_ANNOUNCED = re.compile(r"\b(?:scores?|ratings?|grades?)\b", re.I)
_HEAD = re.compile(
    r"(?:here(?:\s+(?:it\s+is|you\s+go|they\s+are))?|(?:(?:my|the)\s+)?(?:final\s+|overall\s+)?"
    r"(?:answer|output|results?|evaluation|assessment|verdict|judge?ment|points))",
    re.I,
)

_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]", re.I)
_DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|instead\s+of|rather\s+than)|n['’]t)\s+(?:\w+\s+)?[\"'“`*]*\[\[\s*[ABC]\s*\]\]"
    r"|\[\[\s*[ABC]\s*\]\][\"'”`*]*\s+(?:\w+\s+not\b|cannot\b|\w+n['’]t\b|can['’]t\b|(?:would\s+be|is)\s+wrong)",
    re.I,
)


class VerdictError(ValueError):
    """The reply can't be read as the verdict that was asked for; the message says why."""


def parse_scores(text: str) -> tuple[float, float]:
    """The two scores of a reply, of the assistant shown first and of the one shown second.

    Returns:
        Each 0, or 1 to 10.

    Raises:
        VerdictError: no score or one only, contradicting or ambiguous ones, a score outside the scale.
    """
    lines = _lines(_answer(text))
    at = next((place for place, line in enumerate(lines) if _numbered(line)), None)
    if at is None:
        raise VerdictError(f"no score in the reply {_shown(text)}; two numbers from 1 to 10 are needed.")
    each_of_ten = len(lines) > at + 1 and all(_OF_TEN.fullmatch(line.strip(" .,")) for line in lines[at : at + 2])
    scores = None if each_of_ten else _pair(lines[at], announced=False)
    if scores is None:
        scores = _two_lines(lines[at : at + 3]) or _named(lines)
    elif at > 0 or not re.match(rf"\W*{_SCORE}", lines[at]):  # after other words, it may be one of several pairs
        scores = scores if {_pair(line, announced=False) for line in lines[at:]} <= {scores, None} else None
    elif not _stands(scores, lines[at + 1 :]):
        scores = None
    if scores is None:
        raise VerdictError(
            f"no two scores in the reply {_shown(text)}; they must stand on a line of their own, or with labels."
        )
    for score in scores:
        if not (math.isfinite(score) and (score == 0 or 1 <= score <= 10)):
            raise VerdictError(f"score {score:g} in the reply {_shown(text)}: must be in 1-10 (or 0, for no answer).")
    return scores


def _stands(found: tuple[float, float], later: Sequence[str]) -> bool:
    """Whether no later line takes scores at the beginning of a reply back: two numbers alone, or named as scores."""
    for line in later:
        with contextlib.suppress(VerdictError):  # "8/10", of one of the two
            bare = _PLAIN_PAIR.fullmatch(line.strip(" .")) or _PAIR_OF_TEN.fullmatch(line.strip(" ."))
            if _pair(line, announced=bare is None) not in (found, None):
                return False
    return True


def parse_verdict(text: str) -> str:
    """The verdict of a reply that ends with [[A]], [[B]] or [[C]].

    Several that agree are one; denied ones ("not [[A]]") are none. If they differ, the last line decides, if it ends
    with the only one on it.

    Raises:
        VerdictError: no verdict, or contradicting ones.
    """
    text = _answer(text)
    stated = _DENIED.sub("", text)
    letters = [letter.upper() for letter in _VERDICT.findall(stated)]
    if not letters:
        denied = "none but a denied" if stated != text else "no"
        raise VerdictError(f"{denied} verdict in the reply {_shown(text)}; [[A]], [[B]] or [[C]] is needed.")
    if len(set(letters)) == 1:
        return str(letters[0])
    last = [line for line in stated.splitlines() if line.strip()][-1]
    last_letters = _VERDICT.findall(last)
    if len(last_letters) == 1 and re.search(r"\]\]\W*$", last):
        return str(last_letters[0].upper())
    raise VerdictError(f"contradicting verdicts {', '.join(letters)} in the reply {_shown(text)}; one is needed.")


def _answer(text: str) -> str:
    """The reply without its thoughts.

    Raises:
        VerdictError: nothing is left.
    """
    answer = without_thoughts(text)
    if text.strip() and not answer:
        raise VerdictError(f"the reply {_shown(text)} holds thoughts alone; an answer after them is needed.")
    return answer


def _shown(text: str) -> str:
    """The reply's beginning, for a message."""
    short = " ".join(text.split())
    return repr(short if len(short) <= 80 else f"{short[:77]}...")


def _lines(text: str) -> list[str]:
    """Non-empty lines without what only formats them."""
    plain_lines = []
    for line in text.translate(_SIGNS).splitlines():
        plain = re.sub(r"[*`]+|</?\w{1,20}>|(?<!\w)_+|_+(?!\w)", "", line).strip()
        plain = re.sub(r"^[#>\s]+", "", plain).strip("| \t\"'“”‘’")
        if plain and not re.fullmatch(r"[-=|:+\s]+", plain):
            plain_lines.append(_LIST_MARK.sub("", plain))
    return plain_lines


def _pair(line: str, *, announced: bool) -> tuple[float, float] | None:
    """The two scores that a line gives; None if it isn't such a line.

    Args:
        announced: only if the line says that these are scores.

    Raises:
        VerdictError: it is "8/10" or "8,5", which may be one score.
    """
    if len(line) > 2 * _LONGEST:
        if announced:
            return None
        line = line[: 2 * _LONGEST]
    by_label = _labelled(line)
    if len(by_label) == 2:
        return by_label["1"], by_label["2"]
    if by_label:
        return None
    lead, colon, rest = re.sub(r"^(.*?)\s*=\s*", r"\1: ", line).rpartition(":")
    if not colon or _numbered(lead):  # "8 : 9" has no lead
        lead, rest = "", line
    named = [_side(label) for label in re.findall(r"(?<!\w)[12AB](?!\w)", " ".join(_LABELS.findall(lead)), re.I)]
    if not (named or _ANNOUNCED.search(lead)) and (announced or not (lead == "" or _HEAD.fullmatch(lead.strip()))):
        return None
    if named not in ([], ["1", "2"], ["2", "1"]):
        return None
    rest = " ".join(rest.translate(_BRACKETS).split()).strip("., ")
    match = next((m for p in (_PAIR_OF_TEN, _PLAIN_PAIR) if len(rest) <= _LONGEST and (m := p.fullmatch(rest))), None)
    if match is None and not announced:
        match = next((m for p in (_PAIR_OF_TEN, _PLAIN_PAIR) if (m := p.match(rest)) and _followed(m, rest)), None)
    if match is None:
        return None
    first, second = float(match["first"]), float(match["second"])
    if match.re is _PLAIN_PAIR and match["between"].strip() == "/" and second == 10:
        raise VerdictError(f"{line!r}: two scores, or one out of 10? Two numbers separated by a space are needed.")
    if match["between"] == "," and _decimal(match["first"], match["second"]):
        raise VerdictError(f"{line!r}: a decimal comma, or two scores? Two numbers separated by a space are needed.")
    return (second, first) if named == ["2", "1"] else (first, second)


def _decimal(first: str, second: str) -> bool:
    """Whether both, with a comma right between them, may be one score."""
    return first.isdigit() and second.isdigit() and float(f"{first}.{second}") <= 10


def _followed(match: re.Match[str], line: str) -> bool:
    """Whether nothing but a sentence of its own stands after the pair at the beginning of a line."""
    return match["between"].strip() in ("", ",") and _SENTENCE.match(line, match.end()) is not None


def _side(label: str) -> str:
    return {"a": "1", "b": "2"}.get(label[-1].lower(), label[-1])


def _labelled(line: str) -> dict[str, float]:
    """Score by assistant ("1", "2") of a line that holds nothing but assistants with their scores; else empty.

    A sentence may follow the scores of both.
    """
    long, line = len(line) > _LONGEST, line[:_LONGEST]
    plain = re.sub(rf"^{_TITLE}\s*[:=]\s*", "", " ".join(line.translate(_BRACKETS).split()), flags=re.I)
    score_by_side: dict[str, float] = {}
    rest = plain
    while match := _ITEM.match(rest):
        end = len(plain) - len(rest) + match.end()
        side = _side(match["who"])
        if side in score_by_side:
            return {}
        score_by_side[side] = float(match["score"])
        rest = re.sub(r"^(?:\s*[,;|.&/])*\s*(?:(?:and|while|vs\.?)\s+)?", "", rest[match.end() :])
    if not rest.strip():
        return {} if long else score_by_side
    # a sentence may follow both, which gives no score to a third
    sentence = len(score_by_side) == 2 and plain[end] not in ",;" and _SENTENCE.match(plain, end)
    return score_by_side if sentence and not re.search(r":\s*\d", rest) else {}


def _announces(line: str) -> bool:
    """Whether the line says that scores follow, and holds none."""
    return line.endswith(":") and bool(_ANNOUNCED.search(line)) and not _numbered(line)


def _numbered(line: str) -> bool:
    """Whether the line has a number besides those of assistants."""
    return any(sign.isdigit() for sign in _LABELS.sub("", line))


def _two_lines(lines: list[str]) -> tuple[float, float] | None:
    """Scores on two lines, one number each; a third such line makes it a list of something else."""
    matches = [_LONE.fullmatch(line.translate(_BRACKETS).strip(" .,")) for line in lines]
    if len(matches) < 2 or (len(matches) == 3 and matches[2]) or not (matches[0] and matches[1]):
        return None
    return float(matches[0]["score"]), float(matches[1]["score"])


def _named(lines: list[str]) -> tuple[float, float] | None:
    """Scores that lines anywhere in the reply name as such; None unless all of them agree."""
    pairs: set[tuple[float, float]] = set()
    single: dict[str, set[float]] = {"1": set(), "2": set()}
    for before, line in zip(["", *lines], lines, strict=False):
        score_by_side = _labelled(line)
        if len(score_by_side) == 1:
            for side, score in score_by_side.items():
                single[side].add(score)
        elif (pair := _pair(line, announced=not _announces(before))) is not None:
            pairs.add(pair)
    pairs |= {(first, second) for first in single["1"] for second in single["2"]}
    return pairs.pop() if len(pairs) == 1 else None
