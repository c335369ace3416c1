"""Turn the verdicts on single prompts into the numbers of a comparison, without torch.

In: what a judge said of A's and B's answers in both orders.  Out: win, tie or lose of A; counts, winning score,
consistency, lengths, length-controlled score.
Source: outcome rule and winning score: arXiv 2505.05327, a win is better in both orders, or
better in one and equal in the other; (win - lose) / n + 1. Length control: Dubois et al., arXiv 2404.04475: a logistic
model of the preference with tanh(length difference / its standard deviation), and its prediction at no difference.
Differs: of that model we fit the two terms that one comparison can tell, the models' difference and the length term,
with a fixed, weak ridge penalty. The difficulty of an instruction is left out, as it needs many models' answers;
AlpacaEval 2's own code chooses an L1 penalty by cross-validation and adds shortened and lengthened reference answers.
A failed prompt is no verdict: it counts in no share but its own, and ``winning_score_low`` and ``_high`` say what the
score would be if all of them were lost or won.  Known gap: none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIN, TIE, LOSE = "win", "tie", "lose"
_RIDGE = 0.01  # keeps the fit finite where one side wins everything; a 100th of one prompt's weight
_ROUNDS = 100


class OutcomeError(ValueError):
    """There is nothing to count, or a number isn't finite."""


@dataclass(frozen=True)
class Verdict:
    """What was said of one prompt. Every pair is A's and B's, in this order."""

    id: str
    outcome: str  # of A
    forward: list[float]  # scores, A's answer shown first
    backward: list[float]  # scores, B's answer shown first
    lengths: list[int]  # of the answers, in characters
    parts: dict[str, float] = field(default_factory=dict)


def outcome(forward: Sequence[float], backward: Sequence[float]) -> str:
    """Win, tie or lose of A from the scores (A, B) of both orders.

    Exchanging A with B exchanges win with lose.
    """
    balance = sign(forward) + sign(backward)
    return WIN if balance > 0 else LOSE if balance < 0 else TIE


def sign(scores: Sequence[float]) -> int:
    """1 if the first score is higher, -1 if the second is, 0 if they are equal."""
    first, second = scores
    return (first > second) - (first < second)


def winning_score(win: int, tie: int, lose: int) -> float:
    """(win - lose) / n + 1: 0 if all are lost, 1 if as many are won as lost, 2 if all are won.

    Raises:
        OutcomeError: no verdict.
    """
    if win + tie + lose == 0:
        raise OutcomeError("no prompt has a verdict, so there is no winning score.")
    return (win - lose) / (win + tie + lose) + 1


def summary(verdicts: Sequence[Verdict], failed: int, *, ordered: bool = True) -> dict[str, Any]:
    """The numbers of one comparison.

    Args:
        failed: prompts without a verdict.
        ordered: the judge saw the answers in an order; False leaves out what is said of orders.

    Raises:
        OutcomeError: no verdict at all.
    """
    counts = {name: sum(v.outcome == name for v in verdicts) for name in (WIN, TIE, LOSE)}
    win, tie, lose = counts.values()
    score = winning_score(win, tie, lose)
    n, prompts = len(verdicts), len(verdicts) + failed
    decided = [v for v in verdicts if v.outcome != TIE]
    won = [v.lengths[v.outcome == LOSE] for v in decided]
    lost = [v.lengths[v.outcome == WIN] for v in decided]
    rate = (win + tie / 2) / n
    controlled = length_controlled([_preference(v) for v in verdicts], [v.lengths[0] - v.lengths[1] for v in verdicts])
    singles = [(sign(v.forward), -sign(v.backward)) for v in verdicts]  # 1: the answer shown first is preferred
    preferences = [one for both in singles for one in both if one]
    return {
        "prompts": prompts,
        "judged": n,
        "failed": failed,
        "failed_share": failed / prompts,
        **counts,
        "winning_score": score,
        "winning_score_low": (win - lose - failed) / prompts + 1,
        "winning_score_high": (win - lose + failed) / prompts + 1,
        "win_rate": 100 * rate,
        "length_controlled_win_rate": 100 * controlled,
        "length_controlled_score": 2 * controlled,
        "position_consistency": fmean(a == -b for a, b in singles) if ordered else None,
        "first_preferred": fmean(one > 0 for one in preferences) if ordered and preferences else None,
        "length": fmean(v.lengths[0] for v in verdicts),
        "length_other": fmean(v.lengths[1] for v in verdicts),
        "length_winners": fmean(won) if won else None,
        "length_losers": fmean(lost) if lost else None,
        "longer_wins": _longer_wins(won, lost),
    }


def _preference(verdict: Verdict) -> float:
    return {WIN: 1.0, TIE: 0.5, LOSE: 0.0}[verdict.outcome]


def _longer_wins(won: Sequence[int], lost: Sequence[int]) -> float | None:
    """Share of the decided pairs of different lengths that the longer answer wins."""
    longer_won = [a > b for a, b in zip(won, lost, strict=True) if a != b]
    return fmean(longer_won) if longer_won else None


def length_controlled(preferences: Sequence[float], differences: Sequence[float]) -> float:
    """Expected preference for A, 0 to 1, if both answers were of the same length.

    Args:
        preferences: 1 for A, 0 for B, 0.5 for a tie; or anything between.
        differences: length of A's answer less that of B's.

    Raises:
        OutcomeError: no value, or one that isn't finite.
    """
    target, delta = np.asarray(preferences, np.float64), np.asarray(differences, np.float64)
    if not target.size or target.shape != delta.shape or not (np.isfinite(target).all() and np.isfinite(delta).all()):
        raise OutcomeError(
            f"length control needs as many finite preferences as differences, not {target.shape} and {delta.shape}."
        )
    spread = float(delta.std(ddof=1)) if delta.size > 1 else 0.0
    length = np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)
    model, _ = fit_logistic(target, np.stack([np.ones_like(length), length], axis=1))
    return float(1 / (1 + np.exp(-model)))


def fit_logistic(target: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of a logistic regression with a weak ridge penalty, by Newton's method.

    Args:
        target: (n,) in [0, 1].
        features: (n, k).

    Raises:
        OutcomeError: it doesn't converge.
    """
    coefficients = np.zeros(features.shape[1])
    penalty = _RIDGE * np.eye(features.shape[1])

    def loss(at: NDArray[np.float64]) -> float:
        logits = features @ at
        return float((np.logaddexp(0, logits) - target * logits).sum() + at @ penalty @ at / 2)

    for _ in range(_ROUNDS):
        share = 1 / (1 + np.exp(-features @ coefficients))
        slope = features.T @ (share - target) + penalty @ coefficients
        if np.abs(slope).max() < 1e-10 * len(target):
            return coefficients
        curvature = features.T @ (features * (share * (1 - share))[:, None]) + penalty
        step = np.linalg.solve(curvature, slope)
        while loss(coefficients - step) > loss(coefficients) + 1e-12 * len(target):  # a full step may overshoot
            step = step / 2
        coefficients = coefficients - step
    raise OutcomeError(f"the logistic model of {len(target)} preferences doesn't converge.")
