"""LESS against obvious loops: gradients, Adam's direction, projection, influence; the warm-up that it needs."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from icon_repro.config_data import Dtype, LoraConfig, TrainConfig, TrainJob, Tuning
from icon_repro.config_methods import Direction, LessConfig, LessShard
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.gradients import Projection, adam_direction, row_gradients
from icon_repro.lm.load import load_tokenizer
from icon_repro.lm.supervised import tokenise
from icon_repro.lm.tokens import IGNORED
from icon_repro.methods.less import LessError, run, shard, warmed
from icon_repro.records import Example, Score, read_json, read_rows, write_rows
from icon_repro.train import run as train

POOL = [Example(f"p{i}", f"Name {i} colours.", "", "red, green and blue " * (i % 4 + 1)) for i in range(9)]
TARGETS = [Example(f"a{i}", "Why is the sky blue?", "", f"Because of {i}", group="ab"[i % 2]) for i in range(5)]
LESS = LessConfig(
    epochs=2, lora=LoraConfig(r=4, alpha=8, dropout=0.1), dimensions=4096, max_length=256, learning_rate=1e-2
)


def folder(path: Path, rows: list[Example]) -> Path:
    path.mkdir()
    write_rows(path / "rows.jsonl", rows)
    return path


@pytest.fixture
def inputs(model_step: Path, tmp_path: Path, runtime: Runtime) -> dict[str, Path]:
    """Pool, targets, and a warm-up on the pool whose epochs are kept."""
    made = {"model": model_step, "pool": folder(tmp_path / "pool", POOL), "targets": folder(tmp_path / "t", TARGETS)}
    job = TrainConfig(
        Tuning.lora,
        LESS.learning_rate,
        epochs=float(LESS.epochs),
        global_batch_size=4,
        max_length=256,
        dtype=Dtype.float32,
        lora=LESS.lora,
        keep_epochs=True,
    )
    warmup = tmp_path / "warmup"
    warmup.mkdir()
    train(TrainJob(job, 3), {"model": model_step, "candidates": made["pool"]}, warmup, runtime)
    return {**made, "warmup": warmup}


def loop(model: Any, rows: list[dict[str, list[int]]]) -> torch.Tensor:
    """Gradients of one row after the other, by transformers' own loss."""
    found = []
    for row in rows:
        model.zero_grad()
        model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.backward()
        named = sorted((name, p) for name, p in model.named_parameters() if p.requires_grad)
        found.append(torch.cat([p.grad.flatten() for _, p in named]))
    return torch.stack(found).detach()


def test_row_gradients_equal_an_autograd_loop_and_are_faster(inputs: dict[str, Path], runtime: Runtime) -> None:
    model, _, _ = warmed(LESS, inputs["model"], inputs["warmup"], 2, runtime)
    # of similar length, as the stage batches them
    short = [Example(f"s{i}", f"Name {i % 10} colours.", "", "red and green") for i in range(64)]
    rows, _ = tokenise(short, load_tokenizer(inputs["model"]), 256)
    gradients = row_gradients(model)
    gradients(rows[:2])  # what is made once
    fast, slow = [], []
    for _ in range(3):
        start = time.process_time()
        ours = gradients(rows)
        fast.append(time.process_time() - start)
        start = time.process_time()
        theirs = loop(model, rows)
        slow.append(time.process_time() - start)
    scale = theirs.abs().max()
    assert scale > 1e-3
    assert (ours - theirs).abs().max() <= 1e-5 * scale
    assert min(slow) / min(fast) >= 3


def test_row_gradients_do_not_depend_on_other_rows_or_padding(inputs: dict[str, Path], runtime: Runtime) -> None:
    model, _, _ = warmed(LESS, inputs["model"], inputs["warmup"], 1, runtime)
    rows, _ = tokenise(POOL, load_tokenizer(inputs["model"]), 256)
    gradients = row_gradients(model)
    assert len({len(row["input_ids"]) for row in rows}) > 1
    torch.testing.assert_close(gradients(rows)[3:4], gradients(rows[3:4]), rtol=1e-4, atol=1e-7)


