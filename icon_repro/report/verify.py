"""``action=verify``: make every stored table again from the stored numbers, and compare it byte by byte.

In: the folders below paths.published; published numbers and claims; the authors' released selections, if they are here.
Out: a line for each difference (file, line, both texts) and for what nothing here can make again, with the reason.
What comes of a report is covered: table, verdicts, judged, contamination, tables beside the paper's, claims (md, csv,
tex), the rows themselves as they are written, the page, and the points of the figures that rows give. Of other commands
what ``icon_repro.report.rebuild`` lists. A table without rows to make it of is a difference.
Known gap: that the rows are what the steps gave isn't looked at here; their folders' names and hashes are in them.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icon_repro.engine.records import RecordError, read_json, read_lines
from icon_repro.report import outputs as written
from icon_repro.report import page
from icon_repro.report import rebuild as rebuilt
from icon_repro.report.row_tables import SCORES, SELECTIONS
from icon_repro.report.rows import ResultRow, read_result_rows

RELEASED = Path("../shared/data")  # where the authors' released selections are looked for
_ROWS, _RUN, _PAGE = "metrics.jsonl", "run.json", "index.html"
_ROW = {"experiment", "method", "benchmarks", "steps"}  # fields that tell a row of a report
_OF_ROWS = {"table", "verdicts", "held_out", "judged", "contamination", "claims"}
_TEXTS = (".md", ".csv", ".tex")
_LONGEST = 160  # characters of a line that is shown


@dataclass
class Verified:
    """What was compared."""

    folders: int = 0
    files: int = 0
    differences: list[str] = field(default_factory=list)
    not_covered: list[str] = field(default_factory=list)


def verify(
    results: Path, experiments: Path, say: Callable[[str], None], data: Path = RELEASED, *, quick: bool = False
) -> bool:
    """Compare everything below ``results``.

    Args:
        data: the folder with the authors' released selections.
        quick: leave out what takes longer than some seconds.

    Returns:
        Whether nothing differs and there was something to compare.
    """
    verified = Verified()
    folders = sorted({path.parent for path in results.rglob("*") if path.is_file() and _result(path)})
    for folder in folders:
        if folder.name == "figures" and (folder.parent / _RUN).is_file() and (folder.parent / _ROWS).is_file():
            _figures(folder, experiments, verified)
        elif not (folder / _RUN).is_file():
            _of_other(folder, (results, experiments, data), verified, quick=quick)
        else:
            _folder(folder, experiments, verified)
    for line in verified.not_covered:
        say(f"not covered: {line}")
    for line in verified.differences:
        say(f"differs: {line}")
    if not verified.folders:
        say(f"{results}: no folder with tables that can be made again; nothing was verified")
    say(
        f"{verified.folders} results folders, {verified.files} files made again, "
        f"{len(verified.differences)} differences, {len(verified.not_covered)} not covered"
    )
    return verified.folders > 0 and not verified.differences


def made_by_report(path: Path) -> bool:
    """Whether a file or folder of this name, below an experiment's results, is what reports make."""
    names = {_ROWS, _RUN, _PAGE, "samples.jsonl", SELECTIONS, SCORES, "figures", "incomplete"}
    return path.name in names or (path.suffix in _TEXTS and _table_of_rows(path))


def _table_of_rows(path: Path) -> bool:
    return path.stem in _OF_ROWS or path.stem.startswith("paper_table")


def _result(path: Path) -> bool:
    return path.name in (_ROWS, _RUN) or path.suffix in (*_TEXTS, ".html")


def _of_other(folder: Path, places: tuple[Path, Path, Path], found: Verified, *, quick: bool) -> None:
    """A folder of another command than a report."""
    if _of_report(folder / _ROWS):
        found.differences.append(f"{folder}: rows without {_RUN}; make both anew with action=report")
        return
    try:
        kind = rebuilt.rebuild_of(folder, *places)
    except rebuilt.RebuiltError as error:
        found.differences.append(f"{folder}: {error}")
        return
    if isinstance(kind, str):
        found.not_covered.append(f"{folder}: {kind}")
        return
    if quick and kind.takes_long:
        found.not_covered.append(f"{folder}: left out, as it takes long; action=verify makes it again")
        return
    found.folders += 1
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary)
        try:
            names = rebuilt.made_again(kind, again)
        except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
            found.differences.append(f"{folder}: can't be made again: {type(error).__name__}: {error}")
            return
        if (folder / _PAGE).is_file():
            page.write(folder, again / _PAGE)
            names.append(_PAGE)
        _compare(folder, again, names, found)
    found.not_covered += [f"{folder}: {some}: {why}" for some, why in kind.others.items()]
    _pictures(folder, found)
    given = {path.name for pattern in kind.inputs for path in folder.glob(pattern)}
    others = {name for some in kind.others for pattern in some.split(", ") for name in _matching(folder, pattern)}
    _too_many(folder, {*names, *given, *others}, found)


