"""What the pair matrices of a pilot say about ICon's score: reliability, control, length, tails, bfloat16.

In: the matrices that ``icon_repro.pilot`` reads.  Out: for each question numbers, a sentence made from them, a figure.
Source: the score and its random context: arXiv 2505.05327, section 3; what each number is: the finding's docstring.
Known gap: the standard errors treat assessment rows as drawn at random, not by group.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.config_icon import IconConfig
from icon_repro.methods.icon.control import bank_control
from icon_repro.methods.icon.matrices import task_scores
from icon_repro.reliability import (
    agreement,
    auc,
    bootstrap,
    columns_for,
    components,
    correlation_for,
    expected_overlap,
    overlap,
    reliability,
    spearman,
    spearman_brown,
    split_half,
)
from icon_repro.report.figures import Bars, Line, Panel, Scatter, Series
from icon_repro.select import top_fraction

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


def _top(scores: Matrix, ids: Sequence[str]) -> list[str]:
    return top_fraction(dict(zip(ids, scores.tolist(), strict=True)), SHARE)


def _row_counts(rows: int) -> list[int]:
    """8, 16, 32, ... and half and all of the rows."""
    return sorted({*(2**k for k in range(3, 31) if 2**k < rows), rows // 2, rows})


def _with_interval(
    name: str, statistic: Callable[..., float], samples: Sequence[NDArray[Any]], generator: np.random.Generator
) -> Numbers:
    """A statistic of the candidates under ``name``, and its 95 % interval under <name>_low and <name>_high."""
    low, high = bootstrap(statistic, samples, generator)
    return {name: statistic(*samples), f"{name}_low": float(low), f"{name}_high": float(high)}


def _said(numbers: Numbers, name: str) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(numbers[key] for key in (name, f"{name}_low", f"{name}_high")))


def _percent(share: float) -> str:
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
        Line("Spearman-Brown from all rows, 95 %", counts, curve(task).tolist(), low, high, marked=False),
        Scatter("split half, stepped up", counts, stepped),
        Scatter("two disjoint sets, measured", halves, [agreement(task, k, generator, SUBSETS) for k in halves]),
    ]
    return Finding(
        name="reliability",
        question=f"Would {rows} other rows of the same kind give the same scores?",
        title="Reliability of the ICon score by number of assessment rows",
        numbers=numbers,
        text=f"Reliability is {word}: {_said(numbers, 'generalizability')}; split halves give "
        f"{numbers['split_half']:.2f}. Expected: {needed}.",
        panels=[Panel("assessment rows", "reliability (0 to 1)", series, log_x=True, y_range=(0, 1.02))],
    )


def find_overlap(pilot: Pilot, tasks: Tasks, generator: np.random.Generator) -> Finding:
    """How much of the selection stays the same with fewer rows, and with other rows."""
    task, rows = tasks.bank, tasks.bank.shape[1]
    *counts, _ = _row_counts(rows)
    halves = [k for k in counts if 2 * k <= rows]
    everything = _top(score(task), pilot.candidates)
    same, rest, equal = (np.empty((len(counts), SUBSETS)) for _ in range(3))
    for place, k in enumerate(counts):
        for draw in range(SUBSETS):
            order = generator.permutation(rows)
            part, others, as_many = (
                _top(score(task[:, columns]), pilot.candidates) for columns in (order[:k], order[k:], order[k : 2 * k])
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
        Line("k rows and k new rows, model", [*counts, rows], model, marked=False),
        Scatter("k rows and k other rows, measured", halves, equal.mean(axis=1)[: len(halves)].tolist()),
        Line("chance", [counts[0], rows], [SHARE, SHARE], marked=False),
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
        text=f"Two disjoint halves of {rows // 2} rows share {_percent(equal[half].mean())} (sd over splits "
        f"{_percent(equal[half].std())}) of the {len(everything)} that each selects; chance is {_percent(SHARE)}. Half "
        f"of the rows share {_percent(same[half].mean())} with all rows, which flatters. Expected with {rows} new "
        f"rows: {_percent(model[-1])} (Spearman-Brown from the halves).",
        panels=[Panel("assessment rows, k", f"share of the {TOP} in both", series, log_x=True, y_range=(0, 1.02))],
    )


def _band(name: str, counts: Sequence[int], values: Matrix) -> Line:
    """Mean over subsets +- standard deviation, within [0, 1]."""
    mean, spread = values.mean(axis=1), values.std(axis=1)
    low, high = np.clip(mean - spread, 0, 1), np.clip(mean + spread, 0, 1)
    return Line(name, counts, mean.tolist(), low.tolist(), high.tolist())


def find_control(pilot: Pilot, tasks: Tasks) -> Finding:
    """What the choice of the random context does to the scores."""
    m = pilot.control_candidates
    ids, tokens = [pilot.candidates[i] for i in m], pilot.context_tokens[m]
    scores = {"bank": score(tasks.bank[m]), "own": score(tasks.own), "none": score(tasks.none[m])}
    apart = scores["own"] - scores["bank"]
    rms, error = float(apart.std()), standard_error(tasks.bank, tasks.bank.shape[1])
    spread = float(scores["bank"].std())
    ratio = np.exp(pilot.control - pilot.baseline).mean(axis=1)  # of perplexities, as in the score
    draws = np.exp(pilot.bank - pilot.baseline).mean(axis=2)  # (bins, draws)
    single = None
    if draws.shape[1] > 1:  # variance between texts of equal length, at the lengths of the candidates
        by_length = np.interp(np.log(tokens), np.log(pilot.bank_lengths), draws.var(axis=1, ddof=1))
        single = float(by_length.mean() / scores["own"].var(ddof=1))
    numbers: Numbers = {
        "candidates": len(m),
        "mean_shift_own_minus_bank": float(apart.mean()),
        "rms_difference_own_bank": rms,
        "rms_over_sd_of_score": rms / spread,
        "rms_over_standard_error": rms / error,
        "random_context_mean_ratio": float(ratio.mean()),
        "spearman_random_context_tokens": spearman(ratio, tokens),
        "variance_share_of_single_draw": single,
    }
    for a, b in (("bank", "own"), ("bank", "none"), ("own", "none")):
        numbers[f"spearman_{a}_{b}"] = spearman(scores[a], scores[b])
        numbers[f"overlap_{a}_{b}"] = overlap(_top(scores[a], ids), _top(scores[b], ids))
    lengths = np.repeat(pilot.bank_lengths, draws.shape[1]).tolist()
    ends = [float(scores["bank"].min()), float(scores["bank"].max())]
    return Finding(
        name="control",
        question="Does the choice of the random context matter?",
        title="Random contexts: one a candidate against a shared bank",
        numbers=numbers,
        text=f"On {len(m)} candidates, Spearman of bank and own random text is {numbers['spearman_bank_own']:.2f} "
        f"({TOP}: {_percent(numbers['overlap_bank_own'])} in both), of bank and no control "
        f"{numbers['spearman_bank_none']:.2f} ({_percent(numbers['overlap_bank_none'])}). Bank and own text "
        f"differ by {rms / spread:.2f} sd of the score, {rms / error:.1f} standard errors: "
        f"{'more' if rms > error else 'less'} than the sampling of rows. A random context multiplies perplexity by "
        f"{ratio.mean():.2f} (Spearman to its length {numbers['spearman_random_context_tokens']:.2f}). Of the variance "
        "of scores with an own text, drawing that single text makes "
        f"{'an unknown share (one draw a length)' if single is None else f'about {_percent(single)}'}.",
        panels=[
            Panel(
                "random context (tokens)",
                "perplexity / that without context",
                [
                    Scatter("one text a candidate", tokens.tolist(), ratio.tolist(), ids),
                    Scatter("bank, each draw", lengths, draws.ravel().tolist()),
                    Line("bank, mean", pilot.bank_lengths.tolist(), draws.mean(axis=1).tolist(), marked=False),
                ],
                log_x=True,
            ),
            Panel(
                "score with the bank's control",
                "score with one text a candidate",
                [
                    Scatter("candidates", scores["bank"].tolist(), scores["own"].tolist(), ids),
                    Line("equal", ends, ends, marked=False),
                ],
            ),
        ],
    )


def find_bfloat16(pilot: Pilot, tasks: Tasks, block: Bfloat16) -> Finding:
    """What scoring in bfloat16 changes, without control: the bank isn't scored twice.

    Of the differences, the part that is a candidate's own stays and that of single pairs averages out over rows.
    """
    rows, some, ids = tasks.bank.shape[1], len(block.rows), [pilot.candidates[i] for i in block.candidates]
    exact = tasks.none[np.ix_(block.candidates, block.rows)]
    alone = np.broadcast_to(block.baseline, block.candidate.shape)
    change = task_scores(block.candidate, alone, block.baseline, IconConfig().epsilon) - exact
    moved, error = score(change) - score(change).mean(), standard_error(exact, some)
    own, noise = components(change)
    at_all, limit = math.sqrt(own + noise / rows) / standard_error(exact, rows), IconConfig().fidelity.max_rms
    numbers: Numbers = {
        "candidates": len(ids),
        "rows": some,
        "rms_over_standard_error": float(moved.std()) / error,
        "rms_over_standard_error_at_all_rows": at_all,
        "limit": limit,
        "largest_nll_difference": float(
            np.abs(block.candidate - pilot.candidate[np.ix_(block.candidates, block.rows)]).max()
        ),
        "spearman": spearman(score(exact), score(exact + change)),
    }
    x = score(exact).tolist()
    series: list[Series] = [
        Scatter("candidates", x, moved.tolist(), ids),
        Line("± 1 standard error of the score", [min(x), max(x)], [0, 0], [-error] * 2, [error] * 2, marked=False),
    ]
    return Finding(
        name="bfloat16",
        question=BFLOAT16,
        title="Scores in bfloat16 against float32",
        numbers=numbers,
        text=f"{'Yes' if at_all <= limit else 'No'}: on {len(ids)} x {some} pairs, scores without control move by "
        f"{numbers['rms_over_standard_error']:.2f} standard errors (rms, common shift removed), with all {rows} rows "
        f"by an estimated {at_all:.2f}; the limit is {limit:.2f}. Spearman {numbers['spearman']:.3f}; the largest "
        f"difference of a pair is {numbers['largest_nll_difference']:.3f} nats.",
        panels=[Panel(f"score in float32, no control, {some} rows", "bfloat16 - float32, shift removed", series)],
    )


def find_length(pilot: Pilot, tasks: Tasks, generator: np.random.Generator) -> Finding:
    """How far length alone explains the score."""
    scores = {"bank": score(tasks.bank), "none": score(tasks.none)}
    lengths = {"response_chars": pilot.response_chars, "context_tokens": pilot.context_tokens}
    c, numbers = len(pilot.candidates), Numbers()
    for control, values in scores.items():
        chosen = np.isin(pilot.candidates, _top(values, pilot.candidates))
        for unit, length in lengths.items():
            numbers |= _with_interval(f"spearman_{control}_{unit}", spearman, [values, length], generator)
            numbers |= _with_interval(f"auc_{control}_{unit}", auc, [length, chosen], generator)
    logs = np.log(pilot.context_tokens)
    curve = np.column_stack([np.ones(c), logs, logs**2])
    within = tasks.bank - curve @ np.linalg.lstsq(curve, tasks.bank, rcond=None)[0]
    explained = 1 - float(score(within).var() / scores["bank"].var())
    numbers |= {"variance_explained_by_tokens": explained, "reliability_within_length": reliability(within)}
    with_bank, without = (abs(numbers[f"spearman_{x}_response_chars"]) for x in ("bank", "none"))
    effect = "weakens" if with_bank < without - 0.05 else "strengthens" if with_bank > without + 0.05 else "leaves"
    return Finding(
        name="length",
        question="Is the score only a measure of length?",
        title="Score against the length of the candidate",
        numbers=numbers,
        text=f"Spearman of score and response characters {_said(numbers, 'spearman_bank_response_chars')}, of score "
        f"and context tokens {_said(numbers, 'spearman_bank_context_tokens')}; without control "
        f"{_said(numbers, 'spearman_none_response_chars')} and {_said(numbers, 'spearman_none_context_tokens')}: the "
        f"control {effect} the tie to length. Characters alone tell the {TOP} from the rest with AUC "
        f"{_said(numbers, 'auc_bank_response_chars')}, tokens with {_said(numbers, 'auc_bank_context_tokens')}. A "
        f"curve in log tokens explains {_percent(explained)} of the score's variance; what remains has a reliability "
        f"of {numbers['reliability_within_length']:.2f}.",
        panels=[
            Panel(
                label,
                "score (standard deviations from the mean)",
                [
                    Scatter(name, length.tolist(), ((s - s.mean()) / s.std()).tolist(), pilot.candidates)
                    for name, s in (("bank's control", scores["bank"]), ("no control", scores["none"]))
                ],
                log_x=True,
            )
            for label, length in (
                ("response (characters)", pilot.response_chars),
                ("candidate as context (tokens)", pilot.context_tokens),
            )
        ],
    )


def find_tails(pilot: Pilot, tasks: Tasks, generator: np.random.Generator) -> Finding:
    """Whether a few rows decide the score, and what milder variants of it would do."""
    task, rows = tasks.bank, tasks.bank.shape[1]
    centred = task - task.mean(axis=0)
    means = score(centred)
    carried = means @ centred / (rows * (means @ means))  # each row's share of the score's variance; the sum is 1
    noise = ((centred - means[:, None]) ** 2).sum(axis=0)
    noise /= noise.sum()
    order, noisiest = np.argsort(-pilot.baseline, kind="stable"), np.sort(noise)[::-1]
    tail = max(1, round(TAIL * rows))
    heavy = float(noise[order[:tail]].sum())
    word = "far more than" if heavy > 3 * tail / rows else "more than" if heavy > 1.5 * tail / rows else "not above"
    clipped = np.clip(task, *np.quantile(task, [TAIL / 2, 1 - TAIL / 2]))
    variants = {"paper": task, "clipped": clipped, "log": tasks.log}
    numbers: Numbers = {
        "tail_rows": tail,
        "tail_perplexity_at_least": float(np.exp(pilot.baseline[order[tail - 1]])),
        "tail_share_of_score_variance": float(carried[order[:tail]].sum()),
        "tail_share_of_noise": heavy,
        "noisiest_rows_share_of_noise": float(noisiest[:tail].sum()),
    }
    for name, values in variants.items():
        numbers |= _with_interval(f"reliability_{name}", reliability, [values], generator)
        numbers[f"spearman_{name}_paper"] = spearman(score(values), score(task))
        numbers[f"half_of_{name}_predicts_paper"] = agreement(values, rows // 2, generator, SUBSETS, task)
    share = (np.arange(rows + 1) / rows).tolist()
    lines = [
        Line(name, share, [0.0, *np.cumsum(values).tolist()], marked=False)
        for name, values in (
            ("variance of the score, highest PPL first", carried[order]),
            ("sampling noise, highest PPL first", noise[order]),
            ("sampling noise, noisiest first", noisiest),
            ("equal shares", np.full(rows, 1 / rows)),
        )
    ]
    heights, low, high = ([numbers[f"reliability_{v}{end}"] for v in variants] for end in ("", "_low", "_high"))
    return Finding(
        name="tails",
        question="Do a few rows of high perplexity decide the score?",
        title="Weight of single rows, and milder variants of the score",
        numbers=numbers,
        text=f"The {tail} rows ({_percent(tail / rows)}) of highest perplexity without context carry "
        f"{_percent(numbers['tail_share_of_score_variance'])} of the score's variance and {_percent(heavy)} of "
        f"its sampling noise, {word} their number; the {tail} noisiest carry {_percent(float(noisiest[:tail].sum()))}. "
        f"Reliability: paper {_said(numbers, 'reliability_paper')}, cells clipped to the middle {_percent(1 - TAIL)} "
        f"{_said(numbers, 'reliability_clipped')}, log ratio {_said(numbers, 'reliability_log')}. Spearman to the "
        f"paper's score: clipped {numbers['spearman_clipped_paper']:.2f}, log {numbers['spearman_log_paper']:.2f}. "
        "Correlation with the paper's score on the other half of the rows: "
        + ", ".join(f"{name} {numbers[f'half_of_{name}_predicts_paper']:.2f}" for name in variants)
        + ".",
        panels=[
            Panel("share of the rows", "cumulative share", lines),
            Panel(
                "variant of the score",
                "reliability with all rows, 95 %",
                [Bars("reliability", ["paper", "clipped", "log ratio"], heights, low, high)],
                y_range=(0, 1.02),
            ),
        ],
    )
