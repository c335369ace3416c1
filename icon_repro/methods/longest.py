"""Longest responses first: the control for length bias.

In: candidates.  Out: scores.jsonl; the score is the number of characters of the response.
Source: Zhao et al., arXiv 2402.04833 (long is more for alignment).
Differs: counts characters, not tokens, so that the order doesn't depend on a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import read_rows, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.base import Build, Method


@dataclass
class LongestConfig:
    """The longest responses first, in characters (long-is-more, arXiv 2402.04833, counts tokens)."""

    kind: str = "longest"


def plan(build: Build, name: str, options: LongestConfig) -> Step:
    """One step over all rows."""
    return build.step(run, name, options, {"candidates": build.universe})


def run(cfg: LongestConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl. Needs inputs["candidates"]."""
    candidates = read_rows(inputs["candidates"] / "rows.jsonl", Example)
    scores = (Score(row.id, float(len(row.response))) for row in sorted(candidates, key=lambda row: row.id))
    return {"rows": write_rows(out / "scores.jsonl", scores), "tokens": 0, "flops": 0}


METHOD = Method(LongestConfig, plan, meaning="characters of the response")
