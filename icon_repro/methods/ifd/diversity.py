"""Superfiltering.D: order the rows with the best IFD so that each next row represents the others best.

In: scores of IFD; then embeddings of the best share.  Out: share: rows.jsonl, the best rows; scores.jsonl: the place in
the order, negative, so that selections are nested; parts: ``ifd``, and ``gain``, what the row added.
Source: Li et al., arXiv 2402.00530, and its code (Superfiltering, f0764af): of rows with an IFD below 1 the best 20 %,
then facility location, f(S) = sum over rows i of the largest similarity to a row of S, by greedy steps. submodlib's
euclidean similarity (its helper.cpp) is exp(-distance / dimensions).
Differs: what is stored is 1 - similarity, since all similarities of unit vectors lie within half a percent of 1, where
float32 has few digits left. All of the share is ordered; ties go to the smaller id.
Known gap: rows outside the share have no score, so that a fraction above it selects fewer rows than asked for.
"""

import heapq
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.rows import Example, Score, best_first, selected_count
from icon_repro.engine.progress import Progress
from icon_repro.engine.records import read_rows, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.common.embeddings import joined
from icon_repro.methods.common.outcome import write_scores
from icon_repro.methods.ifd.options import OrderByDiversity, ShareConfig

_BLOCK = 8_000_000  # distances that are made at a time


class DiversityError(ValueError):
    """No row to order, or more than memory holds."""


def dissimilarities(vectors: NDArray[np.float32], max_gib: float) -> NDArray[np.float32]:
    """1 - exp(-distance / dimensions) of each pair of rows, (rows, rows).

    Equal vectors are at exactly 0, and equally far from every other.

    Raises:
        DiversityError: the result takes more than ``max_gib``.
    """
    from scipy.spatial.distance import cdist

    rows, dimensions = vectors.shape
    size = rows * rows * 4 / 2**30
    if size > max_gib:
        raise DiversityError(
            f"similarities of {rows} rows take {size:.3g} GiB, more than diversity.max_gib={max_gib:g}; lower "
            "diversity.share, or raise it."
        )
    exact = vectors.astype(np.float64)
    matrix = np.empty((rows, rows), np.float32)
    step = max(1, _BLOCK // rows)
    for first in range(0, rows, step):
        # from differences, not from a product of matrices: equal rows would come out at some 1e-8, each at another
        block = -np.expm1(-cdist(exact[first : first + step], exact[first:]) / dimensions)
        matrix[first : first + step, first:] = block
        matrix[first:, first : first + step] = block.T
    return matrix


def representatives(distant: NDArray[np.float32], progress: Progress | None = None) -> tuple[list[int], list[float]]:
    """The order in which greedy facility location takes all rows, and what each adds to the sum of similarities.

    Lazy: a row's gain only falls as others are taken, so one computed earlier is a bound; a row is taken when its own
    gain, computed anew, is at least every other's bound. The result is that of computing all gains in each step.

    Args:
        distant: (rows, rows), symmetric, 1 - similarity, within [0, 1].
    """
    uncovered = np.ones(len(distant))  # 1 - similarity to the nearest row that is taken

    def gain(row: int) -> float:
        return float(np.maximum(uncovered - distant[row], 0).sum())

    bounds = [(-gain(row), row) for row in range(len(distant))]  # of equal gains the first row comes first
    heapq.heapify(bounds)
    order, gains = list[int](), list[float]()
    while bounds:
        row = heapq.heappop(bounds)[1]
        fresh = (-gain(row), row)
        if bounds and fresh > bounds[0]:
            heapq.heappush(bounds, fresh)
            continue
        np.minimum(uncovered, distant[row], out=uncovered)
        order.append(row)
        gains.append(-fresh[0])
        if progress:
            progress.advance(1)
    return order, gains


def share(cfg: ShareConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write rows.jsonl: the best rows, the best first. Needs inputs["scores"], inputs["candidates"]."""
    rows = {row.id: row for row in read_rows(inputs["candidates"] / "rows.jsonl", Example)}
    scores = {row.id: row.score for row in read_rows(inputs["scores"] / "scores.jsonl", Score) if row.score < 1}
    if not scores:
        raise DiversityError(f"no row of {len(rows)} has an IFD below 1; choose another template or model.")
    wanted = selected_count(cfg.share, len(rows))
    best = best_first(scores)[:wanted]
    write_rows(out / "rows.jsonl", [rows[i] for i in best])
    return {"rows": len(best), "short_by": wanted - len(best), "tokens": 0, "flops": 0}


def run(cfg: OrderByDiversity, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl and failures.jsonl. Needs inputs["scores"], of IFD, and shard-NNNN of the share's rows."""
    ifd = {row.id: row.score for row in read_rows(inputs["scores"] / "scores.jsonl", Score)}
    reasons = {row["id"]: row["reason"] for row in read_rows(inputs["scores"] / "failures.jsonl", dict)}
    ids, vectors, failed = joined(inputs, "shard")
    reasons |= failed
    for identifier in ifd.keys() - {*ids, *failed}:
        reasons[identifier] = "IFD isn't among the best share" if ifd[identifier] < 1 else "IFD isn't below 1"
    places = sorted(range(len(ids)), key=lambda i: ids[i])
    distant = dissimilarities(vectors[places], cfg.max_gib)
    with runtime.progress(len(places), "row") as progress:
        order, gains = representatives(distant, progress)
    scores = []
    for number, (row, gain) in enumerate(zip(order, gains, strict=True)):
        identifier = ids[places[row]]
        scores.append(Score(identifier, -float(number), {"ifd": ifd[identifier], "gain": gain}))
    return {**write_scores(out, scores, reasons), "tokens": 0, "flops": 0}
