"""A training in several processes: the losses of one, the same rows in every step, stops, faults and what is refused.

Two processes on a CPU, by gloo. Most tests fork them from a server that has imported the stage; one starts them as
users do.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.modeling_utils
from forked import Forked
from safetensors.torch import load_file
from small import composed, small
from torch.distributed import TCPStore
from transformers import TrainingArguments

from icon_repro.config.load import ConfigError, load
from icon_repro.data.model_files import ModelError
from icon_repro.data.options import Dtype
from icon_repro.data.rows import Example
from icon_repro.engine.options import ClusterConfig
from icon_repro.engine.records import read_json, read_lines, write_json, write_rows
from icon_repro.engine.runtime import Interrupted, Runtime, Stop
from icon_repro.engine.schema import plain
from icon_repro.lm.load import load_model
from icon_repro.lm.options import LoraConfig
from icon_repro.lm.processes import pin
from icon_repro.train import launch
from icon_repro.train.batches import FilledOrder, fillers
from icon_repro.train.options import DeepspeedConfig, TrainConfig, TrainJob, Tuning
from icon_repro.train.process import PartnerError, meet
from icon_repro.train.step import ProcessError, TrainError, run
from icon_repro.train.zero import settings, used

CPU, GPU = torch.device("cpu"), torch.device("cuda")
# 11 rows in batches of 4 and micro-batches of 2: two processes share the last 3 rows unevenly
ROWS = [Example(f"r{i:02}", f"Say {i}.", "", "word " * (1 + i * 3 % 7)) for i in range(11)]


def config(tuning: Tuning = Tuning.lora, dropout: float = 0.0, **more: Any) -> TrainConfig:
    values = {"learning_rate": 1e-2, "epochs": 2, "global_batch_size": 4, "dtype": Dtype.float32, "max_length": 512}
    return TrainConfig(tuning, **{"lora": LoraConfig(dropout=dropout), **values, **more})


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> list[Forked]:
    """Lets ``launch`` fork its processes; holds them."""
    started: list[Forked] = []

    def start(*arguments: Any) -> Forked:
        started.append(Forked(*arguments))
        return started[-1]

    monkeypatch.setattr(launch, "_start", start)
    return started


@pytest.fixture(scope="module")
def inputs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "model").mkdir()
    (folder / "model" / "weights").symlink_to(tiny_model)
    write_json(folder / "model" / "model.json", {"hub_id": None, "commit": None})
    (folder / "candidates").mkdir()
    write_rows(folder / "candidates" / "rows.jsonl", ROWS)
    return {"model": folder / "model", "candidates": folder / "candidates"}


@pytest.fixture
def tune(tmp_path: Path, inputs: dict[str, Path]) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Runs the stage; returns its folder and metrics."""

    def make(
        cfg: TrainConfig, processes: int, out: Path | None = None, stop: Stop | None = None, **cluster: Any
    ) -> tuple[Path, dict[str, Any]]:
        out = out or tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        out.mkdir(exist_ok=True)
        settings = ClusterConfig(**{"device": "cpu", "micro_batch_size": 2, "processes": processes, **cluster})
        return out, run(TrainJob(cfg, 3), inputs, out, Runtime(settings, tmp_path, terminal=None, stop=stop or Stop()))

    return make


def losses(out: Path) -> list[float]:
    return [entry["loss"] for _, entry in read_lines(out / "log.jsonl") if "loss" in entry]


def weights(out: Path) -> dict[str, torch.Tensor]:
    found = [path for path in out.rglob("*.safetensors") if "epochs" not in path.parts]
    assert len(found) == 1
    return load_file(found[0])


def assert_same_training(
    found: tuple[Path, dict[str, Any]], expected: tuple[Path, dict[str, Any]], tolerance: float = 1e-5
) -> None:
    """Losses, weights, counts. One row more or less in a batch changes a loss by more than 1e-3."""
    assert losses(found[0]) == pytest.approx(losses(expected[0]), abs=tolerance)
    one, other = weights(found[0]), weights(expected[0])
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=10 * tolerance)
    exact = ("rows", "rows_cut", "dropped", "steps", "tokens", "flops", "trainable_parameters")
    assert {name: found[1][name] for name in exact} == {name: expected[1][name] for name in exact}
    names = [{path.relative_to(out).as_posix() for path in out.rglob("*")} for out in (found[0], expected[0])]
    assert names[0] == names[1]


