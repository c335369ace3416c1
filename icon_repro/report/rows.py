"""Read stored metrics into typed rows: one for each trained model, with each benchmark, comparison, cost and step.

In: the lines of metrics.jsonl, or what ``report.collect`` reads of stored steps.  Out: ``ResultRow``, and back again.
Every table, figure and check of this room reads results through these types. A missing key, an unknown key or a value
of another type is refused with the line of the file and the key. Of a benchmark or a comparison, what its step recorded
beyond the declared fields is kept as it is, under ``more``.
Sizes and groups of items are the same for every run. The file holds them once: in the first row that has a benchmark;
other rows hold ``SAME`` in their place, which ``read_result_rows`` fills in.
Known gap: none.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from icon_repro.engine.records import RecordError, read_lines, write_rows
from icon_repro.engine.schema import nearest

FILE = "metrics.jsonl"
SAME = "as in the first row that has them"
_SHARED = ("sizes", "groups")
T = TypeVar("T")


class ResultRowError(RecordError):
    """A stored row of results that doesn't have the fields of ``ResultRow``."""


@dataclass(frozen=True)
class Part:
    """Outcomes of one set of items: a benchmark, a subtask of one, or a set of prompts.

    A part has ``values``; one whose metric is no mean over items (F1, MCC) has ``value`` and ``stderr`` in their place.
    """

    name: str
    weight: float  # of the part's mean in the mean of all parts
    values: str | Sequence[float] | None = None  # by item: numbers, or a letter for each (0, 1; of a judge w, t, l, f)
    value: float | None = None
    stderr: float | None = None
    sizes: Sequence[float] | None = None  # by item: what it weighs, e.g. its tokens; None: each the same
    groups: Sequence[str] | None = None  # by item: items of one group are drawn together
    bounds: Sequence[float] | None = None  # the lowest and the highest mean that can be


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of single items, part by part."""

    ids: str  # hash of which items they are, in their order
    parts: Sequence[Part]


@dataclass(frozen=True)
class BenchmarkResult:
    """What one run got on one benchmark."""

    metric: str
    value: float  # in the metric's unit: a share of 1, or nats
    items: int
    version: int | float | str | Mapping[str, Any]  # of the task; of a group of tasks, of each
    step: str  # folder of the step that made it
    outcomes: Outcomes
    weighting: str | None = None  # of held-out rows: by tokens or by rows
    scored_tokens: int | None = None
    response_tokens: Mapping[str, int] | None = None  # which rows are in it, by their length
    dropped: Mapping[str, int] | None = None  # reason -> rows left out
    more: Mapping[str, Any] = field(default_factory=dict)  # what else its step recorded


@dataclass(frozen=True)
class JudgedResult:
    """What a judge said of one run's answers to a set of prompts; counts of prompts."""

    against: str  # whose answers they were compared with
    prompts: int
    judged: int  # prompts with a readable verdict
    win: int
    tie: int
    lose: int
    failed: int
    length_controlled_score: float | None  # 0 to 2, 1 is even
    position_consistency: float | None  # shares of 1
    first_preferred: float | None
    longer_wins: float | None
    length_winners: float | None  # characters
    length_losers: float | None
    step: str
    outcomes: Outcomes
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkFacts:
    """What is known of a benchmark without a result."""

    group: str | None
    chance: float | None  # value of a guess
    higher_is_better: bool
    bounds: Sequence[float] | None = None


@dataclass(frozen=True)
class Spent:
    """Tokens and operations of finished steps."""

    tokens: float
    flops: float


@dataclass(frozen=True)
class SharedText:
    """How many items of a benchmark share text with the rows that a model was tuned on."""

    items: int
    too_short: int  # of which it can't be told
    shared: int


@dataclass(frozen=True)
class RowSteps:
    """Folders of the steps that made a model; None where there is no such step."""

    select: str | None
    train: str | None


