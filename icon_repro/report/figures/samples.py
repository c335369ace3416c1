"""Pick the rows that each method ranks highest and lowest, to read.

In: ``Material``.  Out: samples.jsonl: by method and end of its ranking id, score and its parts, length, where the row
is selected, and a short excerpt: rows belong to others, so a results folder has no more of them.
Methods whose order is drawn at random have none. Known gap: none.
"""

from typing import Any

from icon_repro.data.rows import Example, best_first
from icon_repro.report.figures.material import Material, Ranked

EXCERPT = 80  # characters of a row
_EACH = 5  # rows of each end
_METHODS = 20


def samples(material: Material) -> list[dict[str, Any]]:
    """The highest of each method, best first, then its lowest, worst first."""
    shown = [ranked for ranked in material.methods() if not ranked.random and ranked.scores][:_METHODS]
    return [sample for ranked in shown for sample in _of(ranked, material)]


def _of(ranked: Ranked, material: Material) -> list[dict[str, Any]]:
    order = best_first({identifier: score.score for identifier, score in ranked.scores.items()})
    chosen = {fraction: set(ids) for fraction, ids in sorted(ranked.selected.items())}
    each = min(_EACH, len(order) // 2)
    places = [("highest", rank) for rank in range(each)]
    places += [("lowest", len(order) - 1 - rank) for rank in range(each)]
    return [
        {
            "method": ranked.method,
            "end": end,
            "rank": rank + 1,
            "of": len(order),
            "id": order[rank],
            "score": _short(ranked.scores[order[rank]].score),
            "parts": {name: _short(value) for name, value in ranked.scores[order[rank]].parts.items()},
            "characters": len(material.rows[order[rank]].response),
            "selected_at": [fraction for fraction, ids in chosen.items() if order[rank] in ids],
            "excerpt": excerpt(material.rows[order[rank]]),
        }
        for end, rank in places
        if order[rank] in material.rows
    ]


def excerpt(row: Example) -> str:
    """The beginning of the instruction on one line, without characters that can't be shown."""
    text = "".join(c if c.isprintable() else " " for c in row.instruction[: 10 * EXCERPT])
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"


def _short(value: float) -> float:
    """Four significant digits: enough to read."""
    return float(f"{value:.4g}")
