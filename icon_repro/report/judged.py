"""Make the table of comparisons by a judge: shares of prompts, the winning score, and what the judge is swayed by.

In: ``ResultRow``s.  Out: header and cells for people; a tidy line for each measure.
Known gap: shares and lengths have no intervals; the winning score has.
"""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from icon_repro.lm.answered_by import KEY, told
from icon_repro.report.cells import MISSING, NOT_APPLICABLE, PERCENT, Cell, Field, about, runs_text
from icon_repro.report.rows import JudgedResult, ResultRow
from icon_repro.report.runs import Line, judged_sample, lines
from icon_repro.report.statistics import bootstrap, mean

HEADER = ["method", "fraction", "runs", "prompts of", "against", "prompts", "win", "tie", "lose", "failed"]
HEADER += ["winning score", "95 % interval", "length-controlled", "same in both orders", "longer wins"]
HEADER += ["winners' length", "losers' length"]
COLUMNS = ["method", "fraction", "prompts of", "against", "measure", "value", "low", "high", "unit", "runs"]
COLUMNS += ["selections", "items", "status"]
_SCORE = "from 0 to 2, 1 is even"
_UNITS = {"length-controlled": _SCORE, "same in both orders": "share", "longer wins": "share"}
_UNITS |= {"winners' length": "characters", "losers' length": "characters"}
CAPTION = """\
Winning score: 1 + (wins - losses) / judged prompts, of the method against the other; 1 is even. Interval: 95 %, by
bootstrap over prompts, which are taken as independent, and seeds where there are several. Failed prompts (no readable
verdict) are in no other share.
length-controlled: the score at answers of equal length. same in both orders: share of prompts where the judge prefers
the same answer whichever is shown first. longer wins: share of decided prompts that the longer answer wins.
Lengths of the answers that won and lost: mean, in characters. Half of a score is the win rate, ties counting half.
"""


def judges(rows: Sequence[ResultRow]) -> list[str]:
    """Who gave the verdicts, where an endpoint was asked: a line, or none."""
    whose = told(cell.more[KEY] for row in rows for cell in row.judged.values() if KEY in cell.more)
    return [f"Judged by {whose}."] if whose else []


def table(rows: Sequence[ResultRow]) -> tuple[list[str], list[list[str]], list[dict[str, Field]]]:
    """Header and cells, a line for each method, fraction and set of prompts; and tidy lines with ``COLUMNS``."""
    cells, tidy = [], list[dict[str, Field]]()
    for line in lines(rows):
        for name in dict.fromkeys(name for row in line.rows for name in (*row.judged, *row.unjudged)):
            ahead = [line.method, "-" if line.fraction is None else f"{line.fraction:g}", runs_text(line), name]
            results = [row.judged[name] for row in line.rows if name in row.judged]
            if len(results) < len(line.rows):
                cells.append([*ahead, *[MISSING] * (len(HEADER) - len(ahead))])
                missing = Cell("winning score", MISSING, _SCORE).tidy()
                tidy.append({**about(line), "prompts of": name, **missing})
                continue
            against = "/".join(dict.fromkeys(one.against for one in results))
            measures = _measures(line, name, results)
            shown = [text for cell in measures for text in _texts(cell)]
            cells.append([*ahead, against, str(results[0].prompts), *shown])
            tidy += [
                {**about(line), "prompts of": name, "against": against, **cell.tidy()}
                for cell in measures
                if cell.text != NOT_APPLICABLE
            ]
    return list(HEADER), cells, tidy


def _texts(cell: Cell) -> list[str]:
    """What the table shows of a measure: of the score, value and interval by themselves."""
    if cell.low is None or cell.high is None:
        return [cell.text]
    return [cell.text, f"[{cell.low:.3f}, {cell.high:.3f}]"]


def _measures(line: Line, name: str, results: Sequence[JudgedResult]) -> list[Cell]:
    """Every measure of a comparison, in the table's order."""
    judged, prompts = sum(one.judged for one in results), sum(one.prompts for one in results)
    counts = {
        "win": (sum(one.win for one in results), judged),
        "tie": (sum(one.tie for one in results), judged),
        "lose": (sum(one.lose for one in results), judged),
        "failed": (sum(one.failed for one in results), prompts),
    }
    cells = [
        Cell(measure, f"{100 * count / total:.1f} %", PERCENT, 100 * count / total, items=results[0].prompts)
        for measure, (count, total) in counts.items()
    ]
    outcomes = judged_sample(line, name)
    low, high = bootstrap(outcomes, np.random.default_rng(0))
    score = float(mean(outcomes).value)
    cells.append(Cell("winning score", f"{score:.3f}", _SCORE, score, low, high, results[0].prompts))
    for measure, digits, values in (
        ("length-controlled", 3, [one.length_controlled_score for one in results]),
        ("same in both orders", 2, [one.position_consistency for one in results]),
        ("longer wins", 2, [one.longer_wins for one in results]),
        ("winners' length", 0, [one.length_winners for one in results]),
        ("losers' length", 0, [one.length_losers for one in results]),
    ):
        known = [value for value in values if value is not None]
        text = f"{fmean(known):.{digits}f}" if known else NOT_APPLICABLE
        cells.append(Cell(measure, text, _UNITS[measure], fmean(known) if known else None, items=results[0].prompts))
    return cells
