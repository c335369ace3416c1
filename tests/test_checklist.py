"""experiments/CHECKLIST.md: every place it names is there, near the line it gives.

``python tests/test_checklist.py`` renews the lines.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "experiments" / "CHECKLIST.md"
DRIFT = 40  # lines by which later edits may have moved what is named
PLACE = re.compile(r"\[([^\]:]+):(\d+)\]\(([^)#]+)#L(\d+)\) `([^`]+)`")


def rows() -> list[tuple[str, str, str]]:
    """Question, answer, and where it stands, of every line of the page's tables."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in lines]
    return [(row[0], row[1], row[2]) for row in cells if row[0] != "question"]


def problem(file: str, line: str, link: str, anchor: str, named: str) -> str | None:
    path = ROOT / file
    if (PAGE.parent / link).resolve() != path.resolve() or line != anchor:
        return f"{file}:{line}: the link goes elsewhere"
    if not path.is_file():
        return f"{file}: no such file"
    found = [
        number for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1) if named in text
    ]
    if not found:
        return f"{file}: {named!r} isn't in it"
    nearest = min(found, key=lambda number: abs(number - int(line)))
    return None if abs(nearest - int(line)) <= DRIFT else f"{file}:{line}: {named!r} stands in line {nearest}"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_checklist_answer_stands_where_it_says(row: tuple[str, str, str]) -> None:
    question, answer, where = row
    places = PLACE.findall(where)
    assert question.endswith("?") and answer
    assert len(places) == len(where.split("<br>")) > 0
    assert [found for place in places if (found := problem(*place))] == []


def test_checklist_asks_nothing_twice_and_of_every_kind() -> None:
    questions = [question for question, _, _ in rows()]
    assert len(set(questions)) == len(questions) >= 25
    heads = re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.M)
    assert heads == ["Claims and scope", "Data", "Models", "Methods", "Randomness", "Evaluation", "Cost", "Software"]


@pytest.mark.parametrize(
    "place, expected",
    [
        (("LICENSE", "1", "../LICENSE", "1", "Apache License"), None),
        (("LICENSE", "1", "../LICENSE", "1", "MIT License"), "isn't in it"),
        (("LICENCE", "1", "../LICENCE", "1", "x"), "no such file"),
        (("LICENSE", "1", "../README.md", "1", "Apache License"), "goes elsewhere"),
        (("README.md", "1", "../README.md", "1", "## More"), "stands in line"),
    ],
)
def test_problem_of_a_wrong_place_is_said(place: tuple[str, str, str, str, str], expected: str | None) -> None:
    found = problem(*place)
    assert found is None if expected is None else found is not None and expected in found


def renewed(text: str) -> str:
    """The page with the line at which each named text stands first; places where it doesn't stand stay as they are."""

    def place(match: re.Match[str]) -> str:
        file, _, link, _, named = match.groups()
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines() if (ROOT / file).is_file() else []
        number = next((number for number, line in enumerate(lines, start=1) if named in line), None)
        return match[0] if number is None else f"[{file}:{number}]({link}#L{number}) `{named}`"

    return PLACE.sub(place, text)


def test_renewed_lines_are_those_of_the_files_and_nothing_else_changes() -> None:
    before = "x [LICENSE:9](../LICENSE#L9) `Apache License` y [nowhere.md:3](../nowhere.md#L3) `z`"
    number = (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines().index(" " * 33 + "Apache License") + 1
    after = before.replace("LICENSE:9", f"LICENSE:{number}").replace("LICENSE#L9", f"LICENSE#L{number}")
    assert renewed(before) == after and renewed(after) == after


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
