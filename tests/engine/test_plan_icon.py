"""The steps of ICon: what its shards depend on and what not, and that every budget plans a whole, gapless graph."""

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small import small

from icon_repro.engine.artifact import Step
from icon_repro.experiment import Experiment, plan
from icon_repro.methods.icon.options import IconRound, IconShard, SelectorShard, round_ends

POOL = {"select_from": "pool", "methods.icon.selector": {"kind": "lora"}}


def icon(work: Path, changes: Mapping[str, Any] | None = None) -> Experiment:
    """The smallest experiment with nothing but ICon; names without dots are options of it."""
    named = {
        key if "." in key or key in KEYS else f"methods.icon.{key}": value for key, value in (changes or {}).items()
    }
    alone = {"base": False, "full": False, "methods": {"icon": {"kind": "icon", "shard_candidates": 8}}}
    return plan(small(work, {"training.warmup_ratio": 0.0, **alone, **named}))


KEYS = ("fractions", "select_from", "seeds")


def steps(experiment: Experiment) -> dict[str, Step]:
    """By name, those that score."""
    found = {step.name: step for step in experiment.steps if step.stage == "score"}
    assert len(found) == sum(step.stage == "score" for step in experiment.steps), "a name is used twice"
    return found


def part(found: Mapping[str, Step], name: str) -> dict[str, Step]:
    """The shards ``icon-<name>-NNNN`` in their order."""
    return {n: found[n] for n in sorted(found) if re.fullmatch(rf"icon-{name}-\d{{4}}", n)}


def prints(found: Mapping[str, Step]) -> dict[str, str]:
    return {name: step.fingerprint for name, step in found.items()}


# ---------------------------------------------------------------- what pairs depend on


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 0.1},
        {"seed": 1},
        {"control": "none"},
        {"control": "per_candidate"},
        {"control": "per_pair", "noise_unit": "characters"},
        {"bank": {"draws": 9, "lengths": [3, 7]}},
        {"fidelity": {"rows": 8}},
        {"adaptive": {"error": 0.5, "seed": 4}},
        {"auto": {"rows": 40, "least_candidates": 9}},
        {"fractions": [0.1, 0.5]},
        POOL,
        {**POOL, "methods.icon.selector": {"kind": "lora", "epochs": 2, "target": "top_fraction", "repeats": 2}},
    ],
    ids=str,
)
def test_candidate_shards_dont_depend_on_what_they_dont_use(tmp_path: Path, changes: dict[str, Any]) -> None:
    usual, found = (prints(part(steps(icon(tmp_path, c)), "shard")) for c in ({}, changes))
    assert found == usual and len(usual) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        {"dtype": "auto"},
        {"separator": "\n"},
        {"max_context_tokens": 99},
        {"max_prompt_tokens": 99},
        {"max_response_tokens": 99},
        {"skip_first_tokens": True},
        {"drop_first_token": True},
        {"empty_pairs": "nan"},
        {"compat": "official"},
        {"model.random.seed": 1},
        {"data.candidates.order.seed": 1},
        {"data.assessment.sample": 5},
    ],
    ids=str,
)
def test_candidate_shards_depend_on_what_they_use(tmp_path: Path, changes: dict[str, Any]) -> None:
    usual, found = (prints(part(steps(icon(tmp_path, c)), "shard")) for c in ({}, changes))
    assert found.keys() == usual.keys()
    assert not set(found.values()) & set(usual.values())


