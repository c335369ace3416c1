"""Rounds as steps: a run without a model over a known matrix, and what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icon_folders import write_bank, write_baseline, write_shard, write_texts

from icon_repro.data.rows import Example, Score
from icon_repro.engine.records import read_json, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.methods.icon import rounds, score
from icon_repro.methods.icon.adaptive import Replay, replay, row_sequence
from icon_repro.methods.icon.matrices import Block, IconScoreError, Matrices
from icon_repro.methods.icon.options import (
    AdaptiveConfig,
    Budget,
    Control,
    IconConfig,
    IconRound,
    resolved,
    round_ends,
)

COUNT, N = 60, 48
GROUPS = [("x", "y", "z")[i % 3 if i < 30 else 0] for i in range(N)]


class Unshuffled(np.random.Generator):
    """Leaves rows in their order, as that of the steps is random already."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def permutation(self, x: Any, axis: int = 0) -> Any:
        return np.arange(x)


class Job:
    """Folders of one adaptive run over a known matrix of NLLs; the steps are run, the shards are filled in."""

    def __init__(self, tmp_path: Path, runtime: Runtime, icon: IconConfig, own: float = 0.15, **more: Any) -> None:
        self.root, self.runtime, self.icon = tmp_path, runtime, icon
        generator = np.random.default_rng(5)
        noise = generator.standard_normal((COUNT, N)) * 0.15 * np.exp(0.7 * generator.standard_normal(N))
        self.nll = (2.0 + own * generator.standard_normal((COUNT, 1)) + noise).astype(np.float32)
        self.candidates = [f"c{i:03d}" for i in range(COUNT)]
        self.rows = [f"a{i:03d}" for i in range(N)]
        texts = [Example(i, "Say it.", "", "word " * (3 + k % 20)) for k, i in enumerate(self.candidates)]
        asked = [Example(i, "What?", "", "That.", group=group) for i, group in zip(self.rows, GROUPS, strict=True)]
        self.contexts = {row.id: 3 + len(row.response) // 4 for row in texts}
        bank = 2.0 + 0.1 * generator.standard_normal((3, 2, N))
        self.texts = texts
        self.job = IconRound(icon, None, [0.1, 0.3], len(round_ends(N, icon.adaptive)))
        self.job = replace(self.job, **more)
        self.inputs = {
            "order": write_texts(tmp_path / "order", texts),
            "assessment": write_texts(tmp_path / "assessment", asked),
            "baseline": write_baseline(tmp_path / "baseline", 2.1 + 0.2 * generator.random(N), self.rows, GROUPS),
        }
        if icon.control is not Control.none:
            self.inputs["bank"] = write_bank(tmp_path / "bank", bank, [4, 8, 64], self.contexts, self.rows)
        for name, tokens in (("baseline", 1000), ("bank", 6000)):
            if name in self.inputs:
                write_json(self.inputs[name] / "record.json", {"metrics": {"tokens": tokens, "pairs": 1}})

    def step(self, name: str, function: Any, inputs: Mapping[str, Path]) -> dict[str, Any]:
        """Run a step; returns its metrics, remembers its folder."""
        (self.root / name).mkdir()
        metrics: dict[str, Any] = function(self.job, inputs, self.root / name, self.runtime)
        self.inputs[name] = self.root / name
        return metrics

    def score(self, prefix: str, sequence: Mapping[str, Sequence[str]], parts: int = 3) -> None:
        """Write the shards that a sequence asks for; slices of the order, as the plan makes them."""
        columns = [self.rows.index(i) for i in sequence["rows"]]
        for number, slots in enumerate(np.array_split(np.arange(COUNT), parts)):
            wanted = [i for i in slots.tolist() if self.candidates[i] in sequence["active"]]
            label = f"{prefix}-{number:04d}"
            folder = write_shard(
                self.root / label,
                self.nll[np.ix_(wanted, columns)],
                [self.candidates[i] for i in wanted],
                sequence["rows"],
            )
            self.inputs[label] = folder

    def sequence(self, name: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = read_json(self.root / name / "sequence.json")
        return found

    def begin(self) -> dict[str, Any]:
        """Start and the first round."""
        metrics = self.step("start", rounds.start, self.inputs)
        self.score("round00", self.sequence("start"))
        return metrics

    def rest(self, upto: int | None = None) -> list[dict[str, Any]]:
        """All rounds after the first, or those before ``upto``."""
        said = []
        for number in range(1, self.job.rounds if upto is None else upto):
            said.append(self.step(f"decide{number}", rounds.decide, self.inputs))
            self.score(f"round{number:02d}", self.sequence(f"decide{number}"))
        return said

    def scores(self) -> tuple[dict[str, Any], list[Score]]:
        metrics = self.step("scores", score.adaptive, self.inputs)
        return metrics, read_rows(self.root / "scores" / "scores.jsonl", Score)

    def block(self, candidates: Sequence[str], rows: Sequence[str]) -> Block:
        """The known matrix as contributions, read from one shard."""
        name = f"whole-{sum(path.name.startswith('whole-') for path in self.root.iterdir())}"
        cells = np.ix_([self.candidates.index(i) for i in candidates], [self.rows.index(i) for i in rows])
        shard = write_shard(self.root / name, self.nll[cells], candidates, rows)
        return Matrices(resolved(self.icon), self.inputs).block(shard)

    def expected(self) -> Replay:
        """What ``replay`` does with the candidates and rows in use."""
        used = self.sequence("start")
        whole = self.block(used["candidates"], used["pool_rows"])
        assert self.job.rounds >= len(round_ends(len(used["pool_rows"]), self.icon.adaptive))
        return replay(whole.task, self.job.fractions, self.icon.adaptive, Unshuffled())


ADAPTIVE = IconConfig(budget=Budget.adaptive, adaptive=AdaptiveConfig(first_rows=6, error=0.1))


@pytest.mark.parametrize("icon", [ADAPTIVE, replace(ADAPTIVE, control=Control.none)], ids=["bank", "none"])
def test_steps_select_what_replay_says(tmp_path: Path, runtime: Runtime, icon: IconConfig) -> None:
    job = Job(tmp_path, runtime, icon)
    begun = job.begin()
    used = job.sequence("start")
    said = job.rest()
    metrics, found = job.scores()
    expected = job.expected()
    assert [row.id for row in found] == used["candidates"] == job.candidates
    np.testing.assert_allclose([row.score for row in found], expected.mean, rtol=0, atol=1e-12)
    assert metrics["pairs"] == expected.pairs < COUNT * begun["rows"]
    assert metrics["share_scored"] == pytest.approx(expected.pairs / (COUNT * begun["rows"]))
    for fraction, values in expected.disagreement.items():
        assert metrics[f"disagreement_expected@{fraction:g}"] == pytest.approx(values["expected"], abs=1e-12)
        assert metrics[f"disagreement_bound@{fraction:g}"] == pytest.approx(values["bound"], abs=1e-12)
    by_rows = {row.id: row.parts["rows"] for row in found}
    assert all((row.parts["estimate_error"] == 0) == (by_rows[row.id] == begun["rows"]) for row in found)
    assert sum(by_rows.values()) == metrics["pairs"]
    (sampling,) = {row.parts["standard_error"] for row in found}
    assert sampling == pytest.approx(sampling_error(job), rel=1e-9)
    active = [step["active"] for step in said]
    assert active == sorted(active, reverse=True) and active[0] < COUNT
    assert all(step["active"] + step["settled"] == COUNT for step in said)
    ends = [0, *round_ends(begun["rows"], icon.adaptive)]
    for number, name in enumerate(["start", *(f"decide{k}" for k in range(1, job.job.rounds))]):
        asked, before = job.sequence(name), ends[min(number, len(ends) - 1)]
        still = [i for i in job.candidates if by_rows[i] > before]  # who is left never comes back
        assert asked["active"] == still
        assert asked["rows"] == (used["pool_rows"][before : ends[number + 1]] if still else [])


def sampling_error(job: Job) -> float:
    """Standard error of a mean over the rows in use, rows' effects apart: residuals of the first round."""
    used = job.sequence("start")
    task = job.block(used["candidates"], used["rows"]).task
    rest = task - task.mean(axis=0) - task.mean(axis=1, keepdims=True) + task.mean()
    freedom = (task.shape[0] - 1) * (task.shape[1] - 1)
    return float(np.sqrt((rest**2).sum() / freedom / len(used["pool_rows"])))


def test_steps_with_a_tiny_error_give_the_full_scores_at_the_cuts(tmp_path: Path, runtime: Runtime) -> None:
    icon = replace(ADAPTIVE, adaptive=replace(ADAPTIVE.adaptive, error=1e-9))
    job = Job(tmp_path, runtime, icon)
    job.begin()
    job.rest()
    _, found = job.scores()
    full = dict(zip(job.candidates, job.block(job.candidates, job.rows).task.mean(axis=1).tolist(), strict=True))
    for cut in (6, 18):
        ranked = [sorted(values, key=lambda i: -values[i])[:cut] for values in ({r.id: r.score for r in found}, full)]
        assert set(ranked[0]) == set(ranked[1])
    exact = [row for row in found if row.parts["estimate_error"] == 0]
    assert len(exact) > 30
    assert [row.score for row in exact] == pytest.approx([full[row.id] for row in exact], abs=1e-12)


def test_shards_may_be_cut_anywhere(tmp_path: Path, runtime: Runtime) -> None:
    found = []
    for parts in (1, 7):
        job = Job(tmp_path / str(parts), runtime, ADAPTIVE)
        job.step("start", rounds.start, job.inputs)
        job.score("round00", job.sequence("start"), parts)
        for number in range(1, job.job.rounds):
            job.step(f"decide{number}", rounds.decide, job.inputs)
            job.score(f"round{number:02d}", job.sequence(f"decide{number}"), parts)
        found.append(job.scores())
    assert found[0] == found[1]


@pytest.mark.parametrize("planned", [1, 2, 3])
def test_fewer_rounds_than_needed_score_the_rest_in_the_last(tmp_path: Path, runtime: Runtime, planned: int) -> None:
    icon = replace(ADAPTIVE, adaptive=replace(ADAPTIVE.adaptive, error=1e-9))
    job = Job(tmp_path, runtime, icon, rounds=planned)
    job.begin()
    job.rest()
    names = ["start", *(f"decide{number}" for number in range(1, planned))]
    widths = [len(job.sequence(name)["rows"]) for name in names]
    assert sum(widths) == N and widths[-1] == N - sum(widths[:-1])
    metrics, found = job.scores()
    assert metrics["share_scored"] > 0.8
    assert all(row.parts["rows"] == N for row in found) or planned > 1


def test_more_rounds_than_needed_ask_for_nothing(tmp_path: Path, runtime: Runtime) -> None:
    needed = len(round_ends(N, ADAPTIVE.adaptive))
    job = Job(tmp_path, runtime, ADAPTIVE, rounds=needed + 2)
    job.begin()
    said = job.rest()
    assert [step["rows"] for step in said[needed - 1 :]] == [0, 0] == [step["active"] for step in said[needed - 1 :]]
    assert job.sequence(f"decide{needed}") == {"rows": [], "active": []}
    assert said[-1]["settled"] == COUNT
    np.testing.assert_allclose([row.score for row in job.scores()[1]], job.expected().mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("planned", [1, 3])
def test_one_round_for_all_rows_is_full_scoring(tmp_path: Path, runtime: Runtime, planned: int) -> None:
    icon = replace(ADAPTIVE, adaptive=replace(ADAPTIVE.adaptive, first_rows=N + 5))
    job = Job(tmp_path, runtime, icon, rounds=planned)
    job.begin()
    assert all(step["active"] == step["rows"] == 0 for step in job.rest())
    metrics, found = job.scores()
    assert {row.parts["estimate_error"] for row in found} == {0}
    (sampling,) = {row.parts["standard_error"] for row in found}
    assert sampling == pytest.approx(sampling_error(job), rel=1e-9)
    full = job.block(job.candidates, job.rows).task.mean(axis=1)
    assert metrics["share_scored"] == 1
    np.testing.assert_allclose([row.score for row in found], full, rtol=0, atol=1e-12)


def test_candidates_beyond_the_bound_take_no_part(tmp_path: Path, runtime: Runtime) -> None:
    job = Job(tmp_path, runtime, ADAPTIVE, stop=20)
    job.begin()
    job.rest()
    assert [row.id for row in job.scores()[1]] == job.candidates[:20]


def test_rows_come_stratified(tmp_path: Path, runtime: Runtime) -> None:
    job = Job(tmp_path, runtime, ADAPTIVE)
    job.begin()
    rows = row_sequence(job.rows, GROUPS, ADAPTIVE.adaptive.seed)
    used = job.sequence("start")
    assert used["pool_rows"] == rows[: len(used["pool_rows"])] and used["rows"] == rows[:6]
    assert used["active"] == used["candidates"] == job.candidates


def test_order_of_rows_is_that_of_the_seed(tmp_path: Path, runtime: Runtime) -> None:
    job = Job(tmp_path, runtime, replace(ADAPTIVE, adaptive=replace(ADAPTIVE.adaptive, seed=1)))
    job.begin()
    rows, used = row_sequence(job.rows, GROUPS, 1), job.sequence("start")
    assert rows[:6] != row_sequence(job.rows, GROUPS, 0)[:6]
    assert used["rows"] == rows[:6] and used["pool_rows"] == rows[: len(used["pool_rows"])]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("where", ["round00", "round01", "round02"])
@pytest.mark.parametrize("what", ["rows", "fewer rows", "candidate", "order"])
def test_shards_of_other_pairs_than_were_asked_for_are_refused(
    tmp_path: Path, runtime: Runtime, where: str, what: str
) -> None:
    job = Job(tmp_path, runtime, ADAPTIVE)
    job.begin()
    job.rest(3)
    for name in [name for name in job.inputs if name.startswith(f"{where}-")]:
        folder = job.inputs[name]
        ids, values = read_json(folder / "ids.json"), np.load(folder / "candidate.npy")
        if what == "rows":
            ids["assessment"] = [*ids["assessment"][1:], ids["assessment"][0]]
        elif what == "fewer rows":
            ids["assessment"], values = ids["assessment"][:-1], values[:, :-1]
        elif what == "order":
            ids["candidates"] = ids["candidates"][::-1]
        elif ids["candidates"]:
            ids["candidates"][0] = job.candidates[-1]
        write_json(folder / "ids.json", ids)
        np.save(folder / "candidate.npy", values)
    said = f"round {int(where[-2:])}: the shards hold other pairs than were asked for"
    for name, function in (("decide3", rounds.decide), ("scores", score.adaptive)):
        with pytest.raises(IconScoreError, match=said):
            job.step(name, function, job.inputs)


def test_scores_before_the_last_round_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    job = Job(tmp_path, runtime, replace(ADAPTIVE, adaptive=replace(ADAPTIVE.adaptive, error=1e-9)))
    job.begin()
    job.rest(2)
    with pytest.raises(IconScoreError, match="the last round isn't among the inputs"):
        job.scores()
