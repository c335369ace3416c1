"""Tuning the tiny models: labels, loss, batch size, seeds, resuming, what is left on disk and what is refused."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from icon_repro.data.cost import training_flops
from icon_repro.data.model_files import ModelError
from icon_repro.data.options import Dtype
from icon_repro.data.prompts import alpaca_prompt
from icon_repro.data.rows import Example
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.progress import Progress
from icon_repro.engine.records import read_json, read_lines, write_json, write_rows
from icon_repro.engine.runtime import Interrupted as Asked
from icon_repro.engine.runtime import Runtime, Stop
from icon_repro.engine.schema import SchemaError, build
from icon_repro.lm.adapter import after_epoch
from icon_repro.lm.labels import tokenise
from icon_repro.lm.load import load_model, load_tokenizer, load_tuned
from icon_repro.lm.nll import answer_nll
from icon_repro.lm.options import LoraConfig
from icon_repro.lm.tokens import IGNORED, Encoded
from icon_repro.train.batches import CheckedCollator
from icon_repro.train.options import Schedule, TrainConfig, TrainJob, Tuning, save_problems
from icon_repro.train.step import TrainError, run

# answers of very different lengths: a mean of the rows' means isn't the mean over tokens
ROWS = [
    Example("d", "Say 1.", "", "One."),
    Example("a", "Name three colours.", "", "Red, green and blue. " * 6),
    Example("c", "Add.", "3 and 4", "7"),
    Example("b", "Why is the sky blue?", "", "Air scatters blue light more than red light."),
]


def config(tuning: Tuning = Tuning.lora, dropout: float = 0.0, **more: Any) -> TrainConfig:
    values = {"learning_rate": 1e-2, "epochs": 2, "global_batch_size": 4, "dtype": Dtype.float32, "max_length": 512}
    return TrainConfig(tuning, **{"lora": LoraConfig(dropout=dropout), **values, **more})


@pytest.fixture
def tune(tmp_path: Path, tiny_model: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Runs the stage; returns its folder and metrics."""

    def make(
        cfg: TrainConfig,
        rows: list[Example] = ROWS,
        *,
        seed: int = 0,
        model: Path | None = None,
        ids: list[str] | None = None,
        out: Path | None = None,
        stop_at: int | None = None,
        **cluster: Any,
    ) -> tuple[Path, dict[str, Any]]:
        if model is None:
            model = tmp_path / "model"
            if not model.exists():
                as_step(tiny_model, model)
        number = len(list(tmp_path.glob("out*")))
        inputs = {"model": model, "candidates": tmp_path / f"candidates{number}"}
        inputs["candidates"].mkdir(exist_ok=True)
        write_rows(inputs["candidates"] / "rows.jsonl", rows)
        if ids is not None:
            inputs["ids"] = inputs["candidates"]
            write_json(inputs["ids"] / "ids.json", ids)
        out = out or tmp_path / f"out{number}"
        out.mkdir(exist_ok=True)
        runtime = Interrupted(ClusterConfig(device="cpu", **{"micro_batch_size": 2, **cluster}), tmp_path)
        runtime.stop_at = stop_at
        return out, run(TrainJob(cfg, seed), inputs, out, runtime)

    return make


class Interrupted(Runtime):
    """A runtime whose progress stops a run: when a step has been logged, or (-1) after the last one."""

    stop_at: int | None = None

    def progress(self, total: int, unit: str) -> Progress:
        stop_at = self.stop_at

        class Stopping(Progress):
            def advance(self, units: int = 1, tokens: int = 0) -> None:
                super().advance(units, tokens)
                if self.done == stop_at:
                    raise KeyboardInterrupt

            def __exit__(self, *error: Any) -> None:
                super().__exit__(*error)
                if stop_at == -1 and error[0] is None:
                    raise KeyboardInterrupt

        return Stopping(self.label, total, unit, None)


def as_step(weights: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "weights").symlink_to(weights)
    write_json(folder / "model.json", {"hub_id": None, "commit": None})
    return folder


