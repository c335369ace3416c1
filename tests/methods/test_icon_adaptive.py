"""The race: what it promises about rows, estimates, the selection and its bound, on matrices with a known structure."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from icon_repro.methods.icon.adaptive import Race, Replay, replay, row_sequence
from icon_repro.methods.icon.options import AdaptiveConfig, round_ends

Matrix = np.ndarray


def simulated(
    generator: np.random.Generator, c: int = 200, n: int = 150, own: float = 0.05, tail: float | None = None
) -> Matrix:
    """(c, n) contributions: effects of candidates and rows, and noise whose spread differs by row.

    Args:
        own: standard deviation of the candidates' effects; that of a cell's noise is about 0.2.
        tail: degrees of freedom of the noise; None: normal.
    """
    spread = 0.15 * np.exp(0.8 * generator.standard_normal(n))
    noise = generator.standard_normal((c, n)) if tail is None else generator.standard_t(tail, (c, n))
    effects = own * generator.standard_normal((c, 1)) + 0.3 * generator.standard_normal((1, n))
    return np.asarray(effects + spread * noise)


def top(values: np.ndarray, fraction: float) -> set[int]:
    return set(np.argsort(-values, kind="stable")[: max(1, round(fraction * len(values)))].tolist())


def replayed(
    task: Matrix, fractions: Sequence[float] = (0.15,), seed: int = 0, cfg: AdaptiveConfig | None = None
) -> Replay:
    return replay(task, fractions, cfg or AdaptiveConfig(), np.random.default_rng(seed))


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    "sizes", [[7], [40, 30, 32], [400, 300, 320], [1, 1, 98], [5, 5], [1] * 9, [3, 50, 200, 2, 90]]
)
def test_row_sequence_keeps_the_shares_of_groups_in_every_beginning(sizes: list[int]) -> None:
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    ids = [f"a{i:04d}" for i in range(len(groups))]
    group = dict(zip(ids, groups, strict=True))
    sequence = row_sequence(ids, groups, 0)
    assert sorted(sequence) == ids
    counts = Counter[str]()
    for length, identifier in enumerate(sequence, start=1):
        counts[group[identifier]] += 1
        for g, size in enumerate(sizes):
            share = size / len(ids)
            # half a row for rounding, and its share of the half rows of all groups: 1 at most with two groups
            assert abs(counts[f"g{g}"] - share * length) <= 0.5 + share * len(sizes) / 2 + 1e-9


def test_row_sequence_depends_on_ids_groups_and_seed_only() -> None:
    ids = [f"a{i:03d}" for i in range(60)]
    groups = ["x" if i % 3 else "y" for i in range(60)]
    usual = row_sequence(ids, groups, 0)
    order = np.random.default_rng(1).permutation(60)
    assert row_sequence([ids[i] for i in order], [groups[i] for i in order], 0) == usual
    other = row_sequence(ids, groups, 1)
    assert other != usual and sorted(other) == ids
    assert usual != ids and row_sequence(ids, [""] * 60, 0) != ids  # within a group, too, it is random


# ---------------------------------------------------------------- the selection


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fractions", [(0.15,), (0.05, 0.3, 0.7)])
def test_replay_with_a_tiny_error_selects_what_full_scoring_does(seed: int, fractions: tuple[float, ...]) -> None:
    task = simulated(np.random.default_rng(seed), own=0.2)
    found = replayed(task, fractions, seed, AdaptiveConfig(error=1e-9))
    full = task.mean(axis=1)
    for fraction in fractions:
        assert top(found.mean, fraction) == top(full, fraction)
        assert found.overlap[fraction] == 1
        assert found.disagreement[fraction]["bound"] == 0
    assert found.pairs <= task.size


def test_replay_settles_easy_candidates_early_and_rightly() -> None:
    generator = np.random.default_rng(0)
    task = simulated(generator, own=0.02)
    task[:30] += 3.0
    order = generator.permutation(200)
    found = replayed(task[order])
    assert found.overlap == {0.15: 1.0}
    assert task.size / found.pairs > 3.5
    assert found.pairs < 200 * 40  # after the first rounds nobody is in doubt


def test_replay_is_the_same_whenever_it_is_run() -> None:
    task = simulated(np.random.default_rng(0))
    one, two = replayed(task, seed=3), replayed(task, seed=3)
    assert np.array_equal(one.mean, two.mean)
    assert (one.pairs, one.overlap, one.disagreement) == (two.pairs, two.overlap, two.disagreement)
    assert replayed(task, seed=4).pairs != one.pairs


@pytest.mark.parametrize("tail", [None, 3.0], ids=["normal", "heavy"])
def test_replay_bound_covers_the_disagreement_of_most_runs(tail: float | None) -> None:
    wrong, bounds, expected, saved = [], [], [], []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        task = simulated(generator, tail=tail)
        found = replay(task, [0.15], AdaptiveConfig(), generator)
        wrong.append(1 - found.overlap[0.15])
        bounds.append(found.disagreement[0.15]["bound"])
        expected.append(found.disagreement[0.15]["expected"])
        saved.append(task.size / found.pairs)
    assert np.mean(np.array(wrong) <= np.array(bounds) + 1e-9) >= 0.9
    assert max(bounds) <= 0.15 and max(expected) <= 0.05  # or covering is no art
    assert np.mean(wrong) <= 0.05  # what AdaptiveConfig.error aims at
    assert min(saved) > 1 and np.mean(saved) > 1.5


def test_replay_a_larger_error_saves_more_pairs() -> None:
    task = simulated(np.random.default_rng(1), own=0.1)
    pairs = [replayed(task, cfg=AdaptiveConfig(error=error)).pairs for error in (1e-6, 0.01, 0.1, 0.5)]
    assert pairs == sorted(pairs, reverse=True) and pairs[0] > 1.5 * pairs[-1]


def test_replay_more_cuts_take_more_pairs() -> None:
    task = simulated(np.random.default_rng(1), own=0.1)
    assert replayed(task, [0.05, 0.15, 0.3]).pairs > replayed(task, [0.15]).pairs


@pytest.mark.parametrize("c", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [1, 2, 16])
def test_replay_of_a_single_round_is_full_scoring(c: int, n: int) -> None:
    task = simulated(np.random.default_rng(0), c=c, n=n)
    found = replayed(task, [0.01, 0.5, 1.0])
    assert found.pairs == task.size
    np.testing.assert_allclose(found.mean, task.mean(axis=1), rtol=0, atol=1e-12)
    assert set(found.overlap.values()) == {1.0}


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17])
def test_replay_of_few_rows_is_full_scoring_or_nearly(n: int) -> None:
    task = simulated(np.random.default_rng(0), c=60, n=n)
    found = replayed(task, [0.2])
    if n <= 16:
        assert found.pairs == task.size
        np.testing.assert_allclose(found.mean, task.mean(axis=1), rtol=0, atol=1e-12)
    assert found.overlap[0.2] > 0.8


def test_replay_of_all_candidates_asks_for_one_round_only() -> None:
    task = simulated(np.random.default_rng(0))
    found = replayed(task, [1.0])
    assert found.pairs == 200 * 16
    assert found.overlap == {1.0: 1.0} and found.disagreement == {1.0: {"expected": 0.0, "bound": 0.0}}


def test_replay_of_ties_scores_them_fully() -> None:
    found = replayed(np.full((60, 40), 0.25), [0.1, 0.5])
    assert found.pairs == 60 * 40
    np.testing.assert_allclose(found.mean, 0.25, rtol=0, atol=1e-12)
    assert all(said["expected"] <= 0.05 for said in found.disagreement.values())


@pytest.mark.parametrize("error", [0.05, 0.5, 0.9])
def test_race_of_ties_chooses_as_many_as_are_asked_for(error: float) -> None:
    task = np.full((100, 60), 0.25)
    race = raced(task, [0.1, 0.5], AdaptiveConfig(error=error))
    assert {f: int(chosen.sum()) for f, chosen in race._chosen.items()} == {0.1: 10, 0.5: 50}
    mean = race.estimates().mean
    assert all(top(mean, f) == set(np.flatnonzero(race._chosen[f]).tolist()) for f in (0.1, 0.5))


def test_replay_where_candidates_differ_and_cells_dont_is_exact() -> None:
    effects = np.random.default_rng(0).standard_normal(80)
    task = np.repeat(effects[:, None], 60, axis=1)
    found = replayed(task, [0.1])
    assert found.overlap == {0.1: 1.0}
    assert found.pairs < task.size


# ---------------------------------------------------------------- the race


def raced(task: Matrix, fractions: Sequence[float], cfg: AdaptiveConfig, rounds: int | None = None) -> Race:
    """A race over the matrix, rows in its own order."""
    race = Race(len(task), task.shape[1], fractions, cfg, rounds)
    while not race.over:
        race.advance(task[np.flatnonzero(race.active), race.block()])
    return race


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_race_with_fewer_rounds_than_planned_scores_the_rest_in_the_last(rounds: int) -> None:
    task = simulated(np.random.default_rng(0), c=80)
    cfg = AdaptiveConfig(error=1e-9)
    race = Race(80, 150, [0.2], cfg, rounds)
    assert race.ends == [*round_ends(150, cfg)[: rounds - 1], 150]
    blocks = []
    while not race.over:
        blocks.append(race.block())
        race.advance(task[np.flatnonzero(race.active), race.block()])
    assert len(blocks) == rounds and blocks[-1].stop == 150
    assert all(one.stop == two.start for one, two in itertools.pairwise(blocks)) and blocks[0].start == 0
    found = race.estimates()
    done = found.rows == 150
    assert done.any()
    np.testing.assert_allclose(found.mean[done], task.mean(axis=1)[done], rtol=0, atol=1e-9)
    assert (found.error[done] == 0).all()
    if rounds == 1:
        assert done.all()


def test_race_estimates_are_as_far_off_as_their_error_says() -> None:
    ratios = []
    for seed in range(20):
        task = simulated(np.random.default_rng(seed), own=0.1)
        race = raced(task, [0.15], AdaptiveConfig(error=0.2))
        found = race.estimates()
        left = (found.rows > 0) & (found.rows < 150)
        assert left.sum() > 30 and (found.error[left] > 0).all()
        apart = (found.mean - task.mean(axis=1))[left]
        ratios += list((apart - apart.mean()) / found.error[left])  # who is left early is left for being extreme
    assert 0.5 < np.sqrt(np.mean(np.square(ratios))) < 1.2


def test_race_estimates_agree_with_what_was_decided_about_every_cut() -> None:
    for seed in range(10):
        task = simulated(np.random.default_rng(seed), tail=3.0)
        race = raced(task, [0.05, 0.2, 0.6], AdaptiveConfig(error=0.3))
        mean = race.estimates().mean
        for fraction in (0.05, 0.2, 0.6):
            chosen = race._chosen[fraction]
            assert chosen.sum() == round(fraction * 200)
            assert top(mean, fraction) == set(np.flatnonzero(chosen).tolist())


def test_race_never_drops_a_candidate_that_is_still_in_doubt_at_another_cut() -> None:
    generator = np.random.default_rng(0)
    task = simulated(generator, c=120, own=0.001)
    task[:60] += 5.0  # clear of the lower cut, in the thick of the upper one
    order = generator.permutation(120)
    rows = raced(task[order], [0.25, 0.5], AdaptiveConfig(error=1e-6)).estimates().rows
    upper = order < 60
    assert (rows[upper] == 150).mean() > 0.9
    assert (rows[~upper] < 150).mean() > 0.9


def test_race_allows_no_more_wrong_candidates_than_the_error_says() -> None:
    for seed, error in itertools.product(range(10), (0.01, 0.05, 0.3)):
        race = raced(simulated(np.random.default_rng(seed)), [0.1, 0.3], AdaptiveConfig(error=error))
        for fraction, said in race.disagreement().items():
            assert 0 <= said["expected"] <= error + 1e-12
            assert said["expected"] <= said["bound"] + 0.05 <= 1.05
            assert race.expected_wrong[fraction] == pytest.approx(said["expected"] * round(fraction * 200))


def test_race_bound_is_a_share_even_of_a_single_candidate() -> None:
    race = raced(simulated(np.random.default_rng(0), own=0.02), [0.001], AdaptiveConfig(error=0.99))
    assert race.disagreement()[0.001]["bound"] <= 1.0


def test_race_row_noise_is_the_variance_of_single_pairs() -> None:
    generator = np.random.default_rng(0)
    task = generator.standard_normal((200, 1)) + 3 * generator.standard_normal((1, 150))
    task = task + 0.4 * generator.standard_normal((200, 150))
    for first in (64, 150, 1000):  # of a single round, too
        assert raced(task, [0.1], AdaptiveConfig(first_rows=first)).row_noise == pytest.approx(0.16, rel=0.05)
