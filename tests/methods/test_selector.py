"""The selection model: what it learns and from which rows, its head, and that a row's score is the row's alone."""

import gc
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata
from transformers import set_seed

from icon_repro.data.cost import forward_flops, training_flops
from icon_repro.data.options import Dtype
from icon_repro.data.prompts import scoring_prompt
from icon_repro.data.rows import Example, Score
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.progress import Progress
from icon_repro.engine.records import read_json, read_lines, read_rows, write_json, write_rows
from icon_repro.engine.runtime import Interrupted as Asked
from icon_repro.engine.runtime import Runtime
from icon_repro.lm.load import load_classifier, load_tokenizer
from icon_repro.lm.options import LoraConfig
from icon_repro.lm.tokens import bos_ids
from icon_repro.methods.icon import selector, selector_data
from icon_repro.methods.icon.options import (
    SelectorConfig,
    SelectorHead,
    SelectorJob,
    SelectorScores,
    SelectorShard,
    SelectorTarget,
)
from icon_repro.methods.icon.selector_data import SelectorError
from icon_repro.methods.select import top_fraction

CPU = torch.device("cpu")
SIZE, SCORED, HELD = 60, 48, 12


def made_rows() -> list[Example]:
    """Responses of red and sky in all proportions and of lengths that say little about them."""
    draw = random.Random(0)
    rows = []
    for i in range(SIZE):
        words = ["red" if draw.random() < i / SIZE else "sky" for _ in range(draw.randint(3, 9))]
        rows.append(Example(f"r{i:02d}", f"Say {draw.randint(0, 99)}.", "", " ".join(words)))
    draw.shuffle(rows)
    return rows


ROWS = made_rows()
SCORES = {row.id: row.response.count("red") / len(row.response.split()) for row in ROWS[:SCORED]}
Done = Callable[..., tuple[Path, dict[str, Any]]]
RANK, CLASS = SelectorTarget.rank, SelectorTarget.top_fraction


def config(**more: Any) -> SelectorConfig:
    values = {"target": RANK, "head": SelectorHead.trained, "learning_rate": 4e-3, "epochs": 5.0, "batch_size": 8}
    values |= {"held_out": HELD / SCORED, "dtype": Dtype.float32}
    return SelectorConfig(**{**values, **more})  # type: ignore[arg-type]


def quick(**more: Any) -> SelectorConfig:
    """Three optimizer steps without warm-up; the last has 4 of the 36 rows."""
    return config(**{"epochs": 1.0, "batch_size": 16, "warmup_ratio": 0.0, "lora": LoraConfig(dropout=0.0), **more})


NOISY = quick(lora=LoraConfig(dropout=0.3))


@pytest.fixture(autouse=True, scope="module")
def small_heap() -> Iterator[None]:
    """The trainer collects garbage at its end, which takes longer than the training if it walks all imports."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("tiny_step")
    (folder / "weights").symlink_to(tiny_model)
    write_json(folder / "model.json", {"hub_id": None, "commit": None})
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Done:
    """Trains as ``Work.train`` on the usual rows does, once a config; nobody changes the folder."""
    work, made = Work(tmp_path_factory.mktemp("done"), model), dict[str, tuple[Path, dict[str, Any]]]()

    def make(cfg: SelectorConfig) -> tuple[Path, dict[str, Any]]:
        if repr(cfg) not in made:
            made[repr(cfg)] = work.train(cfg)
        return made[repr(cfg)]

    return make


class Work:
    """Runs stages in folders of their own."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.model = root, model
        self.stop_at: int | None = None
        self.cluster: dict[str, Any] = {}

    def folder(self, name: str) -> Path:
        folder = self.root / f"{name}{len(list(self.root.glob(f'{name}*')))}"
        folder.mkdir()
        return folder

    def runtime(self) -> Runtime:
        made = Interrupted(
            ClusterConfig(**{"device": "cpu", "threads": 1, "micro_batch_size": 16, **self.cluster}),
            self.root,
            terminal=None,
        )
        made.stop_at = self.stop_at
        return made

    def inputs(self, rows: list[Example], scores: list[Score]) -> dict[str, Path]:
        order, scored = self.folder("order"), self.folder("scores")
        write_rows(order / "rows.jsonl", rows)
        write_rows(scored / "scores.jsonl", scores)
        return {"model": self.model, "order": order, "scores": scored}

    def train(
        self,
        cfg: SelectorConfig,
        rows: list[Example] = ROWS,
        scores: dict[str, float] = SCORES,
        *,
        fractions: tuple[float, ...] = (0.25,),
        seed: int = 0,
        out: Path | None = None,
    ) -> tuple[Path, dict[str, Any]]:
        inputs = self.inputs(rows, [Score(i, score) for i, score in scores.items()])
        out = out or self.folder("out")
        return out, selector.train(SelectorJob(cfg, list(fractions), seed), inputs, out, self.runtime())

    def pool(
        self, cfg: SelectorConfig, trained: Path, rows: list[Example] = ROWS, start: int = 0, stop: int | None = None
    ) -> tuple[Path, dict[str, Any]]:
        inputs = {**self.inputs(rows, []), "selector": trained}
        out = self.folder("pool")
        return out, selector.pool(SelectorShard(cfg, start, stop), inputs, out, self.runtime())