# ---------------------------------------------------------------- the losses of one process


def test_run_two_started_processes_train_as_one_does(tune: Any) -> None:
    cfg = config(keep_epochs=True)
    one, two = tune(cfg, 1), tune(cfg, 2)
    assert_same_training(two, one)
    for name in ("weights", "adam"):  # what LESS reads
        kept = [load_file(out / "epochs" / "epoch-1" / f"{name}.safetensors") for out in (one[0], two[0])]
        assert kept[0].keys() == kept[1].keys()
        for key, tensor in kept[0].items():
            torch.testing.assert_close(kept[1][key], tensor, rtol=1e-3, atol=1e-4 if name == "weights" else 1e-7)
    assert one[1]["trainer_flops"] > 0
    assert read_json(two[0] / "epochs" / "epoch-2" / "epoch.json") == read_json(
        one[0] / "epochs" / "epoch-2" / "epoch.json"
    )


@pytest.mark.parametrize("stage", [2, 3])
def test_run_zero_gives_the_losses_of_one_process(tune: Any, forked: list[Forked], stage: int) -> None:
    one = tune(config(Tuning.full, deepspeed=DeepspeedConfig(stage, offload=True)), 1)
    two = tune(config(Tuning.full, deepspeed=DeepspeedConfig(stage)), 2)
    assert len(forked) == 2  # for the one process there is nothing to share
    assert_same_training(two, one)
    if stage == 3:  # where transformers sees no weights to count
        assert two[1]["trainer_flops"] == tune(config(Tuning.full), 2)[1]["trainer_flops"] > 0


def test_run_zero_3_tunes_lora_as_one_process_does(tune: Any, forked: list[Forked]) -> None:
    assert_same_training(tune(config(deepspeed=DeepspeedConfig(3)), 2), tune(config(), 1))


def test_run_dropout_hits_other_weights_in_each_process(
    tune: Any, forked: list[Forked], inputs: dict[str, Path], tmp_path: Path
) -> None:
    """The same row in both processes: with equal masks they would do what one does with the row alone."""
    made = []
    for number in (1, 2):  # of rows, of sequences in a batch, of processes
        folder, out = tmp_path / f"rows{number}", tmp_path / f"out{number}"
        folder.mkdir()
        out.mkdir()
        write_rows(folder / "rows.jsonl", [Example(f"r{i}", "Say 1.", "", "word " * 5) for i in range(number)])
        cluster = ClusterConfig(device="cpu", micro_batch_size=1, processes=number)
        job = TrainJob(config(dropout=0.5, epochs=4, global_batch_size=number), 3)
        run(job, {**inputs, "candidates": folder}, out, Runtime(cluster, tmp_path, terminal=None))
        made.append(losses(out))
    assert made[1][0] == pytest.approx(made[0][0], abs=1e-6)
    assert abs(made[1][3] - made[0][3]) > 1e-5


# ---------------------------------------------------------------- rows of a batch


@pytest.mark.parametrize("rows", [1, 4, 11, 12, 13])
@pytest.mark.parametrize("micro, processes", [(1, 1), (2, 2), (1, 4), (2, 3)])
def test_filled_order_has_every_row_once_in_the_order_of_one_process(rows: int, micro: int, processes: int) -> None:
    more = fillers(rows, micro, processes)
    assert 0 <= more < micro * processes and (processes == 1 or (rows + more) % (micro * processes) == 0)
    order, alone = FilledOrder(rows, more, 5), FilledOrder(rows, 0, 5)
    epochs = []
    for epoch in range(2):
        order.set_epoch(epoch)
        alone.set_epoch(epoch)
        epochs.append(list(order))
        assert epochs[-1][:rows] == list(alone) and sorted(epochs[-1]) == list(range(rows + more))
        assert len(order) == rows + more
    assert rows < 4 or epochs[0] != epochs[1]


