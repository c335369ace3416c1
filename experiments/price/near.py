"""What it adds to a pool's ranking to score rows near the cut, or more candidates, for as many pairs.

In: a matrix of contributions, how alike the candidates' hidden states are.  Out: lines for ``price``'s second table.
A part of the matrix' candidates is scored with the rows that a pilot chooses and learned from; the others are the pool,
ranked by a probe; then ``MORE`` of the pool are scored, too. Everything is done by the package's own functions.
Known gap: a pool of some hundred rows; of a pool of tens of thousands a smaller share can be scored.
"""

import numpy as np
from numpy.typing import NDArray

from icon_repro.data.rows import Score, selected_count
from icon_repro.methods.agreement import spearman
from icon_repro.methods.icon import chosen, ridge
from icon_repro.methods.icon.options import POOL_ROWS, AutoConfig
from icon_repro.methods.icon.probe_scores import Ranks, joined, nearest

Matrix = NDArray[np.float64]
LEARNED, MORE, REPLAYS = 48, (6, 24, 48), 40
WAYS = ("none", "of the pool at random, learned from, too", "of the pool near the cut")


def overlap(found: Matrix, truth: Matrix, share: float) -> float:
    cut = selected_count(share, len(truth))
    best = [set(np.argsort(-values, kind="stable")[:cut].tolist()) for values in (found, truth)]
    return len(best[0] & best[1]) / cut


def replayed(
    task: Matrix, alike: Matrix, more: int, share: float, generator: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """By way Spearman and overlap of the pool's ranking with that of all rows."""
    count, total = task.shape
    order, rows = generator.permutation(count), generator.permutation(total)[:POOL_ROWS]
    first, auto = order[:LEARNED], AutoConfig()
    choice = chosen.learned(task[np.ix_(first[: auto.pilot_candidates], rows)], auto.first_rows, total)
    said = choice.score(task[:, rows[choice.places]].mean(axis=1))
    values, axes = np.linalg.eigh(alike)
    features = axes * np.sqrt(np.maximum(values, 0))
    pool, truth = order[LEARNED:], task[order[LEARNED:]].mean(axis=1)

    def ranked(candidates: NDArray[np.intp], scored: NDArray[np.intp]) -> dict[str, tuple[float, float]]:
        goals = np.argsort(np.argsort(said[candidates])) / (len(candidates) - 1)
        guesses, errors = ridge.fit(features[candidates], goals)[0].predict(features[pool])
        predicted = {str(i): pair for i, *pair in zip(pool.tolist(), guesses.tolist(), errors.tolist(), strict=True)}
        own = [Score(str(i), float(said[i]), {"estimate_error": choice.error}) for i in scored.tolist()]
        return joined({i: (a, b) for i, (a, b) in predicted.items()}, Ranks(said[candidates].tolist()), own)

    nothing = np.empty(0, np.intp)
    usual = ranked(first, nothing)
    drawn = generator.permutation(pool)[:more]
    near = np.array([int(i) for i in nearest(usual, [share], set())[:more]], np.intp)
    found = [usual, ranked(np.concatenate([first, drawn]), drawn), ranked(first, near)]
    scores = [np.array([one[str(i)][0] for i in pool]) for one in found]
    return {way: (spearman(one, truth), overlap(one, truth, share)) for way, one in zip(WAYS, scores, strict=True)}


def lines(task: Matrix, alike: Matrix, share: float) -> list[list[str]]:
    """For each number of rows more and way: means over replays with 95 % intervals of the mean over replays."""
    made = []
    for more in MORE:
        generator = np.random.default_rng(4000 + more)
        runs = [replayed(task, alike, more, share, generator) for _ in range(REPLAYS)]
        for way in WAYS:
            told = []
            for place in (0, 1):
                each = np.array([run[way][place] for run in runs])
                told.append(f"{each.mean():.3f} +- {1.96 * each.std(ddof=1) / REPLAYS**0.5:.3f}")
            if way != WAYS[0] or more == MORE[0]:
                made.append(["0" if way == WAYS[0] else str(more), way, *told])
    return made
