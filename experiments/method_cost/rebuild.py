"""Makes results/method_cost/table.md again from metrics.jsonl: no model is needed. ``action=verify`` uses it.

In: what ``bench_methods`` measured.  Out: Markdown.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icon_repro.engine.records import read_lines
from icon_repro.report.rebuild import Rebuild
from icon_repro.report.tables import markdown


def rebuild(folder: Path, data: Path) -> Rebuild | str:
    """How the files in ``folder`` can be made again; why not, if they can't."""
    if not (folder / "metrics.jsonl").is_file():
        return "has no metrics.jsonl to make its table of"

    def make(made: Path) -> None:
        lines = [line for _, line in read_lines(folder / "metrics.jsonl")]
        (made / "table.md").write_text(table(lines), encoding="utf-8")

    return Rebuild(make, others={"metrics.jsonl": "was measured"})


def table(timings: Sequence[Mapping[str, Any]]) -> str:
    """The methods' costs next to obvious loops, a line a timing."""
    header = ["what", "model", "rows", "tokens", "loop, s", "ours, s", "ratio", "largest difference"]
    lines = []
    for one in timings:
        seconds = [f"{one['loop_s']:.2f}", f"{one['ours_s']:.2f}", f"{one['ratio']:.2f}"]
        lines.append(
            [one["what"], one["model"], str(one["rows"]), str(one["tokens"]), *seconds, f"{one['difference']:.1e}"]
        )
    return markdown(header, lines)
