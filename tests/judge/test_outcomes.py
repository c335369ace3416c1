"""Outcomes and their numbers: by hand, by an obvious loop, and the paper's own counts."""

import csv
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from icon_repro.evaluate.judge.comparison import (
    LOSE,
    TIE,
    WIN,
    OutcomeError,
    Verdict,
    fit_logistic,
    length_controlled,
    outcome,
    summary,
    winning_score,
)

SIZES = {"vicuna": 80, "koala": 180, "wizardlm": 218, "self_instruct": 252, "lima": 300}


def verdict(name: str, forward: list[float], backward: list[float], lengths: tuple[int, int] = (10, 10)) -> Verdict:
    return Verdict(name, outcome(forward, backward), forward, backward, list(lengths))


def swapped(one: Verdict) -> Verdict:
    """The same judgement with A and B exchanged: what was shown second is now A."""
    return verdict(one.id, one.backward[::-1], one.forward[::-1], (one.lengths[1], one.lengths[0]))


@pytest.mark.parametrize(
    "forward, backward, expected",
    [
        ([8, 7], [8, 7], WIN),  # better in both
        ([8, 7], [7, 7], WIN),  # better in one, equal in the other
        ([7, 7], [9, 1], WIN),
        ([8, 7], [7, 8], TIE),  # contradiction
        ([10, 1], [7, 7.5], TIE),  # however large one of the differences
        ([7, 7], [7, 7], TIE),
        ([0, 0], [0, 0], TIE),
        ([7, 8], [7, 7], LOSE),
        ([7, 7], [6.5, 7], LOSE),
        ([7, 8], [7, 8], LOSE),
    ],
)
def test_outcome_follows_the_papers_rule(forward: list[float], backward: list[float], expected: str) -> None:
    assert outcome(forward, backward) == expected


def test_outcome_exchanging_the_models_exchanges_win_and_lose_exactly() -> None:
    other = {WIN: LOSE, LOSE: WIN, TIE: TIE}
    scores = [0, 1, 7, 7.5, 10]
    for a, b, c, d in itertools.product(scores, repeat=4):
        assert outcome([b, a], [d, c]) == other[outcome([a, b], [c, d])]


