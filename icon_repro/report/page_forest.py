"""Give the page its beginning: what was found, in words, and a forest of the differences from the controls.

In: verdicts.csv of a results folder, the rows of results.  Out: sentences, and groups of lines with
their drawings (SVG, without styles of their own: the page's policy allows none).
Known gap: none.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from icon_repro.report.estimates import ALPHA
from icon_repro.report.figures.styles import COLOURS, ON_DARK, style
from icon_repro.report.rows import ResultRow
from icon_repro.report.runs import RANDOM
from icon_repro.report.statistics import TestVerdict
from icon_repro.report.verdicts import POINTS, signed

_TOLD = 8  # comparisons that the words name
_REASONS = 4  # of missing results
_PAD = 0.05  # of an axis, beyond the outermost interval
_MARKERS: Mapping[str, tuple[int, float, float]] = {  # corners, degrees of the first, every second radius
    **{"o": (24, 0, 1), "^": (3, -90, 1), "v": (3, 90, 1), "<": (3, 180, 1), ">": (3, 0, 1), "s": (4, 45, 1)},
    **{"D": (4, 0, 1), "h": (6, 0, 1), "p": (5, -90, 1), "*": (10, -90, 0.45)},
}
_CROSSES = {"P": 0.0, "X": 45.0}  # degrees
_ARM = 0.34  # half its width


@dataclass(frozen=True)
class Compared:
    """A comparison with a result, as verdicts.csv has it; numbers are in its unit."""

    role: str
    measure: str
    unit: str
    method: str
    fraction: float
    against: str
    difference: float
    low: float
    high: float
    p: float  # after Holm's correction, of a primary comparison its own
    verdict: str
    about: str  # what the verdict is about only

    @property
    def name(self) -> str:
        return f"{self.method} {100 * self.fraction:g} %"

    @property
    def numbers(self) -> str:
        """The difference and its interval, as verdicts.md has them."""
        return " ".join(signed(self.unit, self.difference, self.low, self.high))

    @property
    def holds(self) -> bool:
        return self.p < ALPHA

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.unit == POINTS else "lower is better"

    @property
    def p_text(self) -> str:
        return "p < 0.001" if self.p < 0.001 else f"p {self.p:.3f}"


def read_pairs(folder: Path) -> list[Compared]:
    """The comparisons of a folder that have an interval, the primary ones first; none if there is no verdicts.csv."""
    path = folder / "verdicts.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return [
        Compared(
            role=line["role"],
            measure=line["measure"],
            unit=line["unit"],
            method=line["method"],
            fraction=float(line["fraction"]),
            against=line["against"],
            difference=float(line["difference"]),
            low=float(line["low"]),
            high=float(line["high"]),
            p=float(line["p holm"]),
            verdict=line["verdict"],
            about=line["only about"],
        )
        for line in lines
        if line["low"] and line["p holm"]
    ]


def finding(pairs: Sequence[Compared], beside: Sequence[str] = ()) -> list[str]:
    """What the comparisons say together, in sentences; none without comparisons.

    Args:
        beside: measures that weigh the same rows otherwise than another one does.
    """
    if not pairs:
        return []
    held = [pair for pair in pairs if pair.holds]
    above = dict.fromkeys(
        f"{pair.name} ({pair.measure})"
        for pair in held
        if pair.against == RANDOM and pair.verdict == TestVerdict.better.value and pair.measure not in beside
    )
    said = []
    if any(pair.against == RANDOM for pair in pairs):
        said.append(f"Better than random: {', '.join(above)}." if above else "No method is shown to beat random.")
    if not held:
        said.append(
            f"None of the {len(pairs)} comparisons holds after correction for their number; that doesn't say that the "
            "methods are equal."
        )
        return said
    holds = "holds" if len(held) == 1 else "hold"
    others = sum(pair.measure in beside for pair in held)
    part = "all" if others == len(held) else str(others)
    aside = f", {part} of them of held-out rows weighed otherwise than by their tokens" if others else ""
    said.append(f"{len(held)} of {len(pairs)} comparisons {holds} after correction for their number{aside}:")
    return said


def held(pairs: Sequence[Compared], beside: Sequence[str] = ()) -> tuple[list[str], int]:
    """The comparisons that hold, in words, and how many more there are; those of ``beside`` come last."""
    found = sorted((pair for pair in pairs if pair.holds), key=lambda pair: pair.measure in beside)
    texts = [
        f"{pair.name} is {pair.verdict} than {pair.against} on {pair.measure}: {pair.numbers} {pair.unit}, "
        f"{pair.p_text}{f' ({pair.about} only)' if pair.about else ''}"
        for pair in found[:_TOLD]
    ]
    return texts, len(found) - len(texts)


def progress(rows: Sequence[ResultRow]) -> dict[str, object] | None:
    """How much of an unfinished experiment is there, and why the rest isn't; None if nothing is missing."""
    reasons = Counter(why for row in rows for why in (*row.missing.values(), *row.unjudged.values()))
    missing = sum(reasons.values())
    if not missing:
        return None
    there = sum(len(row.benchmarks) + len(row.judged) for row in rows)
    whole = sum(not row.missing and not row.unjudged for row in rows)
    shown = reasons.most_common(_REASONS)
    return {
        "there": there,
        "of": there + missing,
        "whole": whole,
        "runs": len(rows),
        "reasons": [{"why": why, "count": count} for why, count in shown],
        "others": missing - sum(count for _, count in shown),
    }


