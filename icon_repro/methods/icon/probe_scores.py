"""Join what a probe predicts of the pool with the scores of rows that were scored; score rows near a cut themselves.

``near``.  In: pool shards, scores of candidates.  Out: sequence.json, ``own``: the rows nearest a cut, and the
assessment rows that they meet: those that the pilot of budget auto chose.
``run``.  In: pool shards, scores of candidates; with rows near a cut their shards, baseline and bank.
Out: scores.jsonl {id, score, parts}: a rank among the candidates, 0 (worst) to 1; parts ``error`` and ``predicted``.
A scored row's rank is the mean of its own and the predicted, weighted by the inverse of their variances; that of the
own rank follows from the score's error, and is all but none where all assessment rows were scored.
Source: own; a posterior mean of two measurements.
Known gap: a prediction has learned from the candidate's own score, so a candidate's own score counts a little too much.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from icon_repro.data.rows import Score, selected_count
from icon_repro.engine.records import read_json, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon.auto_pool import own_pairs
from icon_repro.methods.icon.matrices import Matrices
from icon_repro.methods.icon.options import NearRows, resolved
from icon_repro.methods.icon.selector_data import join_shards

Values = NDArray[np.float64]
_FREE = {"tokens": 0, "flops": 0}


class Ranks:
    """Where scores lie among those of the candidates, 0 (worst) to 1, with an error each.

    Args:
        scores: of the candidates, two at least.
    """

    def __init__(self, scores: Sequence[float]) -> None:
        self._scores = np.sort(np.asarray(scores, np.float64))
        self._places = (rankdata(self._scores) - 1) / (len(self._scores) - 1)

    def __call__(self, scores: Values, errors: Values) -> tuple[Values, Values]:
        """(n,) ranks of (n,) scores with (n,) standard errors, and the ranks' own; half a place at least."""
        low, places, high = (np.interp(scores + sign * errors, self._scores, self._places) for sign in (-1, 0, 1))
        return places, np.hypot((high - low) / 2, 0.5 / (len(self._scores) - 1))


def joined(
    predicted: Mapping[str, tuple[float, float]], ranks: Ranks, scored: Sequence[Score]
) -> dict[str, tuple[float, float]]:
    """By id rank and error of ``predicted``, with the own scores of rows of the pool that were scored.

    Args:
        scored: part ``estimate_error`` is the error of the score around the mean over all rows; none without it.
    """
    own = [row for row in scored if row.id in predicted]
    errors = np.array([row.parts.get("estimate_error", 0.0) for row in own])
    places, doubts = ranks(np.array([row.score for row in own]), errors)
    found = dict(predicted)
    for row, place, doubt in zip(own, places.tolist(), doubts.tolist(), strict=True):
        guess, error = predicted[row.id]
        weight = error**2 / (error**2 + doubt**2)
        found[row.id] = guess + weight * (place - guess), doubt * weight**0.5
    return found


def nearest(ranks: Mapping[str, tuple[float, float]], fractions: Sequence[float], known: Collection[str]) -> list[str]:
    """Ids of rows that aren't ``known``, those first that lie fewest of their errors from a cut."""
    names = sorted(ranks)
    places, errors = (np.array([ranks[i][k] for i in names]) for k in (0, 1))
    best, apart = np.sort(places)[::-1], np.full(len(names), np.inf)
    for fraction in fractions:
        cut = selected_count(fraction, len(names))
        if cut < len(names):
            border = (best[cut - 1] + best[cut]) / 2
            apart = np.minimum(apart, np.abs(places - border) / np.maximum(errors, 1e-12))
    return [names[i] for i in np.argsort(apart, kind="stable") if names[i] not in known]


def near(cfg: NearRows, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Which rows of the pool are scored next. Needs inputs scores and the pool's shards."""
    candidates = read_rows(inputs["scores"] / "scores.jsonl", Score)
    ranks = joined(_predicted(inputs), Ranks([row.score for row in candidates]), candidates)
    wanted = nearest(ranks, cfg.fractions, {row.id for row in candidates})[: cfg.near]
    chosen = read_json(inputs["scores"] / "choice.json")["chosen"]
    write_json(out / "sequence.json", {"own": dict.fromkeys(wanted, chosen)})
    return {"rows": len(wanted), "pairs": len(wanted) * len(chosen), **_FREE}


def run(cfg: NearRows, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> dict[str, Any]:
    """Write scores.jsonl. Needs inputs scores, the pool's shards; with ``near`` its shards, near, baseline and bank."""
    candidates = read_rows(inputs["scores"] / "scores.jsonl", Score)
    added = _near_scores(cfg, inputs) if cfg.near else []
    predicted = _predicted(inputs)
    found = joined(predicted, Ranks([row.score for row in candidates]), [*candidates, *added])
    rows = write_rows(
        out / "scores.jsonl",
        (Score(i, rank, {"error": error, "predicted": predicted[i][0]}) for i, (rank, error) in found.items()),
    )
    return {"rows": rows, "scored": sum(row.id in predicted for row in candidates), "near": len(added), **_FREE}


def _predicted(inputs: Mapping[str, Path]) -> dict[str, tuple[float, float]]:
    """By id of the pool what the probe predicts, and its error."""
    shards = [inputs[name] for name in sorted(inputs) if name.startswith("pool-")]
    errors = join_shards(shards, "errors.npy")
    return {i: (value, errors[i]) for i, value in join_shards(shards).items()}


def _near_scores(cfg: NearRows, inputs: Mapping[str, Path]) -> list[Score]:
    """Scores of the rows near a cut, as those of the candidates that meet the same assessment rows.

    Raises:
        IconScoreError: the shards hold other pairs than were asked for.
    """
    matrices = Matrices(resolved(cfg.icon), inputs)
    asked = read_json(inputs["near"] / "sequence.json")["own"]
    choice = read_json(inputs["scores"] / "choice.json")
    found = own_pairs(matrices, inputs, "near-", asked)
    return [
        Score(i, choice["level"] + choice["slope"] * float(values.mean()), {"estimate_error": choice["error"]})
        for i, values in found.items()
    ]
