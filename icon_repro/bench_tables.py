"""The tables of timings, from what is stored of them: no model is needed.

In: lines of metrics.jsonl of ``icon_repro.bench_methods``, bench.json of ``icon_repro.bench``.  Out: Markdown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from icon_repro.report.tables import markdown

TIMED = {"what", "model", "rows", "tokens", "loop_s", "ours_s", "ratio", "difference"}  # fields of a line


def of_timings(timings: Sequence[Mapping[str, Any]]) -> str:
    """The methods' costs next to obvious loops, a line a timing."""
    header = ["what", "model", "rows", "tokens", "loop, s", "ours, s", "ratio", "largest difference"]
    lines = []
    for one in timings:
        seconds = [f"{one['loop_s']:.2f}", f"{one['ours_s']:.2f}", f"{one['ratio']:.2f}"]
        lines.append(
            [one["what"], one["model"], str(one["rows"]), str(one["tokens"]), *seconds, f"{one['difference']:.1e}"]
        )
    return markdown(header, lines)


def of_levels(result: Mapping[str, Any]) -> str:
    """The levels of scoring, a line each; a level without a speed-up is what the others are compared with."""
    header = ["level", "what", "pairs timed", "tokens timed", "seconds", "hours of the whole job", "speed-up"]
    lines = []
    for level in result["levels"]:
        ratio = result.get(level["name"], 1.0)
        line = [level["name"], level["what"], str(level["pairs"]), str(level["tokens"]), f"{level['sample_s']:.1f}"]
        lines.append([*line, f"{level['job_s'] / 3600:.1f}", f"{ratio:.2f}"])
    return markdown(header, lines)
