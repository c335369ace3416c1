"""Store the numbers that a step computes for its share of the rows, and read all shares together.

In: numbers a row, and why some rows have none.  Out: <name>.npy, one entry a row, NaN where it has none; ids.json with
the ids of the rows and the reasons.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.cost import forward_flops
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_json, write_json


class ShardError(ValueError):
    """A shard's numbers don't fit its rows, or a row is in two shards."""


@dataclass(frozen=True)
class Shard:
    """What one step has stored."""

    ids: list[str]
    numbers: NDArray[Any]  # (rows, ...)
    reasons: dict[str, str]  # id -> why it has no numbers


def write_shard(
    out: Path,
    numbers: Mapping[str, NDArray[Any]],
    rows: Sequence[Example],
    reasons: Mapping[str, str],
    tokens: int,
    parameters: int,
) -> dict[str, Any]:
    """Store ``numbers`` by name, (rows, ...) each, and the reasons of rows that have none.

    Args:
        tokens: that went through a model of so many ``parameters``.

    Returns:
        The step's metrics: rows, rows that failed, tokens, floating point operations.
    """
    for name, values in numbers.items():
        np.save(out / f"{name}.npy", values, allow_pickle=False)
    write_json(out / "ids.json", {"rows": [row.id for row in rows], "reasons": reasons})
    return {"rows": len(rows), "failed": len(reasons), "tokens": tokens, "flops": forward_flops(parameters, tokens)}


def read_shard(folder: Path, name: str) -> Shard:
    """The numbers ``name`` of a step.

    Raises:
        ShardError: they are of another number of rows than its ids.
    """
    described = read_json(folder / "ids.json")
    numbers = np.load(folder / f"{name}.npy", allow_pickle=False)
    if len(numbers) != len(described["rows"]):
        raise ShardError(f"{folder}: {len(numbers)} {name} of {len(described['rows'])} rows; delete it and run again.")
    return Shard(described["rows"], numbers, described["reasons"])


def read_shards(inputs: Mapping[str, Path], prefix: str, name: str) -> Iterator[Shard]:
    """The numbers ``name`` of all inputs ``<prefix>-NNNN``, in the order of the inputs' names.

    Raises:
        ShardError: see ``read_shard``; or a row is in two shards.
    """
    ids = set[str]()
    for label in sorted(label for label in inputs if label.startswith(f"{prefix}-")):
        shard = read_shard(inputs[label], name)
        if twice := ids.intersection(shard.ids):
            raise ShardError(f"{len(twice)} rows are in two shards; delete the shards and run again.")
        ids.update(shard.ids)
        yield shard


def finite_numbers(
    inputs: Mapping[str, Path], prefix: str, name: str, otherwise: str
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """By id the numbers of the rows that have finite ones; the reasons of all others, ``otherwise`` if not finite.

    Raises:
        ShardError: see ``read_shards``.
    """
    numbers, reasons = dict[str, NDArray[Any]](), dict[str, str]()
    for shard in read_shards(inputs, prefix, name):
        reasons |= shard.reasons
        for identifier, values in zip(shard.ids, shard.numbers, strict=True):
            if identifier in shard.reasons:
                continue
            if np.isfinite(values).all():
                numbers[identifier] = values
            else:
                reasons[identifier] = otherwise
    return numbers, reasons
