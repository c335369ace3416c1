"""What the pair matrices of a pilot say about ICon's score: how many rows it needs, and whether adaptive scoring holds.

In: the matrices that ``pilot.load`` reads.  Out: for each question numbers, a sentence made from them, a figure.
Source: the score and its random context: arXiv 2505.05327, section 3; what each number is: the finding's docstring.
Known gap: the standard errors treat assessment rows as drawn at random, not by group.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.pilot.pilot_statistics import (
    bootstrap,
    correlation_for,
    expected_overlap,
    spearman_brown,
    split_half,
)
from icon_repro.data.rows import selected_count
from icon_repro.methods.agreement import agreement, columns_for, components, overlap, reliability
from icon_repro.methods.icon.adaptive import replay
from icon_repro.methods.icon.control import bank_control
from icon_repro.methods.icon.matrices import task_scores
from icon_repro.methods.icon.options import AdaptiveConfig, IconConfig
from icon_repro.methods.select import top_fraction
from icon_repro.report.figures.series import Curve, Panel, Scatter, Series

Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]
Numbers = dict[str, Any]  # float, int, or None where something can't be known
SEED = 0
SHARE = 0.15  # the paper's largest selection
TOP = f"top {100 * SHARE:.0f} %"
TARGETS = (0.8, 0.9, 0.95)  # reliabilities to plan rows for
SUBSETS = 200  # random sets of rows for each number of rows
TAIL = 0.05  # of the rows: those that count as the tail; of the cells: those that are clipped
BFLOAT16 = "Is bfloat16 exact enough?"
ERRORS = (0.01, 0.02, 0.05, 0.1, 0.2)
REPLAYS = 40  # random orders of the rows, for each error
_ROUNDED = 1e-9


@dataclass(frozen=True)
class Bfloat16:
    """The block of pairs that was scored in bfloat16 too."""

    candidates: Indices
    rows: Indices
    baseline: Matrix  # (rows,)
    candidate: Matrix  # (candidates, rows)


@dataclass(frozen=True)
class Pilot:
    """A pilot's stored matrices; NLL in nats per scored token."""

    candidates: list[str]  # c ids
    assessment: list[str]  # n ids
    response_chars: Matrix  # (c,)
    context_tokens: Matrix  # (c,)
    control_candidates: Indices  # (m,)
    baseline: Matrix  # (n,)
    candidate: Matrix  # (c, n)
    control: Matrix  # (m, n)
    bank: Matrix  # (bins, draws, n)
    bank_lengths: Matrix  # (bins,) tokens, ascending
    bfloat16: Bfloat16 | None


@dataclass(frozen=True)
class Tasks:
    """Contributions of each candidate to each row under each control."""

    bank: Matrix  # (c, n): the score in question
    none: Matrix  # (c, n): the perplexity without context in the control's place
    own: Matrix  # (m, n): a random text of the candidate's own
    log: Matrix  # (c, n): NLL after the bank's control - NLL after the candidate


@dataclass(frozen=True)
class Finding:
    """One question's answer: numbers, the sentence made from them, and the figure."""

    name: str
    question: str
    title: str
    numbers: Numbers
    text: str
    panels: list[Panel]


def tasks_of(pilot: Pilot) -> Tasks:
    """Contributions under each control."""
    epsilon, m = IconConfig().epsilon, pilot.control_candidates
    control = bank_control(pilot.bank, pilot.bank_lengths, pilot.context_tokens)
    alone = np.broadcast_to(pilot.baseline, pilot.candidate.shape)
    return Tasks(
        bank=task_scores(pilot.candidate, control, pilot.baseline, epsilon),
        none=task_scores(pilot.candidate, alone, pilot.baseline, epsilon),
        own=task_scores(pilot.candidate[m], pilot.control, pilot.baseline, epsilon),
        log=control - pilot.candidate,
    )


def score(task: Matrix) -> Matrix:
    """The global score of each candidate."""
    return np.asarray(task.mean(axis=1))


def standard_error(task: Matrix, rows: int) -> float:
    """Of a mean over ``rows`` rows against other candidates' on the same rows: the rows' own means are taken out."""
    return math.sqrt(components(task)[1] / rows)


def top_ids(scores: Matrix, ids: Sequence[str]) -> list[str]:
    return top_fraction(dict(zip(ids, scores.tolist(), strict=True)), SHARE)