def logged(out: Path) -> list[dict[str, Any]]:
    return [entry for _, entry in read_lines(out / "log.jsonl") if "loss" in entry]


def adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def length(tokenizer: Any, row: Example) -> int:
    return sum(len(part) for part in row_ids(tokenizer, row))


def row_ids(tokenizer: Any, row: Example) -> tuple[list[int], list[int]]:
    """Prompt and answer of a row, written out."""
    prompt = tokenizer(alpaca_prompt(row), add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token is not None:
        prompt = [tokenizer.bos_token_id, *prompt]
    return prompt, [*tokenizer(row.response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


# ---------------------------------------------------------------- labels


def test_tokenise_labels_are_the_response_and_eos(model_step: Path) -> None:
    tokenizer = load_tokenizer(model_step)
    made, notes = tokenise(ROWS, tokenizer, 512)
    assert notes == {"cut": [], "dropped": [], "unknown": []}
    for row, item in zip(ROWS, made, strict=True):
        scored = [label for label in item["labels"] if label != IGNORED]
        assert tokenizer.decode(scored) == row.response + tokenizer.eos_token
        before = item["labels"].index(scored[0])
        assert item["labels"][:before] == [IGNORED] * before and item["labels"][before:] == scored
        assert item["input_ids"][before:] == scored
        start = tokenizer.bos_token or ""
        assert tokenizer.decode(item["input_ids"][:before]) == start + alpaca_prompt(row)
        assert item["input_ids"][:2].count(tokenizer.bos_token_id) == bool(start)


def test_tokenise_rows_with_letters_that_the_tokenizer_lacks_are_noted() -> None:
    words = WordLevel({"[UNK]": 0, "</s>": 1, "<pad>": 2, "Say": 3, "yes": 4}, unk_token="[UNK]")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), unk_token="[UNK]", eos_token="</s>", pad_token="<pad>"
    )
    rows = [Example("known", "Say", "", "yes"), Example("unknown", "Say", "", "да")]
    made, notes = tokenise(rows, tokenizer, 8, lambda row: row.instruction)
    assert len(made) == 2 and notes["unknown"] == ["unknown"]


def test_tokenise_prompt_that_fills_max_length_is_dropped_by_id(model_step: Path) -> None:
    tokenizer = load_tokenizer(model_step)
    prompt, answer = row_ids(tokenizer, ROWS[1])
    filled, _ = tokenise([ROWS[1]], tokenizer, len(prompt))
    assert filled == []
    made, notes = tokenise([ROWS[0], ROWS[1]], tokenizer, len(prompt) + 1)
    assert [item["input_ids"][-1] for item in made][-1] == answer[0]
    assert notes == {"cut": ["a"], "dropped": [], "unknown": []}
    _, notes = tokenise([ROWS[1], ROWS[0]], tokenizer, len(prompt))
    assert notes["dropped"] == ["a"] and "a" in notes["cut"] and "d" not in notes["dropped"]


def test_collator_pads_without_labels_even_if_pad_is_eos(model_step: Path) -> None:
    tokenizer = load_tokenizer(model_step)
    made, _ = tokenise(ROWS, tokenizer, 512)
    batch = CheckedCollator(pad_token_id=tokenizer.eos_token_id)(made)
    for item, ids, labels, mask in zip(made, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        end = len(item["input_ids"])
        assert ids[:end].tolist() == item["input_ids"] and labels[:end].tolist() == item["labels"]
        assert (labels[end:] == IGNORED).all() and mask.tolist() == [1] * end + [0] * (len(mask) - end)


def test_collator_batch_without_a_label_is_refused() -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [IGNORED] * 3}, {"input_ids": [5], "labels": [IGNORED]}]
    with pytest.raises(TrainError, match=r"2 rows has no label.*max_length"):
        CheckedCollator(pad_token_id=0)(rows)


# ---------------------------------------------------------------- loss and batches


