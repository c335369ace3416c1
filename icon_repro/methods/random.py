"""Random order: the control that every method has to beat.

In: candidates.  Out: scores.jsonl; the score is a uniform number in [0, 1) drawn from the seed in the order of ids.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icon_repro.config_methods import RandomConfig
from icon_repro.engine.runtime import Runtime
from icon_repro.records import Example, Score, read_rows, write_rows


def run(cfg: RandomConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl. Needs inputs["candidates"]."""
    ids = sorted(row.id for row in read_rows(inputs["candidates"] / "rows.jsonl", Example))
    numbers = np.random.default_rng(cfg.seed).random(len(ids))
    rows = write_rows(out / "scores.jsonl", (Score(i, float(x)) for i, x in zip(ids, numbers, strict=True)))
    return {"rows": rows, "tokens": 0, "flops": 0}
