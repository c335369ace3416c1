"""What a report says on the console: what was found, in words; a narrow table; where the rest is; what to do next.

In: ``ResultRow``s, the primary comparison of the experiment, the width of the terminal, the command that was given.
Out: lines. Each method is compared with ``random`` at its fraction, and so are ``base`` (no tuning) and ``full`` (all
rows), which verdicts.md leaves out: they are no selections. Their p values are corrected among themselves (Holm).
Wider than 100 columns it never gets; where the table doesn't fit into the terminal, each of its lines is some lines.
Known gap: measures that weigh the same held-out rows otherwise are in held_out.md alone.
"""

import math
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from icon_repro.report import judged
from icon_repro.report.cells import MISSING, NOT_APPLICABLE, lower_unit
from icon_repro.report.console_tables import fitted
from icon_repro.report.rows import ResultRow
from icon_repro.report.runs import AS_IT_IS, RANDOM, Contrasts, Line, averaged, lines, lower
from icon_repro.report.statistics import TestVerdict
from icon_repro.report.tables import markdown
from icon_repro.report.verdicts import Adjusted, Comparison, adjusted, corrected, opening, verdict_of
from icon_repro.report.weighting import variants

AVERAGE = "average"
_LISTED = 4  # benchmarks that are named
CAPTION = (
    "Intervals are those of one comparison alone; verdicts are corrected for the number of comparisons of a measure "
    "(Holm). Cost: operations of selecting and tuning, in those of random at the same fraction."
)
_SAYS: Mapping[TestVerdict | None, str] = {
    TestVerdict.better: "better than random",
    TestVerdict.worse: "worse than random",
    TestVerdict.undecided: "not distinguishable from random",
    TestVerdict.lacking: "without enough data for a verdict",
    None: "not compared, as results are missing",
}
_JUDGED = ["method", "prompts of", "against", "prompts", "failed", "winning score", "95 % interval"]
_HEADER = ["method", "measure", "value", "difference from random [95 %]", "verdict", "cost"]


@dataclass(frozen=True)
class Told:
    """One line of the table: a method on one measure."""

    line: Line
    measure: str
    value: float | None  # in the unit of the measure; None where a result is missing
    digits: int
    against: Adjusted | None  # with random of its fraction; None where there is none, and for random itself
    name: str  # of the method, with the fraction

    @property
    def cell(self) -> str:
        """Its name for ``explain``."""
        return f"{self.line.label}/{self.measure}"

    @property
    def verdict(self) -> TestVerdict | None:
        """What the comparison says; None where there is none, or not enough for one."""
        if self.against is None or self.against.p is None:
            return None
        known = self.against.comparison.found
        return verdict_of(self.against) if known and math.isfinite(known.half_width()) else TestVerdict.lacking


def measures(rows: Sequence[ResultRow]) -> list[str]:
    """The average of the benchmarks, if there are some, and each measure of which lower is better."""
    beside = variants(rows)
    return [*([AVERAGE] if averaged(rows) else []), *(name for name in lower(rows) if name not in beside)]


def told(
    rows: Sequence[ResultRow], compared: Sequence[Comparison], primary: Mapping[str, Any] | None = None
) -> list[Told]:
    """The lines of the table, measure by measure.

    Args:
        compared: ``verdicts.comparisons`` of the rows.
    """
    made = lines(rows)
    found: list[Told] = []
    every = adjusted(compared, primary)
    for measure in measures(rows):
        names = averaged(rows) if measure == AVERAGE else [measure]
        scale, digits = (100, 2) if measure == AVERAGE else (1, 4)
        own = {
            (one.comparison.method.method, one.comparison.method.fraction): one
            for one in every
            if one.comparison.measure == measure and one.comparison.baseline.method == RANDOM
        }
        of_others = _references(made, measure, scale, names)
        for line in made:
            value = scale * fmean(line.mean(name) for name in names) if line.has(names) else None
            if line.method in AS_IT_IS:
                several = len(of_others[line.method]) > 1
                for fraction, one in of_others[line.method].items():
                    label = f"{line.method} : {RANDOM}-{fraction:g}" if several and fraction else line.method
                    found.append(Told(line, measure, value, digits, one, label))
            else:
                against = own.get((line.method, line.fraction))
                found.append(Told(line, measure, value, digits, against, line.label))
    return found


