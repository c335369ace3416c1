"""LESS without a projection: a slow loop over single rows, the published code's values, templates, memory, plans."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from less_rows import EXACT, POOL, PROJECTED, SHOTS, TARGETS, TASKS, folder, loop, trained_warmup
from scipy.stats import spearmanr
from slow_baselines import shards_of, step_of
from small import small

from icon_repro.data.options import ModelConfig, ModelKind, RandomShape
from icon_repro.data.planner import PlanError
from icon_repro.data.rows import Example, Score
from icon_repro.engine.artifact import Step
from icon_repro.engine.records import read_json, read_lines, read_rows, write_json
from icon_repro.engine.runtime import Runtime
from icon_repro.experiment import plan
from icon_repro.lm.gradients import adam_direction
from icon_repro.lm.labels import tokenise
from icon_repro.lm.load import load_tokenizer
from icon_repro.lm.options import LoraConfig
from icon_repro.lm.sizes import lora_weights
from icon_repro.methods.less import projected
from icon_repro.methods.less.exact import means, run, shard
from icon_repro.methods.less.influence import LessError, prepared, warmed
from icon_repro.methods.less.notes import expected_agreement
from icon_repro.methods.less.options import (
    AdamFormula,
    Direction,
    LessCompat,
    LessConfig,
    LessExact,
    LessMeans,
    LessProducts,
    LessProjection,
    LessShard,
    ShotMean,
    TargetTemplate,
    less_resolved,
)

AS_IS = replace(EXACT, target_template=TargetTemplate.as_is)


@pytest.fixture(scope="module")
def inputs(model_step: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pool, targets, and a warm-up; not to be changed."""
    return trained_warmup(tmp_path_factory.mktemp("less"), model_step)


