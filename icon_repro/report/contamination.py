"""How many items of each benchmark share text with the rows that a line's models were tuned on.

In: ``ResultRow``s.  Out: header and cells, and what they mean.
Known gap: none.
"""

from collections.abc import Sequence
from statistics import fmean

from icon_repro.report.cells import MISSING, Cell, Field, about
from icon_repro.report.rows import ResultRow
from icon_repro.report.runs import lines

_CAPTION = """\
Contamination: items of each benchmark of which a text (question, passage, choice, ..) shares a run of words with a row
that the model was tuned on; mean over runs. A run is as long as `data.candidates.order.ngram` says (13); a shorter text
has to stand in a row whole and have 8 words. Runs that stand in more than 10 rows are phrases and don't count. Reworded
items aren't found; prompts of judged sets aren't compared. Which items and rows they are: `shared.json` in the steps
`prepare/shared-...`.
"""


def known(rows: Sequence[ResultRow]) -> bool:
    """Whether anything was compared."""
    return any(one is not None for row in rows for one in (row.shared_text or {}).values())


COLUMNS = ["method", "fraction", "measure", "value", "low", "high", "unit", "runs", "selections", "items", "status"]


def table(rows: Sequence[ResultRow]) -> tuple[list[str], list[list[str]], list[dict[str, Field]]]:
    """Header and cells, a line for each method and fraction that is tuned; and a tidy line for each benchmark."""
    names = list(dict.fromkeys(name for row in rows for name in row.shared_text or {}))
    cells, tidy = [], list[dict[str, Field]]()
    for line in lines(rows):
        if all(row.steps.train is None for row in line.rows):
            continue
        cell = [line.method, "-" if line.fraction is None else f"{line.fraction:g}"]
        for name in names:
            found = [(row.shared_text or {}).get(name) for row in line.rows]
            there = [one for one in found if one is not None]
            if len(there) < len(found):
                measured = Cell(name, MISSING, "items")
            else:
                value, items = fmean(one.shared for one in there), there[0].items
                measured = Cell(name, f"{value:.3g} of {items}", "items", value, items=items)
            cell.append(measured.text)
            tidy.append({**about(line), **measured.tidy()})
        cells.append(cell)
    return ["method", "fraction", *names], cells, tidy


def caption(rows: Sequence[ResultRow]) -> str:
    """What sharing means, and of how many items it can't be told."""
    found = {name: one for row in rows for name, one in (row.shared_text or {}).items() if one}
    short = [f"{name} {one.too_short}" for name, one in found.items() if one.too_short]
    return _CAPTION + (f"Items that are too short to tell: {', '.join(short)}.\n" if short else "")
