"""What a rehearsal has to say at its end: what ran, what it can't show, what the real plan won't be able to say.

In: the plan of a rehearsal and its store, the tables that its report wrote.  Out: lines for people.
A rehearsal has the steps of the real plan, so that a cell or a claim which it can't fill stays empty there too.
Known gap: seconds and memory are those of stand-ins; their relation to the real ones isn't known.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icon_repro.config.load import Rehearse
from icon_repro.engine.artifact import ArtifactError, Step, Store
from icon_repro.engine.records import RecordError
from icon_repro.experiment import Experiment
from icon_repro.report.pace import spelled
from icon_repro.report.paper.claims import Checked, ClaimVerdict

DECIDES_NOTHING = "a rehearsal decides nothing; the real plan has the numbers for it"
_BLIND = {
    Rehearse.stand_ins: (
        "whether the real weights, data sets and endpoints can be had, and fit their steps",
        "memory and time at the real sizes, and what a GPU does",
        "lm-eval's own tasks (multiple choice stands in), files of ids and ratings",
        "any number: all scores come from random models",
    ),
    Rehearse.real: ("memory and time at the real sizes", "any number: samples are too small"),
}
_SHOWN = 12  # reasons


@dataclass
class _Kind:
    """Finished steps of one target."""

    steps: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    peak_mb: float = 0.0
    planned: float = 0.0  # tokens
    counted: float = 0.0


def undecided(checked: Sequence[Checked], config: Mapping[str, Any]) -> list[Checked]:
    """``checked`` as it is, or without any verdict if the ``config`` of run.json is a rehearsal's."""
    if config.get("rehearse", "none") == "none":
        return list(checked)
    return [
        one if one.verdict is ClaimVerdict.not_run else replace(one, verdict=ClaimVerdict.not_run, note=DECIDES_NOTHING)
        for one in checked
    ]


def closing(experiment: Experiment, store: Store) -> list[str]:
    """The lines that end a rehearsal."""
    config = experiment.config
    kinds, lost = _kinds(experiment.steps, store)
    done = sum(kind.steps for kind in kinds.values())
    seconds = sum(kind.seconds for kind in kinds.values())
    ran = f"REHEARSAL of {config.name}: {done} of {len(experiment.steps)} steps, {spelled(seconds)} of one process"
    lines = ["", ran + (f"; {lost} records can't be read" if lost else "")]
    lines.append(_line("kind of step", "steps", "s", "slowest", "peak MB", "tokens planned", "counted"))
    for name, kind in sorted(kinds.items(), key=lambda pair: -pair[1].seconds):
        times = (f"{kind.seconds:.1f}", f"{kind.slowest:.1f}", f"{kind.peak_mb:.0f}")
        lines.append(_line(name, str(kind.steps), *times, f"{kind.planned:,.0f}", f"{kind.counted:,.0f}"))
    lines += ["A rehearsal can't show:", *(f"  - {text}" for text in _BLIND[config.rehearse])]
    reasons = unsaid(Path(config.paths.results) / config.name)
    none = "No claim, and no cell of a table beside the paper's, stays empty for want of a step."
    lines.append("The real plan won't be able to say:" if reasons else none)
    return [*lines, *(f"  - {text}" for text in reasons)]


def _line(name: str, *cells: str) -> str:
    widths = (6, 9, 9, 9, 16, 14)
    return f"  {name:<32}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _kinds(steps: Iterable[Step], store: Store) -> tuple[dict[str, _Kind], int]:
    """Finished steps by target, and how many records can't be read."""
    kinds: dict[str, _Kind] = {}
    lost = 0
    for step in steps:
        if not store.complete(step):
            continue
        try:
            record = store.record(step)
        except (ArtifactError, RecordError, OSError):
            lost += 1
            continue
        kind = kinds.setdefault(step.target.removeprefix("icon_repro."), _Kind())
        kind.steps += 1
        took = float(record.get("wall_s", 0.0))
        kind.seconds, kind.slowest = kind.seconds + took, max(kind.slowest, took)
        kind.peak_mb = max(kind.peak_mb, float(record.get("peak_rss_mb") or 0.0))
        kind.planned += step.cost.tokens
        kind.counted += float(record.get("metrics", {}).get("tokens") or 0.0)
    return kinds, lost


def unsaid(results: Path) -> list[str]:
    """Empty cells beside the paper's and claims without a verdict, by reason, of a rehearsal's results folder."""
    folder = results if (results / "run.json").is_file() else results / "incomplete"
    cells, claims = Counter[str](), dict[str, dict[str, None]]()
    for path in sorted(folder.glob("paper_table*.csv")):
        cells.update(row["missing"] for row in _read(path) if row["missing"])
    if (path := folder / "claims.csv").is_file():
        for row in _read(path):
            if row["note"] != DECIDES_NOTHING:
                claims.setdefault(row["note"], {})[row["claim"]] = None
    lines = [f"{count} cells beside the paper's: {why}" for why, count in cells.most_common(_SHOWN)]
    if len(cells) > _SHOWN:
        lines.append(f"{sum(cells.values())} empty cells in all, of {len(cells)} reasons; see paper_table*.md")
    return lines + [f"claims {', '.join(names)}: {why}" for why, names in claims.items()]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