def test_adam_direction_is_the_formula_without_bias_correction() -> None:
    generator = torch.Generator().manual_seed(0)
    g, m = torch.randn(3, 5, generator=generator), torch.randn(5, generator=generator)
    v = torch.rand(5, generator=generator)
    found = adam_direction(g, m, v)
    for i in range(3):
        for j in range(5):
            top = 0.9 * float(m[j]) + 0.1 * float(g[i, j])
            expected = top / (0.999 * float(v[j]) + 0.001 * float(g[i, j]) ** 2 + 1e-8) ** 0.5
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-5)


def test_projection_is_a_product_with_one_matrix_of_signs() -> None:
    project = Projection(5000, 192, seed=7)
    matrix = torch.cat([project.signs(0), project.signs(1)])
    assert matrix.shape == (5000, 192)
    assert set(matrix.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(matrix.mean())) < 0.01
    assert not torch.equal(matrix[:192], matrix[4096 : 4096 + 192]), "each part has signs of its own"
    rows = torch.randn(4, 5000, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(project(rows), rows @ matrix / 192**0.5, rtol=1e-4, atol=1e-3)
    assert torch.equal(project(rows), Projection(5000, 192, seed=7)(rows))
    assert not torch.allclose(project(rows), Projection(5000, 192, seed=8)(rows))


def scored(inputs: dict[str, Path], path: Path, runtime: Runtime, size: int) -> list[Score]:
    """All stages, with shards of ``size`` rows."""
    made: dict[str, Path] = {"warmup": inputs["warmup"], "assessment": inputs["targets"]}
    for epoch in (1, 2):
        for label, direction, rows, first in [
            ("target-0000", Direction.sgd, "targets", 0),
            *((f"shard-{n:04d}", Direction.adam, "pool", n * size) for n in range(-(-len(POOL) // size))),
        ]:
            out = path / f"epoch{epoch}-{label}"
            out.mkdir(parents=True)
            stop = None if label.startswith("target") else first + size
            needed = {"model": inputs["model"], "warmup": inputs["warmup"], "rows": inputs[rows]}
            shard(LessShard(LESS, direction, epoch, first, stop), needed, out, runtime)
            made[out.name] = out
    out = path / "scores"
    out.mkdir()
    run(LESS, made, out, runtime)
    return read_rows(out / "scores.jsonl", Score)


def test_influence_equals_a_slow_loop_and_shards_change_nothing(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    found = {row.id: row for row in scored(inputs, tmp_path / "one", runtime, 100)}
    tokenizer = load_tokenizer(inputs["model"])
    rates = [read_json(inputs["warmup"] / "epochs" / f"epoch-{e}" / "epoch.json")["learning_rate"] for e in (1, 2)]
    assert rates[0] > rates[1] > 0, "linear decay"
    expected = {(row.id, group): 0.0 for row in POOL for group in "ab"}
    for epoch, rate in zip((1, 2), rates, strict=True):
        model, mean, square = warmed(LESS, inputs["model"], inputs["warmup"], epoch, runtime)
        project = Projection(len(mean), LESS.dimensions, LESS.projection_seed)
        pool = adam_direction(loop(model, tokenise(POOL, tokenizer, 256)[0]), mean, square)
        targets = loop(model, tokenise(TARGETS, tokenizer, 256)[0])
        pool, targets = (torch.nn.functional.normalize(project(x), dim=1) for x in (pool, targets))
        for i, row in enumerate(POOL):
            for group in "ab":
                members = [j for j, target in enumerate(TARGETS) if target.group == group]
                cosine = sum(float(pool[i] @ targets[j]) for j in members) / len(members)
                expected[row.id, group] += rate / sum(rates) * cosine
    for row in POOL:
        for group in "ab":  # vectors are stored with 11 bits
            assert found[row.id].parts[group] == pytest.approx(expected[row.id, group], abs=2e-4)
        assert found[row.id].score == max(found[row.id].parts.values())
    values = np.array([row.score for row in found.values()])
    assert values.std() > 1e-3, "the comparison could not fail otherwise"
    apart = {row.id: row for row in scored(inputs, tmp_path / "many", runtime, 4)}
    for identifier, row in found.items():
        assert apart[identifier].score == pytest.approx(row.score, abs=2e-4)


def test_shard_stores_two_bytes_a_number_and_the_same_bytes_again(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    stored = []
    for name in ("x", "y"):
        out = tmp_path / name
        out.mkdir()
        needed = {"model": inputs["model"], "warmup": inputs["warmup"], "rows": inputs["pool"]}
        metrics = shard(LessShard(LESS, Direction.adam, 1, 2, 7), needed, out, runtime)
        stored.append((out / "vectors.npy").read_bytes())
        assert metrics["rows"] == 5 and metrics["failed"] == 0 and metrics["tokens"] > 0
    assert stored[0] == stored[1]
    assert len(stored[0]) - 5 * LESS.dimensions * 2 in range(1, 257), "the header only"


def test_row_without_response_token_is_a_failure_with_its_reason(
    inputs: dict[str, Path], tmp_path: Path, runtime: Runtime
) -> None:
    rows = folder(tmp_path / "rows", [POOL[0], Example("long", "word " * 400, "", "yes")])
    out = tmp_path / "out"
    out.mkdir()
    needed = {"model": inputs["model"], "warmup": inputs["warmup"], "rows": rows}
    assert shard(LessShard(LESS, Direction.sgd, 1, 0, None), needed, out, runtime)["failed"] == 1
    assert list(read_json(out / "ids.json")["reasons"]) == ["long"]
    vectors = np.load(out / "vectors.npy")
    assert np.isnan(vectors[1]).all() and np.isfinite(vectors[0]).all()


def test_empty_shard_needs_no_model(tmp_path: Path, runtime: Runtime) -> None:
    rows = folder(tmp_path / "rows", POOL[:1])
    out = tmp_path / "out"
    out.mkdir()
    assert shard(LessShard(LESS, Direction.sgd, 1, 5, None), {"rows": rows}, out, runtime)["rows"] == 0


def test_warmup_of_another_lora_is_refused(inputs: dict[str, Path], runtime: Runtime) -> None:
    other = LessConfig(epochs=2, lora=LoraConfig(r=5, alpha=8), dimensions=4096)
    with pytest.raises(LessError, match=r"another model or LoRA .*lora_A"):
        warmed(other, inputs["model"], inputs["warmup"], 1, runtime)


@pytest.mark.parametrize("damage", ["no moments", "no epoch", "garbage"])
def test_warmup_without_optimizer_state_is_refused(inputs: dict[str, Path], runtime: Runtime, damage: str) -> None:
    path = inputs["warmup"] / "epochs" / "epoch-1" / "adam.safetensors"
    if damage == "no moments":
        kept = {name: value for name, value in load_file(path).items() if not name.endswith("exp_avg_sq")}
        save_file(kept, path)
    elif damage == "garbage":
        path.write_bytes(b"not a tensor")
    with pytest.raises(LessError, match="run again"):
        warmed(LESS, inputs["model"], inputs["warmup"], 3 if damage == "no epoch" else 1, runtime)


def test_labels_of_the_prompt_have_no_gradient(inputs: dict[str, Path], runtime: Runtime) -> None:
    model, _, _ = warmed(LESS, inputs["model"], inputs["warmup"], 1, runtime)
    (row,), _ = tokenise(POOL[:1], load_tokenizer(inputs["model"]), 256)
    masked = {**row, "labels": [IGNORED] * (len(row["labels"]) - 1) + row["labels"][-1:]}
    gradients = row_gradients(model)
    assert not torch.allclose(gradients([row]), gradients([masked]))
    torch.testing.assert_close(gradients([masked]), loop(model, [masked]), rtol=1e-4, atol=1e-7)
