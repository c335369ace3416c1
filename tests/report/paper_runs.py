"""Made-up rows of an experiment with the paper's twelve benchmarks, and published tables beside them, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_up_runs import result, row, solved, task

from icon_repro.report.paper.published import BENCHMARKS, COLUMNS, GROUPS, SETS
from icon_repro.report.rows import ResultRow

ITEMS = 60


def cells(share: float, seed: int = 0, names: Sequence[str] = BENCHMARKS) -> dict[str, Any]:
    """A result of each benchmark; the same items for each call, more of them right with a higher share."""
    return {
        name: {
            **result(solved(share, ITEMS, place), ids=name),
            "step": f"evaluate/{name}-{round(1000 * share)}-{seed:012x}",
        }
        for place, name in enumerate(names)
    }


def run(method: str, fraction: float | None, seed: int | None, share: float, **more: Any) -> ResultRow:
    """A run that solves ``share`` of the items of each benchmark."""
    names = more.pop("names", BENCHMARKS)
    groups = {name: group for group, own in GROUPS.items() for name in own}
    return row(
        method,
        fraction,
        seed,
        cells(share, seed or 0, names),
        tasks={name: task(groups[name]) for name in names},
        **{"model": "llama31_8b", "experiment": "toy", **more},
    )


def judged(letters: str, against: str, sets: Sequence[str] = SETS) -> dict[str, Any]:
    """The same verdicts in each set."""
    return {
        name: {
            "win": letters.count("w"),
            "tie": letters.count("t"),
            "lose": letters.count("l"),
            "failed": letters.count("f"),
            "judged": len(letters) - letters.count("f"),
            "prompts": len(letters),
            "length_controlled_score": 1.0,
            "position_consistency": 0.5,
            "first_preferred": None,
            "longer_wins": None,
            "length_winners": 120.6,
            "length_losers": 80.0,
            "against": against,
            "step": f"judge/{against}-{name}-000000000000",
            "outcomes": {"ids": name, "parts": [{"name": "", "weight": 1.0, "values": letters}]},
        }
        for name in sets
    }


def settings(name: str = "toy", published: str | None = "toy") -> dict[str, Any]:
    """A config as run.json holds it."""
    return {"name": name, "published": published, "model": {"name": "llama31_8b"}, "methods": {"icon": {"seed": 3}}}


def run_json(rows: Sequence[ResultRow], **config: Any) -> dict[str, Any]:
    """What a report writes beside ``rows``."""
    found = {step for row in rows for step in row.cell_steps}
    steps = found | {step for row in rows for step in (row.steps.select, row.steps.train) if step is not None}
    return {
        "format": 1,
        "config": settings(**config),
        "results": sorted(found),
        "steps": sorted(steps),
        "git": [{"commit": "c0ffee", "dirty": False}],
        "packages": {"python": ["3.11.9"], "torch": ["2.13.0"]},
        "sources": {"prepare/pool-toy": {"source": "ab" * 32}},
    }


def published_csv(folder: Path, table: str, lines: Sequence[tuple[str, float, str, float]]) -> Path:
    """A published table: method, fraction, version, and a number that stands in all of the columns."""
    folder.mkdir(parents=True, exist_ok=True)
    method, columns = COLUMNS[table]
    path = folder / f"paper_{table}.csv"
    text = [",".join(["source", "version", "model", method, "fraction", *columns])]
    for name, fraction, version, number in lines:
        ahead = [f"{table[:-1]} {table[-1]}", version, "llama31_8b", name, str(fraction)]
        text.append(",".join([*ahead, *[str(number)] * len(columns)]))
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path