# ---------------------------------------------------------------- stopping and resuming


def ask_early(part: Path, stop: Stop) -> None:
    """Asks to stop as soon as training has begun."""
    part.mkdir(exist_ok=True)
    shutil.rmtree(part / launch.MESSAGES, ignore_errors=True)  # of an earlier attempt

    def watch() -> None:
        while not (part / launch.MESSAGES / launch.TRAINING).exists():
            time.sleep(0.005)
        stop.asked = True

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize("processes", [2, 1])
def test_run_asked_to_stop_resumes_in_any_number_of_processes(
    tune: Any, forked: list[Forked], tmp_path: Path, processes: int
) -> None:
    cfg = config(dropout=0.1 if processes == 2 else 0.0, epochs=4)  # 12 steps
    whole = tune(cfg, processes)
    part, stop = tmp_path / "part", Stop()
    ask_early(part, stop)
    with pytest.raises(Interrupted, match=r"stopped after \d+ of 12 optimizer steps; their checkpoint is kept"):
        tune(cfg, 2, part, stop)
    assert stop.deferred
    (checkpoint,) = (part / "checkpoints").glob("checkpoint-*")
    assert sorted(path.name for path in checkpoint.glob("rng_state*")) == ["rng_state_0.pth", "rng_state_1.pth"]
    resumed = tune(cfg, processes, part)
    assert_same_training(resumed, whole)
    if processes == 2:  # dropout goes on as it would have
        assert (part / "adapter/adapter_model.safetensors").read_bytes() == (
            whole[0] / "adapter/adapter_model.safetensors"
        ).read_bytes()


@pytest.mark.parametrize(("tuning", "stage", "last"), [(Tuning.full, 2, 2), (Tuning.full, 3, 1), (Tuning.lora, 3, 2)])
def test_run_zero_checkpoint_resumes_in_any_number_of_processes(
    tune: Any, forked: list[Forked], tmp_path: Path, tuning: Tuning, stage: int, last: int
) -> None:
    whole = config(tuning, epochs=4, weight_decay=0.1)
    cfg = replace(whole, deepspeed=DeepspeedConfig(stage))
    (tmp_path / "a+b (1)").mkdir()  # what has a meaning in a pattern
    part, stop = tmp_path / "a+b (1)" / "part", Stop()
    ask_early(part, stop)
    with pytest.raises(Interrupted):
        tune(cfg, 2, part, stop)
    stop = Stop()
    ask_early(part, stop)
    with pytest.raises(Interrupted):
        tune(cfg, 4, part, stop, micro_batch_size=1)
    resumed = tune(cfg, last, part)
    assert_same_training(resumed, tune(whole, 1), tolerance=1e-4)
    assert resumed[1]["steps"] == 12 and len(losses(part)) == 12


