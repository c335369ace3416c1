"""What adaptive scoring would have saved on a pilot's matrix, and how its bound holds.

In: contributions of a full matrix.  Out: a finding as those of ``icon_repro.pilot_findings``.
"""

from dataclasses import replace
from statistics import fmean

import numpy as np

from icon_repro.config_icon import AdaptiveConfig
from icon_repro.methods.icon.adaptive import replay
from icon_repro.pilot_findings import SHARE, TOP, Finding, Matrix, Tasks
from icon_repro.records import selected_count
from icon_repro.report.figures import Line, Panel, Series

ERRORS = (0.01, 0.02, 0.05, 0.1, 0.2)
REPLAYS = 40  # random orders of the rows, for each error
_ROUNDED = 1e-9


def find_adaptive(tasks: Tasks, generator: np.random.Generator) -> Finding:
    """Share of the pairs scored against agreement with full scoring, next to fewer rows for all candidates."""
    task = tasks.bank
    count, rows = task.shape
    cut = selected_count(SHARE, count)
    right = set(np.argsort(-task.mean(axis=1), kind="stable")[:cut].tolist())
    shares, overlaps, bounds, expected, held = [], [], [], [], []
    for error in ERRORS:
        cfg = replace(AdaptiveConfig(), error=error)
        found = [replay(task, [SHARE], cfg, generator) for _ in range(REPLAYS)]
        shares.append(fmean(o.pairs for o in found) / task.size)
        overlaps.append(fmean(o.overlap[SHARE] for o in found))
        bounds.append(1 - fmean(o.disagreement[SHARE]["bound"] for o in found))
        expected.append(1 - fmean(o.disagreement[SHARE]["expected"] for o in found))
        held.append(fmean(1 - o.overlap[SHARE] <= o.disagreement[SHARE]["bound"] + _ROUNDED for o in found))
    fewer = [round(share * rows) for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    uniform = [_uniform(task, k, right, generator) for k in fewer]
    default = ERRORS.index(AdaptiveConfig().error)
    series: list[Series] = [
        Line("adaptive", shares, overlaps),
        Line("adaptive: expected by itself", shares, expected, marked=False),
        Line("adaptive: its 95 % bound", shares, bounds, marked=False),
        Line("fewer rows for all", [k / rows for k in fewer], uniform),
    ]
    return Finding(
        name="adaptive",
        question=f"Does adaptive scoring find the same {TOP} with fewer pairs?",
        title=f"Agreement of the {TOP} with full scoring by share of the pairs scored",
        numbers={
            "replays": REPLAYS,
            "share_of_pairs": shares[default],
            "overlap": overlaps[default],
            "overlap_expected": expected[default],
            "overlap_bound": bounds[default],
            "bound_held": held[default],
            "bound_held_least": min(held),
        },
        text=f"With the default settings {shares[default]:.0%} of the pairs give {overlaps[default]:.1%} of the {cut} "
        f"that full scoring selects (mean of {REPLAYS} orders of the rows); the method itself expects "
        f"{expected[default]:.1%} and bounds it by {bounds[default]:.1%}, which held in {held[default]:.0%} of the "
        f"replays (least, over {len(ERRORS)} settings: {min(held):.0%}). As many pairs on fewer rows for all give "
        f"{np.interp(shares[default], [k / rows for k in fewer], uniform):.1%}.",
        panels=[Panel("share of the pairs scored", f"share of the {TOP} in both", series, y_range=(0.5, 1.02))],
    )


def _uniform(task: Matrix, rows: int, right: set[int], generator: np.random.Generator) -> float:
    """Mean overlap with ``right`` of the selection by ``rows`` random rows for all candidates."""
    found = []
    for _ in range(REPLAYS):
        mean = task[:, generator.permutation(task.shape[1])[:rows]].mean(axis=1)
        found.append(len(right & set(np.argsort(-mean, kind="stable")[: len(right)].tolist())) / len(right))
    return fmean(found)