def _row_counts(rows: int) -> list[int]:
    """8, 16, 32, ... and half and all of the rows."""
    return sorted({*(2**k for k in range(3, 31) if 2**k < rows), rows // 2, rows})


def with_interval(
    name: str, statistic: Callable[..., float], samples: Sequence[NDArray[Any]], generator: np.random.Generator
) -> Numbers:
    """A statistic of the candidates under ``name``, and its 95 % interval under <name>_low and <name>_high."""
    low, high = bootstrap(statistic, samples, generator)
    return {name: statistic(*samples), f"{name}_low": float(low), f"{name}_high": float(high)}


def said(numbers: Numbers, name: str) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(numbers[key] for key in (name, f"{name}_low", f"{name}_high")))


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def find_reliability(tasks: Tasks, generator: np.random.Generator) -> Finding:
    """How well the score would come back with other rows."""
    task, rows = tasks.bank, tasks.bank.shape[1]
    counts = _row_counts(rows)
    halves = [k for k in counts if 2 * k <= rows]

    def curve(task: Matrix) -> Matrix:
        true, noise = components(task)
        return np.array([true / (true + noise / k) if true > 0 else 0.0 for k in counts])

    low, high = bootstrap(curve, [task], generator)
    whole = reliability(task)
    stepped = [spearman_brown(agreement(task, k // 2, generator, SUBSETS), k / (k // 2)) for k in counts]
    numbers: Numbers = {
        "rows": rows,
        "generalizability": whole,
        "generalizability_low": float(low[-1]),
        "generalizability_high": float(high[-1]),
        "split_half": split_half(task, generator, SUBSETS),
        **{f"rows_for_{target}": columns_for(task, target) for target in TARGETS},
    }
    word = "high" if whole >= 0.9 else "moderate" if whole >= 0.7 else "low"
    needed = ", ".join(f"{t} with {numbers[f'rows_for_{t}'] or 'no number of'} rows" for t in TARGETS)
    series: list[Series] = [
        Curve("Spearman-Brown from all rows, 95 %", counts, curve(task).tolist(), low, high, marked=False),
        Scatter("split half, stepped up", counts, stepped),
        Scatter("two disjoint sets, measured", halves, [agreement(task, k, generator, SUBSETS) for k in halves]),
    ]
    return Finding(
        name="reliability",
        question=f"Would {rows} other rows of the same kind give the same scores?",
        title="Reliability of the ICon score by number of assessment rows",
        numbers=numbers,
        text=f"Reliability is {word}: {said(numbers, 'generalizability')}; split halves give "
        f"{numbers['split_half']:.2f}. Expected: {needed}.",
        panels=[Panel("assessment rows", "reliability (0 to 1)", series, log_x=True, y_range=(0, 1.02))],
    )


def find_overlap(pilot: Pilot, tasks: Tasks, generator: np.random.Generator) -> Finding:
    """How much of the selection stays the same with fewer rows, and with other rows."""
    task, rows = tasks.bank, tasks.bank.shape[1]
    *counts, _ = _row_counts(rows)
    halves = [k for k in counts if 2 * k <= rows]
    everything = top_ids(score(task), pilot.candidates)
    same, rest, equal = (np.empty((len(counts), SUBSETS)) for _ in range(3))
    for place, k in enumerate(counts):
        for draw in range(SUBSETS):
            order = generator.permutation(rows)
            part, others, as_many = (
                top_ids(score(task[:, columns]), pilot.candidates)
                for columns in (order[:k], order[k:], order[k : 2 * k])
            )
            same[place, draw], rest[place, draw] = overlap(part, everything), overlap(part, others)
            equal[place, draw] = overlap(part, as_many)
    half = counts.index(rows // 2)
    # Fitted where it is measured best: the reliability of all candidates would flatter where the best lie close.
    top_reliability = max(0.0, correlation_for(equal[half].mean(), SHARE))
    model = [expected_overlap(spearman_brown(top_reliability, k / (rows // 2)), SHARE) for k in [*counts, rows]]
    series: list[Series] = [
        _band("k rows and all rows (which hold them)", counts, same),
        _band("k rows and all the other rows", counts, rest),
        Curve("k rows and k new rows, model", [*counts, rows], model, marked=False),
        Scatter("k rows and k other rows, measured", halves, equal.mean(axis=1)[: len(halves)].tolist()),
        Curve("chance", [counts[0], rows], [SHARE, SHARE], marked=False),
    ]
    return Finding(
        name="overlap",
        question=f"Would other rows select the same {TOP}?",
        title=f"Agreement of the {TOP} of the candidates by number of assessment rows",
        numbers={
            "selected": len(everything),
            "half_rows": rows // 2,
            "halves_overlap": float(equal[half].mean()),
            "halves_overlap_sd": float(equal[half].std()),
            "half_with_all_overlap": float(same[half].mean()),
            "chance": SHARE,
            "reliability_of_halves_at_the_top": top_reliability,
            "expected_overlap_with_as_many_new_rows": model[-1],
        },
        text=f"Two disjoint halves of {rows // 2} rows share {percent(equal[half].mean())} (sd over splits "
        f"{percent(equal[half].std())}) of the {len(everything)} that each selects; chance is {percent(SHARE)}. Half "
        f"of the rows share {percent(same[half].mean())} with all rows, which flatters. Expected with {rows} new "
        f"rows: {percent(model[-1])} (Spearman-Brown from the halves).",
        panels=[Panel("assessment rows, k", f"share of the {TOP} in both", series, log_x=True, y_range=(0, 1.02))],
    )


def _band(name: str, counts: Sequence[int], values: Matrix) -> Curve:
    """Mean over subsets +- standard deviation, within [0, 1]."""
    mean, spread = values.mean(axis=1), values.std(axis=1)
    low, high = np.clip(mean - spread, 0, 1), np.clip(mean + spread, 0, 1)
    return Curve(name, counts, mean.tolist(), low.tolist(), high.tolist())


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
        Curve("adaptive", shares, overlaps),
        Curve("adaptive: expected by itself", shares, expected, marked=False),
        Curve("adaptive: its 95 % bound", shares, bounds, marked=False),
        Curve("fewer rows for all", [k / rows for k in fewer], uniform),
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