def test_run_zero_checkpoint_whose_conversion_fails_or_is_killed_stays_as_it_is(
    tune: Any, forked: list[Forked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config(Tuning.full, epochs=4)
    cfg = replace(whole, deepspeed=DeepspeedConfig(3))
    part, stop = tmp_path / "part", Stop()
    ask_early(part, stop)
    with pytest.raises(Interrupted):
        tune(cfg, 2, part, stop)
    (checkpoint,) = (part / "checkpoints").glob("checkpoint-*")
    before = sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*"))

    def full(task: Any) -> None:
        (Path(task.output_folder) / "tmp").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("deepspeed.checkpoint.ds_to_universal.main", full)
        with pytest.raises(
            TrainError, match=r"checkpoint-\d+: can't be converted.*No space left.*processes=2 to go on"
        ):
            tune(cfg, 1, part)
    assert sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*")) == before
    saved = (checkpoint / "latest").read_text()
    (checkpoint / f"{saved}_universal" / "tmp").mkdir(parents=True)  # as a kill leaves it
    assert_same_training(tune(cfg, 2, part), tune(whole, 1), tolerance=1e-4)


def test_run_zero_checkpoint_of_another_stage_is_refused(tune: Any, forked: list[Forked], tmp_path: Path) -> None:
    cfg = config(Tuning.full, epochs=4, deepspeed=DeepspeedConfig(3))
    part, stop = tmp_path / "part", Stop()
    ask_early(part, stop)
    with pytest.raises(Interrupted):
        tune(cfg, 2, part, stop)
    plain = config(Tuning.full, epochs=4)
    for other, processes in [(plain, 1), (plain, 2), (replace(cfg, deepspeed=DeepspeedConfig(2)), 4)]:
        with pytest.raises(
            TrainError,
            match=r"2 processes with DeepSpeed ZeRO-3.*resumed by (1|4|2) process.*deepspeed.stage=3 to go on.*delete",
        ):
            tune(other, processes, part, micro_batch_size=1)
    plainly, stop = tmp_path / "plainly", Stop()
    ask_early(plainly, stop)
    with pytest.raises(Interrupted):
        tune(plain, 2, plainly, stop)
    with pytest.raises(
        TrainError, match=r"2 processes without DeepSpeed and can't be.*Set training.deepspeed=null to go"
    ):
        tune(cfg, 2, plainly)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("how", ["killed", "launcher gone"])
def test_run_a_process_that_dies_ends_the_others_and_is_named(
    tune: Any, forked: list[Forked], tmp_path: Path, how: str
) -> None:
    def end() -> None:
        while not (tmp_path / "part" / launch.MESSAGES / launch.TRAINING).exists():
            time.sleep(0.005)
        if how == "killed":
            os.kill(forked[1].pid or 0, signal.SIGKILL)
        else:
            forked[1].stdin.close()  # as the kernel does for a launcher that is killed

    threading.Thread(target=end, daemon=True).start()
    with pytest.raises(ProcessError, match=r"process 1 of 2 was killed by signal 9.*memory runs out"):
        tune(config(epochs=400), 2, tmp_path / "part")
    assert all(not each.process.is_alive() for each in forked)


def test_run_error_of_a_process_is_the_steps_error_and_the_next_attempt_starts_clean(
    tune: Any, forked: list[Forked], tmp_path: Path
) -> None:
    part = tmp_path / "part"
    with pytest.raises(ProcessError, match=r"process [01] of 2: TrainError: step [2-9].*loss nan"):
        tune(config(Tuning.full, learning_rate=1e30, warmup_ratio=0.0), 2, part)
    assert (part / launch.MESSAGES).is_dir() and not (part / "weights").exists()
    out, _ = tune(config(Tuning.full), 1, part)
    assert {path.name for path in out.iterdir()} == {"weights", "model.json", "log.jsonl", "report.json"}


def test_meet_a_process_that_never_starts_is_named() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    clock = time.monotonic()
    with pytest.raises(PartnerError, match=r"no sign of process 1 of 3 for 0\.5 s"):
        store.set("here/2", "")
        meet(0, 3, store, 0.5)
    assert time.monotonic() - clock < 10
    store.set("here/1", "")
    meet(0, 3, store, 0.0)


def test_run_without_a_partner_ends_with_its_name(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start = launch._start

    def first_alone(folder: Path, environment: Any, terminal: int | None) -> Any:
        if environment["RANK"] == "0":
            return start(folder, environment, terminal)
        return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)

    monkeypatch.setattr(launch, "_start", first_alone)
    monkeypatch.setattr(launch, "PARTNER_S", 1.0)
    with pytest.raises(ProcessError, match="process 0 of 2: PartnerError: no sign of process 1 of 2"):
        tune(config(), processes=2)


def test_run_asked_to_stop_before_training_ends_at_once(tune: Any, forked: list[Forked], tmp_path: Path) -> None:
    """A signal then raises in the launcher; the processes must not outlive it."""
    stop = Stop()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    before = signal.signal(signal.SIGUSR1, stop.handle)
    try:
        with pytest.raises(Interrupted, match="SIGUSR1"):
            while True:  # until the signal falls into the start of the processes
                tune(config(epochs=1), 2, tmp_path / "part", stop)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert all(not each.process.is_alive() for each in forked)


def test_started_process_hears_of_signals_from_its_launcher_only(tmp_path: Path) -> None:
    made = launch._start(tmp_path, {**os.environ, "RANK": "0"}, None)
    try:
        blocked = int(
            next(
                line.split()[1]
                for line in Path(f"/proc/{made.pid}/status").read_text().splitlines()
                if line.startswith("SigBlk")
            ),
            16,
        )
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            assert blocked >> (number - 1) & 1
            assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        made.kill()
        made.wait()


# ---------------------------------------------------------------- settings


def test_environment_gives_each_process_its_number_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = launch._environment(1, 4, 4711, CPU)
    assert {name: made[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "DS_ACCELERATOR")} == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_PORT": "4711",
        "DS_ACCELERATOR": "cpu",
    }
    assert "CUDA_VISIBLE_DEVICES" not in launch._environment(1, 4, 4711, GPU)
    assert launch._environment(0, 1, 4711, torch.device("cuda:1"))["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert launch._environment(0, 1, 4711, torch.device("cuda:1"))["CUDA_VISIBLE_DEVICES"] == "6"


def test_run_more_processes_than_gpus_names_both(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ProcessError, match=r"cluster\.processes=4: torch sees 2 GPUs"):
        tune(config(), 4, device="cuda", micro_batch_size=1)


@pytest.mark.parametrize(
    "deepspeed, processes, device, expected",
    [
        (None, 2, GPU, False),
        (DeepspeedConfig(2), 2, CPU, True),
        (DeepspeedConfig(3, True), 1, GPU, True),
        (DeepspeedConfig(3, True), 1, CPU, False),
        (DeepspeedConfig(3), 1, GPU, False),
    ],
)
def test_deepspeed_is_used_where_there_is_something_to_share_or_to_offload(
    deepspeed: DeepspeedConfig | None, processes: int, device: torch.device, expected: bool
) -> None:
    assert (used(config(deepspeed=deepspeed), processes, device) is not None) == expected


def test_zero_settings_offload_from_a_gpu_only() -> None:
    on_gpu = settings(DeepspeedConfig(3, True), Dtype.bfloat16, GPU)
    assert {name for name in on_gpu["zero_optimization"] if "offload" in name} == {"offload_optimizer", "offload_param"}
    assert on_gpu["torch_autocast"]["enabled"] and "bf16" not in on_gpu
    assert "offload_param" not in settings(DeepspeedConfig(2, True), Dtype.bfloat16, GPU)["zero_optimization"]
    on_cpu = settings(DeepspeedConfig(3, True), Dtype.float32, CPU)
    assert not [name for name in on_cpu["zero_optimization"] if "offload" in name]
    assert not on_cpu["torch_autocast"]["enabled"]


def test_hash_knows_nothing_of_processes_and_deepspeed() -> None:
    job = TrainJob(config(deepspeed=DeepspeedConfig(3, True)), 0)
    assert plain(job, hashed_only=True) == plain(TrainJob(config(), 0), hashed_only=True)


@pytest.mark.parametrize(
    "batch, micro, processes, expected",
    [
        (16, 4, 4, None),
        (6, 4, 1, r"training\.global_batch_size=6: .*cluster\.micro_batch_size=4; set one"),
        (16, 8, 4, r"micro_batch_size=8 times cluster\.processes=4; e\.g\. set cluster\.micro_batch_size=4\."),
        (16, 4, 3, r"micro_batch_size=4 times cluster\.processes=3; set one of them"),
    ],
)
def test_load_batch_that_the_processes_cant_share_evenly_names_the_keys(
    tmp_path: Path, batch: int, micro: int, processes: int, expected: str | None
) -> None:
    changes = {"cluster.micro_batch_size": micro, "cluster.processes": processes, "training.global_batch_size": batch}
    problems = load_problems(changes, tmp_path)
    assert bool(expected) == bool(problems)
    assert expected is None or re.search(expected, problems)


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            {"training.keep_epochs": True, "training.deepspeed": {"stage": 2}},
            r"training\.keep_epochs=true.*deepspeed=null",
        ),
        ({"cluster.processes": 2, "cluster.device": "cuda:1"}, r"cluster\.device='cuda:1'.*processes=2.*cuda"),
        ({"training.deepspeed": {"stage": 1}}, r"training\.deepspeed\.stage=1: must be at least 2"),
        (
            {"action": "submit", "cluster.device": "cuda", "cluster.processes": 4, "cluster.slurm": {"gpus": 1}},
            r"cluster\.processes=4.*has 1 GPU.*slurm\.training\.gpus=4",
        ),
        ({"cluster.processes": 0}, r"cluster\.processes=0: must be at least 1"),
    ],
)
def test_load_settings_that_cant_work_are_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert re.search(expected, load_problems(changes, tmp_path))