def forest(pairs: Sequence[Compared], methods: Sequence[str], beside: Sequence[str] = ()) -> list[dict[str, object]]:
    """The differences by measure, each with its drawing.

    Args:
        methods: of the experiment, in the order that decides their styles.
        beside: measures that are folded: they weigh the same rows otherwise.

    Returns:
        For each measure its title, unit, axis, the lines that are compared with random (where nothing is, with the
        first control), and those of further controls.
    """
    groups = []
    for measure in dict.fromkeys(pair.measure for pair in pairs):
        own = [pair for pair in pairs if pair.measure == measure]
        low, high = min(0.0, *(pair.low for pair in own)), max(0.0, *(pair.high for pair in own))
        pad = _PAD * (high - low or 1.0)
        axis = low - pad, high + pad
        controls = list(dict.fromkeys(pair.against for pair in own))
        first = RANDOM if RANDOM in controls else controls[0]
        controls = [first, *(name for name in controls if name != first)]
        groups.append(
            {
                "measure": measure,
                "unit": own[0].unit,
                "better": own[0].better,
                "folded": measure in beside,
                "axis": _axis(axis),
                "controls": [
                    {
                        "name": control,
                        "lines": [_line(pair, axis, methods) for pair in own if pair.against == control],
                    }
                    for control in controls
                ],
            }
        )
    return sorted(groups, key=lambda group: bool(group["folded"]))


def colours() -> str:
    """Rules of a style sheet: the colour of each class ``m0``, ``m1``.., on a light and on a dark ground."""
    rules = [[f".m{place} {{ --mark: {name}; }}" for place, name in enumerate(some)] for some in (COLOURS, ON_DARK)]
    light, dark = map(" ".join, rules)
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def _line(pair: Compared, axis: tuple[float, float], methods: Sequence[str]) -> dict[str, object]:
    place = methods.index(pair.method) if pair.method in methods else len(methods)
    drawing = Markup("".join(_drawing(pair, axis, place)))  # of numbers and of our own names and corners
    said = f"{pair.name} minus {pair.against}: {pair.numbers} {pair.unit}, {pair.verdict}"
    return {"pair": pair, "drawing": drawing, "alt": said}


def _place(value: float, axis: tuple[float, float]) -> str:
    return f"{100 * (value - axis[0]) / (axis[1] - axis[0]):.2f}%"


def _drawing(pair: Compared, axis: tuple[float, float], place: int) -> Iterator[str]:
    """What is inside the line's svg: zero, the interval, the difference; filled where it holds."""
    zero, low, high, value = (_place(number, axis) for number in (0.0, pair.low, pair.high, pair.difference))
    own = f"m{place % len(COLOURS)}{' full' if pair.holds else ''}"
    yield f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="100%"/>'
    yield f'<line class="{own}" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
    yield f'<svg x="{value}" y="50%" overflow="visible">'
    yield f'<polygon class="{own}" points="{_corners(style(place).marker)}"/></svg>'


def _corners(marker: str, radius: float = 6.0) -> str:
    """Corners of a marker around 0, as an svg has them."""
    found = []
    if marker in _CROSSES:
        arm = [(_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM)]
        turns = [math.radians(_CROSSES[marker] + 90 * turn) for turn in range(4)]
        for turn in turns:
            for x, y in arm:
                x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
                found.append(f"{radius * x:.1f},{radius * y:.1f}")
        return " ".join(found)
    count, start, inner = _MARKERS[marker]
    for place in range(count):
        angle = math.radians(start + 360 * place / count)
        length = radius * (inner if place % 2 else 1)
        found.append(f"{length * math.cos(angle):.1f},{length * math.sin(angle):.1f}")
    return " ".join(found)


def _axis(axis: tuple[float, float]) -> list[dict[str, str]]:
    """Numbers below the drawings: a round one on either side of 0, as far as there is room, and 0."""
    step = 10.0 ** math.floor(math.log10((axis[1] - axis[0]) / 2))
    step *= next(one for one in (5, 2, 1, 0.5) if one * step <= (axis[1] - axis[0]) / 3)
    ticks = [number * step for number in range(math.ceil(axis[0] / step), math.floor(axis[1] / step) + 1)]
    return [{"place": _place(tick, axis), "text": f"{tick:+.3g}" if abs(tick) > 1e-12 else "0"} for tick in ticks]
