"""``action=diff A B``: what changed between two results folders, or between two commits of one.

In: two folders, or git commits of one (COMMIT, or COMMIT:FOLDER).  Out: lines for people: settings, versions, numbers
beyond their intervals, verdicts, selections.
A number is the mean over a line's runs, as in the table. Where both folders asked the same items, its change is paired
by item and by training seed, with the intervals that verdicts have, and Holm's correction over all numbers that
changed; elsewhere it counts as changed if the two intervals don't meet. Selections are compared by their rows' ids.
Known gap: a change of selections is about the two selections at hand where a method has one only, as in verdicts.
"""

import argparse
import io
import math
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from icon_repro.engine.artifact import differences
from icon_repro.engine.records import RecordError
from icon_repro.report.estimates import ALPHA
from icon_repro.report.frames import OpenError, Results, open_results
from icon_repro.report.runs import Line, RunsError, averaged, label, lines, lower, sample
from icon_repro.report.statistics import StatsError, difference, holm, mean

_SHOWN = 12  # lines of a kind, where there are more and ``every`` isn't asked for
_WIDTH = 100
_IDS = 3  # ids of rows that are named


class DiffError(ValueError):
    """The two can't be compared, or one of them can't be found."""


@dataclass(frozen=True)
class Number:
    """A number that isn't the same in both folders."""

    line: str  # method and fraction
    measure: str
    old: float
    new: float
    scale: int  # 100: shown in percent
    low: float = math.nan  # 95 % interval of the change
    high: float = math.nan
    p: float | None = None  # after Holm's correction; None: the items aren't the same
    apart: bool = False  # the two intervals don't meet

    @property
    def beyond(self) -> bool:
        """Whether it changed by more than chance gives."""
        return self.apart if self.p is None else self.p < ALPHA


@dataclass(frozen=True)
class SelectionChange:
    """A selection that isn't the same in both folders; counts of rows are None where ids aren't stored."""

    name: str
    old: str  # folder of the step
    new: str
    old_rows: int | None = None
    new_rows: int | None = None
    both: int | None = None
    gone: tuple[str, ...] = ()  # the best of those that left, and of those that came
    come: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What changed from one folder to another."""

    settings: Sequence[str]
    versions: Sequence[str]
    only_old: Sequence[str]  # lines and benchmarks that one folder alone has
    only_new: Sequence[str]
    numbers: Sequence[Number]
    compared: int  # numbers that both have
    verdicts: Sequence[str]
    selections: Sequence[SelectionChange]
    same_selections: int
    tables: Sequence[str]  # of folders of other commands: csv files that differ


def compared(old: Results, new: Results) -> Difference:
    """Compare two opened folders.

    Raises:
        DiffError: rows that can't make lines.
    """
    try:
        before, after = ({(one.method, one.fraction): one for one in lines(own.rows)} for own in (old, new))
    except RunsError as error:
        raise DiffError(str(error)) from error
    numbers, count = _numbers(before, after, old, new)
    changes, same = _selections(old, new)
    names = [{*map(_title, own), *_benchmarks(results)} for own, results in ((before, old), (after, new))]
    settings = differences(dict(old.config), dict(new.config))
    packages = [own.documents.get("run", {}).get("packages", {}) for own in (old, new)]
    return Difference(
        settings=sorted(settings, key=lambda one: ": absent -> " in one),  # what the old version didn't know: last
        versions=differences(packages[0], packages[1]),
        only_old=sorted(names[0] - names[1]),
        only_new=sorted(names[1] - names[0]),
        numbers=numbers,
        compared=count,
        verdicts=_verdicts(old, new),
        selections=changes,
        same_selections=same,
        tables=[] if old.rows or new.rows else _tables(old, new),
    )


def _benchmarks(results: Results) -> set[str]:
    return {f"benchmark {name}" for row in results.rows for name in row.benchmarks}


def _title(key: tuple[str, float | None]) -> str:
    return f"line {label(*key)}"


def _numbers(
    before: Mapping[tuple[str, float | None], Line],
    after: Mapping[tuple[str, float | None], Line],
    old: Results,
    new: Results,
) -> tuple[list[Number], int]:
    """Numbers that differ, and how many were compared."""
    shared = [name for name in averaged(old.rows) if name in averaged(new.rows)]
    measures = [(name, 100, [name]) for name in shared]
    measures += [(name, 1, [name]) for name in lower(old.rows) if name in lower(new.rows)]
    if len(shared) > 1:
        measures.append(("average", 100, shared))
    numbers, count = list[Number](), 0
    for key in before.keys() & after.keys():
        for measure, scale, names in measures:
            old_line, new_line = before[key], after[key]
            if old_line.has(names) and new_line.has(names):
                count += 1
                values = [sum(line.mean(name) for name in names) / len(names) for line in (old_line, new_line)]
                if values[0] != values[1]:
                    numbers.append(
                        _number(old_line, new_line, names, Number(label(*key), measure, values[0], values[1], scale))
                    )
    paired = [number for number in numbers if number.p is not None]
    corrected = iter(holm([number.p for number in paired if number.p is not None]))
    numbers = [number if number.p is None else replace(number, p=next(corrected)) for number in numbers]
    return sorted(numbers, key=lambda number: (not number.beyond, number.line, number.measure)), count


def _number(one: Line, two: Line, names: Sequence[str], number: Number) -> Number:
    """With the interval of the change, where it is known."""
    samples = [sample(line, names) for line in (one, two)]
    if samples[0] is None or samples[1] is None:
        return number
    try:
        change = difference(samples[1], samples[0])
    except StatsError:  # other items: each has an interval of its own
        ends = [mean(own).interval() for own in samples if own is not None]
        return replace(number, apart=bool(ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]))
    if not math.isfinite(change.half_width()):
        return number
    low, high = change.interval()
    return replace(number, low=float(low), high=float(high), p=change.p_value())


def _verdicts(old: Results, new: Results) -> list[str]:
    """Comparisons of which the verdict isn't the same."""
    keys = ["measure", "method", "fraction", "against"]
    frames = [own.tables.get("verdicts") for own in (old, new)]
    if frames[0] is None or frames[1] is None:
        return []
    both = frames[0].merge(frames[1], on=keys, suffixes=("_old", "_new"))
    both = both[both.verdict_old != both.verdict_new]
    return [
        f"{row.measure}: {label(row.method, row.fraction)} against {row.against}: {row.verdict_old} -> "
        f"{row.verdict_new}"
        for row in both.itertuples()
    ]