class Interrupted(Runtime):
    """A runtime whose progress ends a run after some steps."""

    stop_at: int | None = None

    def progress(self, total: int, unit: str) -> Progress:
        stop_at = self.stop_at

        class Stopping(Progress):
            def advance(self, units: int = 1, tokens: int = 0) -> None:
                super().advance(units, tokens)
                if self.done == stop_at:
                    raise KeyboardInterrupt

        return Stopping(self.label, total, unit, None)


@pytest.fixture
def work(tmp_path: Path, model: Path) -> Work:
    return Work(tmp_path, model)


def adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def head(out: Path) -> torch.Tensor:
    return adapter(out)["base_model.model.score.weight"]


def logged(out: Path) -> list[dict[str, Any]]:
    return [entry for _, entry in read_lines(out / "log.jsonl") if "loss" in entry]


def equal(one: Path, other: Path) -> bool:
    a, b = adapter(one), adapter(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def values(out: Path) -> np.ndarray:
    return np.load(out / "scores.npy")


def ids_of(tokenizer: Any, row: Example, limit: int = 10_000) -> list[int]:
    text = scoring_prompt(row) + row.response
    return list(bos_ids(tokenizer) + tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])[
        :limit
    ]


def one_by_one(folder: Path, trained: Path, labels: int, rows: list[Example], limit: int = 10_000) -> list[float]:
    """Batch 1, no padding: the head at the last position."""
    model = PeftModel.from_pretrained(load_classifier(folder, labels, CPU), trained / "adapter").get_base_model()
    tokenizer, found = load_tokenizer(folder), []
    for row in rows:
        with torch.no_grad():
            hidden = model.model(input_ids=torch.tensor([ids_of(tokenizer, row, limit)])).last_hidden_state
            logits = model.score(hidden[0, -1])
        found.append(float(logits[0] if labels == 1 else torch.exp(logits[1]) / torch.exp(logits).sum()))
    return found


# ---------------------------------------------------------------- both stages


