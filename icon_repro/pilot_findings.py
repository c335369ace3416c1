"""What the pair matrices of a pilot say about ICon's score: reliability, control, length, tails, bfloat16.

In: the matrices that ``icon_repro.pilot`` reads.  Out: for each question numbers, a sentence made from them, a figure.
Source: the score and its random context: arXiv 2505.05327, section 3; what each number is: the finding's docstring.
Known gap: the standard errors treat assessment rows as drawn at random, not by group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icon_repro.config import IconConfig
from icon_repro.methods.icon.control import bank_control
from icon_repro.methods.icon.matrices import task_scores
from icon_repro.report.figures import Bars, Line, Panel, Scatter
from icon_repro.select import top_fraction
from icon_repro.stats import (
    agreement,
    auc,
    bootstrap,
    columns_for,
    components,
    expected_overlap,
    overlap,
    pearson,
    reliability,
    spearman,
    spearman_brown,
    split_half,
)

Matrix = NDArray[np.float64]
Indices = NDArray[np.intp]
Numbers = dict[str, float | int | None]
SEED = 0
SHARE = 0.15  # the paper's largest selection
SUBSETS = 200  # random sets of rows for each number of rows
TAIL = 0.05  # of the rows: those that count as the tail; of the cells: those that are clipped


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


def _top(scores: Matrix, ids: Sequence[str]) -> list[str]:
    return top_fraction(dict(zip(ids, scores.tolist(), strict=True)), SHARE)


def _standard_error(task: Matrix, rows: int) -> float:
    """Of a mean over ``rows`` rows against other candidates' on the same rows: the rows' own means are taken out."""
    return math.sqrt(components(task)[1] / rows)


def _row_counts(rows: int) -> list[int]:
    """8, 16, 32, ... and half and all of the rows."""
    return sorted({*(2**k for k in range(3, 31) if 2**k < rows), rows // 2, rows})


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _span(low: float, high: float) -> str:
    return f"[{low:.2f}, {high:.2f}]"


def _standardised(values: Matrix) -> Matrix:
    return np.asarray((values - values.mean()) / (values.std() or 1))


def find_reliability(tasks: Tasks, generator: np.random.Generator) -> Finding:
    """How well the score would come back with other rows."""
    task, rows = tasks.bank, tasks.bank.shape[1]
    counts = _row_counts(rows)

    def curve(units: Indices | slice) -> Matrix:
        true, noise = components(task[units])
        return np.array([true / (true + noise / k) if true > 0 else 0.0 for k in counts])

    low, high = bootstrap(curve, len(task), generator)
    halves = [k for k in counts if 2 * k <= rows]
    stepped = [spearman_brown(agreement(task, k // 2, generator, SUBSETS), k / (k // 2)) for k in counts]
    whole, split = reliability(task), split_half(task, generator, SUBSETS)
    needed = {target: columns_for(task, target) for target in (0.8, 0.9, 0.95)}
    wanted = ", ".join(f"{target} needs {'more than any number' if k is None else k}" for target, k in needed.items())
    word = "high" if whole >= 0.9 else "moderate" if whole >= 0.7 else "low"
    return Finding(
        name="reliability",
        question=f"Would other rows of the same kind give the same scores, with {rows} of them?",
        title="Reliability of the ICon score by number of assessment rows",
        numbers={
            "rows": rows,
            "generalizability": whole,
            "generalizability_low": low[-1],
            "generalizability_high": high[-1],
            "split_half": split,
            **{f"rows_for_{target}": k for target, k in needed.items()},
        },
        text=f"Reliability is {word}: {whole:.2f}, 95 % interval {_span(low[-1], high[-1])} over candidates; split "
        f"halves give {split:.2f}. Rows for a reliability: {wanted}.",
        panels=[
            Panel(
                "assessment rows",
                "reliability (0 to 1)",
                [
                    Line("Spearman-Brown from all rows, 95 %", counts, curve(slice(None)).tolist(), low, high, False),
                    Scatter("split half, stepped up", counts, stepped),
                    Scatter(
                        "two disjoint sets, measured", halves, [agreement(task, k, generator, SUBSETS) for k in halves]
                    ),
                ],
                log_x=True,
                y_range=(0, 1.02),
            )
        ],
    )


def find_overlap(pilot: Pilot, tasks: Tasks, generator: np.random.Generator) -> Finding:
    """How much of the selection stays the same with fewer rows, and with other rows."""
    task, rows = tasks.bank, tasks.bank.shape[1]
    counts = _row_counts(rows)[:-1]
    everything = _top(score(task), pilot.candidates)
    same, other = np.empty((len(counts), SUBSETS)), np.empty((len(counts), SUBSETS))
    for place, k in enumerate(counts):
        for draw in range(SUBSETS):
            order = generator.permutation(rows)
            part = _top(task[:, order[:k]].mean(axis=1), pilot.candidates)
            same[place, draw] = overlap(part, everything)
            other[place, draw] = overlap(part, _top(task[:, order[k:]].mean(axis=1), pilot.candidates))
    model = [expected_overlap(reliability(task, k), SHARE) for k in [*counts, rows]]
    half = counts.index(rows // 2)
    numbers: Numbers = {
        "selected": len(everything),
        "half_rows": rows // 2,
        "halves_overlap": float(other[half].mean()),
        "halves_overlap_sd": float(other[half].std()),
        "half_with_all_overlap": float(same[half].mean()),
        "chance": SHARE,
        "expected_overlap_with_as_many_new_rows": model[-1],
    }
    panel = Panel(
        "assessment rows, k",
        f"share of the top {_percent(SHARE)} in both",
        [
            _band("k rows and all rows (which hold them)", counts, same),
            _band("k rows and all the other rows", counts, other),
            Line("k rows and k new rows, normal model", [*counts, rows], model, marked=False),
            Line("chance", [counts[0], rows], [SHARE, SHARE], marked=False),
        ],
        log_x=True,
        y_range=(0, 1.02),
    )
    return Finding(
        name="overlap",
        question=f"Would other rows select the same {_percent(SHARE)} of the candidates?",
        title=f"Agreement of the selected {_percent(SHARE)} by number of assessment rows",
        numbers=numbers,
        text=f"Two disjoint halves of {rows // 2} rows share {_percent(other[half].mean())} (sd "
        f"{_percent(other[half].std())} over splits) of the {len(everything)} that each selects; chance is "
        f"{_percent(SHARE)}. Half of the rows share {_percent(same[half].mean())} with all rows, which is flattered. "
        f"Expected with {rows} new rows: {_percent(model[-1])}.",
        panels=[panel],
    )


def _band(name: str, counts: Sequence[int], values: Matrix) -> Line:
    """Mean over subsets +- standard deviation, within [0, 1]."""
    mean, spread = values.mean(axis=1), values.std(axis=1)
    low, high = np.clip(mean - spread, 0, 1), np.clip(mean + spread, 0, 1)
    return Line(name, counts, mean.tolist(), low.tolist(), high.tolist())


def find_control(pilot: Pilot, tasks: Tasks, generator: np.random.Generator) -> Finding:
    """What the choice of the random context does to the scores."""
    m = pilot.control_candidates
    ids, tokens, rows = [pilot.candidates[i] for i in m], pilot.context_tokens[m], tasks.bank.shape[1]
    bank, own, none = score(tasks.bank[m]), score(tasks.own), score(tasks.none[m])
    apart = own - bank
    rms, error = float(apart.std()), _standard_error(tasks.bank, rows)
    ratio = np.exp(pilot.control - pilot.baseline).mean(axis=1)  # of perplexities, as in the score
    draws = np.exp(pilot.bank - pilot.baseline).mean(axis=2)  # (bins, draws)
    added = None
    if draws.shape[1] > 1:
        by_length = np.interp(np.log(tokens), np.log(pilot.bank_lengths), draws.var(axis=1, ddof=1))
        added = float(by_length.mean() / own.var(ddof=1))
    numbers: Numbers = {
        "candidates": len(m),
        "spearman_bank_own": spearman(bank, own),
        "spearman_bank_none": spearman(bank, none),
        "spearman_own_none": spearman(own, none),
        "overlap_bank_own": overlap(_top(bank, ids), _top(own, ids)),
        "overlap_bank_none": overlap(_top(bank, ids), _top(none, ids)),
        "overlap_own_none": overlap(_top(own, ids), _top(none, ids)),
        "mean_shift_own_minus_bank": float(apart.mean()),
        "rms_difference": rms,
        "rms_over_sd_of_score": rms / float(bank.std()),
        "rms_over_standard_error": rms / error,
        "random_context_mean_ratio": float(ratio.mean()),
        "spearman_random_context_tokens": spearman(ratio, tokens),
        "variance_share_of_single_draw": added,
    }
    drawn = "not known (one draw a length)" if added is None else f"about {_percent(added)}"
    larger = "more" if rms > error else "less"
    text = (
        f"On {len(m)} candidates, bank and own random text rank with Spearman {numbers['spearman_bank_own']:.2f} "
        f"(top {_percent(SHARE)}: {_percent(overlap(_top(bank, ids), _top(own, ids)))} in both), bank and no control "
        f"with {numbers['spearman_bank_none']:.2f}. Bank and own text differ by {rms / bank.std():.2f} sd of the score,"
        f" {rms / error:.1f} standard errors: {larger} than the rows' sampling. A random context multiplies perplexity "
        f"by {ratio.mean():.2f}, with Spearman {numbers['spearman_random_context_tokens']:.2f} to its length. Share of "
        f"the variance of the scores that comes from drawing a single text: {drawn}."
    )
    lengths = [length for length in pilot.bank_lengths.tolist() for _ in range(draws.shape[1])]
    return Finding(
        name="control",
        question="Does the choice of the random context matter?",
        title="Random contexts: one a candidate against a shared bank",
        numbers=numbers,
        text=text,
        panels=[
            Panel(
                "random context (tokens)",
                "perplexity over that without context, mean over rows",
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
                [Scatter("candidates", bank.tolist(), own.tolist(), ids), _diagonal(bank, own)],
            ),
        ],
    )


def _diagonal(a: Matrix, b: Matrix) -> Line:
    ends = [float(max(a.min(), b.min())), float(min(a.max(), b.max()))]
    return Line("equal", ends, ends, marked=False)


def find_bfloat16(pilot: Pilot, tasks: Tasks, generator: np.random.Generator) -> Finding | None:
    """What scoring in bfloat16 changes, without control: the bank isn't scored twice. None if it wasn't tried."""
    block = pilot.bfloat16
    if block is None:
        return None
    rows, ids = tasks.bank.shape[1], [pilot.candidates[i] for i in block.candidates]
    exact = tasks.none[np.ix_(block.candidates, block.rows)]
    alone = np.broadcast_to(block.baseline, block.candidate.shape)
    change = task_scores(block.candidate, alone, block.baseline, IconConfig().epsilon) - exact
    moved = score(change) - score(change).mean()
    true, noise = components(change)
    measured = float(moved.std()) / _standard_error(tasks.bank, len(block.rows))
    at_all = math.sqrt(true + noise / rows) / _standard_error(tasks.bank, rows)
    limit = IconConfig().fidelity.max_rms
    pair = float(np.abs(block.candidate - pilot.candidate[np.ix_(block.candidates, block.rows)]).max())
    rank = spearman(score(exact), score(exact + change))
    error = _standard_error(tasks.bank, len(block.rows))
    ends = [float(score(exact).min()), float(score(exact).max())]
    return Finding(
        name="bfloat16",
        question="Is bfloat16 exact enough?",
        title="Scores in bfloat16 against float32",
        numbers={
            "candidates": len(block.candidates),
            "rows": len(block.rows),
            "rms_over_standard_error": measured,
            "rms_over_standard_error_at_all_rows": at_all,
            "limit": limit,
            "largest_nll_difference": pair,
            "spearman": rank,
        },
        text=f"{'Yes' if max(measured, at_all) <= limit else 'No'}: on {len(block.candidates)} x {len(block.rows)} "
        f"pairs, scores without control move by {measured:.2f} standard errors (rms, common shift removed), with all "
        f"{rows} rows by an estimated {at_all:.2f}; {limit:.2f} is the limit. Spearman {rank:.3f}; the largest "
        f"difference of a pair is {pair:.3f} nats.",
        panels=[
            Panel(
                f"score in float32, no control, {len(block.rows)} rows",
                "bfloat16 - float32, shift removed",
                [
                    Scatter("candidates", score(exact).tolist(), moved.tolist(), ids),
                    Line("± 1 standard error of the score", ends, [0, 0], [-error] * 2, [error] * 2, False),
                ],
            )
        ],
    )


def find_length(pilot: Pilot, tasks: Tasks, generator: np.random.Generator) -> Finding:
    """How far length alone explains the score."""
    scores = {"bank": score(tasks.bank), "none": score(tasks.none)}
    lengths = {"response_chars": pilot.response_chars, "context_tokens": pilot.context_tokens}
    c = len(pilot.candidates)
    numbers: Numbers = {}
    for control, values in scores.items():
        chosen = np.isin(pilot.candidates, _top(values, pilot.candidates))
        for unit, length in lengths.items():

            def rank(units: Indices, a: Matrix = values, b: Matrix = length) -> float:
                return spearman(a[units], b[units])

            def told(units: Indices, a: Matrix = length, b: NDArray[np.bool_] = chosen) -> float:
                return auc(a[units], b[units])

            for name, statistic in ((f"spearman_{control}_{unit}", rank), (f"auc_{control}_{unit}", told)):
                low, high = bootstrap(statistic, c, generator)
                numbers |= {name: statistic(np.arange(c)), f"{name}_low": float(low), f"{name}_high": float(high)}
    logs = np.log(pilot.context_tokens)
    curve = np.column_stack([np.ones(c), logs, logs**2])
    within = tasks.bank - curve @ np.linalg.lstsq(curve, tasks.bank, rcond=None)[0]
    explained = 1 - float(score(within).var() / scores["bank"].var())
    numbers |= {"variance_explained_by_tokens": explained, "reliability_within_length": reliability(within)}

    def said(name: str) -> str:
        return f"{numbers[name]:.2f} {_span(numbers[f'{name}_low'] or 0, numbers[f'{name}_high'] or 0)}"

    with_bank, without = (abs(numbers[f"spearman_{x}_response_chars"] or 0) for x in ("bank", "none"))
    effect = "weakens" if with_bank < without - 0.05 else "strengthens" if with_bank > without + 0.05 else "leaves"
    return Finding(
        name="length",
        question="Is the score only a measure of length?",
        title="Score against the length of the candidate",
        numbers=numbers,
        text=f"Score and response characters: Spearman {said('spearman_bank_response_chars')}, and context tokens: "
        f"{said('spearman_bank_context_tokens')}; without control {said('spearman_none_response_chars')} and "
        f"{said('spearman_none_context_tokens')}: the control {effect} the tie to length. Length in characters alone "
        f"tells the top {_percent(SHARE)} from the rest with AUC {said('auc_bank_response_chars')}, in tokens "
        f"{said('auc_bank_context_tokens')}. A curve in log tokens explains {_percent(explained)} of the score's "
        f"variance; the rest has a reliability of {reliability(within):.2f}.",
        panels=[
            Panel(
                label,
                "score (standard deviations from the mean)",
                [
                    Scatter(name, length.tolist(), _standardised(scores[control]).tolist(), pilot.candidates)
                    for control, name in (("bank", "bank's control"), ("none", "no control"))
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
    carried = means @ centred / (rows * (means @ means))  # of the variance of the score; the sum is 1
    noise = ((centred - means[:, None]) ** 2).sum(axis=0)
    noise /= noise.sum()
    order = np.argsort(-pilot.baseline, kind="stable")
    tail = max(1, round(TAIL * rows))
    clipped = np.clip(task, *np.quantile(task, [TAIL / 2, 1 - TAIL / 2]))
    variants = {"paper": task, "clipped": clipped, "log": tasks.log}
    found, low, high = {}, {}, {}
    for name, values in variants.items():

        def again(units: Indices, values: Matrix = values) -> float:
            return reliability(values[units])

        found[name] = reliability(values)
        low[name], high[name] = (float(end) for end in bootstrap(again, len(task), generator))
    ranks = {name: spearman(score(variants[name]), score(task)) for name in ("clipped", "log")}
    crossed = {name: _crossed(values, task, generator) for name, values in variants.items()}
    heavy = float(noise[order[:tail]].sum())
    word = "far more than" if heavy > 3 * tail / rows else "more than" if heavy > 1.5 * tail / rows else "about"
    best = max(found, key=lambda name: found[name])
    share = np.arange(rows + 1) / rows
    by_baseline = [np.concatenate([[0.0], np.cumsum(values[order])]).tolist() for values in (carried, noise)]
    worst_first = np.concatenate([[0.0], np.cumsum(np.sort(noise)[::-1])]).tolist()
    numbers: Numbers = {
        "tail_rows": tail,
        "tail_perplexity_at_least": float(np.exp(pilot.baseline[order[tail - 1]])),
        "tail_share_of_score_variance": float(carried[order[:tail]].sum()),
        "tail_share_of_noise": heavy,
        "worst_rows_share_of_noise": float(np.sort(noise)[::-1][:tail].sum()),
        **{f"reliability_{name}": value for name, value in found.items()},
        **{f"reliability_{name}_low": value for name, value in low.items()},
        **{f"reliability_{name}_high": value for name, value in high.items()},
        **{f"spearman_{name}_paper": value for name, value in ranks.items()},
        **{f"other_half_{name}_predicts_paper": value for name, value in crossed.items()},
    }
    return Finding(
        name="tails",
        question="Do a few rows of high perplexity decide the score?",
        title="Weight of single rows, and milder variants of the score",
        numbers=numbers,
        text=f"The {tail} rows ({_percent(tail / rows)}) with the highest perplexity without context carry "
        f"{_percent(float(carried[order[:tail]].sum()))} of the variance of the score and {_percent(heavy)} of its "
        f"sampling noise, {word} their share; the {tail} noisiest rows carry "
        f"{_percent(float(numbers['worst_rows_share_of_noise'] or 0))}. Reliability: paper {found['paper']:.2f} "
        f"{_span(low['paper'], high['paper'])}, cells clipped at {TAIL / 2:.1%} and {1 - TAIL / 2:.1%} "
        f"{found['clipped']:.2f} {_span(low['clipped'], high['clipped'])}, log ratio {found['log']:.2f} "
        f"{_span(low['log'], high['log'])}; highest: {best}. Spearman to the paper's score: clipped "
        f"{ranks['clipped']:.2f}, log {ranks['log']:.2f}. From half of the rows, the paper's score on the other half is "
        f"predicted with r = {crossed['paper']:.2f} (paper), {crossed['clipped']:.2f} (clipped), {crossed['log']:.2f} "
        "(log).",
        panels=[
            Panel(
                "share of the rows",
                "cumulative share",
                [
                    Line("variance of the score, highest PPL first", share.tolist(), by_baseline[0], marked=False),
                    Line("sampling noise, highest PPL first", share.tolist(), by_baseline[1], marked=False),
                    Line("sampling noise, noisiest first", share.tolist(), worst_first, marked=False),
                    Line("equal shares", [0, 1], [0, 1], marked=False),
                ],
            ),
            Panel(
                "variant of the score",
                "reliability with all rows, 95 %",
                [
                    Bars(
                        "reliability",
                        ["paper", "clipped", "log ratio"],
                        list(found.values()),
                        list(low.values()),
                        list(high.values()),
                    )
                ],
                y_range=(0, 1.02),
            ),
        ],
    )


def _crossed(first: Matrix, second: Matrix, generator: np.random.Generator) -> float:
    """Mean correlation of one score on a random half of the rows with another score on the other half."""
    found = []
    for _ in range(SUBSETS):
        order = generator.permutation(first.shape[1])
        half = len(order) // 2
        found.append(pearson(first[:, order[:half]].mean(axis=1), second[:, order[half:]].mean(axis=1)))
    return float(np.mean(found))