def _selections(old: Results, new: Results) -> tuple[list[SelectionChange], int]:
    """Selections that differ, and how many are the same."""
    before, after = _steps(old), _steps(new)
    ids = [
        {step: list(own.sort_values("rank").id) for step, own in results.selections.groupby("step", observed=True)}
        for results in (old, new)
    ]
    changes, same = list[SelectionChange](), 0
    for name in before.keys() & after.keys():
        steps = before[name], after[name]
        rows = [known.get(step) for known, step in zip(ids, steps, strict=True)]
        if steps[0] == steps[1] or (rows[0] is not None and rows[1] is not None and set(rows[0]) == set(rows[1])):
            same += 1
        elif rows[0] is None or rows[1] is None:
            counts = [None if own is None else len(own) for own in rows]
            changes.append(SelectionChange(name, *steps, counts[0], counts[1]))
        else:
            both = set(rows[0]) & set(rows[1])
            gone, come = ([i for i in own if i not in both] for own in (rows[0], rows[1]))
            changes.append(
                SelectionChange(name, *steps, len(rows[0]), len(rows[1]), len(both), tuple(gone), tuple(come))
            )
    return sorted(changes, key=lambda change: change.name), same


def _steps(results: Results) -> dict[str, str]:
    """By name the folder of each selection's step."""
    folders = {}
    for row in results.rows:
        if row.steps.select is not None:
            seeds = {"r": row.selection_seed, "pool ": row.pool if row.pool != row.selection_seed else None}
            parts = [f"{key}{seed}" for key, seed in seeds.items() if seed is not None]
            folders[" ".join([label(row.method, row.fraction), *parts])] = row.steps.select
    for row in results.selections.drop_duplicates("step").itertuples() if not results.rows else ():
        folders[f"{row.method}-{row.fraction:g} {row.step.rpartition('-')[0].partition('/')[2]}"] = row.step
    return folders


def _tables(old: Results, new: Results) -> list[str]:
    """Of folders without rows of runs: csv files that one lacks or that differ."""
    texts = []
    for name in sorted({*old.tables, *new.tables}):
        old_table, new_table = old.tables.get(name), new.tables.get(name)
        if old_table is None or new_table is None:
            texts.append(f"{name}.csv: only in the {'new' if old_table is None else 'old'} folder")
        elif list(old_table.columns) != list(new_table.columns) or len(old_table) != len(new_table):
            shapes = f"{len(old_table)} x {len(old_table.columns)} -> {len(new_table)} x {len(new_table.columns)}"
            texts.append(f"{name}.csv: other lines or columns ({shapes})")
        elif cells := int(((old_table != new_table) & ~(old_table.isna() & new_table.isna())).to_numpy().sum()):
            texts.append(f"{name}.csv: {cells} of {old_table.size} cells differ")
    return texts