@pytest.mark.parametrize("target, labels", [(RANK, 1), (CLASS, 2)])
def test_selector_learns_and_scores_the_pool_row_by_row(
    model_step: Path, tmp_path: Path, target: SelectorTarget, labels: int
) -> None:
    lengths = [len(ids_of(load_tokenizer(model_step), row)) for row in ROWS]
    limit = sorted(lengths)[SIZE // 2]
    work, cfg = Work(tmp_path, model_step), config(target=target, pool_max_length=limit)
    trained, metrics = work.train(cfg)
    assert metrics["spearman"] > 0.5 and metrics["auc@0.25"] > 0.7
    assert abs(metrics["spearman"] - metrics["spearman_length"]) > 0.2
    pool, found = work.pool(cfg, trained)
    np.testing.assert_allclose(values(pool), one_by_one(model_step, trained, labels, ROWS, limit), rtol=0, atol=1e-5)
    assert values(pool).dtype == np.float32
    if target is CLASS:
        assert ((values(pool) > 0) & (values(pool) < 1)).all()
    names = read_json(pool / "ids.json")["rows"]
    assert names == [row.id for row in ROWS]
    pooled = dict(zip(names, values(pool).tolist(), strict=True))
    held = [entry for _, entry in read_lines(trained / "held_out.jsonl")]
    assert [entry["id"] for entry in held] == [row.id for row in ROWS[SCORED - HELD : SCORED]]
    for entry in held:
        assert entry["predicted"] == pytest.approx(pooled[entry["id"]], abs=1e-5)
        assert entry["score"] == SCORES[entry["id"]]
    assert found["rows_cut"] == sum(length > limit for length in lengths) > 0
    assert found["tokens_cut"] == sum(max(length - limit, 0) for length in lengths)
    assert found["tokens"] == sum(min(length, limit) for length in lengths)
    parameters = load_classifier(model_step, labels, CPU).num_parameters()
    assert found["flops"] == forward_flops(parameters, found["tokens"])
    assert metrics["tokens"] == 5 * sum(lengths[: SCORED - HELD])
    assert metrics["flops"] == training_flops(parameters, metrics["tokens"], frozen=True)
    assert (metrics["rows"], metrics["held_out"], metrics["steps"]) == (SCORED - HELD, HELD, 5 * 5)
    assert (metrics["rows_cut"], metrics["tokens_cut"]) == (0, 0)


@pytest.mark.parametrize("budget", [1, 150, None])
def test_pool_batch_size_and_slices_have_no_influence(work: Work, done: Done, budget: int | None) -> None:
    cfg = quick()
    trained, _ = done(cfg)
    work.cluster = {"score_batch_tokens": 4096}
    whole = values(work.pool(cfg, trained)[0])
    work.cluster = {"score_batch_tokens": budget}
    parts = [values(work.pool(cfg, trained, start=a, stop=b)[0]) for a, b in ((0, 7), (7, None))]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-5)
    assert len(set(whole.tolist())) > SIZE / 2


def test_pool_empty_slice_needs_no_model(work: Work, tmp_path: Path) -> None:
    work.model = tmp_path / "nowhere"
    pool, metrics = work.pool(quick(), tmp_path / "nowhere", start=SIZE, stop=SIZE + 9)
    assert values(pool).shape == (0,) and values(pool).dtype == np.float32
    assert read_json(pool / "ids.json") == {"rows": []}
    assert metrics == {"rows": 0, "rows_cut": 0, "tokens_cut": 0, "tokens": 0, "flops": 0}


