"""Make rows that stand in for a data set in a rehearsal: from a seed, in the columns of any row format.

In: a SourceConfig of kind stand_in.  Out: as many rows as it asks for, each with all columns that a format reads.
The same seed gives the same rows on every machine. They are short, differ in length, belong to four groups, and a
choice among four is right by chance for one of four. What a model scores on them means nothing.
"""

import random
from collections.abc import Iterator
from typing import Any

from icon_repro.data.options import Fields, RowFormat, SourceConfig

GROUPS = ("colours", "numbers", "places", "tools")
_THINGS = {
    "colours": ("red", "green", "blue", "grey", "pink", "brown", "white", "black"),
    "numbers": ("seven", "nine", "twelve", "twenty", "thirty", "fifty", "ninety", "one hundred"),
    "places": ("harbour", "market", "library", "station", "garden", "bridge", "museum", "kitchen"),
    "tools": ("hammer", "needle", "ladder", "shovel", "scissors", "lantern", "compass", "kettle"),
}
_TASKS = ("Write about", "Explain", "Describe", "Compare", "Name a use of", "Ask about", "List facts on", "Rhyme with")
_TAILS = ("in the morning", "for a child", "with an example", "without haste", "on a rainy day", "to a friend")
_LETTERS = "ABCD"


def columns(fields: Fields, row_format: RowFormat) -> Fields:
    """Columns of the rows made here, where ``fields`` name columns of a source; what isn't read stays unread."""
    return Fields(
        id=None if fields.id is None else "id",
        instruction="instruction",
        input=None if fields.input is None else "input",
        response=None if fields.response is None else "response",
        prompt="turns" if row_format is RowFormat.turns else "prompt",
        messages="messages",
        group=None if fields.group is None else "group",
    )


def stand_in_rows(source: SourceConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) as ``icon_repro.data.sources`` does for stored rows."""
    assert source.stand_in is not None
    seed, count = source.stand_in.seed, source.stand_in.rows
    draw = random.Random(f"stand-in:{seed}")  # text: the same on every version of Python
    for number in range(1, count + 1):
        yield f"stand-in {source.name}, row {number}", _row(draw, f"{seed % 10_000}-{number}", number)


def _row(draw: random.Random, identifier: str, number: int) -> dict[str, Any]:
    group = GROUPS[number % len(GROUPS)]
    things = draw.sample(_THINGS[group], len(_LETTERS))
    instruction = f"{draw.choice(_TASKS)} {things[0]} and {things[1]}, no. {identifier}."
    sentences = [f"{thing.capitalize()} {draw.choice(_TAILS)}." for thing in draw.sample(things, draw.randint(1, 4))]
    response = " ".join(sentences)
    right = draw.randrange(len(_LETTERS))
    return {
        "id": f"s{identifier}",
        "instruction": instruction,
        "input": draw.choice(("", f"It is {things[2]}.")),
        "response": response,
        "prompt": f"Question: {instruction}\nAnswer:",
        "turns": [instruction, "Say it again."],
        "messages": [{"role": "user", "content": instruction}, {"role": "assistant", "content": response}],
        "group": group,
        "question": f"Which one is meant in {instruction.lower()}",
        "options": "\n".join(f"{letter}. {thing}" for letter, thing in zip(_LETTERS, things, strict=True)),
        "answer": _LETTERS[right],
    }
