"""Select the best fraction by score.

In: scores.jsonl.  Out: ids.json, best first.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.config_methods import SelectConfig
from icon_repro.engine.runtime import Runtime
from icon_repro.records import Example, Score, best_first, read_rows, selected_count, write_json


class SelectionError(ValueError):
    """The scores can't yield the requested subset."""


def top_fraction(scores: Mapping[str, float], fraction: float, universe: int | None = None) -> list[str]:
    """The ``round(fraction * universe)`` ids (at least one) with the highest scores; ties go to the smaller id.

    Args:
        universe: rows that all methods rank, scored or not; None: as many as have a score.

    Returns:
        All scored ids if fewer have a score than are asked for.

    Raises:
        SelectionError: fraction out of (0, 1], no scores, or a score that isn't finite.
    """
    if not 0 < fraction <= 1:
        raise SelectionError(f"fraction={fraction}: must be in (0, 1].")
    if not scores:
        raise SelectionError("no scores: there is nothing to select from.")
    if bad := sorted(i for i, score in scores.items() if not math.isfinite(score)):
        raise SelectionError(
            f"{len(bad)} of {len(scores)} scores aren't finite (first: id {bad[0]!r}); an example without a scored "
            "answer token gives NaN. Drop it in the prepare stage."
        )
    return best_first(scores)[: selected_count(fraction, len(scores) if universe is None else universe)]


def run(cfg: SelectConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write ids.json. Needs inputs["scores"] and inputs["universe"], the rows that all methods rank."""
    rows = read_rows(inputs["scores"] / "scores.jsonl", Score)
    scores = {row.id: row.score for row in rows}
    if len(scores) < len(rows):
        raise SelectionError(f"{len(rows) - len(scores)} ids have more than one score.")
    universe = {row.id for row in read_rows(inputs["universe"] / "rows.jsonl", Example)}
    if unknown := sorted(scores.keys() - universe):
        raise SelectionError(f"{len(unknown)} scored ids aren't among the rows to select from (first: {unknown[0]!r}).")
    ids = top_fraction(scores, cfg.fraction, len(universe))
    wanted = selected_count(cfg.fraction, len(universe))
    write_json(out / "ids.json", ids)
    return {"rows": len(universe), "scored": len(scores), "selected": len(ids), "short_by": wanted - len(ids)}