def test_pool_score_that_is_not_finite_names_the_row(work: Work, done: Done) -> None:
    trained = work.root / "broken"
    shutil.copytree(done(quick())[0], trained)
    broken = adapter(trained)
    broken["base_model.model.score.weight"][:] = math.nan
    save_file(broken, trained / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(SelectorError, match=r"row 'r\d\d': its score is nan in float32"):
        work.pool(quick(), trained)


@pytest.mark.parametrize("option", ["max_length", "pool_max_length"])
def test_more_tokens_than_positions_is_refused(work: Work, option: str) -> None:
    at = 0 if option == "max_length" else SCORED - 1  # trained on, held out
    rows = [Example(row.id, "word " * 6000, "", row.response) if i == at else row for i, row in enumerate(ROWS)]
    with pytest.raises(SelectorError, match=rf"9000 tokens.*4096 positions.*selector\.{option}"):
        work.train(quick(max_length=9000, pool_max_length=9000), rows)


# ---------------------------------------------------------------- the last token


def test_classify_text_that_ends_with_pad_or_eos_is_read_at_its_end(model_step: Path) -> None:
    base = load_classifier(model_step, 1, CPU)
    tokenizer = load_tokenizer(model_step)
    rows = [[5, 9, 11], [7, 8, 9, 10, tokenizer.eos_token_id], [12, tokenizer.pad_token_id, 0, 0]]
    wrapped = selector._adapted(quick(), base)
    ids, lengths = selector.padded(rows)
    assert ids.shape == (3, 5) and lengths.tolist() == [3, 5, 4]
    with torch.no_grad():
        found = selector.classify(wrapped, ids, lengths, Dtype.float32)[:, 0]
        for row, value in zip(rows, found.tolist(), strict=True):
            hidden = base.model(input_ids=torch.tensor([row])).last_hidden_state
            assert value == pytest.approx(float(base.score(hidden[0, -1])), abs=1e-5)
        plain = base(input_ids=torch.tensor([rows[0]])).logits  # transformers' own place, without a pad token
    assert float(plain) == pytest.approx(float(found[0]), abs=1e-5)


def test_classify_bfloat16_keeps_the_head_in_float32(model: Path) -> None:
    wrapped = selector._adapted(quick(), load_classifier(model, 1, CPU))
    ids, lengths = selector.padded([[5, 9, 11], [7, 8, 9, 10]])
    with torch.no_grad():
        full, half = (selector.classify(wrapped, ids, lengths, dtype) for dtype in (Dtype.float32, Dtype.bfloat16))
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.02
    assert not torch.equal(half, half.bfloat16().float())


def test_padding_that_equals_eos_gives_the_same_scores(work: Work, model_step: Path, tmp_path: Path) -> None:
    """The tokenizer has no pad token: load_tokenizer takes eos; responses hold its letters, which are letters there."""
    folder = tmp_path / "no_pad"
    (folder / "weights").mkdir(parents=True)
    for path in (model_step / "weights").iterdir():
        (folder / "weights" / path.name).write_bytes(path.read_bytes())
    write_json(folder / "model.json", read_json(model_step / "model.json"))
    tokenizer = load_tokenizer(folder)
    end = tokenizer.eos_token
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder / "weights")
    assert load_tokenizer(folder).pad_token_id == tokenizer.eos_token_id
    rows = [Example(row.id, row.instruction, "", f"{row.response}{end}" * (i % 3)) for i, row in enumerate(ROWS)]
    work.model = folder
    trained, _ = work.train(quick(), rows)
    pool, _ = work.pool(quick(), trained, rows)
    np.testing.assert_allclose(values(pool), one_by_one(folder, trained, 1, rows), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- training


def initial_head(model: Path, labels: int, seed: int = 0) -> torch.Tensor:
    set_seed(seed)
    return load_classifier(model, labels, CPU).score.weight.detach()


@pytest.mark.parametrize("target, labels", [(RANK, 1), (CLASS, 2)])
def test_head_frozen_stays_at_its_initialisation_and_trained_moves(
    done: Done, model: Path, target: SelectorTarget, labels: int
) -> None:
    frozen, few = done(quick(target=target, head=SelectorHead.frozen))
    moved, many = done(quick(target=target))
    start = initial_head(model, labels)
    assert torch.equal(head(frozen), start)
    assert (head(moved) - start).abs().min() > 1e-4
    assert many["trainable_parameters"] - few["trainable_parameters"] == start.numel()
    for out in (frozen, moved):  # LoRA's second matrix starts at 0
        assert all(tensor.abs().max() > 0 for name, tensor in adapter(out).items() if "lora_B" in name)


def test_head_frozen_is_the_one_the_pool_meets(work: Work, done: Done) -> None:
    cfg = quick(target=CLASS, head=SelectorHead.frozen)
    trained, _ = done(cfg)
    pool, _ = work.pool(cfg, trained)
    pooled = dict(zip(read_json(pool / "ids.json")["rows"], values(pool).tolist(), strict=True))
    for _, entry in read_lines(trained / "held_out.jsonl"):
        assert entry["predicted"] == pytest.approx(pooled[entry["id"]], abs=1e-6)


def test_train_seed_decides_every_bit(work: Work, done: Done) -> None:
    one, (again, other) = done(NOISY)[0], (work.train(NOISY, seed=seed)[0] for seed in (0, 1))
    assert equal(one, again)
    assert not torch.equal(head(one), head(other))
    tokens = [[entry["tokens"] for entry in logged(out)] for out in (one, again, other)]  # of rows in their order
    assert tokens[0] == tokens[1] != tokens[2]
    assert (one / "held_out.jsonl").read_bytes() == (again / "held_out.jsonl").read_bytes()
    assert (one / "adapter" / "adapter_config.json").read_bytes() == (
        again / "adapter" / "adapter_config.json"
    ).read_bytes()


def test_train_never_sees_held_out_rows(work: Work, done: Done) -> None:
    first = SCORED - HELD
    rows = [row if i < first else Example(row.id, "Another.", "x", "text") for i, row in enumerate(ROWS)]
    usual, _ = done(quick())
    other, _ = work.train(quick(), rows, {**SCORES, **{row.id: 9.0 + i for i, row in enumerate(ROWS[first:SCORED])}})
    assert equal(usual, other)
    changed = [Example(row.id, "Another.", "x", "text") if i == first - 1 else row for i, row in enumerate(ROWS)]
    assert not equal(usual, work.train(quick(), changed)[0])


@pytest.mark.parametrize(
    "target, cluster",
    [
        (RANK, {"micro_batch_size": 12}),  # doesn't divide 16: 4 are taken
        (CLASS, {"micro_batch_size": 1}),
        (RANK, {"gradient_checkpointing": True}),
    ],
)
def test_train_micro_batch_and_checkpointing_have_no_influence(
    work: Work, done: Done, target: SelectorTarget, cluster: dict[str, Any]
) -> None:
    cfg = quick(target=target)
    usual, metrics = done(cfg)
    work.cluster = cluster
    other, same = work.train(cfg)
    for name, tensor in adapter(usual).items():
        torch.testing.assert_close(adapter(other)[name], tensor, rtol=0, atol=2e-4)
    assert same["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    assert (same["tokens"], same["steps"]) == (metrics["tokens"], metrics["steps"])


def test_train_first_loss_is_the_mean_squared_error_of_the_untrained_model(work: Work) -> None:
    trained, _ = work.train(quick(batch_size=64, epochs=2.0))
    set_seed(0)
    model, tokenizer = load_classifier(work.model, 1, CPU), load_tokenizer(work.model)
    rows = ROWS[: SCORED - HELD]
    goals = (rankdata([SCORES[row.id] for row in rows]) - 1) / (len(rows) - 1)
    errors = []
    for row, goal in zip(rows, goals, strict=True):
        with torch.no_grad():
            errors.append((float(model(input_ids=torch.tensor([ids_of(tokenizer, row)])).logits) - goal) ** 2)
    log = logged(trained)
    assert log[0]["loss"] == pytest.approx(float(np.mean(errors)), rel=1e-5)
    assert [entry["tokens"] for entry in log] == [sum(len(ids_of(tokenizer, row)) for row in rows)] * 2


@pytest.mark.parametrize("cfg", [NOISY, quick(target=CLASS, head=SelectorHead.frozen)], ids=["trained", "frozen"])
def test_train_resumed_run_gives_the_same_bits(work: Work, done: Done, cfg: SelectorConfig) -> None:
    whole, metrics = done(cfg)
    out, work.cluster, work.stop_at = work.folder("out"), {"checkpoint_steps": 1}, 2
    with pytest.raises(KeyboardInterrupt):
        work.train(cfg, out=out)
    assert (out / "checkpoints" / "checkpoint-1").is_dir()
    work.stop_at = None
    _, resumed = work.train(cfg, out=out)
    assert equal(whole, out)
    assert resumed == metrics
    assert sorted(path.name for path in out.iterdir()) == ["adapter", "held_out.jsonl", "log.jsonl"]


def test_train_asked_to_stop_saves_and_the_next_attempt_gives_the_same_bits(
    work: Work, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, metrics = done(NOISY)
    out = work.folder("out")
    monkeypatch.setattr(Runtime, "stop_requested", lambda self: True)
    with pytest.raises(Asked, match="after 1 of"):
        work.train(NOISY, out=out)
    assert (out / "checkpoints" / "checkpoint-1").is_dir()
    monkeypatch.undo()
    _, resumed = work.train(NOISY, out=out)
    assert equal(whole, out)
    assert resumed == metrics


def test_train_leaves_no_path_of_this_machine(done: Done, model: Path, tiny_model: Path) -> None:
    out, _ = done(quick())
    texts = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    for place in (out.parent, model, tiny_model):
        assert not any(str(place).encode() in text for text in texts)
    assert {path.name for path in (out / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_train_rows_beyond_max_length_are_cut_at_the_end_and_counted(work: Work) -> None:
    lengths = [len(ids_of(load_tokenizer(work.model), row)) for row in ROWS[: SCORED - HELD]]
    limit = sorted(lengths)[len(lengths) // 2]
    _, metrics = work.train(quick(max_length=limit))
    assert metrics["rows_cut"] == sum(length > limit for length in lengths) > 0
    assert metrics["tokens_cut"] == sum(max(length - limit, 0) for length in lengths)
    assert metrics["tokens"] == sum(min(length, limit) for length in lengths)


def test_train_loss_that_is_not_finite_is_refused(work: Work) -> None:
    with pytest.raises(SelectorError, match=r"step \d: loss .*learning_rate"):
        work.train(quick(learning_rate=1e30, epochs=4.0))


def test_train_only_step_has_no_warm_up_in_which_nothing_would_be_learned(work: Work) -> None:
    out, _ = work.train(config(epochs=1.0, batch_size=64))
    weights = load_file(out / "adapter" / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)


def test_train_unknown_lora_target_is_refused(work: Work) -> None:
    with pytest.raises(SelectorError, match=r"no module 'q_porj'.*q_proj"):
        work.train(quick(lora=LoraConfig(targets=["v_proj", "q_porj"])))


def test_train_float16_is_refused(work: Work) -> None:
    with pytest.raises(SelectorError, match=r"float16.*bfloat16 or float32"):
        work.train(quick(dtype=Dtype.float16))


def test_train_bfloat16_is_near_float32_with_float32_weights(work: Work, done: Done) -> None:
    out, metrics = work.train(quick(dtype=Dtype.bfloat16))
    loss = done(quick())[1]["loss"]
    assert metrics["loss"] != loss and metrics["loss"] == pytest.approx(loss, rel=0.1)
    assert {tensor.dtype for tensor in adapter(out).values()} == {torch.float32}


# ---------------------------------------------------------------- data, targets, quality


def job(target: SelectorTarget, *fractions: float) -> SelectorJob:
    return SelectorJob(config(target=target), list(fractions), 0)


def examples(*names: str) -> list[Example]:
    return [Example(name, "", "", "x" * i) for i, name in enumerate(names, start=1)]


def test_targets_rank_shares_ties_and_nests_selections() -> None:
    scores = {"a": 0.3, "b": 9.0, "c": -1.0, "d": 0.3, "e": 0.2}
    made = selector_data.targets(job(RANK, 0.5, 0.1), examples(*scores), scores)
    assert made == [0.625, 1.0, 0.0, 0.625, 0.25]
    by_target = dict(zip(scores, made, strict=True))
    for fraction in (0.2, 0.4, 0.6, 0.8, 1.0):
        assert selector_data.best(by_target, fraction) == set(top_fraction(scores, fraction))


def test_targets_top_fraction_is_that_of_all_candidates() -> None:
    scores = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0}
    assert selector_data.targets(job(CLASS, 0.6), examples("a", "b", "c"), scores) == [0, 0, 1]


@pytest.mark.parametrize("fractions", [(), (0.1, 0.2)])
def test_targets_top_fraction_needs_one_fraction(fractions: tuple[float, ...]) -> None:
    with pytest.raises(SelectorError, match=r"fractions=.*exactly one.*selector\.target=rank"):
        selector_data.targets(job(CLASS, *fractions), ROWS[:SCORED], SCORES)


@pytest.mark.parametrize("target, fraction", [(CLASS, 1.0), (CLASS, 0.01), (RANK, 0.5)])
def test_targets_all_equal_are_refused(target: SelectorTarget, fraction: float) -> None:
    scores = {"a": 1.0, "b": 1.0, "z": 2.0}
    with pytest.raises(SelectorError, match=r"all 2 training rows.*nothing to learn"):
        selector_data.targets(job(target, fraction), examples("a", "b"), scores)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.125, 0.3, 0.5, 0.99, 1.0])
def test_best_counts_as_selection_does(fraction: float) -> None:
    draw = random.Random(1)
    scores = {f"r{i}": float(draw.randint(0, 5)) for i in range(20)}
    assert selector_data.best(scores, fraction) == set(top_fraction(scores, fraction))


@pytest.mark.parametrize("share, size, held", [(0.1, 48, 5), (0.001, 48, 1), (0.1, 3, 1), (0.5, 4, 2)])
def test_split_holds_out_the_last_rows(share: float, size: int, held: int) -> None:
    rows, out = selector_data.split(ROWS[:size], share)
    assert len(out) == held and rows + out == ROWS[:size]


@pytest.mark.parametrize("share, size", [(0.1, 2), (0.9, 10), (0.1, 0)])
def test_split_too_few_left_is_refused(share: float, size: int) -> None:
    with pytest.raises(SelectorError, match=r"at least 2.*data\.candidates\.size"):
        selector_data.split(ROWS[:size], share)


def test_read_candidates_keeps_the_order_and_drops_the_unscored(work: Work) -> None:
    inputs = work.inputs(ROWS, [Score(row.id, 1.0) for row in (ROWS[7], ROWS[2], ROWS[4])])
    rows, scores = selector_data.read_candidates(inputs["order"], inputs["scores"])
    assert [row.id for row in rows] == [ROWS[i].id for i in (2, 4, 7)]
    assert scores.keys() == {row.id for row in rows}


@pytest.mark.parametrize(
    "scores, message",
    [
        ([Score("r01", 1.0), Score("zz", 2.0)], "1 of 2 scored ids aren't in the pool's order.*'zz'"),
        ([Score("r01", 1.0), Score("r01", 2.0)], "1 candidates have more than one score"),
    ],
)
def test_read_candidates_that_dont_fit_are_refused(work: Work, scores: list[Score], message: str) -> None:
    inputs = work.inputs(ROWS, scores)
    with pytest.raises(SelectorError, match=message):
        selector_data.read_candidates(inputs["order"], inputs["scores"])


def test_read_candidates_nan_score_is_refused(work: Work) -> None:
    inputs = work.inputs(ROWS, [])
    (inputs["scores"] / "scores.jsonl").write_text('{"id": "r01", "score": NaN}\n', encoding="utf-8")
    with pytest.raises(SelectorError, match=r"aren't finite.*'r01'"):
        selector_data.read_candidates(inputs["order"], inputs["scores"])


def test_token_ids_row_without_tokens_is_named(model_step: Path) -> None:
    tokenizer, row = load_tokenizer(model_step), Example("r9", "", "", "", ready=True)
    if bos_ids(tokenizer):
        assert selector_data.token_ids(tokenizer, [row], 8) == ([bos_ids(tokenizer)], [0])
    else:
        with pytest.raises(SelectorError, match="row 'r9'"):
            selector_data.token_ids(tokenizer, [row], 8)


def test_quality_counts_positives_of_all_candidates() -> None:
    scores = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    held = [Example("b", "", "", "xxxx"), Example("c", "", "", "x"), Example("d", "", "", "xx")]
    found = selector_data.quality(held, [0.1, 0.3, 0.2], scores, [0.5, 0.75])
    assert found["auc@0.5"] == 1.0 and found["auc_length@0.5"] == 0.0
    assert found["spearman"] == pytest.approx(0.5) and found["spearman_length"] == pytest.approx(-0.5)
    assert found["auc@0.75"] is None and found["auc_length@0.75"] is None  # no negative is held out


def test_quality_undefined_is_none() -> None:
    scores = {"a": 1.0, "b": 2.0}
    assert set(selector_data.quality(examples("a"), [0.5], scores, [0.5]).values()) == {None}
    assert selector_data.quality(examples("a", "b"), [0.5, 0.5], scores, [0.5])["spearman"] is None


# ---------------------------------------------------------------- joining


@pytest.fixture
def join(tmp_path: Path, runtime: Runtime) -> Callable[..., tuple[list[Score], dict[str, Any]]]:
    def make(
        shards: dict[str, dict[str, float]], repeats: int, fractions: tuple[float, ...] = (0.5,)
    ) -> tuple[list[Score], dict[str, Any]]:
        inputs = {}
        for name, scores in shards.items():
            inputs[name] = tmp_path / name
            inputs[name].mkdir()
            np.save(inputs[name] / "scores.npy", np.array(list(scores.values()), np.float32))
            write_json(inputs[name] / "ids.json", {"rows": list(scores)})
        out = tmp_path / "out"
        out.mkdir()
        metrics = selector.run(SelectorScores(list(fractions), repeats), inputs, out, runtime)
        return read_rows(out / "scores.jsonl", Score), metrics

    return make


def test_run_joins_shards_of_one_model(join: Callable[..., Any]) -> None:
    rows, metrics = join({"pool-s0-0001": {"c": 0.5}, "scores": {"q": 7.0}, "pool-s0-0000": {"b": 0.25, "a": 1.0}}, 1)
    assert rows == [Score("b", 0.25), Score("a", 1.0), Score("c", 0.5)]
    assert metrics == {"rows": 3, "overlap@0.5": None, "tokens": 0, "flops": 0}


def test_run_repeats_are_parts_and_their_overlap_is_the_mean_of_pairs(join: Callable[..., Any]) -> None:
    shards = {
        "pool-s0-0000": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0},
        "pool-s1-0000": {"a": 3.0, "c": 4.0},
        "pool-s1-0001": {"d": 1.0, "b": 2.0},
        "pool-s10-0000": {"d": 4.0, "c": 3.0, "b": 2.0, "a": 1.0},
    }
    rows, metrics = join(shards, 3, (0.5, 1.0))
    assert rows[1] == Score("b", 3.0, {"seed1": 2.0, "seed10": 2.0})
    assert metrics["overlap@0.5"] == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)  # {a, b}, {c, a}, {d, c}
    assert metrics["overlap@1"] == 1.0


@pytest.mark.parametrize(
    "shards, repeats, message",
    [
        ({"pool-s0-0000": {"a": 1.0}, "pool-s0-0001": {"a": 1.0}}, 1, "row 'a' is scored twice"),
        ({"pool-s0-0000": {"a": 1.0}, "pool-s1-0000": {"b": 1.0}}, 2, "models 0 and 1 scored different rows: 2"),
        ({"pool-s0-0000": {"a": 1.0}}, 2, r"1 models \[0\], but repeats=2"),
        ({"pool-x-0000": {"a": 1.0}}, 1, "pool-s<model>-<shard>"),
    ],
)
def test_run_shards_that_dont_fit_are_refused(
    join: Callable[..., Any], shards: dict[str, dict[str, float]], repeats: int, message: str
) -> None:
    with pytest.raises(SelectorError, match=message):
        join(shards, repeats)


def test_run_scores_and_ids_of_different_length_are_refused(
    join: Callable[..., Any], tmp_path: Path, runtime: Runtime
) -> None:
    join({"pool-s0-0000": {"a": 1.0, "b": 2.0}}, 1)
    write_json(tmp_path / "pool-s0-0000" / "ids.json", {"rows": ["a"]})
    with pytest.raises(SelectorError, match="2 scores of 1 rows"):
        selector.run(SelectorScores([0.5], 1), {"pool-s0-0000": tmp_path / "pool-s0-0000"}, tmp_path, runtime)