def text(found: Difference, *, every: bool = False) -> str:
    """What changed, in lines of at most 100 columns.

    Args:
        every: all lines; else the first of each kind, and all numbers beyond their intervals.
    """
    beyond = [number for number in found.numbers if number.beyond]
    within = [number for number in found.numbers if not number.beyond]
    same = found.compared - len(found.numbers)
    about = f"{found.compared} compared: {same} the same, {len(within)} within their interval, {len(beyond)} beyond it"
    parts = [
        _part("Settings", found.settings, every),
        _part("Package versions", found.versions, every),
        _part("Only in the old folder", found.only_old, every),
        _part("Only in the new folder", found.only_new, every),
        _part(f"Numbers ({about})", [_shown(number) for number in [*beyond, *(within if every else ())]], True),
        _part("Verdicts", found.verdicts, every),
        _part(f"Selections ({found.same_selections} the same)", [_told(one) for one in found.selections], every),
        _part("Tables", found.tables, every),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _part(title: str, entries: Sequence[str], every: bool) -> str:
    if not entries and "(" not in title:
        return f"{title}: no change" if title == "Settings" else ""
    shown = list(entries) if every else list(entries)[:_SHOWN]
    left = len(entries) - len(shown)
    more = [f"  and {left} more; --all shows them"] if left else []
    cut = [entry if every or len(entry) <= _WIDTH - 2 else f"{entry[: _WIDTH - 5]}..." for entry in shown]
    return "\n".join([f"{title}:" if entries else title, *(f"  {entry}" for entry in cut), *more])


def _shown(number: Number) -> str:
    digits, scale = (2, 100) if number.scale == 100 else (4, 1)
    change = f"{scale * (number.new - number.old):+.{digits}f}"
    head = f"{number.line:<20} {number.measure:<16} {scale * number.old:.{digits}f} -> {scale * number.new:.{digits}f}"
    if number.p is None:
        return f"{head}  {change}  {'intervals apart' if number.apart else 'no interval of the change'}"
    p = "<0.001" if number.p < 0.001 else f"{number.p:.3f}"
    return f"{head}  {change} [{scale * number.low:+.{digits}f}, {scale * number.high:+.{digits}f}]  p {p}"


def _told(one: SelectionChange) -> str:
    if one.both is None:
        lacking = " and ".join(side for side, rows in (("old", one.old_rows), ("new", one.new_rows)) if rows is None)
        return f"{one.name}: another selection; its ids aren't stored in the {lacking} folder"
    share = one.both / max(1, min(one.old_rows or 0, one.new_rows or 0))
    some = [f"{word} {', '.join(ids[:_IDS])}" for word, ids in (("out:", one.gone), ("in:", one.come)) if ids]
    counts = f"{one.old_rows} -> {one.new_rows} rows, overlap {share:.0%}, {len(one.gone)} out, {len(one.come)} in"
    return f"{one.name}: {counts} ({'; '.join(some)})"


@contextmanager
def place(given: str, other: str) -> Iterator[Path]:
    """A results folder: ``given`` itself, or what a commit has of it, in a folder that goes at the end.

    Args:
        other: what it is compared with, which names the folder where ``given`` is a commit alone.

    Raises:
        DiffError: neither a folder nor a commit that has the folder.
    """
    if Path(given).is_dir():
        yield Path(given)
        return
    commit, _, named = given.partition(":")
    folder = named or (other if Path(other).is_dir() else other.partition(":")[2])
    if not folder:
        raise DiffError(
            f"{given!r} and {other!r}: neither is a folder. Give two results folders, or a folder and a commit of it: "
            "action=diff results/smoke HEAD~1, or COMMIT:results/smoke."
        )
    anchor = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.is_dir())
    top = _git(anchor, "rev-parse", "--show-toplevel")
    if top is None:
        raise DiffError(f"{given!r}: no such folder, and {anchor} is in no git checkout, which could have a commit.")
    root = Path(top.decode().strip())
    inside = Path(folder).resolve().relative_to(root.resolve()).as_posix()
    if _git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}") is None:
        raise DiffError(f"{given!r}: no such folder, and no such commit in {root}.")
    packed = _git(root, "archive", "--format=tar", commit, inside)
    if packed is None:
        raise DiffError(f"{given!r}: commit {commit} has no folder {inside}.")
    with tempfile.TemporaryDirectory() as temporary:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(temporary, filter="data")
        yield Path(temporary) / inside


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git says; None if it fails or isn't there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m icon_repro.report.diff A B``; returns the exit code."""
    parser = argparse.ArgumentParser(
        "icon_repro action=diff", description="What changed from one results folder to another"
    )
    parser.add_argument("old", help="a results folder, a git commit, or COMMIT:FOLDER")
    parser.add_argument("new", help="the same; one of the two names the folder")
    parser.add_argument("--all", action="store_true", help="every line, numbers within their intervals too")
    given = parser.parse_args(arguments)
    try:
        with ExitStack() as stack:
            folders = [stack.enter_context(place(*names)) for names in ((given.old, given.new), (given.new, given.old))]
            comparison = compared(*map(open_results, folders))
    except (DiffError, OpenError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.old} -> {given.new}\n{text(comparison, every=given.all)}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