def _references(
    made: Sequence[Line], measure: str, scale: int, names: Sequence[str]
) -> dict[str, dict[float | None, Adjusted | None]]:
    """``base`` and ``full`` against random, by method and random's fraction."""
    contrasts = Contrasts(made)
    controls = [line for line in made if line.method == RANDOM]
    family = [
        Comparison(measure, scale, line, control, contrasts.of(line, control, names), names)
        for line in made
        for control in controls
        if line.method in AS_IT_IS
    ]
    found: dict[str, dict[float | None, Adjusted | None]] = {line.method: {} for line in made}
    for one in corrected(family, "reference"):
        found[one.comparison.method.method][one.comparison.baseline.fraction] = one
    for name in AS_IT_IS:
        found.setdefault(name, {})
        if not found[name]:
            found[name] = {None: None}
    return found


def table(found: Sequence[Told], width: int) -> list[str]:
    """The table as lines of at most ``width`` columns.

    Args:
        width: of the terminal; where it doesn't do, each line becomes some lines.
    """
    costs = _costs([one.line for one in found])
    cells = [
        [
            one.name,
            one.measure,
            MISSING if one.value is None else f"{one.value:.{one.digits}f}",
            _difference(one),
            _verdict(one),
            costs.get(id(one.line), MISSING),
        ]
        for one in found
    ]
    return fitted(_HEADER, cells, width, names=2)


def _judged(rows: Sequence[ResultRow], width: int) -> list[str]:
    """A short table of the comparisons by a judge, if there are some."""
    if not any(row.judged or row.unjudged for row in rows):
        return []
    header, cells, _ = judged.table(rows)
    shown = [header.index(name) for name in _JUDGED]
    chosen = [[row[column] for column in shown] for row in cells]
    lines = markdown(_JUDGED, chosen).splitlines()
    return ["", *(lines if max(map(len, lines)) <= width else fitted(_JUDGED, chosen, width))]


def _difference(one: Told) -> str:
    if one.against is None:
        return NOT_APPLICABLE
    estimate, scale = one.against.comparison.found, one.against.comparison.scale
    if estimate is None:
        return MISSING
    value = f"{scale * estimate.value:+.{one.digits}f}"
    if not math.isfinite(estimate.half_width()):
        return f"{value} (not enough)"
    low, high = (scale * float(end) for end in estimate.interval())
    return f"{value} [{low:+.{one.digits}f}, {high:+.{one.digits}f}]"


def _verdict(one: Told) -> str:
    if one.line.method == RANDOM:
        return "the control"
    return NOT_APPLICABLE if one.verdict is None else one.verdict.value


def _costs(made: Sequence[Line]) -> dict[int, str]:
    """FLOPs of selecting and tuning, by the identity of a line: in those of random at the same fraction."""
    spent: dict[int, float] = {}
    for line in made:
        parts = [row.selection.flops + row.tuning.flops for row in line.rows if row.selection and row.tuning]
        if len(parts) == len(line.rows):
            spent[id(line)] = fmean(parts)
    controls = {line.fraction: spent.get(id(line)) for line in made if line.method == RANDOM}
    found: dict[int, str] = {}
    for line in made:
        unit = controls.get(line.fraction) or next(iter(controls.values()), None)
        if unit and id(line) in spent:
            found[id(line)] = f"{spent[id(line)] / unit:.2g}"
    return found


def conclusion(
    found: Sequence[Told], compared: Sequence[Comparison], primary: Mapping[str, Any] | None
) -> Iterator[str]:
    """What the numbers say, a sentence or some for each measure, and what they are about only."""
    if not any(one.line.method == RANDOM for one in found):
        yield "There is no control: no method was compared. Add random to the methods: random selections of equal size."
        return
    yield _who(found)
    for measure in dict.fromkeys(one.measure for one in found):
        yield from _of_measure([one for one in found if one.measure == measure], measure)
    if primary is not None:
        yield opening(compared, primary).replace("**", "")
    limits = dict.fromkeys(
        limit
        for one in found
        if one.against is not None and one.against.comparison.found is not None
        for limit in one.against.comparison.found.limits
    )
    if limits:
        yield f"All this is about {' and '.join(limits)} only: nothing here shows how others would do."


