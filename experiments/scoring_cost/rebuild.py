"""Makes results/scoring_cost/table.md again from bench.json: no model is needed. ``action=verify`` uses it.

In: what ``bench`` measured.  Out: Markdown.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icon_repro.engine.records import read_json
from icon_repro.report.rebuild import Rebuild
from icon_repro.report.tables import markdown


def rebuild(folder: Path, data: Path) -> Rebuild | str:
    """How the files in ``folder`` can be made again; why not, if they can't."""
    if not (folder / "bench.json").is_file():
        return "has no bench.json to make its table of"

    def make(made: Path) -> None:
        (made / "table.md").write_text(table(read_json(folder / "bench.json")), encoding="utf-8")

    return Rebuild(make, others={"*.json": "were measured"})


def table(result: Mapping[str, Any]) -> str:
    """The levels of scoring, a line each; a level without a speed-up is what the others are compared with."""
    header = ["level", "what", "pairs timed", "tokens timed", "seconds", "hours of the whole job", "speed-up"]
    lines = []
    for level in result["levels"]:
        ratio = result.get(level["name"], 1.0)
        line = [level["name"], level["what"], str(level["pairs"]), str(level["tokens"]), f"{level['sample_s']:.1f}"]
        lines.append([*line, f"{level['job_s'] / 3600:.1f}", f"{ratio:.2f}"])
    return markdown(header, lines)