def test_outcome_of_the_stored_reviews_is_symmetric_and_has_all_kinds(shared: Path) -> None:
    counts = dict.fromkeys((WIN, TIE, LOSE), 0)
    for line in (shared / "data/judge/reviews/koala_gpt4.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        one = verdict(row["id"], row["scores"], row["scores_reverse"][::-1])
        counts[one.outcome] += 1
        assert {one.outcome, swapped(one).outcome} in ({WIN, LOSE}, {TIE})
    assert sum(counts.values()) == 180 and min(counts.values()) > 0


# ---------------------------------------------------------------- the paper's numbers


SCORES = {  # that follow from figure 2's counts, worked out on paper: in SIZES' order, then pooled
    "llama31_8b": ("1.3000", "1.2500", "1.3807", "1.4365", "1.3100", "1.3447"),
    "qwen25_3b": ("1.2125", "1.1167", "1.1779", "1.0952", "1.2200", "1.1618"),
    "llama2_7b": ("1.4000", "1.2611", "1.2615", "1.1786", "1.3467", "1.2767"),
}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_winning_scores_of_figure_2_to_four_digits(shared: Path) -> None:
    rows = table(shared / "paper" / "figure2_pairwise_vs_full.csv")
    for model, expected in SCORES.items():
        counts = {r["set"]: (int(r["win"]), int(r["tie"]), int(r["lose"])) for r in rows if r["model"] == model}
        # the figure shows 208 of WizardLM's 218 prompts for Qwen2.5-3B; its score is of these
        shown = SIZES | ({"wizardlm": 208} if model == "qwen25_3b" else {})
        assert {name: sum(three) for name, three in counts.items()} == shown
        found = [winning_score(*counts[name]) for name in SIZES]
        found.append(winning_score(*(sum(column) for column in zip(*counts.values(), strict=True))))
        assert tuple(f"{value:.4f}" for value in found) == expected


def test_winning_scores_of_table_3_are_counts_and_pool_to_overall(shared: Path) -> None:
    """A published score is a whole number of wins less losses over the set's size; Overall is that of all prompts."""
    rows = table(shared / "paper" / "table3_pairwise_score.csv")
    assert len(rows) == 10
    misfits = []
    for row in rows:
        balances = {name: round((float(row[name]) - 1) * count) for name, count in SIZES.items()}
        sizes = {**SIZES, "overall": sum(SIZES.values())}
        for name, balance in {**balances, "overall": sum(balances.values())}.items():
            score = winning_score(max(0, balance), sizes[name] - abs(balance), max(0, -balance))
            if f"{score:.4f}" != row[name]:
                misfits.append((row["opponent"], name, row[name]))
    # no whole number gives 1.4229 of 252 prompts: that cell and the overall of its row can't be recomputed
    assert misfits == [("armorm", "self_instruct", "1.4229"), ("armorm", "overall", "1.2367")]


# ---------------------------------------------------------------- summary


def test_summary_counts_by_hand() -> None:
    verdicts = [
        verdict("a", [8, 7], [8, 7], (100, 50)),  # win of the longer
        verdict("b", [8, 7], [7, 7], (40, 60)),  # win of the shorter, consistent in one order only
        verdict("c", [9, 7], [6, 7], (10, 10)),  # contradiction: each time the answer shown first
        verdict("d", [5, 6], [5, 6], (30, 90)),  # lose to the longer
    ]
    found = summary(verdicts, failed=1)
    assert (found["win"], found["tie"], found["lose"], found["judged"]) == (2, 1, 1, 4)
    assert (found["prompts"], found["failed"], found["failed_share"]) == (5, 1, 0.2)
    assert found["winning_score"] == 1.25 and found["win_rate"] == 62.5
    # the failed prompt counts in no share; had it been lost or won:
    assert found["winning_score_low"] == pytest.approx(1.0) and found["winning_score_high"] == pytest.approx(1.4)
    assert found["position_consistency"] == 0.5  # a and d
    # first shown is preferred: a forward, b forward, c twice, d backward; not: a backward, d forward
    assert found["first_preferred"] == pytest.approx(5 / 7)
    assert found["length_winners"] == pytest.approx((100 + 40 + 90) / 3)
    assert found["length_losers"] == pytest.approx((50 + 60 + 30) / 3)
    assert found["longer_wins"] == pytest.approx(2 / 3)
    assert (found["length"], found["length_other"]) == (45, 52.5)


def test_summary_exchanging_the_models_mirrors_every_number() -> None:
    generator = random.Random(1)
    verdicts = [
        verdict(str(i), [generator.randint(1, 10) for _ in "ab"], [generator.randint(1, 10) for _ in "ab"],
                (generator.randint(1, 900), generator.randint(1, 900)))
        for i in range(200)
    ]  # fmt: skip
    one, other = summary(verdicts, 3), summary([swapped(v) for v in verdicts], 3)
    assert (one["win"], one["tie"], one["lose"]) == (other["lose"], other["tie"], other["win"])
    assert one["winning_score"] - 1 == pytest.approx(1 - other["winning_score"], abs=1e-12)
    same = ("position_consistency", "first_preferred", "length_winners", "length_losers", "longer_wins", "failed_share")
    assert {key: one[key] for key in same} == {key: other[key] for key in same}
    assert (one["length"], one["length_other"]) == (other["length_other"], other["length"])
    assert one["length_controlled_win_rate"] == pytest.approx(100 - other["length_controlled_win_rate"], abs=1e-7)
    assert one["win"] != one["lose"]


def test_summary_without_orders_says_nothing_of_them() -> None:
    found = summary([verdict("a", [2, 1], [2, 1])], 0, ordered=False)
    assert found["position_consistency"] is None and found["first_preferred"] is None


def test_summary_without_a_verdict_is_refused() -> None:
    with pytest.raises(OutcomeError, match="no prompt has a verdict"):
        summary([], failed=7)


# ---------------------------------------------------------------- length control


def simulated(
    rng: np.random.Generator, quality: float, by_length: float, count: int
) -> tuple[list[float], list[float]]:
    delta = rng.normal(200, 300, count)  # A is longer by 200 characters
    share = 1 / (1 + np.exp(-(quality + by_length * np.tanh(delta / delta.std(ddof=1)))))
    return (rng.random(count) < share).astype(float).tolist(), delta.tolist()


def test_length_controlled_recovers_what_made_the_preferences() -> None:
    preferences, delta = simulated(np.random.default_rng(0), quality=0.4, by_length=1.5, count=60_000)
    expected = 1 / (1 + math.exp(-0.4))
    assert length_controlled(preferences, delta) == pytest.approx(expected, abs=0.012)  # 3 standard errors
    assert np.mean(preferences) > expected + 0.1  # the raw share gives the longer answers too much


def test_length_controlled_judge_that_follows_length_alone_gives_half() -> None:
    preferences, delta = simulated(np.random.default_rng(1), quality=0.0, by_length=3.0, count=20_000)
    assert abs(length_controlled(preferences, delta) - 0.5) < 0.02 < np.mean(preferences) - 0.6


def test_length_controlled_equal_lengths_is_the_raw_share() -> None:
    assert length_controlled([1, 1, 0.5, 0] * 200, [5] * 800) == pytest.approx(0.625, abs=1e-4)
    assert length_controlled([1.0], [3]) > 0.9  # one verdict: nothing to learn of length


def test_length_controlled_all_won_stays_finite() -> None:
    assert 0.95 < length_controlled([1.0] * 20, list(range(20))) < 1
    assert 0 < length_controlled([0.0] * 20, list(range(20))) < 0.05


def test_fit_logistic_equals_a_general_optimiser() -> None:
    rng = np.random.default_rng(2)
    features = np.stack([np.ones(300), rng.normal(size=300)], axis=1)
    target = rng.choice([0.0, 0.5, 1.0], 300)

    def loss(at: np.ndarray) -> float:
        total = 0.005 * float(at @ at)
        for row, wanted in zip(features, target, strict=True):
            share = 1 / (1 + math.exp(-float(row @ at)))
            total -= wanted * math.log(share) + (1 - wanted) * math.log(1 - share)
        return total

    np.testing.assert_allclose(fit_logistic(target, features), minimize(loss, [0.0, 0.0]).x, atol=1e-4)


@pytest.mark.parametrize(
    "preferences, delta", [([], []), ([1.0], [1, 2]), ([1.0, math.nan], [1, 2]), ([1, 0], [1, math.inf])]
)
def test_length_controlled_bad_numbers_are_refused(preferences: list[float], delta: list[float]) -> None:
    with pytest.raises(OutcomeError, match="finite"):
        length_controlled(preferences, delta)
