"""What might disturb ICon's score on a pilot: its control, the precision, the candidate's length, few extreme rows.

In: the matrices that ``pilot.load`` reads.  Out: findings, as those of ``pilot_findings``.
Source: the score and its random context: arXiv 2505.05327, section 3; what each number is: the finding's docstring.
Known gap: the standard errors treat assessment rows as drawn at random, not by group.
"""

import math

import numpy as np

from experiments.pilot.pilot_findings import (
    BFLOAT16,
    SUBSETS,
    TAIL,
    TOP,
    Bfloat16,
    Finding,
    Numbers,
    Pilot,
    Tasks,
    percent,
    said,
    score,
    standard_error,
    top_ids,
    with_interval,
)
from icon_repro.methods.agreement import agreement, auc, components, overlap, reliability, spearman
from icon_repro.methods.icon.matrices import task_scores
from icon_repro.methods.icon.options import IconConfig
from icon_repro.report.figures.series import Bars, Curve, Panel, Scatter, Series


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
        numbers[f"overlap_{a}_{b}"] = overlap(top_ids(scores[a], ids), top_ids(scores[b], ids))
    lengths = np.repeat(pilot.bank_lengths, draws.shape[1]).tolist()
    ends = [float(scores["bank"].min()), float(scores["bank"].max())]
    return Finding(
        name="control",
        question="Does the choice of the random context matter?",
        title="Random contexts: one a candidate against a shared bank",
        numbers=numbers,
        text=f"On {len(m)} candidates, Spearman of bank and own random text is {numbers['spearman_bank_own']:.2f} "
        f"({TOP}: {percent(numbers['overlap_bank_own'])} in both), of bank and no control "
        f"{numbers['spearman_bank_none']:.2f} ({percent(numbers['overlap_bank_none'])}). Bank and own text "
        f"differ by {rms / spread:.2f} sd of the score, {rms / error:.1f} standard errors: "
        f"{'more' if rms > error else 'less'} than the sampling of rows. A random context multiplies perplexity by "
        f"{ratio.mean():.2f} (Spearman to its length {numbers['spearman_random_context_tokens']:.2f}). Of the variance "
        "of scores with an own text, drawing that single text makes "
        f"{'an unknown share (one draw a length)' if single is None else f'about {percent(single)}'}.",
        panels=[
            Panel(
                "random context (tokens)",
                "perplexity / that without context",
                [
                    Scatter("one text a candidate", tokens.tolist(), ratio.tolist(), ids),
                    Scatter("bank, each draw", lengths, draws.ravel().tolist()),
                    Curve("bank, mean", pilot.bank_lengths.tolist(), draws.mean(axis=1).tolist(), marked=False),
                ],
                log_x=True,
            ),
            Panel(
                "score with the bank's control",
                "score with one text a candidate",
                [
                    Scatter("candidates", scores["bank"].tolist(), scores["own"].tolist(), ids),
                    Curve("equal", ends, ends, marked=False),
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
        Curve("± 1 standard error of the score", [min(x), max(x)], [0, 0], [-error] * 2, [error] * 2, marked=False),
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
        chosen = np.isin(pilot.candidates, top_ids(values, pilot.candidates))
        for unit, length in lengths.items():
            numbers |= with_interval(f"spearman_{control}_{unit}", spearman, [values, length], generator)
            numbers |= with_interval(f"auc_{control}_{unit}", auc, [length, chosen], generator)
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
        text=f"Spearman of score and response characters {said(numbers, 'spearman_bank_response_chars')}, of score "
        f"and context tokens {said(numbers, 'spearman_bank_context_tokens')}; without control "
        f"{said(numbers, 'spearman_none_response_chars')} and {said(numbers, 'spearman_none_context_tokens')}: the "
        f"control {effect} the tie to length. Characters alone tell the {TOP} from the rest with AUC "
        f"{said(numbers, 'auc_bank_response_chars')}, tokens with {said(numbers, 'auc_bank_context_tokens')}. A "
        f"curve in log tokens explains {percent(explained)} of the score's variance; what remains has a reliability "
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
        numbers |= with_interval(f"reliability_{name}", reliability, [values], generator)
        numbers[f"spearman_{name}_paper"] = spearman(score(values), score(task))
        numbers[f"half_of_{name}_predicts_paper"] = agreement(values, rows // 2, generator, SUBSETS, task)
    share = (np.arange(rows + 1) / rows).tolist()
    lines = [
        Curve(name, share, [0.0, *np.cumsum(values).tolist()], marked=False)
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
        text=f"The {tail} rows ({percent(tail / rows)}) of highest perplexity without context carry "
        f"{percent(numbers['tail_share_of_score_variance'])} of the score's variance and {percent(heavy)} of "
        f"its sampling noise, {word} their number; the {tail} noisiest carry {percent(float(noisiest[:tail].sum()))}. "
        f"Reliability: paper {said(numbers, 'reliability_paper')}, cells clipped to the middle {percent(1 - TAIL)} "
        f"{said(numbers, 'reliability_clipped')}, log ratio {said(numbers, 'reliability_log')}. Spearman to the "
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
