"""Budget auto: the estimate against slow definitions and simulated truth, and its steps over a known matrix."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icon_folders import write_bank, write_baseline, write_texts

from icon_repro.data.cost import FROZEN_TRAINING, FULL_TRAINING
from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.agreement import spearman
from icon_repro.methods.icon import auto, auto_pool, chosen
from icon_repro.methods.icon.adaptive import row_sequence
from icon_repro.methods.icon.few import FewRowsError, Search, estimate, left_out, likeness, replay
from icon_repro.methods.icon.matrices import IconScoreError, Matrices, task_scores
from icon_repro.methods.icon.options import (
    AdaptiveConfig,
    AutoConfig,
    Budget,
    IconConfig,
    IconRound,
    SelectorConfig,
    SelectorKind,
    TuningSaved,
    resolved,
    round_ends,
    rows_in_use,
)

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def simulated(
    seed: int, c: int = 160, n: int = 120, known: float = 0.7, width: int = 12, liked: float = 0.08
) -> tuple[Matrix, Matrix]:
    """Contributions (c, n) of which hidden states explain a share ``known``, by row too; and how alike they are."""
    draw = np.random.default_rng(seed)
    hidden = draw.standard_normal((c, width))
    explained = hidden @ draw.standard_normal(width) / np.sqrt(width)
    scores = 0.05 * (np.sqrt(known) * explained + np.sqrt(1 - known) * draw.standard_normal(c))
    likes = liked * hidden @ draw.standard_normal((width, n)) / np.sqrt(width)  # what a row likes in a text
    noise = 0.1 * draw.standard_normal((c, n)) * np.exp(0.4 * draw.standard_normal(n))
    return scores[:, None] + likes + noise + 0.2 * draw.standard_normal(n), likeness(hidden, [width])


def own_rows(task: Matrix, rows: int) -> Matrix:
    cells = np.full(task.shape, np.nan)
    for i in range(len(task)):
        places = (i * rows + np.arange(rows)) % task.shape[1]
        cells[i, places] = task[i, places]
    return cells


@pytest.mark.parametrize("weighted", [False, True])
def test_left_out_predictions_are_those_of_fits_without_the_row(weighted: bool) -> None:
    draw = np.random.default_rng(0)
    hidden, goals = draw.standard_normal((30, 5)), draw.standard_normal(30)
    weights = draw.uniform(0.5, 2.0, 30) if weighted else np.ones(30)
    alike = likeness(hidden, [5])
    found, penalty = left_out(alike, goals, weights)
    share = weights / weights.mean()
    for row in (3, 17):
        rest = np.arange(30) != row
        within = alike[np.ix_(rest, rest)] + 100.0 + np.diag(penalty / share[rest])
        centre = share @ goals / share.sum()
        slow = centre + (alike[row, rest] + 100.0) @ np.linalg.solve(within, goals[rest] - centre)
        assert found[row] == pytest.approx(slow, abs=1e-8)


def test_likeness_gives_each_part_the_same_weight_and_refuses_what_isnt_finite() -> None:
    draw = np.random.default_rng(0)
    parts = draw.standard_normal((20, 6))
    np.testing.assert_allclose(likeness(parts * [1, 1, 1, 50, 50, 50], [3, 3]), likeness(parts, [3, 3]), atol=1e-12)
    assert np.trace(likeness(parts, [6])) == pytest.approx(20)
    with pytest.raises(FewRowsError, match="first: number 7"):
        likeness(np.where(np.arange(20)[:, None] == 7, np.nan, parts), [6])
    with pytest.raises(FewRowsError, match="same hidden states"):
        likeness(np.ones((20, 6)), [6])


def test_few_rows_and_the_others_rank_better_than_either() -> None:
    found = []
    for seed in range(6):
        task, alike = simulated(seed)
        truth, cells = task.mean(axis=1), own_rows(task, 4)
        known = estimate(cells, alike, task.shape[1])
        alone = np.nanmean(cells - np.nanmean(cells, axis=0), axis=1)
        same = estimate(np.where(np.arange(120) < 4, task, np.nan), alike, 120)
        found.append([spearman(x, truth) for x in (known.mean, alone, known.predicted, same.mean)])
    both, rows, probe, same_rows = np.mean(found, axis=0)
    assert both > rows + 0.05 and both > probe + 0.02
    assert both > same_rows + 0.05  # rows of one's own: what a row likes averages out over the candidates


@pytest.mark.parametrize(("liked", "most"), [(0.02, 1.25), (0.08, 1.4)])
def test_errors_are_those_of_the_estimates(liked: float, most: float) -> None:
    ratios = []
    for seed in range(10):
        task, alike = simulated(seed, liked=liked)
        known = estimate(own_rows(task, 6), alike, 120)
        apart = known.mean - task.mean(axis=1)
        ratios.append((apart - apart.mean()) / known.error)
    assert 0.75 < np.std(ratios) < most


def test_all_rows_give_the_full_scores() -> None:
    task, alike = simulated(0, c=40, n=30)
    known = estimate(task, alike, 30)
    np.testing.assert_allclose(known.mean - task.mean(axis=1), (known.mean - task.mean(axis=1)).mean(), atol=1e-12)
    assert (known.error == 0).all() and (known.rows == 30).all()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (np.arange(35.0).reshape(7, 5), "7 candidates: at least 8 are needed.*budget=full"),
        (np.where(np.arange(5) < 1, np.arange(50.0).reshape(10, 5), np.nan), "too few to tell candidates"),
        (np.tile(np.arange(5.0), (10, 1)), "all 10 candidates have the same score"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(cells: Matrix, message: str) -> None:
    with pytest.raises(FewRowsError, match=message):
        estimate(cells, np.eye(len(cells)), 5)


def test_replay_bound_holds_and_rounds_cost_less_than_all_pairs() -> None:
    held, shares, overlaps = [], [], []
    for seed in range(12):
        task, alike = simulated(seed)
        ends = round_ends(120, AutoConfig())
        found = replay(task, alike, [0.15], ends, np.random.default_rng(seed), rows=120)
        held.append(1 - found.overlap[0.15] <= found.disagreement[0.15]["bound"] + 1e-9)
        shares.append(found.pairs / task.size)
        overlaps.append(found.overlap[0.15])
    assert np.mean(held) >= 0.9 and np.mean(overlaps) > 0.9
    assert max(shares) < 0.85


def test_replay_of_the_first_rows_alone_says_that_it_is_unsure() -> None:
    task, alike = simulated(3)
    few = replay(task, alike, [0.15], [4], np.random.default_rng(0), rows=48)
    more = replay(task, alike, [0.15], [4, 8, 16, 32, 48], np.random.default_rng(0), rows=48)
    assert few.pairs == 160 * 4 < more.pairs
    assert few.disagreement[0.15]["expected"] > more.disagreement[0.15]["expected"] > 0.05


def test_search_asks_for_rows_of_each_candidates_own() -> None:
    task, alike = simulated(0)
    search = Search(alike, 48, 120, [0.1], [4, 8], 0.05)
    asked = search.asked()
    assert asked[0] == [0, 1, 2, 3] and asked[13] == [4, 5, 6, 7] and len(asked) == 160
    assert np.ptp(np.bincount([place for places in asked.values() for place in places])) <= 4
    search.advance({i: task[i, places].tolist() for i, places in asked.items()})
    again = search.asked()
    assert 0 < len(again) < 160 and all(len(places) == 4 for places in again.values())
    assert again.keys() == set(np.flatnonzero(search.active).tolist())


def test_rows_in_use_keep_the_banks_share_small() -> None:
    assert [rows_in_use(1020, count, AutoConfig()) for count in (100, 5000, 50000)] == [48, 156, 1020]
    assert rows_in_use(30, 5000, AutoConfig()) == 30 and rows_in_use(1020, 5000, AutoConfig(rows=64)) == 64


def graded(seed: int, c: int = 160, n: int = 100) -> tuple[Matrix, Matrix]:
    """As ``simulated``, but a quarter of the rows hold little noise, and another says the opposite of the rest."""
    draw = np.random.default_rng(seed)
    hidden = draw.standard_normal((c, 12))
    scores = 0.05 * (hidden @ draw.standard_normal(12) / np.sqrt(12) + 0.7 * draw.standard_normal(c))
    noise = np.repeat([0.03, 0.12, 0.12, 0.06], n // 4)
    slope = np.repeat([1.2, 1.2, 1.2, -0.2], n // 4)
    return scores[:, None] * slope + noise * draw.standard_normal((c, n)) + draw.standard_normal(n), likeness(
        hidden, [12]
    )


def test_rows_that_go_with_the_others_are_chosen() -> None:
    task, _ = graded(0)
    rows = chosen.choose(task[:24], 16)
    assert len(set(rows)) == 16 and np.mean(np.array(rows) < 25) > 0.8
    slow = [np.corrcoef(task[:24, j], np.delete(task[:24], j, axis=1).mean(axis=1))[0, 1] for j in range(100)]
    assert rows == np.argsort(slow)[::-1][:16].tolist()
    flat = np.where(np.arange(100) == rows[0], 1.0, task[:24])
    assert rows[0] not in chosen.choose(flat, 99)  # says nothing: it is the last


def test_chosen_rows_rank_better_than_as_many_of_each_candidates_own() -> None:
    ranks, held = [], []
    for seed in range(8):
        task, alike = graded(seed)
        truth, draw = task.mean(axis=1), np.random.default_rng(seed)
        own = replay(task, alike, [0.15], [4], draw, rows=64)
        found = chosen.replay(task, [0.15], draw, rows=64, pilot=16, each=4)
        assert found.pairs == found.met.sum() == 16 * 64 + 144 * 4
        ranks.append([spearman(one.mean, truth) for one in (found, own)])
        held.append(1 - found.overlap[0.15] <= found.disagreement[0.15]["bound"] + 1e-9)
    better, usual = np.mean(ranks, axis=0)
    assert better > usual + 0.05 and np.mean(held) >= 0.85


def test_error_of_a_score_by_chosen_rows_isnt_the_choices_own() -> None:
    ratios = []
    for seed in range(12):
        task, _ = graded(seed)
        choice = chosen.learned(task[:20, :80], 4, 100)
        apart = (choice.score(task[20:, choice.places].mean(axis=1)) - task[20:].mean(axis=1)).std()
        ratios.append(apart / choice.error)
        means = task[:20, choice.places].mean(axis=1)
        slope, level = np.polyfit(means, task[:20, :80].mean(axis=1), 1)
        assert choice.slope == pytest.approx(slope) and choice.level == pytest.approx(level)
    assert 0.7 < np.mean(ratios) < 1.3


@pytest.mark.parametrize(
    ("pilot", "message"),
    [
        (np.arange(28.0).reshape(7, 4), "7 candidates in the pilot: at least 8"),
        (np.tile(np.arange(4.0), (9, 1)), "all 9 candidates of the pilot have the same score"),
    ],
)
def test_pilot_that_says_nothing_is_refused(pilot: Matrix, message: str) -> None:
    with pytest.raises(FewRowsError, match=message):
        chosen.learned(pilot, 2, 4)


# ---------------------------------------------------------------- steps

COUNT, N = 60, 40
GROUPS = ["x" if i % 3 else "y" for i in range(N)]
AUTO = IconConfig(budget=Budget.auto, adaptive=AdaptiveConfig(error=0.1), auto=AutoConfig(rows=32, pilot_candidates=8))


class Job:
    """Folders of a run with budget auto over a known matrix of NLLs: steps are run, the shards are filled in."""

    def __init__(self, root: Path, runtime: Runtime, icon: IconConfig, saved: TuningSaved | None = None) -> None:
        self.root, self.runtime = root, runtime
        generator = np.random.default_rng(5)
        hidden = generator.standard_normal((COUNT, 6))
        liked = hidden @ generator.standard_normal((6, N)) * 0.05
        self.nll = (2 + 0.1 * hidden[:, :1] + liked + 0.1 * generator.standard_normal((COUNT, N))).astype(np.float32)
        self.candidates, self.rows = [f"c{i:03d}" for i in range(COUNT)], [f"a{i:03d}" for i in range(N)]
        self.texts = [Example(i, "Say it.", "", "word " * (3 + k % 20)) for k, i in enumerate(self.candidates)]
        asked = [Example(i, "What?", "", "That.", group=group) for i, group in zip(self.rows, GROUPS, strict=True)]
        self.contexts = {row.id: 3 + len(row.response) // 4 for row in self.texts}
        rounds = 1 if saved else len(round_ends(rows_in_use(N, COUNT, icon.auto), icon.auto))
        self.job = IconRound(icon, None, [0.1, 0.3], rounds, saved)
        self.inputs = {
            "order": write_texts(root / "order", self.texts),
            "assessment": write_texts(root / "assessment", asked),
        }
        self.step("rows", auto.rows)
        used = self.sequence("rows")["rows"]
        self.alone = 2.1 + 0.2 * generator.random(len(used))
        self.bank = 2.0 + 0.1 * generator.standard_normal((3, 2, len(used)))
        self.inputs["baseline"] = write_baseline(root / "baseline", self.alone, used)
        self.inputs["bank"] = write_bank(root / "bank", self.bank, [4, 8, 64], self.contexts, used)
        for name, tokens in (("baseline", 1000), ("bank", 6000)):
            write_json(self.inputs[name] / "record.json", {"metrics": {"tokens": tokens}})
        (root / "features").mkdir()
        self.inputs["features"] = root / "features"
        np.save(root / "features" / "alike.npy", likeness(hidden, [6]).astype(np.float32))
        write_json(root / "features" / "ids.json", {"candidates": self.candidates})

    def step(self, name: str, function: Any) -> dict[str, Any]:
        (self.root / name).mkdir()
        metrics: dict[str, Any] = function(self.job, self.inputs, self.root / name, self.runtime)
        self.inputs[name] = self.root / name
        return metrics

    def sequence(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.root / name / "sequence.json")
        return found

    def score(self, prefix: str, own: dict[str, list[str]]) -> None:
        """Write the shards that a sequence asks for: slices of the order."""
        for number, slots in enumerate(np.array_split(np.arange(COUNT), 3)):
            wanted = [self.candidates[i] for i in slots.tolist() if self.candidates[i] in own]
            folder = self.root / f"{prefix}-{number:04d}"
            folder.mkdir()
            values = [
                self.nll[self.candidates.index(i), [self.rows.index(row) for row in own[i]]].tolist() for i in wanted
            ]
            np.save(folder / "candidate.npy", np.array([x for each in values for x in each], np.float32))
            write_json(folder / "ids.json", {"candidates": wanted, "assessment": [own[i] for i in wanted]})
            pairs = sum(map(len, values))
            tokens = sum(self.contexts[i] for i in wanted) + 7 * pairs
            metrics = {"tokens": tokens, "pairs": pairs, "candidates": len(wanted)}
            write_json(folder / "record.json", {"metrics": metrics})
            self.inputs[folder.name] = folder

    def run(self) -> dict[str, Any]:
        """All steps; returns the metrics of the scores."""
        if self.job.saved is not None:
            self.step("pilot", auto_pool.pilot)
            self.score("pilot", self.sequence("pilot")["own"])
        self.started = self.step("start", auto_pool.start if self.job.saved else auto.start)
        self.score("round00", self.sequence("start")["own"])
        for number in range(1, self.job.rounds):
            self.step(f"decide{number}", auto.decide)
            self.score(f"round{number:02d}", self.sequence(f"decide{number}")["own"])
        return self.step("scores", auto_pool.scores if self.job.saved else auto.scores)

    def found(self) -> list[Score]:
        return read_rows(self.root / "scores" / "scores.jsonl", Score)

    def task(self) -> Matrix:
        """The known contributions to the rows in use."""
        from icon_repro.methods.icon.control import bank_control

        columns = [self.rows.index(i) for i in self.sequence("rows")["rows"]]
        control = bank_control(self.bank.astype(np.float32), [4, 8, 64], [self.contexts[i] for i in self.candidates])
        return task_scores(self.nll[:, columns], control, self.alone, IconConfig().epsilon)


def test_steps_do_what_the_search_says(tmp_path: Path, runtime: Runtime) -> None:
    job = Job(tmp_path, runtime, AUTO)
    metrics = job.run()
    used, task = job.sequence("rows"), job.task()
    assert used["rows"] == row_sequence(job.rows, GROUPS, 0)[:32] and used["total"] == N
    alike = np.load(tmp_path / "features" / "alike.npy").astype(np.float64)
    search = Search(alike, 32, N, [0.1, 0.3], round_ends(32, AUTO.auto), 0.1)
    asked = []
    while not search.over:
        asked.append(search.asked())
        search.advance({i: task[i, places].tolist() for i, places in asked[-1].items()})
    assert search.posterior is not None
    found = job.found()
    assert [row.id for row in found] == job.candidates
    np.testing.assert_allclose([row.score for row in found], search.posterior.mean, rtol=0, atol=1e-7)
    assert [row.parts["rows"] for row in found] == search.posterior.rows.tolist()
    assert metrics["pairs"] == sum(len(places) for each in asked for places in each.values()) < COUNT * 32
    assert (
        metrics["share_scored"] == pytest.approx(metrics["pairs"] / (COUNT * N)) and metrics["assessment_in_use"] == 32
    )
    for fraction, said in search.disagreement().items():
        assert metrics[f"disagreement_bound@{fraction:g}"] == pytest.approx(said["bound"], abs=1e-9)
    assert spearman([row.score for row in found], -job.nll.mean(axis=1)) > 0.8


SAVED = TuningSaved(epochs=60.0, max_length=16, frozen=False, fraction=0.3)
SELECTOR = SelectorConfig(kind=SelectorKind.lora, epochs=2.0, repeats=3, pool_max_length=10)


@pytest.mark.parametrize("frozen", [False, True])
def test_candidates_are_as_many_as_the_saved_tuning_pays_for(tmp_path: Path, runtime: Runtime, frozen: bool) -> None:
    saved = replace(SAVED, frozen=frozen)
    icon = replace(AUTO, selector=SELECTOR, auto=replace(AUTO.auto, cost_ratio=0.5, least_candidates=8))
    job = Job(tmp_path, runtime, icon, saved)
    job.run()
    chars = [len(row.instruction) + len(row.response) for row in job.texts]
    lengths = [sum(job.contexts.values()) / sum(chars) * c for c in chars]
    mean = sum(lengths) / COUNT
    tuned = 0.7 * 60 * (FROZEN_TRAINING if frozen else FULL_TRAINING) * sum(min(length, 16) for length in lengths)
    learned = mean * 3 * 2 * FROZEN_TRAINING
    pilot = sum(job.contexts[i] for i in job.candidates[:8]) + 8 * 32 * 7 + 8 * learned
    spent = 1000 + 6000 + 3 * sum(min(length, 10) for length in lengths) + pilot
    each = sum(job.contexts.values()) / COUNT + 4 * 7 + learned
    assert job.started["candidates_affordable"] == 8 + int((0.5 * tuned - spent) / each) > 8
    found = job.found()
    assert len(found) == min(COUNT, job.started["candidates_affordable"]) == job.started["candidates"]
    assert [row.parts["rows"] for row in found] == [32.0] * 8 + [4.0] * (len(found) - 8)
    assert job.started["pairs"] == 4 * (len(found) - 8)  # the pilot's are there


def test_candidates_meet_the_rows_that_the_pilot_chose(tmp_path: Path, runtime: Runtime) -> None:
    icon = replace(AUTO, selector=SELECTOR, auto=replace(AUTO.auto, cost_ratio=100.0))
    job = Job(tmp_path, runtime, icon, SAVED)
    metrics = job.run()
    task, used = job.task(), job.sequence("rows")["rows"]
    assert job.sequence("pilot")["own"] == dict.fromkeys(job.candidates[:8], used)
    choice, begun = chosen.learned(task[:8], 4, N), job.sequence("start")
    assert begun["chosen"] == [used[place] for place in choice.places] and metrics["assessment_chosen"] == 4
    assert begun["own"] == dict.fromkeys(job.candidates[8:], begun["chosen"])
    wanted = choice.level + choice.slope * task[:, choice.places].mean(axis=1)
    wanted[:8] = task[:8].mean(axis=1)
    found = job.found()
    np.testing.assert_allclose([row.score for row in found], wanted, rtol=0, atol=1e-7)
    errors = [choice.pilot_error] * 8 + [choice.error] * (COUNT - 8)
    np.testing.assert_allclose([row.parts["estimate_error"] for row in found], errors, atol=1e-7)
    assert metrics["pairs"] == 8 * 32 + (COUNT - 8) * 4


def test_pilots_shards_of_other_rows_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    job = Job(tmp_path, runtime, replace(AUTO, selector=SELECTOR), SAVED)
    job.step("pilot", auto_pool.pilot)
    asked = job.sequence("pilot")["own"]
    job.score("pilot", {i: rows[::-1] for i, rows in asked.items()})
    with pytest.raises(IconScoreError, match=r"pilot-\*: the shards hold other pairs"):
        job.step("start", auto_pool.start)


def test_fewer_candidates_than_the_least_are_never_taken(tmp_path: Path, runtime: Runtime) -> None:
    icon = replace(AUTO, selector=SELECTOR, auto=replace(AUTO.auto, cost_ratio=1e-6, least_candidates=20))
    job = Job(tmp_path, runtime, icon, SAVED)
    job.run()
    assert job.started["candidates_affordable"] == 0 and len(job.found()) == 20


@pytest.mark.parametrize("what", ["rows", "missing", "value"])
def test_shards_of_other_pairs_are_refused(tmp_path: Path, runtime: Runtime, what: str) -> None:
    job = Job(tmp_path, runtime, AUTO)
    job.step("start", auto.start)
    job.score("round00", job.sequence("start")["own"])
    folder = job.inputs["round00-0001"]
    ids, values = read_json(folder / "ids.json"), np.load(folder / "candidate.npy")
    if what == "rows":
        ids["assessment"][0] = ids["assessment"][0][::-1]
    elif what == "missing":
        ids = {name: each[1:] for name, each in ids.items()}
        values = values[4:]
    else:
        values[2] = np.nan
    write_json(folder / "ids.json", ids)
    np.save(folder / "candidate.npy", values)
    message = "isn't finite" if what == "value" else "round 0: the shards hold other pairs"
    with pytest.raises(IconScoreError, match=message):
        job.step("decide1", auto.decide)


def test_scores_before_the_last_round_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    job = Job(tmp_path, runtime, AUTO)
    job.step("start", auto.start)
    job.score("round00", job.sequence("start")["own"])
    with pytest.raises(IconScoreError, match="the last round isn't among the inputs"):
        job.step("scores", auto.scores)


def test_own_rows_of_a_shard_are_read_with_the_banks_control(tmp_path: Path, runtime: Runtime) -> None:
    job = Job(tmp_path, runtime, AUTO)
    job.step("start", auto.start)
    job.score("round00", job.sequence("start")["own"])
    found = Matrices(resolved(AUTO), job.inputs).own(job.inputs["round00-0000"])
    task, used = job.task(), job.sequence("rows")["rows"]
    for identifier, (rows, values) in found.items():
        places = [used.index(i) for i in rows]
        np.testing.assert_allclose(values, task[job.candidates.index(identifier), places], atol=1e-7)