def load_problems(changes: dict[str, Any], tmp_path: Path) -> str:
    """What ``load`` finds wrong with the smallest experiment after ``changes``."""
    try:
        small(tmp_path, {"cluster.micro_batch_size": 2, "training.global_batch_size": 16, **changes})
    except ConfigError as error:
        return str(error)
    return ""


def test_pin_one_process_uses_its_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = TrainingArguments(use_cpu=True)
    arguments.__dict__["_setup_devices"] = torch.device("cuda:0")  # as transformers finds it with 4 GPUs in sight
    arguments._n_gpu = 4
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(device)))
    chosen: list[str] = []
    assert arguments.train_batch_size == 4 * arguments.per_device_train_batch_size
    pin(arguments, torch.device("cuda:2"))
    assert (arguments.n_gpu, arguments.device, chosen) == (1, torch.device("cuda:2"), ["cuda:2"])
    assert arguments.parallel_mode.value == "not_parallel"
    assert arguments.train_batch_size == arguments.per_device_train_batch_size


@pytest.mark.parametrize("name, expected", [("lora", None), ("full", (3, True)), ("full_zero2", (2, False))])
def test_conf_training_says_what_deepspeed_does(tmp_path: Path, name: str, expected: tuple[int, bool] | None) -> None:
    made = load(composed("experiment=smoke_tiny", f"training={name}", "cluster.micro_batch_size=1"))
    found = made.training.deepspeed
    assert (None if found is None else (found.stage, found.offload)) == expected
    assert made.training.tuning is (Tuning.full if expected else Tuning.lora)