@pytest.mark.parametrize("control", ["bank", "per_candidate", "per_pair", "none"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_steps_of_a_control_and_a_dtype_are_those_needed(tmp_path: Path, control: str, dtype: str) -> None:
    found = steps(icon(tmp_path, {"control": control, "dtype": dtype}))
    assert ("icon-bank" in found) == (control == "bank")
    assert len(part(found, "control")) == (3 if control.startswith("per_") else 0)
    assert ("icon-dtype" in found) == (dtype != "float32")
    assert set(found["icon"].inputs.values()) == set(found.values()) - {found["icon"]}
    pairs = [step for name, step in found.items() if name not in ("icon", "icon-dtype")]
    assert all(("dtype" in step.inputs) == (dtype == "auto") for step in pairs)
    for shard in (*part(found, "shard").items(), *part(found, "control").items()):
        assert found["icon"].inputs[shard[0].removeprefix("icon-")] is shard[1]
    ranges = [[(s.params.start, s.params.stop) for s in part(found, n).values()] for n in ("shard", "control")]
    assert ranges[1] in ([], ranges[0])


def test_two_methods_share_the_pairs_that_are_the_same(tmp_path: Path) -> None:
    more = {f"methods.{name}": {"kind": "icon", "shard_candidates": 8, **c} for name, c in OTHERS.items()}
    experiment = icon(tmp_path, more)
    folders = [step.folder for step in experiment.steps if step.target.endswith("pairs:shard")]
    assert len(set(folders)) == len(folders) == 3
    assert {step.name for step in experiment.steps if step.target.endswith("score:run")} == {"icon", *OTHERS}


OTHERS: dict[str, dict[str, Any]] = {"none": {"control": "none"}, "own": {"control": "per_candidate"}}


# ---------------------------------------------------------------- whole graphs

SIZES: list[tuple[dict[str, Any], int | None]] = [
    # (what is known about candidates, at most so many there are)
    ({"data.candidates.size": 20}, 20),
    ({"data.candidates.size": 20, "data.pool.expected_rows": 9}, 20),
    ({"data.candidates.size": None, "data.pool.sample": 12}, 12),
    ({"data.candidates.size": None, "data.pool.sample": 60, "data.pool.expected_rows": 30}, 60),
    ({"data.candidates.size": None, "data.pool.expected_rows": 20}, None),
    ({"data.candidates.size": None, "data.pool.expected_rows": 5}, None),
]
BUDGETS: list[dict[str, Any]] = [
    {"budget": "full", "control": "per_pair"},
    {"budget": "full"},
    {"budget": "adaptive"},
    {"budget": "adaptive", "control": "none", "adaptive": {"first_rows": 4, "growth": 1.1}},
    {"budget": "auto"},
    {"budget": "auto", "auto": {"pilot_candidates": 10, "rows": 16}, "dtype": "auto"},
]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("size, most", SIZES, ids=lambda value: str(value))
@pytest.mark.parametrize("pool", [False, True], ids=["candidates", "pool"])
def test_every_budget_plans_a_whole_graph(
    tmp_path: Path, budget: dict[str, Any], size: dict[str, Any], most: int | None, pool: bool
) -> None:
    experiment = icon(tmp_path, {**budget, **size, **(POOL if pool else {})})
    seen: set[str] = set()
    for step in experiment.steps:
        assert {needed.folder for needed in step.inputs.values()} <= seen, f"{step.label} comes before its inputs"
        seen.add(step.folder)
        assert step.cost.tokens >= 0 and math.isfinite(step.cost.flops)
    found = steps(experiment)
    parts = {
        m[1] for name in found if (m := re.fullmatch(r"icon-(\w+)-\d{4}", name)) and not name.startswith("icon-pool")
    }
    wanted = {"full": {"shard"}, "adaptive": set(), "auto": {"pilot"} if pool else set()}[budget["budget"]]
    rounds = {name for name in parts if name.startswith("round")}
    assert parts - rounds == wanted | ({"control"} if budget.get("control") == "per_pair" else set())
    assert bool(rounds) == (budget["budget"] != "full")
    firsts = {"pilot": budget.get("auto", {}).get("pilot_candidates", 16)}
    for name in parts:
        ranges = [(s.params.start, s.params.stop) for s in part(found, name).values()]
        ends = [end for end in (firsts.get(name), most) if end is not None]
        assert_gapless(ranges, min(ends, default=None))
        reader = found["icon-start" if name == "pilot" else "icon"]
        assert all(reader.inputs[n.removeprefix("icon-")] is s for n, s in part(found, name).items())
    selects = [step for step in experiment.steps if step.stage == "select"]
    assert all(step.inputs["scores"] is found["icon-pool" if pool else "icon"] for step in selects) and selects


def assert_gapless(ranges: list[tuple[int, int | None]], end: int | None) -> None:
    assert ranges[0][0] == 0 and ranges[-1][1] == end
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert all(stop is None or start < stop for start, stop in ranges)


@pytest.mark.parametrize("budget", ["adaptive", "auto"])
def test_rounds_wait_for_all_that_was_scored_before(tmp_path: Path, budget: str) -> None:
    found = steps(icon(tmp_path, {"budget": budget, "adaptive": {"first_rows": 4}, "auto": {"first_rows": 3}}))
    options = found["icon"].params.icon
    rounds = len(round_ends(12, options.adaptive if budget == "adaptive" else options.auto))
    assert rounds == found["icon"].params.rounds > 2
    more = () if budget == "adaptive" else ("rows", "features")
    known = {name: found[f"icon-{name}"] for name in ("start", "baseline", "bank", *more)}
    assert "icon-round00" not in found  # what the first round scores is no decision
    for number in range(rounds):
        sequence = found[f"icon-round{number:02d}" if number else "icon-start"]
        assert not number or dict(sequence.inputs) == known
        shards = part(found, f"round{number:02d}")
        assert shards and all(s.inputs["sequence"] is sequence for s in shards.values())
        known |= {n.removeprefix("icon-"): s for n, s in shards.items()}
    assert dict(found["icon"].inputs) == known
    waits = {"order", "assessment"} if budget == "adaptive" else {"order", "rows"}
    assert set(found["icon-start"].inputs) == waits  # for no pairs


def test_auto_with_a_selection_model_has_a_pilot_and_one_round(tmp_path: Path) -> None:
    found = steps(icon(tmp_path, {**POOL, "budget": "auto"}))
    pilot, first = part(found, "pilot"), part(found, "round00")
    assert all(s.inputs["sequence"] is found["icon-pilot"] for s in pilot.values())
    assert set(pilot.values()) <= set(found["icon-start"].inputs.values())
    assert {"baseline", "bank"} <= set(found["icon-start"].inputs)
    assert all(s.inputs["sequence"] is found["icon-start"] for s in first.values()) and not part(found, "round01")
    assert set(found["icon"].inputs.values()) >= {*pilot.values(), *first.values()}
    assert "icon-features" not in found  # the probe is the selection model then


@pytest.mark.parametrize(
    "changes, same",
    [
        # (what changes, the pairs that stay: of the first round; of the pilot too with auto and a selection model)
        ({"adaptive": {"error": 0.5}}, "adaptive-round00 auto-round00 pool-pilot"),
        ({"fractions": [0.1, 0.25]}, "adaptive-round00 auto-round00 pool-pilot"),
        ({"epsilon": 0.1}, "adaptive-round00 auto-round00 pool-pilot"),
        ({"auto": {"cost_ratio": 0.5}}, "adaptive-round00 auto-round00 pool-pilot"),
        ({"seed": 1}, "adaptive-round00 auto-round00 pool-pilot"),
        ({"auto": {"growth": 3.0}}, "adaptive-round00 auto-round00 pool-pilot"),
        ({"auto": {"least_candidates": 9}}, "adaptive-round00 auto-round00 pool-pilot"),
        ({"auto": {"depths": [1.0]}}, "adaptive-round00 auto-round00 pool-pilot"),
        ({"auto": {"first_rows": 5}}, "adaptive-round00 pool-pilot"),
        ({"adaptive": {"first_rows": 5}}, "auto-round00 pool-pilot"),
        ({"adaptive": {"growth": 3.0}}, "auto-round00 pool-pilot"),
        ({"adaptive": {"seed": 1}}, ""),
        ({"separator": "\n"}, ""),
    ],
    ids=str,
)
def test_pilot_and_first_round_stay_when_a_later_choice_changes(
    tmp_path: Path, changes: dict[str, Any], same: str
) -> None:
    kept = set()
    kinds: dict[str, dict[str, Any]] = {"adaptive": {}, "auto": {}, "pool": {**POOL, "budget": "auto"}}
    for kind, own in kinds.items():
        usual, found = (steps(icon(tmp_path, {"budget": kind, **own, **c})) for c in ({}, changes))
        for name in ("pilot",) if kind == "pool" else ("round00",):
            before, after = set(prints(part(usual, name)).values()), set(prints(part(found, name)).values())
            if before and before == after:
                kept.add(f"{kind}-{name}")
            else:
                assert not before & after
    assert kept == set(same.split())


def test_adaptive_shards_hold_about_as_many_pairs_as_full_ones(tmp_path: Path) -> None:
    size = {"data.candidates.size": 5000, "data.pool.expected_rows": 60_000, "data.assessment.expected_rows": 1020}
    found = steps(icon(tmp_path, {**size, "budget": "adaptive", "shard_candidates": 50}))
    ends = round_ends(1020, found["icon"].params.icon.adaptive)
    for number, (before, end) in enumerate(itertools.pairwise([0, *ends])):
        shards = list(part(found, f"round{number:02d}").values())
        held = [(s.params.stop - s.params.start) * (end - before) for s in shards[:-1]]
        assert all(50 * 1020 <= pairs < 50 * 1020 + end - before for pairs in held)
    assert sum("round" in name for name in found) < 150


def test_cheaper_controls_and_budgets_are_planned_to_cost_less(tmp_path: Path) -> None:
    size = {
        "data.candidates.size": 5000,
        "data.pool.expected_rows": 60_000,
        "data.assessment.expected_rows": 1020,
        "fractions": [0.15],
    }
    kinds: dict[str, dict[str, Any]] = {
        "per_pair": {"control": "per_pair"},
        "per_candidate": {"control": "per_candidate"},
        "bank": {},
        "adaptive": {"budget": "adaptive"},
        "none": {"budget": "adaptive", "control": "none"},
    }
    tokens = {
        kind: sum(step.cost.tokens for step in steps(icon(tmp_path, {**size, **change})).values())
        for kind, change in kinds.items()
    }
    assert list(tokens) == sorted(tokens, key=lambda kind: -tokens[kind])
    assert tokens["per_candidate"] / tokens["bank"] == pytest.approx(2, abs=0.05)


def test_auto_with_a_selection_model_expects_no_more_than_it_may_spend(tmp_path: Path) -> None:
    size = {"data.candidates.size": 20_000, "data.pool.expected_rows": 60_000, "data.assessment.expected_rows": 1020}
    spent = {}
    for ratio in (0.2, 0.4, 0.8):
        changes = {**size, **POOL, "budget": "auto", "auto": {"cost_ratio": ratio}, "fractions": [0.15]}
        changes |= {"training.max_length": 512, "training.epochs": 3, "training.tuning": "full"}
        spent[ratio] = sum(step.cost.tokens for step in steps(icon(tmp_path, changes)).values())
    assert spent[0.2] < spent[0.4] < spent[0.8]


# ---------------------------------------------------------------- selection model


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("target", ["rank", "top_fraction"])
def test_selection_model_is_one_for_all_fractions_or_one_for_each(tmp_path: Path, repeats: int, target: str) -> None:
    fractions = [0.1, 0.25, 0.5]
    options = {
        "kind": "lora",
        "target": target,
        "repeats": repeats,
        "seed": 3,
        "shard_rows": 30,
        "tested_fractions": fractions,
    }
    changes = {**POOL, "methods.icon.selector": options}
    experiment = icon(tmp_path, {**changes, "fractions": fractions})
    found = steps(experiment)
    models = [step for step in found.values() if step.target.endswith("selector:train")]
    taught = [(tuple(step.params.fractions), step.params.seed) for step in models]
    each = [tuple(fractions)] if target == "rank" else [(fraction,) for fraction in fractions]
    assert taught == [(learned, 3 + repeat) for learned in each for repeat in range(repeats)]
    assert all(step.inputs["scores"] is found["icon"] for step in models)
    shards = [step for step in found.values() if isinstance(step.params, SelectorShard)]
    for model in models:
        ranges = [(s.params.start, s.params.stop) for s in shards if s.inputs["selector"] is model]
        assert ranges == [(0, 30), (30, 60), (60, None)]
    for step in experiment.steps:
        if step.stage == "select":
            scores = step.inputs["scores"]
            assert scores.params.fractions == (fractions if target == "rank" else [step.params.fraction])
            assert scores.inputs["scores"] is found["icon"] and len(scores.inputs) == 1 + 3 * repeats


@pytest.mark.parametrize(
    "changes, stops",
    [
        ({"data.pool.sample": 50}, [20, 40, 50]),
        ({"data.pool.sample": 50, "data.pool.expected_rows": 30}, [20, 40, 50]),  # the guess is too small
        ({"data.pool.expected_rows": 30}, [20, None]),
    ],
    ids=str,
)
def test_selection_model_scores_all_of_the_pool_whatever_is_expected(
    tmp_path: Path, changes: dict[str, Any], stops: list[int | None]
) -> None:
    found = steps(icon(tmp_path, {**POOL, "methods.icon.selector": {"kind": "lora", "shard_rows": 20}, **changes}))
    ranges = [(s.params.start, s.params.stop) for s in found.values() if isinstance(s.params, SelectorShard)]
    assert ranges == list(zip([0, *stops[:-1]], stops, strict=True))


def test_candidates_that_are_scored_stay_bounded_when_the_pool_is_selected_from(tmp_path: Path) -> None:
    found = steps(icon(tmp_path, {**POOL, "data.candidates.size": 20}))
    scored = [s.params for s in part(found, "shard").values()]
    assert all(isinstance(params, IconShard) for params in scored) and scored[-1].stop == 20


@pytest.mark.parametrize("budget", ["full", "adaptive"])
def test_fewer_scored_candidates_are_the_first_and_the_selection_model_ranks_all(tmp_path: Path, budget: str) -> None:
    few = {"candidates": 16, "selector": {"kind": "lora", "shard_rows": 20}, "budget": budget}
    every, found = (steps(icon(tmp_path, {"data.candidates.size": 50, **more})) for more in ({"budget": budget}, few))
    name = "shard" if budget == "full" else "round00"
    scored, pairs = part(found, name), part(every, name)
    assert max(step.params.stop for step in scored.values()) == 16
    if budget == "full":  # those of the same candidates are the same steps
        assert prints(scored) == {n: pairs[n].fingerprint for n in scored} and len(scored) == 2 < len(pairs)
    ranked = [(s.params.start, s.params.stop) for s in found.values() if isinstance(s.params, SelectorShard)]
    assert ranked == [(0, 20), (20, 40), (40, 50)]
    ends = [step for step in found.values() if isinstance(step.params, IconRound)]
    assert {step.params.stop for step in ends} == ({16} if budget == "adaptive" else set())


@pytest.mark.parametrize("changes, rows", [({}, 50), ({"select_from": "pool"}, None)], ids=["candidates", "pool"])
def test_auto_saves_the_tuning_on_what_is_selected_from(
    tmp_path: Path, changes: dict[str, Any], rows: int | None
) -> None:
    few = {"data.candidates.size": 50, "candidates": 16, "selector": {}, "budget": "auto", **changes}
    start = steps(icon(tmp_path, few))["icon-start"]
    assert isinstance(start.params, IconRound) and start.params.saved is not None and start.params.saved.rows == rows