@pytest.fixture(scope="module")
def expected_loss(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Mean NLL over the answer tokens of ROWS, by the scoring engine."""
    step = as_step(tiny_model, tmp_path_factory.mktemp("step") / "model")
    model, tokenizer = load_model(step, Dtype.float32, torch.device("cpu")), load_tokenizer(step)
    rows = [Encoded(prompt + answer, len(prompt)) for prompt, answer in (row_ids(tokenizer, row) for row in ROWS)]
    sums, counts = answer_nll(model, rows, tokenizer.pad_token_id)
    of_tokens, of_rows = float(sums.sum() / counts.sum()), float((sums / counts).mean())
    assert abs(of_tokens - of_rows) > 1e-2  # else the test couldn't tell them apart
    return of_tokens


def test_run_first_loss_and_final_adapter_dont_depend_on_micro_batch(tune: Any, expected_loss: float) -> None:
    made = {size: tune(config(epochs=3), micro_batch_size=size) for size in (1, 2, 4)}
    for out, metrics in made.values():
        assert metrics["steps"] == 3
        assert logged(out)[0]["loss"] == pytest.approx(expected_loss, abs=1e-4)
        assert_close(adapter(out), adapter(made[4][0]), 1e-4)
        assert max(float(tensor.abs().max()) for name, tensor in adapter(out).items() if "lora_B" in name) > 1e-2


@pytest.mark.parametrize("tuning", Tuning)
def test_run_loss_falls_on_rows_that_can_be_memorised(tune: Any, model_step: Path, tuning: Tuning) -> None:
    out, metrics = tune(config(tuning, epochs=25, warmup_ratio=0.0, learning_rate=0.03), model=model_step)
    losses = [entry["loss"] for entry in logged(out)]
    assert len(losses) == metrics["steps"] == 25
    assert all(math.isfinite(loss) for loss in losses)
    # the head is frozen under LoRA, and its small random weights bound how far the loss can fall
    assert losses[0] - losses[-1] > {Tuning.lora: 0.2, Tuning.full: 2.0}[tuning]
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses))


def test_run_lora_stores_only_the_adapter(tune: Any) -> None:
    out, metrics = tune(config(lora=LoraConfig(r=3, targets=["q_proj", "down_proj"])))
    found = adapter(out)
    assert all(".lora_A." in name or ".lora_B." in name for name in found)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in found} == {"q_proj", "down_proj"}
    shape = 3 * (64 + 64) + 3 * (128 + 64)  # r * (in + out), of q_proj and of down_proj
    assert metrics["trainable_parameters"] == sum(tensor.numel() for tensor in found.values()) == 2 * shape


def test_run_full_stores_weights_that_load(tune: Any, tiny_model: Path) -> None:
    out, metrics = tune(config(Tuning.full))
    before, after = load_file(tiny_model / "model.safetensors"), load_file(out / "weights" / "model.safetensors")
    assert before.keys() == after.keys()
    assert metrics["trainable_parameters"] == sum(tensor.numel() for tensor in before.values())
    assert all(after[name].dtype == torch.float32 for name in after)
    assert not any(torch.equal(before[name], after[name]) for name in before if "proj" in name)
    assert load_model(out, Dtype.float32, torch.device("cpu")).config.use_cache
    assert len(load_tokenizer(out)) == len(load_tokenizer(as_step(tiny_model, out.parent / "base")))


def test_run_full_saved_in_bfloat16_is_half_as_large_and_the_same_once_loaded_in_it(tune: Any, tmp_path: Path) -> None:
    def saved(dtype: Dtype) -> tuple[Path, int]:
        out, _ = tune(config(Tuning.full, kept_epochs=[1], save_dtype=dtype), out=tmp_path / dtype.value)
        return out, sum(path.stat().st_size for path in out.rglob("*.safetensors"))

    (whole, large), (half, small) = saved(Dtype.float32), saved(Dtype.bfloat16)
    assert 0.5 < small / large < 0.55  # headers
    assert read_json(half / "weights" / "config.json")["dtype"] == "bfloat16"
    for part in (Path(), after_epoch(Path(), 1)):
        files = sorted((half / part / "weights").glob("*.safetensors"))
        stored = {name: tensor for file in files for name, tensor in load_file(file).items()}
        assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
        models = [load_tuned(f, f / part, Dtype.bfloat16, torch.device("cpu")).state_dict() for f in (whole, half)]
        assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


def test_schedule_saved_dtype_of_an_adapter_is_refused() -> None:
    assert "adapter" in save_problems("training", config(save_dtype=Dtype.bfloat16))[0]
    assert save_problems("training", config(Tuning.full, save_dtype=Dtype.bfloat16)) == []


@pytest.mark.parametrize("tuning", Tuning)
def test_run_gradient_checkpointing_has_no_influence(tune: Any, tuning: Tuning) -> None:
    one, other = (tune(config(tuning, epochs=3), gradient_checkpointing=flag)[0] for flag in (False, True))
    name = "adapter/adapter_model.safetensors" if tuning is Tuning.lora else "weights/model.safetensors"
    assert_close(load_file(other / name), load_file(one / name), 1e-6)


def test_run_bfloat16_computes_in_it_and_keeps_float32_weights(tune: Any, expected_loss: float) -> None:
    out, _ = tune(config(dtype=Dtype.bfloat16))
    loss = logged(out)[0]["loss"]
    assert loss == pytest.approx(expected_loss, abs=0.02) and abs(loss - expected_loss) > 1e-6
    assert {tensor.dtype for tensor in adapter(out).values()} == {torch.float32}


@pytest.mark.parametrize("schedule", Schedule)
def test_run_learning_rate_follows_the_schedule(tune: Any, schedule: Schedule) -> None:
    cfg = config(schedule=schedule, warmup_ratio=0.35, epochs=6, learning_rate=1e-3)
    out, _ = tune(cfg)
    warm, steps = 3, 6  # 0.35 of 6 steps, rounded up
    left = [(steps - step) / (steps - warm) for step in range(warm, steps)]
    fall = {
        Schedule.linear: left,
        Schedule.cosine: [(1 - math.cos(math.pi * x)) / 2 for x in left],
        Schedule.constant_with_warmup: [1.0] * len(left),
    }
    expected = [step / warm for step in range(warm)] + fall[schedule]
    assert [entry["learning_rate"] for entry in logged(out)] == pytest.approx([1e-3 * x for x in expected])


# ---------------------------------------------------------------- rows and counts


def test_run_selected_ids_count_rows_tokens_and_flops(tune: Any, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(as_step(tiny_model, tiny_model.parent / "counted"))
    lengths = {row.id: length(tokenizer, row) for row in ROWS}
    out, metrics = tune(config(global_batch_size=2, max_length=lengths["a"] - 1), ids=["c", "a", "b"])
    true = 2 * (lengths["a"] - 1 + lengths["b"] + lengths["c"])
    assert metrics["tokens"] == true == sum(entry["tokens"] for entry in logged(out))
    assert (metrics["rows"], metrics["rows_cut"], metrics["steps"]) == (3, 1, 4)
    parameters = sum(tensor.numel() for tensor in load_file(tiny_model / "model.safetensors").values())
    assert metrics["flops"] == training_flops(parameters, true, frozen=True) == 4 * parameters * true
    assert read_json(out / "report.json") == {"cut": ["a"], "dropped": [], "unknown": [], "control": []}


def test_run_rows_with_names_of_control_tokens_are_counted_and_end_once(tune: Any) -> None:
    rows = [Example("x", "Strike </s> out", "", "10</s> 8"), Example("y", "Say it.", "", "Yes.")]
    out, metrics = tune(config(), rows)
    assert metrics["rows_with_control"] == 1 and read_json(out / "report.json")["control"] == ["x"]


def test_run_part_of_an_epoch_counts_the_tokens_it_saw(tune: Any, tiny_model: Path) -> None:
    rows = [Example(f"r{i}", "Say it.", "", "Yes.") for i in range(8)]
    tokenizer = load_tokenizer(as_step(tiny_model, tiny_model.parent / "equal"))
    _, metrics = tune(config(epochs=0.6, global_batch_size=2), rows)
    assert metrics["steps"] == 3  # of 4 in an epoch
    assert metrics["tokens"] == 3 * 2 * length(tokenizer, rows[0])


def test_run_order_of_ids_has_no_influence(tune: Any) -> None:
    one, _ = tune(config(global_batch_size=2), ids=["a", "b", "c", "d"])
    other, _ = tune(config(global_batch_size=2), list(reversed(ROWS)), ids=["d", "b", "a", "c"])
    whole, _ = tune(config(global_batch_size=2))
    assert files(one / "adapter") == files(other / "adapter") == files(whole / "adapter")


def test_run_dropped_rows_are_counted(tune: Any, tiny_model: Path) -> None:
    long = Example("long", "word " * 300, "", "never seen")
    out, metrics = tune(config(), [*ROWS, long])
    assert metrics["rows"] == 4 and metrics["dropped"] == {"no response token within max_length": 1}
    assert read_json(out / "report.json")["dropped"] == ["long"]


def test_run_all_rows_dropped_names_max_length(tune: Any) -> None:
    with pytest.raises(TrainError, match=r"none of 4 rows.*max_length=20"):
        tune(config(max_length=20))


def test_run_id_that_is_no_candidate_is_refused(tune: Any) -> None:
    with pytest.raises(TrainError, match=r"2 selected ids aren't candidates.*'x'"):
        tune(config(), ids=["a", "x", "y"])


# ---------------------------------------------------------------- seeds and resuming


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def untimed(folder: Path) -> dict[str, bytes]:
    """All files but the log, which says how long training took."""
    return {name: content for name, content in files(folder).items() if name != "log.jsonl"}


def test_run_seed_decides_the_adapter(tune: Any) -> None:
    cfg = config(dropout=0.1, global_batch_size=2)
    one, other, third = (tune(cfg, seed=seed)[0] for seed in (0, 0, 1))
    assert files(one / "adapter") == files(other / "adapter")
    assert not torch.equal(*(next(iter(adapter(out).values())) for out in (one, third)))


@pytest.mark.parametrize("tuning", Tuning)
def test_run_resumed_equals_uninterrupted(tune: Any, tmp_path: Path, tuning: Tuning) -> None:
    cfg = config(tuning, dropout=0.1, epochs=3, global_batch_size=2)  # 6 steps
    whole, metrics = tune(cfg)
    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        tune(cfg, out=part, stop_at=4, checkpoint_steps=1)
    assert [path.name for path in (part / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]
    # killed while it wrote the next one: trainer_state.json, which is written last, isn't there
    shutil.copytree(part / "checkpoints" / "checkpoint-3", part / "checkpoints" / "checkpoint-4")
    (part / "checkpoints" / "checkpoint-4" / "trainer_state.json").unlink()
    _, resumed = tune(cfg, out=part, checkpoint_steps=1)
    name = "adapter/adapter_model.safetensors" if tuning is Tuning.lora else "weights/model.safetensors"
    assert_close(load_file(part / name), load_file(whole / name), 1e-6)
    assert resumed == metrics
    assert [entry["step"] for entry in logged(part)] == [1, 2, 3, 4, 5, 6]
    assert set(files(part)) == set(files(whole))


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "sealed.json", "../saved_by.json"]
)
def test_run_damaged_checkpoint_is_named_and_not_resumed_from(
    tune: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    cfg = config(dropout=0.1, global_batch_size=2)  # 4 steps
    whole, metrics = tune(cfg)
    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        tune(cfg, out=part, stop_at=3, checkpoint_steps=1)
    (checkpoint,) = (part / "checkpoints").glob("checkpoint-*")
    harmed = (checkpoint / name).resolve()
    data = harmed.read_bytes()
    place = len(data) // 2
    harmed.write_bytes(data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :])
    capsys.readouterr()
    _, again = tune(cfg, out=part, checkpoint_steps=1)
    assert again == metrics and untimed(part) == untimed(whole)
    said = capsys.readouterr().out
    assert harmed.name in said and "altered" in said


@pytest.mark.parametrize("tuning", Tuning)
@pytest.mark.parametrize("asked_at", [2, 3])  # stops after 3, an epoch's end, and after 4
def test_run_asked_to_stop_saves_and_the_next_attempt_gives_the_same_bits(
    tune: Any, tmp_path: Path, tuning: Tuning, asked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(tuning, dropout=0.1, epochs=2, global_batch_size=2, keep_epochs=True, kept_epochs=[1])
    rows = [*ROWS, Example("e", "Say 2.", "", "Two. " * 3), Example("f", "Say 3.", "", "Three.")]  # 3 steps an epoch
    whole, metrics = tune(cfg, rows)
    part = tmp_path / "part"
    advance = Progress.advance

    def ask(self: Progress, units: int = 1, tokens: int = 0) -> None:
        advance(self, units, tokens)
        stop.asked = stop.asked or self.done == asked_at

    stop = Stop()
    monkeypatch.setattr(Progress, "advance", ask)
    monkeypatch.setattr(Runtime, "stop_requested", lambda self: stop.asked)
    with pytest.raises(Asked, match=f"after {asked_at + 1} of 6"):
        tune(cfg, rows, out=part)
    assert [path.name for path in (part / "checkpoints").glob("checkpoint-*")] == [f"checkpoint-{asked_at + 1}"]
    monkeypatch.undo()
    _, resumed = tune(cfg, rows, out=part)
    assert resumed == metrics
    assert untimed(part) == untimed(whole)


@pytest.mark.parametrize("tuning", Tuning)
def test_run_kept_epochs_are_models_on_the_way_to_the_last(
    tune: Any, tmp_path: Path, tiny_model: Path, tuning: Tuning
) -> None:
    rows = [*ROWS, Example("e", "Say 2.", "", "Two. " * 3)]  # 3 steps an epoch, the last of one row
    plain, metrics = tune(config(tuning, dropout=0.1, global_batch_size=2), rows)
    out, kept = tune(config(tuning, dropout=0.1, global_batch_size=2, kept_epochs=[1, 2]), rows)
    assert kept == metrics
    first, last = after_epoch(out, 1), after_epoch(out, 2)
    assert sorted(path.name for path in out.glob("after*")) == [first.name, last.name]
    files_of = {name: data for name, data in untimed(out).items() if not name.startswith("after")}
    assert files_of == untimed(plain)  # what is saved on the way changes nothing
    step = as_step(tiny_model, tmp_path / "base")
    tokenizer = load_tokenizer(step)
    texts = [Encoded(prompt + answer, len(prompt)) for prompt, answer in (row_ids(tokenizer, row) for row in rows)]

    def losses(folder: Path) -> list[float]:
        tuned = load_tuned(step, folder, Dtype.float32, torch.device("cpu"))
        sums, counts = answer_nll(tuned, texts, tokenizer.pad_token_id)
        return [float(value) for value in sums / counts]

    assert losses(last) == losses(out)
    assert sum(losses(out)) < sum(losses(first)) - 0.01
    assert (first / "model.json").is_file()


def test_run_asked_to_stop_in_the_last_step_ends_as_usual(
    tune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, metrics = tune(config(epochs=1, warmup_ratio=0.0))
    monkeypatch.setattr(Runtime, "stop_requested", lambda self: True)
    out, stopped = tune(config(epochs=1, warmup_ratio=0.0))
    assert stopped == metrics
    assert untimed(out) == untimed(whole)


def test_run_resumed_with_another_micro_batch_keeps_the_batch(tune: Any, tmp_path: Path) -> None:
    cfg = config(epochs=3)
    whole, metrics = tune(cfg, micro_batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        tune(cfg, out=tmp_path / "part", stop_at=2, checkpoint_steps=1, micro_batch_size=4)
    _, resumed = tune(cfg, out=tmp_path / "part", checkpoint_steps=1, micro_batch_size=1)
    assert resumed["tokens"] == metrics["tokens"] and resumed["steps"] == metrics["steps"]
    assert_close(adapter(tmp_path / "part"), adapter(whole), 1e-4)


def test_run_interrupted_after_the_last_step_is_finished(tune: Any, tmp_path: Path) -> None:
    whole, metrics = tune(config())
    with pytest.raises(KeyboardInterrupt):
        tune(config(), out=tmp_path / "part", stop_at=-1, checkpoint_steps=1)
    _, resumed = tune(config(), out=tmp_path / "part", checkpoint_steps=1)
    assert resumed == metrics
    assert files(tmp_path / "part" / "adapter") == files(whole / "adapter")


@pytest.mark.parametrize("tuning", Tuning)
def test_run_keeps_the_template_beside_the_weights(tune: Any, tuning: Tuning) -> None:
    out, _ = tune(config(tuning))
    stored = read_json(out / ("adapter" if tuning is Tuning.lora else "weights") / "prompt.json")
    for row in ROWS:
        text = stored["with_input" if row.input else "without_input"]
        assert text.format(instruction=row.instruction, input=row.input) == alpaca_prompt(row)


@pytest.mark.parametrize("tuning", Tuning)
def test_run_leaves_no_pickle_no_checkpoint_and_no_path(tune: Any, tmp_path: Path, tuning: Tuning) -> None:
    out, _ = tune(config(tuning), checkpoint_steps=1)
    assert {path.suffix for path in out.rglob("*") if path.is_file()} <= {".json", ".jsonl", ".safetensors", ".jinja"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"adapter" if tuning is Tuning.lora else "weights"}
    for name, content in files(out).items():
        assert str(tmp_path.parent).encode() not in content, name


# ---------------------------------------------------------------- what can't be trained


def test_run_nan_in_the_weights_is_refused_before_training(tune: Any, tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.embed_tokens.weight"][:] = float("nan")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    out = tmp_path / "part"
    with pytest.raises(ModelError, match=r"1 weights aren't finite as float32 .*model\.embed"):
        tune(config(), model=as_step(broken, tmp_path / "broken_step"), out=out, checkpoint_steps=1)
    assert not (out / "adapter").exists() and not list(out.rglob("*.safetensors"))


def test_run_single_step_has_no_warm_up_in_which_nothing_would_be_learned(tune: Any) -> None:
    out, metrics = tune(config(epochs=1))
    assert metrics["steps"] == 1
    assert any(tensor.any() for name, tensor in adapter(out).items() if "lora_B" in name)


def test_run_diverging_learning_rate_is_refused(tune: Any) -> None:
    with pytest.raises(TrainError, match=r"step [2-9].*loss nan"):
        tune(config(Tuning.full, learning_rate=1e30, warmup_ratio=0.0, epochs=6))


@pytest.mark.parametrize("targets", [["q_prj"], ["q_proj", "q_prj"]])
def test_run_lora_target_that_the_model_lacks_names_the_key(tune: Any, targets: list[str]) -> None:
    with pytest.raises(TrainError, match=r"training\.lora\.targets.*'q_prj'.*'q_proj'"):
        tune(config(lora=LoraConfig(targets=targets)))


def test_schedule_unknown_name_is_refused_with_its_key() -> None:
    with pytest.raises(SchemaError, match=r"training\.schedule='linaer'.*linear, cosine.*'linear'"):
        build(TrainConfig, {"tuning": "lora", "learning_rate": 1e-3, "schedule": "linaer"}, "training")