@dataclass(frozen=True)
class ResultRow:
    """All results of one trained model, or of the model as it is (method ``base``)."""

    experiment: str
    model: str
    method: str
    fraction: float | None  # of the rows that were selected; None for base
    seed: int | None  # of training
    selection_seed: int | None
    tasks: Mapping[str, BenchmarkFacts]  # by benchmark, of those without a result too
    benchmarks: Mapping[str, BenchmarkResult]
    missing: Mapping[str, str]  # benchmark -> why it has no result
    judged: Mapping[str, JudgedResult]  # by set of prompts
    unjudged: Mapping[str, str]  # set of prompts -> why there is no comparison
    selected: int | None  # rows
    trained: int | None  # rows tuned on
    selection: Spent | None  # None: not finished
    tuning: Spent | None
    steps: RowSteps
    shared_text: Mapping[str, SharedText | None] | None  # by benchmark; None: not compared
    pool: int | None = None  # seed of the pool that was selected from, where there are several
    # by benchmark, of the rows that decide the selection; None: none do, or nothing was compared
    shared_selecting: Mapping[str, SharedText | None] | None = None
    matched_to: str | None = None  # of a random control, the method whose lengths of responses it has

    @property
    def cell_steps(self) -> list[str]:
        """Folders of the steps that made the row's cells."""
        steps = [cell.step for cell in self.benchmarks.values()]
        return [*steps, *(cell.step for cell in self.judged.values())]


_ORDER = ("experiment", "model", "method", "fraction", "seed", "selection_seed", "pool", "matched_to")  # first keys


def row_from(stored: Mapping[str, Any], where: str = "a row") -> ResultRow:
    """A line of metrics.jsonl as a typed row; its sizes and groups have to be whole.

    Args:
        where: file and line, for messages.

    Raises:
        ResultRowError: a key is missing or unknown, or its value has another type.
    """
    return _read(ResultRow, stored, where, "")


def row_as_stored(row: ResultRow) -> dict[str, Any]:
    """``row`` as a line of metrics.jsonl holds it; fields that may be left out are, where they are None."""
    written: dict[str, Any] = _written(row)
    return {key: written[key] for key in (*_ORDER, *written) if key in written}


def read_result_rows(path: Path) -> list[ResultRow]:
    """Read a metrics.jsonl.

    Raises:
        RecordError: a line isn't a JSON object, or refers to a row that isn't there.
        ResultRowError: see ``row_from``.
    """
    numbered = list(read_lines(path))
    whole = _whole([stored for _, stored in numbered])
    return [row_from(stored, f"{path}:{number}") for (number, _), stored in zip(numbered, whole, strict=True)]


def write_result_rows(path: Path, rows: Sequence[ResultRow]) -> None:
    """Write a metrics.jsonl, one row a line."""
    first: dict[tuple[str, int, str], Any] = {}

    def short(place: tuple[str, int, str], value: Any) -> Any:
        if place in first:
            return SAME if first[place] == value else value
        first[place] = value
        return value

    write_rows(path, [_with_shared(row_as_stored(row), short) for row in rows])