def _matching(folder: Path, pattern: str) -> list[str]:
    return [path.name for path in folder.glob(pattern)]


def _pictures(folder: Path, found: Verified) -> None:
    if pictures := len([path for path in folder.iterdir() if path.suffix in rebuilt.PICTURES]):
        found.not_covered.append(f"{folder}: {pictures} pictures: {rebuilt.WHY_NO_PICTURES}")


def _too_many(folder: Path, known: set[str], found: Verified) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in known and path.suffix in _TEXTS:
            found.differences.append(f"{path}: stored, and what is stored beside it gives none. Delete it")


def _figures(folder: Path, experiments: Path, found: Verified) -> None:
    """The points of a report's figures, as far as its rows give them."""
    rows = _rows(folder.parent, found)
    if not rows:
        return  # said of the report itself
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary)
        try:
            rebuilt.figures_of_rows(rows, read_json(folder.parent / _RUN), experiments, again)
        except (*written.PROBLEMS, RecordError, KeyError, TypeError) as error:
            found.differences.append(f"{folder}: its points can't be made again: {type(error).__name__}: {error}")
            return
        names = sorted(path.name for path in again.iterdir())
        _compare(folder, again, names, found)
    stored = sorted(path.name for path in folder.iterdir() if path.suffix == ".csv")
    for name in sorted({f"{one}.csv" for one in rebuilt.OF_ROWS} & set(stored) - set(names)):
        found.differences.append(f"{folder / name}: stored, and a report of these rows has none. Delete it")
    if rest := [name for name in stored if name.removesuffix(".csv") not in rebuilt.OF_ROWS]:
        found.not_covered.append(
            f"{folder}: {', '.join(rest)}: need scores, selections or vectors in the work folder; action=report "
            "makes them"
        )
    _pictures(folder, found)


def _folder(folder: Path, experiments: Path, found: Verified) -> None:
    if not (folder / _ROWS).is_file():
        if (folder / "table.md").is_file():
            found.differences.append(f"{folder}/{_ROWS}: isn't there, and table.md is; run action=report")
        return
    found.folders += 1
    rows = _rows(folder, found)
    if not rows:
        return
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary)
        try:
            run: dict[str, Any] = read_json(folder / _RUN)
            written.write_all(rows, run, experiments, again)
        except (*written.PROBLEMS, RecordError, KeyError, TypeError) as error:
            reason = f"{error}" if not isinstance(error, (KeyError, TypeError)) else f"{type(error).__name__}: {error}"
            found.differences.append(f"{folder}: its tables can't be made again: {reason}")
            return
        if (folder / _PAGE).is_file():
            page.write(folder, again / _PAGE)
        names = sorted(path.name for path in again.iterdir())
        _compare(folder, again, names, found)
    known = {*names, _RUN, _PAGE}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name in known or path.suffix not in _TEXTS:
            continue
        if _table_of_rows(path):
            found.differences.append(f"{path}: stored, and a report of these rows has none. Delete it")
        else:
            found.not_covered.append(f"{path}: needs more than the rows; its own command makes it")


def _of_report(path: Path) -> bool:
    """Whether a metrics.jsonl holds rows of a report: other commands write other lines."""
    try:
        return any(set(line) >= _ROW for _, line in itertools.islice(read_lines(path), 1)) if path.is_file() else False
    except RecordError:
        return False


def _rows(folder: Path, found: Verified) -> list[ResultRow]:
    try:
        rows = read_result_rows(folder / _ROWS)
    except RecordError as error:
        found.differences.append(str(error))
        return []
    if not rows:
        found.differences.append(f"{folder}/{_ROWS}: holds no rows")
    return rows


def _compare(folder: Path, made: Path, names: list[str], found: Verified) -> None:
    for name in names:
        found.files += 1
        if not (folder / name).is_file():
            found.differences.append(f"{folder / name}: isn't there; a report of these rows has it")
            continue
        stored, again = (folder / name).read_bytes(), (made / name).read_bytes()
        if stored != again:
            found.differences.append(f"{folder / name}:{_first(stored, again)}")


def _first(stored: bytes, again: bytes) -> str:
    """Number of the first line that differs, with both texts."""
    for number, (one, two) in enumerate(itertools.zip_longest(_lines(stored), _lines(again)), start=1):
        if one != two:
            return f"{number}: stored {_short(one)}, made again {_short(two)}"
    raise AssertionError("the bytes differ and no line does")


def _lines(data: bytes) -> Iterator[bytes]:
    return iter(data.splitlines(keepends=True))


def _short(line: bytes | None) -> str:
    if line is None:
        return "nothing"
    text = repr(line.decode("utf-8", "replace"))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