def _who(found: Sequence[Told]) -> str:
    """What the lines of the table are."""
    sizes = {one.line.method: sorted({row.trained for row in one.line.rows if row.trained}) for one in found}
    texts = []
    if "base" in sizes:
        texts.append("base is the model without tuning")
    if sizes.get("full"):
        texts.append(f"full is tuned on all {sizes['full'][-1]:,} rows")
    counts = sorted({count for name, some in sizes.items() if name not in AS_IT_IS for count in some})
    if counts:
        numbers = " or ".join(f"{count:,}" for count in counts)
        texts.append(
            f"each other method {'' if sizes.get('full') else 'is tuned '}on the {numbers} rows that it selects"
        )
    return f"{'; '.join(texts)}." if texts else "Nothing has been tuned yet."


def _of_measure(own: Sequence[Told], measure: str) -> Iterator[str]:
    """A sentence on what was not selected, and one on the selections."""
    line = own[0].line
    what = f"{measure} ({lower_unit(line, measure)}, lower is better)"
    if measure == AVERAGE:
        names = averaged(line.rows)
        listed = joined(names) if len(names) <= _LISTED else f"{len(names)} benchmarks"
        what = f"average of {listed} (percent, higher is better)"
    untouched = [one for one in own if one.line.method in AS_IT_IS]
    selected = [one for one in own if one.line.method not in (*AS_IT_IS, RANDOM)]
    for title, some in (("without selection", untouched), ("selections", selected)):
        by_verdict: dict[TestVerdict | None, list[str]] = {}
        for one in some:
            by_verdict.setdefault(one.verdict, []).append(one.name)
        parts = [
            f"{joined(by_verdict[verdict])} {'is' if len(by_verdict[verdict]) == 1 else 'are'} {text}"
            for verdict, text in _SAYS.items()
            if verdict in by_verdict
        ]
        if parts:
            yield f"{what}, {title}: {'; '.join(parts)}."


def joined(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def next_commands(arguments: Sequence[str], found: Sequence[Told], *, complete: bool) -> list[tuple[str, str]]:
    """What each of three commands is for, and the command, for the same experiment.

    Args:
        arguments: of the command that was given.
    """
    kept = [one for one in arguments if one.partition("=")[0] not in ("action", "explain")]
    own, others = _command(kept), _command([one for one in kept if not one.startswith("seeds=")])
    if not complete:
        return [
            ("what failed or is still running, and where its log is", f"{own} action=status"),
            ("what is left to do, and about what it costs", f"{own} action=plan"),
            ("go on from here", own),
        ]
    told = [one for one in reversed(found) if one.value is not None] or list(found[:1])  # none of selections alone
    return [
        *(
            ("steps, commits and data that a number is made of", f"{own} action=report explain={one.cell}")
            for one in told[:1]
        ),
        ("which rows the methods chose, and how far they agree", f"{own} action=compare"),
        ("three trainings of each, so that intervals hold for other seeds too", f"{others} seeds=[0,1,2]"),
    ]


def _command(arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "icon_repro", *arguments])


def closing(
    rows: Sequence[ResultRow],
    compared: Sequence[Comparison],
    primary: Mapping[str, Any] | None,
    folder: Path,
    arguments: Sequence[str],
    *,
    complete: bool,
    width: int,
) -> list[str]:
    """All that a report ends with.

    Args:
        rows: of the experiment.
        compared: ``verdicts.comparisons`` of them.
        folder: of the results: tables, page.
        arguments: of the command that was given.
        width: of the terminal.
    """
    found = told(rows, compared, primary)
    sentences = list(conclusion(found, compared, primary))
    text = ["", "What was found"]
    for sentence in sentences:
        text += textwrap.wrap(sentence, width, initial_indent="- ", subsequent_indent="  ")
    text += ["", *table(found, width), ""]
    text += textwrap.wrap(CAPTION, width)
    text += _judged(rows, width)
    page = [f"Page:   {folder / 'index.html'} (open it in a browser)"] if (folder / "index.html").is_file() else []
    text += ["", *page, f"Tables: {folder / 'table.md'}, verdicts.md", "", "Next:"]
    for purpose, command in next_commands(arguments, found, complete=complete):
        text += [*textwrap.wrap(purpose, width, initial_indent="  # ", subsequent_indent="  # "), f"  {command}"]
    return text
