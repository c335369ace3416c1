"""Count the items of each benchmark that share text with the rows that models were tuned on, or that select these.

In: ``ResultRow``s.  Out: header and cells, and what they mean.
Known gap: none.
"""

from collections.abc import Sequence
from statistics import fmean

from icon_repro.report.cells import MISSING, Cell, Field, about
from icon_repro.report.rows import ResultRow, SharedText
from icon_repro.report.runs import lines

_CAPTION = """\
Contamination: items of each benchmark of which a text (question, passage, choice, ..) shares a run of words with a row
that the model was tuned on; mean over runs. A run is as long as `data.candidates.order.ngram` says (13); a shorter text
has to stand in a row whole and have 8 words. Runs that stand in more than 10 rows, or in more than 10 held-out rows,
are phrases and don't count. Reworded items aren't found; prompts of judged sets aren't compared. Which items and rows
they are: `shared.json` in the steps `prepare/shared-...`.
"""
_SELECTING = """\
by selecting rows: items that share text with the rows by which the method selects (assessment set, or a method's own
target for this benchmark; rows of them that a filter left out count too, except for held-out rows, which may be of the
same file on purpose); -: no rows decide what it selects.
"""


def known(rows: Sequence[ResultRow]) -> bool:
    """Whether anything was compared."""
    return any(one is not None for row in rows for one in (row.shared_text or {}).values())


COLUMNS = ["method", "fraction", "measure", "value", "low", "high", "unit", "runs", "selections", "items", "status"]


def table(rows: Sequence[ResultRow]) -> tuple[list[str], list[list[str]], list[dict[str, Field]]]:
    """Header and cells, a line for each method and fraction that is tuned; and a tidy line for each benchmark."""
    names = list(dict.fromkeys(name for row in rows for name in row.shared_text or {}))
    others = list(dict.fromkeys(name for row in rows for name in row.shared_selecting or {}))
    cells, tidy = [], list[dict[str, Field]]()
    for line in lines(rows):
        if all(row.steps.train is None for row in line.rows):
            continue
        measured = [_cell(name, [(row.shared_text or {}).get(name) for row in line.rows]) for name in names]
        for name in others:
            selecting = [row.shared_selecting or {} for row in line.rows]
            decided = [counts[name] for counts in selecting if name in counts]
            title = f"{name}: by selecting rows"
            measured.append(_cell(title, decided) if decided else Cell(title, "-", "items"))
        cells.append([line.method, "-" if line.fraction is None else f"{line.fraction:g}", *(m.text for m in measured)])
        tidy += [{**about(line), **one.tidy()} for one in measured]
    return ["method", "fraction", *names, *(f"{name}: by selecting rows" for name in others)], cells, tidy


def _cell(name: str, counts: Sequence[SharedText | None]) -> Cell:
    """The mean over a line's runs of the items that share text."""
    there = [one for one in counts if one is not None]
    if len(there) < len(counts):
        return Cell(name, MISSING, "items")
    value, items = fmean(one.shared for one in there), there[0].items
    return Cell(name, f"{value:.3g} of {items}", "items", value, items=items)


def caption(rows: Sequence[ResultRow]) -> str:
    """What sharing means, and of how many items it can't be told."""
    by_benchmark = {name: one for row in rows for name, one in (row.shared_text or {}).items() if one}
    short = [f"{name} {one.too_short}" for name, one in by_benchmark.items() if one.too_short]
    below = _CAPTION + (_SELECTING if any(row.shared_selecting for row in rows) else "")
    return below + (f"Items that are too short to tell: {', '.join(short)}.\n" if short else "")
