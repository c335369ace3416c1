"""Prepare what the selection model learns from, measure how well it does, and put its scores together.

In: scored candidates; shards of the pool's scores.  Out: token ids, targets and metrics, scores by id; no model here,
``icon_repro.methods.icon.selector`` has it.
Source: arXiv 2505.05327, ICon-guided selection; labels of the released scripts: 1 for the best fraction of candidates.
Differs: the default target is the score's rank, so that one model serves all fractions and selections are nested (D9).
Known gap: the standard errors of the scores aren't used; a noisy rank counts as much as a sure one.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata
from transformers import PreTrainedTokenizerBase

from icon_repro.data.rows import Example, Score, best_first, selected_count
from icon_repro.engine.records import read_json, read_rows
from icon_repro.lm.tokens import bos_ids, text_ids
from icon_repro.methods.agreement import auc, spearman
from icon_repro.methods.icon.options import SelectorJob, SelectorTarget
from icon_repro.methods.icon.pairs import candidate_text


class SelectorError(ValueError):
    """The selection model can't be trained, or its scores can't be used."""


def best(scores: Mapping[str, float], fraction: float) -> set[str]:
    """The ids that selecting ``fraction`` takes: round(fraction * n), at least one; ties go to the smaller id."""
    return set(best_first(scores)[: selected_count(fraction, len(scores))])


def read_candidates(order: Path, scored: Path) -> tuple[list[Example], dict[str, float]]:
    """The scored candidates in the order's order; and their scores by id.

    Raises:
        SelectorError: an id has two scores or isn't in the order, or a score isn't finite.
    """
    rows = read_rows(scored / "scores.jsonl", Score)
    scores = {row.id: row.score for row in rows}
    if len(scores) < len(rows):
        raise SelectorError(f"{len(rows) - len(scores)} candidates have more than one score.")
    if bad := sorted(i for i, score in scores.items() if not math.isfinite(score)):
        raise SelectorError(
            f"{len(bad)} of {len(scores)} scores aren't finite (first: id {bad[0]!r}): score them again in float32."
        )
    candidates = [row for row in read_rows(order / "rows.jsonl", Example) if row.id in scores]
    if unknown := sorted(scores.keys() - {row.id for row in candidates}):
        raise SelectorError(
            f"{len(unknown)} of {len(scores)} scored ids aren't in the pool's order (first: {unknown[0]!r}): the "
            "scores were made from another pool. Score the candidates of this one."
        )
    return candidates, scores


def split(rows: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Candidates to train on, and the last ``share`` of them (at least one) to test on.

    Raises:
        SelectorError: fewer than two are left to train on.
    """
    held = max(1, round(share * len(rows)))
    if len(rows) - held < 2:
        raise SelectorError(
            f"{len(rows)} scored candidates of which held_out={share} tests {held}: at least 2 must be left to train "
            "on. Score more candidates (data.candidates.size), or lower selector.held_out."
        )
    return list(rows[: len(rows) - held]), list(rows[len(rows) - held :])


def targets(job: SelectorJob, rows: Sequence[Example], scores: Mapping[str, float]) -> list[float] | list[int]:
    """What the model learns for each row.

    Args:
        rows: those to train on.
        scores: of all candidates, held-out ones too.

    Returns:
        rank: the score's rank among ``rows``, 0 (worst) to 1; equal scores share their mean rank.
        top_fraction: 1 in the best fraction of all candidates, else 0.

    Raises:
        SelectorError: not exactly one fraction for top_fraction, or all targets are equal.
    """
    values: list[float] | list[int]
    if job.selector.target is SelectorTarget.rank:
        values = [(rank - 1) / (len(rows) - 1) for rank in rankdata([scores[row.id] for row in rows]).tolist()]
    else:
        if len(job.fractions) != 1:
            raise SelectorError(
                f"fractions={job.fractions}: target top_fraction learns exactly one; make one model a fraction, or set "
                "selector.target=rank."
            )
        chosen = best(scores, job.fractions[0])
        values = [int(row.id in chosen) for row in rows]
    if len(set(values)) == 1:
        raise SelectorError(
            f"all {len(rows)} training rows have the target {values[0]:g}: there is nothing to learn. Score more "
            "candidates, or select another fraction."
        )
    return values


def token_ids(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example], limit: int
) -> tuple[list[list[int]], list[int]]:
    """Ids of each row, BOS + prompt + response, at most ``limit`` of them; and how many were cut from the end.

    Raises:
        SelectorError: a row has no token.
    """
    start, ids, cuts = bos_ids(tokenizer), list[list[int]](), list[int]()
    for row in rows:
        whole = start + text_ids(tokenizer, candidate_text(row))[0]
        if not whole:
            raise SelectorError(f"row {row.id!r}: prompt and response have no tokens. Drop the row.")
        ids.append(whole[:limit])
        cuts.append(max(len(whole) - limit, 0))
    return ids, cuts


def quality(
    rows: Sequence[Example], predicted: Sequence[float], scores: Mapping[str, float], fractions: Sequence[float]
) -> dict[str, float | None]:
    """How well held-out rows are ranked, by the model and by their length alone (D10); None where undefined.

    Args:
        rows: held-out candidates.
        predicted: the model's score of each.
        scores: ICon scores of all candidates: positive is who is in the best fraction of all, not of those held out.
    """
    row_scores, chars = [scores[row.id] for row in rows], [float(len(row.response)) for row in rows]
    measures: dict[str, float] = {}
    for suffix, values in (("", predicted), ("_length", chars)):
        measures[f"spearman{suffix}"] = spearman(values, row_scores) if len(rows) > 1 else math.nan
        for fraction in fractions:
            chosen = best(scores, fraction)
            measures[f"auc{suffix}@{fraction:g}"] = auc(values, [row.id in chosen for row in rows])
    return {name: None if math.isnan(value) else value for name, value in measures.items()}


def join_shards(shards: Sequence[Path], file: str = "scores.npy") -> dict[str, float]:
    """One model's scores (or another number of each row, from ``file``) by id, in the order of the shards.

    Raises:
        SelectorError: a row is scored twice, or a shard has other numbers of ids and scores.
    """
    scores: dict[str, float] = {}
    for folder in shards:
        names = read_json(folder / "ids.json")["rows"]
        values = np.load(folder / file, allow_pickle=False)
        if values.shape != (len(names),):
            raise SelectorError(f"{folder}: {len(values)} scores of {len(names)} rows; delete it and run again.")
        if twice := [name for name, count in Counter([*scores, *names]).items() if count > 1]:
            raise SelectorError(f"{folder}: row {twice[0]!r} is scored twice; delete the shards and run again.")
        scores |= zip(names, values.tolist(), strict=True)
    return scores