def _whole(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stored rows with the sizes and groups that their file holds once."""
    first: dict[tuple[str, int, str], Any] = {}

    def full(place: tuple[str, int, str], value: Any) -> Any:
        if value != SAME:
            first.setdefault(place, value)
            return value
        if place not in first:
            name, _, key = place
            raise RecordError(f"{FILE}: no row has the {key} of {name!r} that others refer to. Restore the file.")
        return first[place]

    return [_with_shared(row, full) for row in rows]


def _with_shared(stored: dict[str, Any], change: Callable[[tuple[str, int, str], Any], Any]) -> dict[str, Any]:
    """``stored`` with ``change((benchmark, part, key), value)`` for each value that runs share."""
    if not isinstance(stored.get("benchmarks"), Mapping):
        return stored  # ``row_from`` says what is wrong
    benchmarks = {}
    for name, cell in stored["benchmarks"].items():
        outcomes = cell.get("outcomes") if isinstance(cell, Mapping) else None
        parts = outcomes.get("parts") if isinstance(outcomes, Mapping) else None
        if isinstance(parts, list) and any(key in part for part in parts for key in _SHARED):
            changed = [
                {key: change((name, index, key), value) if key in _SHARED else value for key, value in part.items()}
                for index, part in enumerate(parts)
            ]
            cell = {**cell, "outcomes": {**cell["outcomes"], "parts": changed}}
        benchmarks[name] = cell
    return {**stored, "benchmarks": benchmarks}


def _read(kind: type[T], stored: Any, where: str, key: str) -> T:
    """A dataclass of this module from a mapping."""
    if not isinstance(stored, Mapping):
        raise ResultRowError(f"{where}: {key or 'the row'} is {_short(stored)}, must be a mapping. {_REMEDY}")
    hints = typing.get_type_hints(kind)
    fields = {one.name: one for one in dataclasses.fields(typing.cast(Any, kind))}
    prefix = f"{key}." if key else ""
    unknown = [name for name in stored if name not in fields or name == "more"]
    values: dict[str, Any] = {}
    if "more" in fields:
        values["more"] = {name: stored[name] for name in unknown}
    elif unknown:
        raise ResultRowError(f"{where}: {prefix}{unknown[0]}: unknown key.{nearest(unknown[0], fields)} {_REMEDY}")
    for name, one in fields.items():
        if name == "more":
            continue
        if name in stored:
            values[name] = _value(hints[name], stored[name], where, prefix + name)
        elif one.default is dataclasses.MISSING:
            raise ResultRowError(f"{where}: {prefix}{name}: isn't there. {_REMEDY}")
    if kind is Part and values.get("values") is None and values.get("value") is None:
        raise ResultRowError(f"{where}: {key} has neither values (by item) nor a value. {_REMEDY}")
    return kind(**values)


_REMEDY = "The row is of another version of icon_repro, or was altered: make it again with action=report."


def _value(kind: Any, value: Any, where: str, key: str) -> Any:
    """``value`` if it is of ``kind``; mappings become the dataclasses that ``kind`` names."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for one in arguments:
            if one is not type(None) and _fits(one, value):
                return _value(one, value, where, key)
    elif _fits(kind, value):
        if dataclasses.is_dataclass(kind):
            return _read(typing.cast(type, kind), value, where, key)
        if origin is Mapping:
            return {name: _value(arguments[1], one, where, f"{key}.{name}") for name, one in value.items()}
        if origin is Sequence:
            return [_value(arguments[0], one, where, f"{key}[{place}]") for place, one in enumerate(value)]
        return value
    expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("collections.abc.", "")
    raise ResultRowError(f"{where}: {key} is {_short(value)}, must be {expected}. {_REMEDY}")


def _fits(kind: Any, value: Any) -> bool:
    """Whether ``value`` is of ``kind`` at its surface."""
    kind = typing.get_origin(kind) or kind
    if kind is Any:
        return True
    if dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping)
    if kind is Sequence:
        return isinstance(value, list)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _written(value: Any) -> Any:
    """A value of a row as JSON; a result's keys in order, then its step and outcomes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        stored: dict[str, Any] = {}
        for one in dataclasses.fields(value):
            content = getattr(value, one.name)
            if one.name != "more" and (one.default is dataclasses.MISSING or content is not None):
                stored[one.name] = _written(content)
        if isinstance(value, (BenchmarkResult, JudgedResult)):
            last = {key: stored.pop(key) for key in ("against", "step", "outcomes") if key in stored}
            return {**dict(sorted({**stored, **value.more}.items())), **last}
        return dict(sorted(stored.items())) if isinstance(value, Part) else stored
    if isinstance(value, Mapping):
        return {key: _written(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(one) for one in value]
    return value