def scored(
    inputs: dict[str, Path],
    path: Path,
    runtime: Runtime,
    size: int = 100,
    less: LessConfig = EXACT,
    rows: int = len(POOL),
    **targets: Path,
) -> list[Score]:
    """All stages, with shards of ``size`` rows; ``targets`` (task -> rows) in place of the assessment rows."""
    needed = {"model": inputs["model"], "warmup": inputs["warmup"]}
    read = {f"target-{task}": given for task, given in targets.items()} or {"assessment": inputs["targets"]}
    made: dict[str, Path] = {"warmup": inputs["warmup"]}
    for epoch in (1, 2):
        found = {}
        for label, given in read.items():
            found[label] = path / f"epoch{epoch}-{label}"
            found[label].mkdir(parents=True)
            means(LessMeans(less, epoch), {**needed, "rows": given}, found[label], runtime)
        for number in range(-(-rows // size)):
            out = path / f"epoch{epoch}-shard-{number:04d}"
            out.mkdir()
            params = LessProducts(less, epoch, number * size, (number + 1) * size)
            shard(params, {**needed, "rows": inputs["pool"], **found}, out, runtime)
            made[out.name] = out
    out = path / "scores"
    out.mkdir()
    run(LessExact(2), made, out, runtime)
    return read_rows(out / "scores.jsonl", Score)


def influences(
    inputs: dict[str, Path], runtime: Runtime, less: LessConfig, tasks: dict[str, list[Example]]
) -> dict[tuple[str, str], float]:
    """The influence of each row on each task: cosines of whole gradients, one pair at a time, in float64."""
    tokenizer = load_tokenizer(inputs["model"])
    rates = [read_json(inputs["warmup"] / "epochs" / f"epoch-{e}" / "epoch.json")["learning_rate"] for e in (1, 2)]
    expected = {(row.id, task): 0.0 for row in POOL for task in tasks}
    for epoch, rate in zip((1, 2), rates, strict=True):
        at = warmed(less, inputs["model"], inputs["warmup"], epoch, runtime)
        step = at.step if less.adam is AdamFormula.paper else None
        plain = loop(at.model, tokenise(POOL, tokenizer, 256)[0])
        pool = adam_direction(plain, at.mean, at.square, step).double()
        for task, shots in tasks.items():
            found = loop(at.model, tokenise(shots, tokenizer, 256)[0]).double()
            for i, row in enumerate(POOL):
                if less.shot_mean is ShotMean.cosines:
                    value = sum(float(torch.cosine_similarity(pool[i], shot, dim=0)) for shot in found) / len(found)
                else:
                    value = float(torch.cosine_similarity(pool[i], found.mean(dim=0), dim=0))
                expected[row.id, task] += rate / sum(rates) * value
    return expected


@pytest.mark.parametrize("adam", list(AdamFormula))
@pytest.mark.parametrize("shot_mean", list(ShotMean))
def test_influence_equals_a_loop_over_pairs_for_tasks_and_groups(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, adam: AdamFormula, shot_mean: ShotMean
) -> None:
    less = replace(AS_IS, adam=adam, shot_mean=shot_mean)
    targets = {task: folder(tmp_path / task, rows) for task, rows in SHOTS.items()}
    expected = influences(inputs, runtime, less, TASKS)
    found = scored(inputs, tmp_path / "made", runtime, less=less, **targets)
    assert {(row.id, task) for row in found for task in row.parts} == expected.keys()
    for row in found:
        for task, value in row.parts.items():
            assert value == pytest.approx(expected[row.id, task], abs=1e-6)
        assert row.score == max(row.parts.values())
    assert np.std([row.score for row in found]) > 1e-3, "the comparison could not fail otherwise"


def test_shards_and_micro_batches_change_nothing(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    one = scored(inputs, tmp_path / "one", runtime)
    runtime.cluster.micro_batch_size = 1
    many = scored(inputs, tmp_path / "many", runtime, size=4)
    assert [row.id for row in one] == [row.id for row in many]
    for a, b in zip(one, many, strict=True):
        assert a.parts == pytest.approx(b.parts, abs=1e-6)


def test_weights_in_parts_give_the_same(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored(inputs, tmp_path / "whole", runtime)
    monkeypatch.setattr("icon_repro.methods.less.exact._WEIGHTS", 1000)
    parts = scored(inputs, tmp_path / "parts", runtime)
    assert [row.score for row in parts] == pytest.approx([row.score for row in whole], abs=1e-7)


# ---------------------------------------------------------------- the published code


@pytest.fixture
def golden(shared: Path, tmp_path: Path) -> dict[str, Path]:
    """The rows, the model and the warm-up that the published code was run on."""
    source = shared / "golden" / "methods"
    if not (source / "less_exact.json").is_file():
        pytest.skip("../shared/golden/methods with the published code's values isn't there")
    made = {name: tmp_path / name for name in ("model", "warmup")}
    for path, link, target in (
        (made["model"], "weights", shared / "golden" / "tiny_llama"),
        (made["warmup"], "epochs", source / "less_warmup"),
    ):
        path.mkdir()
        (path / link).symlink_to(target)
    write_json(made["model"] / "model.json", {"hub_id": None, "commit": None})
    pool = [row for _, row in read_lines(source / "candidates.jsonl")]
    rows = [Example(row["id"], row["instruction"], row["input"], row["output"]) for row in pool]
    made["pool"] = folder(tmp_path / "pool", rows)
    shots = [row for _, row in read_lines(source / "assessment.jsonl")]
    targets = [Example(row["id"], row["inputs"], "", row["response"], row["group"], ready=True) for row in shots]
    made["targets"] = folder(tmp_path / "targets", targets)
    return {**made, "golden": source}


PUBLISHED = less_resolved(
    LessConfig(compat=LessCompat.published, epochs=2, lora=LoraConfig(r=8, alpha=32), max_length=512)
)


def test_golden_exact_influence_is_the_published_codes(
    golden: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    expected = json.loads((golden["golden"] / "less_exact.json").read_text())
    less = replace(PUBLISHED, projection=LessProjection.exact)
    found = {row.id: row.score for row in scored(golden, tmp_path / "made", runtime, less=less, rows=24)}
    assert found.keys() == expected.keys() and len(found) == 24
    assert found == pytest.approx(expected, abs=1e-6)


def test_golden_published_settings_rank_as_the_published_projection_up_to_its_signs(
    golden: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    """The signs come from other generators: two projections agree as far as each agrees with no projection."""
    exact, theirs = (
        json.loads((golden["golden"] / name).read_text()) for name in ("less_exact.json", "less_8192.json")
    )
    made = {"warmup": golden["warmup"]}
    for epoch in (1, 2):
        for label, direction, rows in (("assessment", Direction.sgd, "targets"), ("shard-0", Direction.adam, "pool")):
            out = tmp_path / f"epoch{epoch}-{label}"
            out.mkdir()
            needed = {"model": golden["model"], "warmup": golden["warmup"], "rows": golden[rows]}
            projected.shard(LessShard(PUBLISHED, direction, epoch, 0, None), needed, out, runtime)
            made[out.name] = out
    out = tmp_path / "scores"
    out.mkdir()
    projected.run(PUBLISHED, made, out, runtime)
    ours = {row.id: row.score for row in read_rows(out / "scores.jsonl", Score)}
    ids = sorted(exact)

    def agreement(a: dict[str, float], b: dict[str, float]) -> float:
        return float(spearmanr([a[i] for i in ids], [b[i] for i in ids]).statistic)

    published = agreement(theirs, exact)
    assert agreement(ours, exact) == pytest.approx(published, abs=0.05)  # 0.92 and 0.93
    assert agreement(ours, theirs) > published**2 - 0.1


# ---------------------------------------------------------------- one template on both sides


def test_targets_are_in_the_template_of_the_rows_unless_asked_otherwise(inputs: dict[str, Path]) -> None:
    """A mixture, ready prompts without the template that rows have, fails."""
    ready = [Example("r", "Name a colour.", "", "red", ready=True)]
    plain = [Example("p", "Name a colour.", "", "red")]
    sides = [
        prepared(plain, EXACT, inputs["model"], targets=False),
        prepared(ready, EXACT, inputs["model"], targets=True),
        prepared(plain, EXACT, inputs["model"], targets=True),
    ]
    assert sides[0].items == sides[1].items == sides[2].items
    mixed = prepared(ready, AS_IS, inputs["model"], targets=True)
    assert mixed.items != sides[0].items
    bare = tokenise(ready, load_tokenizer(inputs["model"]), 256)[0]
    assert mixed.items == bare and len(bare[0]["input_ids"]) < 60


def test_target_template_changes_the_influence(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    targets = {"qa": folder(tmp_path / "qa", SHOTS["qa"])}
    wrapped, bare = (
        scored(inputs, tmp_path / less.target_template.value, runtime, less=less, **targets)
        for less in (EXACT, AS_IS)
        if less.target_template
    )
    assert max(abs(a.score - b.score) for a, b in zip(wrapped, bare, strict=True)) > 1e-3


# ---------------------------------------------------------------- what is stored, and what is refused


def test_rows_store_one_number_a_task_and_targets_one_vector_a_task(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    scored(inputs, tmp_path / "made", runtime, size=4)
    weights = len(warmed(EXACT, inputs["model"], inputs["warmup"], 1, runtime).mean)
    stored = {
        str(path.relative_to(tmp_path / "made")): np.load(path, allow_pickle=False)
        for path in sorted((tmp_path / "made").rglob("*.npy"))
    }
    assert {name: (array.shape, array.dtype) for name, array in stored.items()} == {
        f"epoch{epoch}-{label}.npy": (shape, np.dtype(np.float32))
        for epoch in (1, 2)
        for label, shape in (
            ("assessment/means", (2, weights)),
            ("shard-0000/products", (4, 2)),
            ("shard-0001/products", (4, 2)),
            ("shard-0002/products", (1, 2)),
        )
    }


def test_row_without_response_token_has_no_score_and_a_reason(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    pool = folder(tmp_path / "pool", [*POOL[:2], Example("long", "word " * 400, "", "yes")])
    found = scored({**inputs, "pool": pool}, tmp_path / "made", runtime, rows=3)
    assert [row.id for row in found] == ["p0", "p1"]
    (failure,) = read_rows(tmp_path / "made" / "scores" / "failures.jsonl", dict)
    assert failure == {"id": "long", "reason": "no response token within max_length"}


def test_task_without_a_usable_shot_is_refused(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    targets = folder(tmp_path / "long", [*TARGETS, Example("x", "word " * 400, "", "yes", group="c")])
    with pytest.raises(LessError, match=r"group 'c': none of its 1 shots .*no response token.*Raise max_length"):
        scored(inputs, tmp_path / "made", runtime, long=targets)


def test_shots_without_a_gradient_are_counted_and_left_out_of_the_mean(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    long = Example("x", "word " * 400, "", "yes", group="a")
    plain = scored(inputs, tmp_path / "plain", runtime, t=folder(tmp_path / "few", TARGETS))
    more = scored(inputs, tmp_path / "more", runtime, t=folder(tmp_path / "many", [*TARGETS, long]))
    assert more == plain
    described = read_json(tmp_path / "more" / "epoch1-target-t" / "tasks.json")
    assert described["failed"] == {"a": 1, "b": 0} and described["shots"] == {"a": 3, "b": 2}
    assert described["reasons"] == {"x": "no response token within max_length"}


@pytest.mark.parametrize("stage", ["targets", "rows"])
def test_more_tasks_than_memory_holds_are_refused_with_remedies(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime, stage: str
) -> None:
    weights = len(warmed(EXACT, inputs["model"], inputs["warmup"], 1, runtime).mean)
    two = 2 * weights * 4 / 2**30
    less = replace(EXACT, max_gib=two * (0.9 if stage == "targets" else 1.1))
    targets = {name: folder(tmp_path / name, TARGETS) for name in ("one", "two")}
    said = rf"mean gradients of {2 if stage == 'targets' else 4} tasks and {weights:,} LoRA weights take .* max_gib="
    with pytest.raises(LessError, match=said + r".*projection=rademacher.*lora.targets.*fewer tasks"):
        scored(inputs, tmp_path / "made", runtime, less=less, **targets)


def test_empty_shard_needs_no_model(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    scored(inputs, tmp_path / "made", runtime)
    out = tmp_path / "out"
    out.mkdir()
    given = {"rows": inputs["pool"], "assessment": tmp_path / "made" / "epoch1-assessment"}
    assert shard(LessProducts(EXACT, 1, 50, None), given, out, runtime)["rows"] == 0
    assert np.load(out / "products.npy").shape == (0, 2)


def test_shards_of_other_tasks_are_refused(inputs: dict[str, Path], tmp_path: Path, runtime: Runtime) -> None:
    scored(inputs, tmp_path / "made", runtime)
    other = tmp_path / "made" / "epoch2-shard-0000"
    write_json(other / "ids.json", {**read_json(other / "ids.json"), "tasks": ["a", "c"]})
    folders = {path.name: path for path in (tmp_path / "made").glob("epoch?-shard-0000")}
    with pytest.raises(LessError, match=r"epoch2-shard-0000: is of other tasks or rows than epoch1-shard-0000"):
        run(LessExact(2), {"warmup": inputs["warmup"], **folders}, tmp_path, runtime)


# ---------------------------------------------------------------- plans


def planned(work: Path, **options: Any) -> Step:
    method = {"kind": "less", "epochs": 2, "global_batch_size": 4, **options}
    return step_of(plan(small(work, {"methods": {"mine": method}})))


def test_plan_is_exact_unless_projected_and_compat_sets_the_options_left_open(tmp_path: Path) -> None:
    default, published = planned(tmp_path), planned(tmp_path, compat="published")
    assert default.target.endswith("less_exact:run") and published.target.endswith("less:run")
    options = {"adam": "code", "projection": "rademacher", "target_template": "as_is"}
    assert planned(tmp_path, **options).fingerprint == published.fingerprint
    assert planned(tmp_path, compat="published", projection="exact", **{"target_template": "tuning"}).fingerprint == (
        planned(tmp_path, adam="code").fingerprint
    )
    assert PROJECTED.dimensions == 512 and published.params.dimensions == 8192
    (adam,) = {step.params.less.adam for step in shards_of(default, "less_exact:shard")}
    assert adam is AdamFormula.paper


def test_plan_rows_wait_for_all_targets_of_their_epoch(tmp_path: Path) -> None:
    for step in shards_of(planned(tmp_path), "less_exact:shard"):
        assert step.inputs["assessment"].params.epoch == step.params.epoch
        assert step.inputs["assessment"].target.endswith("less_exact:means")


@pytest.mark.parametrize(
    "option, changed",
    [
        ({"dimensions": 128}, ""),
        ({"projection_seed": 1}, ""),
        ({"max_gib": 1.0}, ""),
        ({"adam": "code"}, "shard"),
        ({"shot_mean": "gradients"}, "means"),
        ({"target_template": "as_is"}, "means"),
    ],
    ids=["dimensions", "projection_seed", "max_gib", "adam", "shot_mean", "target_template"],
)
def test_plan_option_rebuilds_only_what_it_changes(tmp_path: Path, option: dict[str, Any], changed: str) -> None:
    before, after = planned(tmp_path), planned(tmp_path, **option)
    assert (before.fingerprint == after.fingerprint) is (not changed)
    old, new = ({s.folder for s in shards_of(step, "less_exact:means")} for step in (before, after))
    assert (old == new) is (changed != "means")


def noted(work: Path, **options: Any) -> list[str]:
    method = {"kind": "less", "epochs": 2, "global_batch_size": 4, **options}
    return plan(small(work, {"methods": {"mine": method}})).notes


def test_plan_rows_that_are_ready_prompts_are_tuned_as_they_stand_and_so_are_the_targets(tmp_path: Path) -> None:
    for shape, expected in (("prompt_response", TargetTemplate.as_is), ("alpaca", TargetTemplate.tuning)):
        method = {"kind": "less", "epochs": 1, "global_batch_size": 4}
        step = step_of(plan(small(tmp_path, {"methods": {"mine": method}, "data.pool.source.format": shape})))
        assert {s.params.less.target_template for s in shards_of(step, "less_exact:means")} == {expected}


def test_plan_says_the_memory_of_all_groups_and_refuses_what_is_too_much(tmp_path: Path) -> None:
    (tmp_path / "shots.jsonl").write_text(
        "".join(json.dumps({"instruction": "a", "output": "b", "kind": kind}) + "\n" for kind in "xyzxy")
    )
    source = {"kind": "file", "format": "alpaca", "name": "s", "path": str(tmp_path / "shots.jsonl")}
    targets = {
        "one": {"source": {**source, "fields": {"input": None}}},
        "two": {"source": {**source, "fields": {"input": None, "group": "kind"}}},
    }
    (note,) = noted(tmp_path, targets=targets)
    lora = LessConfig().lora
    weights, known = lora_weights(ModelConfig(ModelKind.random, "r", random=RandomShape()), lora)
    assert known and f"4 tasks and {weights:,} LoRA weights take {4 * weights * 4 / 2**30:.2g} GiB" in note
    with pytest.raises(PlanError, match=r"methods.mine.max_gib=0.001 allows less.*methods.mine.projection=rademacher"):
        noted(tmp_path, targets=targets, max_gib=0.001)


@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "v_proj", "o_proj"], ["up_proj", "down_proj", "gate_proj"]])
def test_plan_counts_the_lora_weights_that_the_model_has(
    inputs: dict[str, Path], tiny_model: Path, runtime: Runtime, targets: list[str]
) -> None:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from icon_repro.lm.adapter import peft_lora

    lora = LoraConfig(r=4, targets=targets)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), peft_lora(lora, "CAUSAL_LM"))
    expected = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert lora_weights(ModelConfig(ModelKind.local, "t", path=str(tiny_model)), lora) == (expected, True)


def test_plan_guesses_the_lora_weights_of_a_model_that_isnt_here_within_a_factor_of_two() -> None:
    for parameters, r, expected in ((134_515_008, 8, 921_600), (8_030_261_248, 128, 109_051_904)):
        found, known = lora_weights(ModelConfig(ModelKind.hub, "h", parameters=parameters), LoraConfig(r=r))
        assert not known and 0.5 < found / expected < 2


def test_plan_warns_of_a_small_projection_with_the_rank_correlation_to_expect(tmp_path: Path) -> None:
    (small_one,) = noted(tmp_path, projection="rademacher", dimensions=1024)
    assert small_one.startswith("warning: methods.mine.dimensions=1024: ") and "about 0.54 " in small_one
    assert "an estimate" in small_one and "methods.mine.projection=exact" in small_one
    (published,) = noted(tmp_path, compat="published")
    assert published.startswith("note: methods.mine.dimensions=8192: ") and "about 0.88 " in published


def test_expected_agreement_lies_within_what_was_measured() -> None:
    assert 0.45 <= expected_agreement(1024) <= 0.63 and 0.83 <= expected_agreement(8192) <= 0.92
    assert expected_agreement(64) < expected_agreement(1024) < expected_agreement(8192) < 1
