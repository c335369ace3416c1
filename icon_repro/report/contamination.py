"""How many items of each benchmark share text with the rows that a line's models were tuned on, or that select these.

In: the rows that ``report.collect`` makes.  Out: header and cells, and what they mean.
Known gap: none.
"""

from collections.abc import Sequence
from statistics import fmean

from icon_repro.report.runs import Row, lines

_CAPTION = """\
Contamination: items of each benchmark of which a text (question, passage, choice, ..) shares a run of words with a row
that the model was tuned on; mean over runs. A run is as long as `data.candidates.order.ngram` says (13); a shorter text
has to stand in a row whole and have 8 words. Runs that stand in more than 10 rows are phrases and don't count. Reworded
items aren't found; prompts of judged sets aren't compared. Which items and rows they are: `shared.json` in the steps
`prepare/shared-...`.
"""
_SELECTING = """\
by selecting rows: items that share text with the rows by which the method selects (assessment set, or a method's own
target for this benchmark; rows of them that a filter left out count too); -: no rows decide what it selects.
"""


def known(rows: Sequence[Row]) -> bool:
    """Whether anything was compared."""
    return any(one is not None for row in rows for one in (row.get("shared_text") or {}).values())


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells; a line for each method and fraction that is tuned."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("shared_text") or {}))
    others = list(dict.fromkeys(name for row in rows for name in row.get("shared_selecting") or {}))
    cells = []
    for line in lines(rows):
        if all(row["steps"]["train"] is None for row in line.rows):
            continue
        cell = [line.method, "-" if line.fraction is None else f"{line.fraction:g}"]
        for name in names:
            found = [(row.get("shared_text") or {}).get(name) for row in line.rows]
            there = [one for one in found if one is not None]
            share = f"{fmean(one['shared'] for one in there):.3g} of {there[0]['items']}" if there else ""
            cell.append(share if len(there) == len(found) else "missing")
        cell += [_selecting(line.rows, name) for name in others]
        cells.append(cell)
    return ["method", "fraction", *names, *(f"{name}: by selecting rows" for name in others)], cells


def _selecting(rows: Sequence[Row], name: str) -> str:
    """Items that share text with the rows that select, over a line's runs."""
    found = [row["shared_selecting"][name] for row in rows if name in (row.get("shared_selecting") or {})]
    if not found:
        return "-"
    there = [one for one in found if one is not None]
    share = f"{fmean(one['shared'] for one in there):.3g} of {there[0]['items']}" if there else ""
    return share if len(there) == len(found) else "missing"


def caption(rows: Sequence[Row]) -> str:
    """What sharing means, and of how many items it can't be told."""
    found = {name: one for row in rows for name, one in (row.get("shared_text") or {}).items() if one}
    short = [f"{name} {one['too_short']}" for name, one in found.items() if one["too_short"]]
    below = _CAPTION + (_SELECTING if any(row.get("shared_selecting") for row in rows) else "")
    return below + (f"Items that are too short to tell: {', '.join(short)}.\n" if short else "")
