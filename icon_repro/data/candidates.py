"""Order the pool's rows at random, take candidates from its head, and count text shared with the assessment set.

In: rows.jsonl of pool and assessment.  Out: rows.jsonl (Example, in a seeded order), overlap.json (rows and pairs that
share text).  ``head`` then takes the first rows as candidates, so that a larger size extends a smaller one.
A pool row overlaps exactly if its prompt, or its response of at least ``ngram`` words, equals that of an assessment
row; else by n-gram if both share ``ngram`` consecutive words of prompt + response. Words: lower-cased runs of letters
and digits.
Differs: the authors draw with pandas' ``sample`` and don't look for overlap; ``overlap: keep`` drops nothing.
Known gap: template text that stands in the prompts of both sets (finished prompts) counts as shared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from icon_repro.data.options import CandidatesSize, OrderConfig, Overlap
from icon_repro.data.overlap import Words, row_words, runs, words
from icon_repro.data.prompts import scoring_prompt
from icon_repro.data.rows import Example
from icon_repro.engine.records import read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime

_NAMED_PAIRS = 1000  # in overlap.json


class CandidatesError(ValueError):
    """No candidate is left."""


def run(cfg: OrderConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write all rows in the order drawn, and overlap.json. Needs inputs["pool"] and inputs["assessment"]."""
    pool = read_rows(inputs["pool"] / "rows.jsonl", Example)
    assessment = read_rows(inputs["assessment"] / "rows.jsonl", Example)
    exact, ngram = overlaps(pool, assessment, cfg.ngram)
    pairs = [
        [row, other, kind]
        for kind, found in (("exact", exact), ("ngram", ngram))
        for row in found
        for other in found[row]
    ]
    write_json(
        out / "overlap.json",
        {
            "pool": len(pool),
            "assessment": len(assessment),
            "rows": {"exact": len(exact), "ngram": len(ngram)},
            "pairs": {"exact": sum(map(len, exact.values())), "ngram": sum(map(len, ngram.values()))},
            "ngram_words": cfg.ngram,
            "first_pairs": pairs[:_NAMED_PAIRS],
        },
    )
    dropped = {*exact, *ngram} if cfg.overlap is Overlap.drop else set()
    left = [row for row in pool if row.id not in dropped]
    if not left:
        raise CandidatesError(
            f"none of {len(pool)} pool rows is left: {len(exact)} share a whole text with the assessment set, "
            f"{len(ngram)} share {cfg.ngram} words in a row. Set candidates.order.overlap=keep, or use another pool."
        )
    in_order = ordered(left, cfg.seed)
    write_rows(out / "rows.jsonl", in_order)
    return {
        "rows": len(in_order),
        "overlap_exact": len(exact),
        "overlap_ngram": len(ngram),
        "dropped": len(dropped),
        **_lengths(in_order),
    }


def head(cfg: CandidatesSize, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write ``size`` rows of the order from ``start`` on (all, if there are fewer). Needs inputs["order"].

    Raises:
        CandidatesError: rows are left out before the first, and fewer than ``size`` are left.
    """
    rows = read_rows(inputs["order"] / "rows.jsonl", Example)
    taken = rows[cfg.start :][: cfg.size]
    if cfg.start and len(taken) < (cfg.size or 1):
        raise CandidatesError(
            f"{len(taken)} of {len(rows)} rows are left after the first {cfg.start}, for a pool of {cfg.size}. Lower "
            "data.pools or data.candidates.size, or use a larger pool."
        )
    write_rows(out / "rows.jsonl", taken)
    return {"rows": len(taken), "short_by": max(0, (cfg.size or 0) - len(taken)), **_lengths(taken)}


def _lengths(rows: Sequence[Example]) -> dict[str, float]:
    return {
        "prompt_chars": round(fmean(len(row.instruction) + len(row.input) for row in rows), 1),
        "response_chars": round(fmean(len(row.response) for row in rows), 1),
    }


def ordered(rows: Sequence[Example], seed: int) -> list[Example]:
    """A seeded permutation of the rows sorted by id."""
    rows = sorted(rows, key=lambda row: row.id)
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def overlaps(
    pool: Sequence[Example], assessment: Sequence[Example], ngram: int
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Ids of pool rows that share text, each with the ids of the assessment rows that it shares it with.

    Returns:
        Two disjoint dicts: exact overlap (the whole prompt or response), and those that share ``ngram`` words only.
    """
    whole: dict[tuple[str, Words], set[str]] = {}
    parts: dict[Words, set[str]] = {}
    for row in assessment:
        for key in _whole_texts(row, ngram):
            whole.setdefault(key, set()).add(row.id)
        for run_of_words in _runs(row, ngram):
            parts.setdefault(run_of_words, set()).add(row.id)
    exact, shared = {}, {}
    for row in pool:
        sharing = set().union(*(whole.get(key, ()) for key in _whole_texts(row, ngram)))
        if sharing:
            exact[row.id] = sorted(sharing)
            continue
        sharing = set().union(*(parts[run] for run in parts.keys() & _runs(row, ngram)))
        if sharing:
            shared[row.id] = sorted(sharing)
    return exact, shared


def _whole_texts(row: Example, ngram: int) -> set[tuple[str, Words]]:
    """Prompt, bare and in the scoring template (the authors' assessment prompts stand in it), and a long response."""
    keys = {("prompt", words(f"{row.instruction} {row.input}")), ("prompt", words(scoring_prompt(row)))}
    keys.discard(("prompt", ()))
    response = words(row.response)
    return keys | {("response", response)} if len(response) >= ngram else keys


def _runs(row: Example, ngram: int) -> set[Words]:
    return runs(row_words(row), ngram)
