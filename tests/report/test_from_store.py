"""Figures read what the store holds, also where the data had fewer rows than the plan expected."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from icon_repro.engine.records import write_json
from icon_repro.report.figures.from_store import _vectors
from icon_repro.report.figures.material import NotMade


def shard(folder: Path, rows: list[str], vectors: list[list[float]], reasons: dict[str, str]) -> Path:
    folder.mkdir()
    write_json(folder / "ids.json", {"rows": rows, "reasons": reasons})
    np.save(folder / "vectors.npy", np.array(vectors, np.float32) if rows else np.empty((0, 0), np.float32))
    return folder


def test_shards_beyond_the_pool_are_empty_and_are_left_out(tmp_path: Path) -> None:
    full = shard(tmp_path / "0", ["a", "b", "c"], [[1, 0], [0, 1], [0, 0]], {"c": "no token"})
    step = SimpleNamespace(inputs={"shard-0000": full, "shard-0001": shard(tmp_path / "1", [], [], {})})
    ids, vectors = _vectors(step, SimpleNamespace(path=lambda folder: folder))  # type: ignore[arg-type]
    assert ids == ["a", "b"]
    np.testing.assert_array_equal(vectors, [[1, 0], [0, 1]])
    del step.inputs["shard-0000"]
    with pytest.raises(NotMade):
        _vectors(step, SimpleNamespace(path=lambda folder: folder))  # type: ignore[arg-type]
