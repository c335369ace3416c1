"""Read and check an experiment's published numbers: ``experiments/<name>/paper_table1.csv`` to ``paper_table4.csv``.

In: csv files with the columns that ``COLUMNS`` names.  Out: a ``PublishedLine`` for each of their lines, by table.
Source: tables 1 to 4 of arXiv 2505.05327; ``version`` is v1, or aaai for lines that only the AAAI-26 version has. The
numbers of ICon are the same in both.
Known gap: the pages aren't known to this module; figures' files (paper_figure*.csv) are read where they are drawn.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icon_repro.engine.schema import nearest

# of the paper, in the order of its table 1, with their groups
GROUPS: dict[str, tuple[str, ...]] = {
    "IF": ("ifeval", "alpaca_eval"),
    "KN": ("glue", "gpqa", "mmlu", "truthfulqa"),
    "RS": ("arc", "bbh", "hellaswag", "logiqa", "musr", "winogrande"),
}
BENCHMARKS = tuple(name for names in GROUPS.values() for name in names)
SETS = ("vicuna", "wizardlm", "lima", "self_instruct", "koala", "overall")
METHODS = {
    "full": "Full data",
    "random": "Random",
    "ppl_low": "Low PPL",
    "ppl_top": "Top PPL",
    "alpagasus": "AlpaGasus",
    "deita": "DEITA",
    "superfiltering": "Superfiltering",
    "nuggets": "Nuggets",
    "less": "LESS",
    "armorm": "ArmoRM",
    "selectit": "SelectIT",
    "icon": "ICon",
}
VERSIONS = {"v1": "arXiv v1", "aaai": "AAAI-26"}
_MEANS = ("if_avg", "kn_avg", "rs_avg", "avg")
# table -> name of the column with a method, and the columns with numbers
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "table1": ("method", (*BENCHMARKS, "avg", "flops_e12")),
    "table2": ("method", _MEANS),
    "table3": ("opponent", SETS),
    "table4": ("method", _MEANS),
}
_TEXTS = ("source", "version", "model")


class PublishedError(ValueError):
    """Published numbers that can't stand beside ours; the message names file, line and column."""


@dataclass(frozen=True)
class PublishedLine:
    """A line of a published table. In table 3 ``method`` is the opponent, and the numbers are ICon's against it."""

    table: str
    source: str
    version: str
    model: str
    method: str
    fraction: float
    values: Mapping[str, float]  # by column; percentages, winning scores, or 1e12 operations as printed


def published_folder(settings: Mapping[str, Any], experiments: Path) -> Path | None:
    """The folder with published numbers and claims that a config (as run.json holds it) names; None if it names none.

    Raises:
        PublishedError: it isn't there, or holds neither.
    """
    if settings.get("published") is None:  # absent: made before the setting was
        return None
    name = str(settings["published"])
    folder = experiments / name
    if not any(folder.glob("paper_table*.csv")) and not (folder / "claims.yaml").is_file():
        raise PublishedError(
            f"published={name}: {folder} holds neither paper_table*.csv nor claims.yaml. Start from the repository's "
            "folder, set paths.experiments=..., or published=null for tables of your own numbers alone."
        )
    return folder


def read_published(folder: Path) -> dict[str, list[PublishedLine]]:
    """All tables in ``folder`` by name, in the order table1 to table4; empty if there are none.

    Raises:
        PublishedError: see the module; also a file ``paper_table*.csv`` of another table.
    """
    tables: dict[str, list[PublishedLine]] = {}
    for path in sorted(folder.glob("paper_table*.csv")):
        table = path.stem.removeprefix("paper_")
        if table not in COLUMNS:
            raise PublishedError(f"{path}: is no table of the paper.{nearest(table, COLUMNS)}")
        tables[table] = _read(path, table)
    return tables


def _read(path: Path, table: str) -> list[PublishedLine]:
    method_column, numbers = COLUMNS[table]
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        needed = [*_TEXTS, method_column, "fraction", *numbers]
        header = list(reader.fieldnames or [])
        for name in header:
            if name not in needed:
                raise PublishedError(f"{path}: column {name!r}: unknown benchmark or column.{nearest(name, needed)}")
        if missing := [name for name in needed if name not in header]:
            raise PublishedError(f"{path}: columns are missing: {', '.join(missing)}.")
        if len(set(header)) < len(header):
            raise PublishedError(f"{path}: a column is given twice: {', '.join(header)}.")
        lines = [_line(path, number, table, row) for number, row in enumerate(reader, start=2)]
    seen: set[tuple[str, str, float, str]] = set()
    for number, line in enumerate(lines, start=2):
        key = (line.model, line.method, line.fraction, line.version)
        if key in seen:
            raise PublishedError(f"{path}:{number}: {line.method} at {line.fraction:g} is given twice. Keep one line.")
        seen.add(key)
    return lines


def _line(path: Path, number: int, table: str, row: Mapping[str, str | None]) -> PublishedLine:
    method_column, numbers = COLUMNS[table]
    where = f"{path}:{number}"
    if None in row or None in row.values():
        raise PublishedError(f"{where}: has another number of cells than the header.")
    texts = {key: str(value).strip() for key, value in row.items()}
    method = texts[method_column]
    if method not in METHODS:
        raise PublishedError(f"{where}: {method_column} {method!r}: unknown method.{nearest(method, METHODS)}")
    if texts["version"] not in VERSIONS:
        raise PublishedError(f"{where}: version {texts['version']!r}: unknown.{nearest(texts['version'], VERSIONS)}")
    values = {name: _number(f"{where}: {name}", texts[name]) for name in ("fraction", *numbers)}
    fraction = values.pop("fraction")
    if not 0 < fraction <= 1:
        raise PublishedError(f"{where}: fraction {fraction:g}: must be above 0 and at most 1.")
    return PublishedLine(table, texts["source"], texts["version"], texts["model"], method, fraction, values)


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise PublishedError(f"{where}={text!r}: must be a number.") from None
    if not math.isfinite(value):
        raise PublishedError(f"{where}={text!r}: must be finite.")
    return value


def benchmarks_of(column: str) -> Sequence[str]:
    """The paper's benchmarks that a column is the mean of; none for FLOPs and sets of prompts."""
    if column in BENCHMARKS:
        return (column,)
    if column == "avg":
        return BENCHMARKS
    return GROUPS.get(column.removesuffix("_avg").upper(), ())