# ---------------------------------------------------------------- options that change no result


def test_run_gradient_checkpointing_reaches_the_model_and_changes_nothing(
    tune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_run = tune(config(epochs=1), 1)
    calls, original = [], transformers.modeling_utils.checkpoint

    def checkpoint(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments)
        return original(*arguments, **more)

    monkeypatch.setattr(transformers.modeling_utils, "checkpoint", checkpoint)
    checked = tune(config(epochs=1), 1, gradient_checkpointing=True)
    assert calls
    assert_same_training(checked, plain_run)


def test_run_bfloat16_rounds_the_forward_pass_but_not_the_weights(tune: Any) -> None:
    exact, rounded = (
        tune(config(Tuning.full, epochs=1, dtype=dtype), 1)[0] for dtype in Dtype if dtype is not Dtype.float16
    )
    assert losses(exact) == pytest.approx(losses(rounded), abs=0.1) and losses(exact) != losses(rounded)
    assert {tensor.dtype for tensor in weights(rounded).values()} == {torch.float32}


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash"])
def test_load_model_attention_that_isnt_there_names_the_key(inputs: dict[str, Path], attention: str) -> None:
    with pytest.raises(ModelError, match=rf"cluster\.attention='{attention}'.*[Ff]lash.*attention=sdpa"):
        load_model(inputs["model"], Dtype.float32, CPU, attention)
