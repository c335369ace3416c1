"""Write what a method gives: scores, and why other rows have none; nothing gets a default score."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.data.rows import Score
from icon_repro.engine.records import write_rows


class NoScoreError(ValueError):
    """No row has a score."""


def write_scores(
    out: Path, scores: Sequence[Score], reasons: Mapping[str, str], details: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl {id, reason}; returns how many rows have a score, and failures by reason.

    Args:
        details: of some ids; follow the reason in failures.jsonl and aren't counted apart.

    Raises:
        NoScoreError: no row has a score; says why.
    """
    counts: dict[str, int] = {}
    for reason in reasons.values():
        counts[reason] = counts.get(reason, 0) + 1
    if not scores:
        text = ", ".join(f"{reason}: {count}" for reason, count in counts.items()) or "there are no rows"
        raise NoScoreError(f"no row has a score ({text}).")
    write_rows(out / "scores.jsonl", scores)
    texts = {i: f"{reason}: {details[i]}" if details and i in details else reason for i, reason in reasons.items()}
    write_rows(out / "failures.jsonl", ({"id": i, "reason": texts[i]} for i in sorted(texts)))
    return {"rows": len(scores), "failed": counts}
