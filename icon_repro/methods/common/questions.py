"""Give the questions that SelectIT asks a model about a row: ours, or those of a file.

In: a text file.  Out: five questions.
Source: own wording. The published one (SelectIT, 4813250) isn't part of this project; its first five lines are what its
code asks. Five because the code takes as many questions as there are digits.
"""

from pathlib import Path

from icon_repro.data.files import SourceError, user_text

QUESTIONS = (
    "Rate how well the response answers the instruction, from 1 (not at all) to 5 (fully).",
    "How good is this answer? Give one number: 1 is very poor, 5 is excellent.",
    "Judge the quality of the response to the instruction on a scale of 1 to 5, where 5 is best.",
    "On a scale from 1 to 5, how helpful and correct is the response?",
    "Score the following pair of instruction and response with a number from 1 (useless) to 5 (perfect).",
)


class QuestionsError(ValueError):
    """A file isn't one of questions."""


def read_questions(path: Path) -> tuple[str, ...]:
    """The five questions of a file, a line each.

    Raises:
        QuestionsError: not UTF-8, another number of lines, or an empty one.
    """
    try:
        lines = user_text(path).splitlines()
    except SourceError as error:
        raise QuestionsError(str(error)) from error
    if len(lines) != len(QUESTIONS):
        raise QuestionsError(
            f"{path}: {len(lines)} lines; selectit.questions needs exactly {len(QUESTIONS)}, a question each. "
            "Keep the first five of a longer file (the released code reads no more), or leave questions=null for ours."
        )
    if empty := [number for number, line in enumerate(lines, 1) if not line.strip()]:
        raise QuestionsError(f"{path}:{empty[0]}: an empty line; write a question there.")
    return tuple(lines)
