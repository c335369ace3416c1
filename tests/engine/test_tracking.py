"""W&B: which mode, what runs without network leave on disk, and a W&B that fails, hangs or is online."""

import json
import re
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import result, row
from small import small

from icon_repro.engine.artifact import Step, Store, publish
from icon_repro.engine.options import TrackingConfig, WandbMode
from icon_repro.engine.records import read_json, write_json, write_rows
from icon_repro.engine.tracking import TrackingError, wandb_mode
from icon_repro.engine.wandb_sender import words
from icon_repro.experiment import Experiment, plan
from icon_repro.report.wandb_runs import artifact_of, log_experiment, run_id, tracked_steps

CANARY = "canary0123456789" * 3

# ---------------------------------------------------------------- mode


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No login and no setting of the one who runs the tests; W&B's own folders in ``tmp_path``."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


def mode(wandb: str = "auto") -> str:
    return wandb_mode(TrackingConfig(wandb=WandbMode(wandb)))


@pytest.mark.parametrize(
    "setting, environment, expected",
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": CANARY}, "online"),
        ("auto", {"WANDB_API_KEY": ""}, "offline"),
        ("auto", {"WANDB_MODE": "offline", "WANDB_API_KEY": CANARY}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {"WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": "dryrun", "WANDB_API_KEY": CANARY}, "offline"),
        ("auto", {"WANDB_MODE": "run"}, "online"),
        ("auto", {"WANDB_MODE": "", "WANDB_API_KEY": CANARY}, "online"),
        ("offline", {"WANDB_MODE": "online", "WANDB_API_KEY": CANARY}, "offline"),
        ("online", {"WANDB_MODE": "disabled"}, "online"),
        ("disabled", {"WANDB_API_KEY": CANARY}, "disabled"),
    ],
)
def test_wandb_mode_of_setting_and_environment(
    setting: str,
    environment: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert mode(setting) == expected
    assert CANARY not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "text, expected",
    [
        (f"machine api.wandb.ai\n  login user\n  password {CANARY}\n", "online"),
        (f"machine api.forge.coreweave.com\n  login user\n  password {CANARY}\n", "online"),
        (f"machine elsewhere.org login user password {CANARY}\n", "offline"),
        ("not a netrc file", "offline"),
    ],
)
def test_wandb_mode_looks_for_a_netrc_entry(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "netrc").write_text(text)
    assert mode() == expected


def test_wandb_mode_netrc_entry_of_ones_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text(f"machine wandb.lab.org login user password {CANARY}\n")
    assert mode() == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab.org")
    assert mode() == "online"


def test_wandb_mode_unknown_in_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(TrackingError, match=r"WANDB_MODE='ofline'.*offline"):
        mode()
    assert mode("disabled") == "disabled"


# ---------------------------------------------------------------- runs of steps

OFFLINE = {"tracking.wandb": "offline", "tracking.project": "toys", "tracking.entity": "lab"}
SETTINGS = {
    "training": {"learning_rate": 0.00125},
    "note": "naïve",
    "cluster": {"micro_batch_size": 2, "slurm": {"setup": [f"export HF_TOKEN={CANARY}"]}},
}
TABLE = (["method", "tiny"], [["base", "25.00"], ["icon", "37.50 ± 3.00"]])
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)
LOSSES = [{"step": n, "loss": 4 / n, "grad_norm": 0.5, "learning_rate": 0.001, "tokens": 10 * n} for n in (1, 2, 3)]


def planned(work: Path, **changes: Any) -> tuple[Experiment, Store]:
    methods = {name: {"kind": name} for name in ("random", "longest")}
    values = {"methods": methods, "judge": {}, **OFFLINE, **changes}
    return plan(small(work, values)), Store(work)


def finish(step: Step, store: Store, value: float = 0.25) -> None:
    """Publish ``step`` as its stage would, with made-up numbers."""
    part = store.path(step).with_name("made.part")
    part.mkdir(parents=True)
    metrics: dict[str, Any] = {"tokens": 7, "flops": 70, "rows": 3}
    if step.stage == "score":
        write_rows(part / "scores.jsonl", [{"id": "a", "score": 1.5}])
        (part / "matrix.npy").write_bytes(b"not sent")
    elif step.stage == "select":
        write_json(part / "ids.json", [f"{number:016x}" for number in range(5000)])  # more than a block of W&B's log
    elif step.stage == "train":
        write_rows(part / "log.jsonl", [*LOSSES, {"train_runtime": 1.0, "step": 3}])
        (part / "adapter").mkdir()
        (part / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    elif step.stage == "evaluate":
        write_json(part / "items.json", {"ids": ["a"], "values": [1]})
        metrics |= {"value": value, "stderr": 0.125, "datasets": {"tiny": "x"}}
    record = {
        "metrics": metrics,
        "hashed": step.hashed,
        "cluster": {"device": "cpu"},
        "git": {"commit": "c0ffee", "dirty": False},
        "packages": {"torch": "2.13.0"},
        "python": "3.11.9",
        "platform": "Linux",
        "host": "bigbox",
        "files_read": {"source": {"path": "/home/me/rows.jsonl"}},
        "wall_s": 7.5,
        "peak_rss_mb": 100.0,
    }
    publish(part, store.path(step), record)


def finish_all(experiment: Experiment, store: Store) -> None:
    for step in experiment.steps:
        finish(step, store)


def stop_training(step: Step, store: Store, steps: int) -> None:
    """Leave what a training has that was stopped after ``steps`` optimizer steps."""
    folder = store.path(step).with_name(f"{Path(step.folder).name}.part") / "checkpoints" / f"checkpoint-{steps}"
    folder.mkdir(parents=True)
    write_json(folder / "trainer_state.json", {"log_history": LOSSES[:steps]})


def log(experiment: Experiment, store: Store, value: float = 0.25) -> str:
    results = store.root / "results"
    results.mkdir(exist_ok=True)
    (results / "table.md").write_text(f"| {value} |", encoding="utf-8")
    (results / "curve.png").write_bytes(PIXEL)
    (results / "cache.bin").write_bytes(b"no result")
    rows = [row("icon", 0.15, 1, {"tiny": {**result("01"), "value": value}}, selection_seed=7)]
    return log_experiment(experiment, store, SETTINGS, rows, TABLE, results)


def runs(work: Path) -> dict[str, list[Path]]:
    """Id -> folders that offline runs left, oldest first."""
    found: dict[str, list[Path]] = {}
    for path in sorted((work / ".wandb" / "wandb").glob("offline-run-*")):
        identifier = re.sub(r"-\d{1,3}$", "", path.name.split("-", 3)[3])  # W&B adds -1 within the same second
        found.setdefault(identifier, []).append(path)
    return found


def log_blocks(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    assert struct.unpack("<4sHB", data[:7]) == (b":W&B", 0xBEE1, 0)
    at, parts = 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:  # the end of a block holds no header
            at += left
            continue
        crc, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + length]
        assert zlib.crc32(bytes([kind]) + part) == crc
        at += 7 + length
        parts = part if kind in (1, 2) else parts + part  # 1 full, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            yield parts


def read_back(run: Path) -> list[Any]:
    """The records that ``wandb sync`` would send."""
    from wandb.proto import wandb_internal_pb2

    (path,) = run.glob("run-*.wandb")
    found = []
    for block in log_blocks(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(block)
        found.append(record)
    return found


def items(updates: Any) -> dict[str, Any]:
    """Key -> value; parts of a nested key are joined by a colon."""
    return {":".join(u.nested_key) or u.key: json.loads(u.value_json) for u in updates}


class ReadBack:
    """What one offline run says."""

    def __init__(self, folder: Path) -> None:
        records = read_back(folder)
        (self.run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        self.config = items(self.run.config.update)
        self.history = [items(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]
        self.summary: dict[str, Any] = {}
        for record in records:
            self.summary |= items(record.summary.update)
        logged = [r.request.log_artifact.artifact for r in records if r.request.HasField("log_artifact")]
        self.artifacts = logged + [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
        self.files = sorted(path.name for path in (folder / "files").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Experiment, Path, str]]:
    """A finished experiment that has been logged once, offline, with a key in the environment; not to be changed."""
    work = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", CANARY)
        for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(work / "home"))
        for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_DATA_DIR"):
            patch.delenv(name, raising=False)
        experiment, store = planned(work)
        finish_all(experiment, store)
        yield experiment, work, log(experiment, store)


def step_of(experiment: Experiment, label: str) -> Step:
    return {step.label: step for step in experiment.steps}[label]


def test_logged_each_step_has_a_run_with_an_id_of_its_fingerprint_in_the_experiments_group(
    logged: tuple[Experiment, Path, str],
) -> None:
    experiment, work, said = logged
    steps = tracked_steps(experiment)
    assert {step.label for step in steps.values()} == {
        f"{stage}/{name}{end}"
        for stage, end in (("score", ""), ("select", "-f0.25"), ("train", "-f0.25-s0"), ("evaluate", "-f0.25-s0-tiny"))
        for name in ("random", "longest")
    } | {"train/full-s0", "evaluate/full-s0-tiny", "evaluate/base-tiny"}
    found = {identifier: ReadBack(folder) for identifier, (folder,) in runs(work).items()}
    assert f"{len(found)} runs logged (offline)" in said and f"wandb sync {work}/.wandb/wandb/offline-run-*" in said
    assert set(found) == {*(f"smoke_tiny-{step.fingerprint}" for step in steps.values()), "smoke_tiny-report"}
    for step in steps.values():
        run = found[run_id("smoke_tiny", step)].run
        assert (run.run_id, run.display_name, run.job_type) == (run_id("smoke_tiny", step), step.label, step.stage)
        assert (run.project, run.entity, run.run_group) == ("toys", "lab", "smoke_tiny")


def read(logged: tuple[Experiment, Path, str], label: str) -> ReadBack:
    experiment, work, _ = logged
    (folder,) = runs(work)[run_id("smoke_tiny", step_of(experiment, label))]
    return ReadBack(folder)


def test_logged_training_has_its_config_loss_of_each_step_and_no_weights(
    logged: tuple[Experiment, Path, str],
) -> None:
    step = step_of(logged[0], "train/random-f0.25-s0")
    found = read(logged, step.label)
    assert found.config["params"] == step.hashed["params"] and found.config["step"] == step.folder
    assert found.config["cluster"] == {"device": "cpu"} and found.config["git"]["commit"] == "c0ffee"
    assert [(row["_step"], row["train/loss"], row["train/tokens"]) for row in found.history] == [
        (entry["step"], entry["loss"], entry["tokens"]) for entry in LOSSES
    ]
    assert (found.summary["finished"], found.summary["wall_s"], found.summary["tokens"]) == (True, 7.5, 7)
    (artifact,) = found.artifacts
    assert [entry.path for entry in artifact.manifest.contents] == ["log.jsonl"]
    assert "adapter/adapter_model.safetensors" in json.loads(artifact.metadata)["files"]


def test_logged_artifacts_name_those_that_they_were_made_of(logged: tuple[Experiment, Path, str]) -> None:
    experiment = logged[0]
    chain = ["score/random", "select/random-f0.25", "train/random-f0.25-s0", "evaluate/random-f0.25-s0-tiny"]
    kinds = ["scores", "selection", "model", "evaluation"]
    files = [["scores.jsonl"], ["ids.json"], ["log.jsonl"], ["items.json"]]
    before: list[str] = []
    for label, kind, sent in zip(chain, kinds, files, strict=True):
        step, found = step_of(experiment, label), read(logged, label)
        (artifact,) = found.artifacts
        stage, _, name = label.partition("/")
        assert (artifact.name, artifact.type) == (f"smoke_tiny-{stage}-{name}", kind)
        assert set(artifact.aliases) == {"latest", step.fingerprint}
        assert [entry.path for entry in artifact.manifest.contents] == sent
        assert json.loads(artifact.metadata)["uses"] == found.config["uses"] == before
        before = [artifact_of("smoke_tiny", step)]


def test_logged_report_has_config_values_table_figure_and_files_but_no_keys(
    logged: tuple[Experiment, Path, str],
) -> None:
    experiment, work, _ = logged
    (folder,) = runs(work)["smoke_tiny-report"]
    found = ReadBack(folder)
    assert (found.run.run_group, found.run.job_type) == ("smoke_tiny", "report")
    assert found.config["training"] == {"learning_rate": 0.00125} and found.config["note"] == "naïve"
    assert found.config["cluster"] == {"micro_batch_size": 2}
    assert found.summary["icon-0.15-r7-1/tiny"] == 0.25
    (entry,) = found.history
    table = read_json(folder / "files" / entry["results:path"])
    assert (table["columns"], table["data"]) == TABLE
    assert (folder / "files" / entry["figures/curve:path"]).read_bytes()[:4] == PIXEL[:4]
    (results,) = [artifact for artifact in found.artifacts if artifact.type == "results"]
    assert [file.path for file in results.manifest.contents] == ["curve.png", "table.md"]
    evaluations = [step for step in tracked_steps(experiment).values() if step.stage == "evaluate"]
    assert json.loads(results.metadata)["uses"] == [artifact_of("smoke_tiny", step) for step in evaluations]


def test_logged_files_hold_no_key_host_or_folder(logged: tuple[Experiment, Path, str]) -> None:
    _, work, said = logged
    assert CANARY not in said
    for path in work.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    for folders in runs(work).values():
        for word in (b"bigbox", b"/home/me"):
            assert not any(word in path.read_bytes() for path in folders[0].rglob("*.wandb"))


def test_logged_experiment_isnt_logged_twice(logged: tuple[Experiment, Path, str]) -> None:
    experiment, work, _ = logged
    before = runs(work)
    assert log(experiment, Store(work)) == "W&B: nothing new (offline)"
    assert runs(work) == before


def test_requeued_training_goes_on_in_the_same_run(tmp_path: Path) -> None:
    experiment, store = planned(tmp_path, methods={"random": {"kind": "random"}}, base=False, full=False)
    (train,) = [step for step in experiment.steps if step.stage == "train"]
    identifier = run_id("smoke_tiny", train)
    for step in experiment.steps:
        if step.stage not in ("train", "evaluate"):
            finish(step, store)
    stop_training(train, store, 2)
    assert "4 runs logged" in log(experiment, store)  # scores, selection, training so far, report
    (folder,) = runs(tmp_path)[identifier]
    first = ReadBack(folder)
    folder.rename(folder.with_name(folder.name + "-1"))  # as W&B calls one begun in the same second as another
    assert log(experiment, store) == "W&B: nothing new (offline)"
    again, store = planned(tmp_path, methods={"random": {"kind": "random"}}, base=False, full=False)  # another process
    for step in again.steps:
        if not store.complete(step):
            finish(step, store)
    assert "3 runs logged" in log(again, store)  # training, evaluation, report
    (folder,) = runs(tmp_path)[identifier]
    second = ReadBack(folder)
    assert first.run.run_id == second.run.run_id == identifier
    assert [row["_step"] for row in first.history] == [1, 2] and not first.artifacts
    assert [row["_step"] for row in second.history] == [1, 2, 3] and len(second.artifacts) == 1
    assert (first.summary["finished"], second.summary["finished"]) == (False, True)


def test_disabled_tracking_writes_nothing(tmp_path: Path) -> None:
    experiment, store = planned(tmp_path, **{"tracking.wandb": "disabled"})
    finish_all(experiment, store)
    assert log(experiment, store) == "W&B: disabled"
    assert not (tmp_path / ".wandb").exists()


# ---------------------------------------------------------------- W&B in other moods

FAKE = """
import contextlib, json, os, sys, time
class Error(Exception): pass
class CommError(Error): pass
Settings = dict
def Table(columns, data): return "table"
def Image(path): return "image"
class Artifact:
    def __init__(self, name, type, metadata): self.name = name
    def add_file(self, path, name): pass
class Run:
    def __init__(self, init): self.init, self.summary, self.dir = init, {}, init["dir"] + "/wandb/run/files"
    def say(self, *what):
        with open(os.environ["FAKE_LOG"], "a") as file: file.write(json.dumps([self.init["id"], *what]) + "\\n")
    def use_artifact(self, name):
        self.say("use", name)
        if "random" in name: raise CommError("no such artifact")
    def log(self, row, step=None): self.say("log", step)
    def log_artifact(self, artifact, aliases): self.say("artifact", artifact.name + ":" + aliases[-1])
    def __enter__(self): return self
    def __exit__(self, *error): self.say("finish")
def init(**settings):
    print("noise on standard output")
    if os.environ["FAKE_MOOD"] == "hangs" and "report" in settings["id"]: time.sleep(600)
    if os.environ["FAKE_MOOD"] == "fails": raise CommError("no such\\nhost")
    if os.environ["FAKE_MOOD"] == "dies": os._exit(7)
    run = Run(settings)
    run.say("init", settings["mode"], settings["resume"], "WANDB_API_KEY" in os.environ)
    return run
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wandb module that writes what it was told to a file; returns that file."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "told.jsonl"))
    monkeypatch.setenv("FAKE_MOOD", "works")
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    return tmp_path / "told.jsonl"


def told(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def finished(work: Path, **changes: Any) -> tuple[Experiment, Store]:
    experiment, store = planned(work, **changes)
    finish_all(experiment, store)
    return experiment, store


def test_online_runs_use_artifacts_that_were_logged_before(tmp_path: Path, fake: Path) -> None:
    experiment, store = finished(tmp_path / "work", **{"tracking.wandb": "online"})
    assert log(experiment, store) == "W&B: 12 runs logged (online)"
    there: set[str] = set()
    used: dict[str, list[str]] = {}
    for identifier, what, *more in told(fake):
        if what == "init":
            assert more == ["online", "allow", True]
        elif what == "use":
            assert more[0] in there
            used.setdefault(identifier, []).append(more[0])
        elif what == "artifact":
            there.add(more[0])
    for step in tracked_steps(experiment).values():
        needed = [artifact_of("smoke_tiny", one) for one in step.inputs.values() if one.stage in ("select", "train")]
        assert [name for name in used.get(run_id("smoke_tiny", step), []) if "-score-" not in name] == needed
    assert len(used["smoke_tiny-report"]) == 4
    text = (store.root / ".wandb" / "sender.log").read_text()
    assert "can't be named as an input" in text and CANARY not in text


def test_requeued_training_online_sends_only_what_is_new(tmp_path: Path, fake: Path) -> None:
    experiment, store = planned(tmp_path / "work", **{"tracking.wandb": "online"})
    (train,) = [step for step in experiment.steps if step.label == "train/random-f0.25-s0"]
    identifier = run_id("smoke_tiny", train)
    stop_training(train, store, 2)
    log(experiment, store)
    assert [what for run, *what in told(fake) if run == identifier and what[0] == "log"] == [["log", 1], ["log", 2]]
    fake.unlink()
    finish_all(experiment, store)
    log(experiment, store)
    mine = [what for run, *what in told(fake) if run == identifier]
    assert mine[0] == ["init", "online", "allow", True]
    assert [what for what in mine if what[0] == "log"] == [["log", 3]]


def test_offline_wandb_isnt_told_the_key(tmp_path: Path, fake: Path) -> None:
    log(*finished(tmp_path / "work"))
    assert {tuple(more) for _, what, *more in told(fake) if what == "init"} == {("offline", "allow", False)}


def test_first_time_online_logs_what_was_logged_offline(tmp_path: Path, fake: Path) -> None:
    log(*finished(tmp_path / "work"))
    fake.unlink()
    experiment, store = planned(tmp_path / "work", **{"tracking.wandb": "online"})
    assert "12 runs logged (online)" in log(experiment, store)
    assert {tuple(more) for _, what, *more in told(fake) if what == "init"} == {("online", "allow", True)}
    assert len([row for row in told(fake) if row[1:] == ["log", 1]]) == 3


def test_changed_table_is_logged_to_the_same_run(tmp_path: Path, fake: Path) -> None:
    experiment, store = finished(tmp_path / "work")
    log(experiment, store)
    fake.unlink()
    assert "1 runs logged" in log(experiment, store, value=0.5)
    assert {row[0] for row in told(fake)} == {"smoke_tiny-report"}


def test_failing_wandb_is_one_warning_and_is_tried_again(
    tmp_path: Path, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, store = finished(tmp_path / "work")
    for mood, reason in (("fails", "CommError: no such host"), ("dies", "without a word")):
        monkeypatch.setenv("FAKE_MOOD", mood)
        said = log(experiment, store)
        assert said.startswith(f"warning: W&B: 0 of 12 runs logged ({reason}" if mood == "fails" else "warning: W&B: 0")
        assert reason in said and "\n" not in said
    monkeypatch.setenv("FAKE_MOOD", "works")
    assert "12 runs logged" in log(experiment, store)


def test_hanging_wandb_is_ended_and_only_the_rest_is_tried_again(
    tmp_path: Path, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_MOOD", "hangs")
    experiment, store = finished(tmp_path / "work", **{"tracking.silence_s": 3.0})
    clock = time.monotonic()
    said = log(experiment, store)
    assert time.monotonic() - clock < 30
    assert said.startswith("warning: W&B: 11 of 12 runs logged (nothing came from it for 3 s")
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in shown.splitlines() if "wandb_sender" in line and str(tmp_path) in line]
    monkeypatch.setenv("FAKE_MOOD", "works")
    assert "1 runs logged" in log(experiment, store)


def test_work_folder_that_cant_be_written_is_a_warning(tmp_path: Path, fake: Path) -> None:
    experiment, store = finished(tmp_path / "work")
    (store.root / ".wandb").write_text("a file in the way", encoding="utf-8")
    assert log(experiment, store).startswith("warning: W&B: 0 of 12 runs logged (")


def test_words_of_a_killed_sender_are_those_that_are_whole(tmp_path: Path) -> None:
    assert words(tmp_path) == []
    (tmp_path / "words.jsonl").write_text('{"done": "a"}\n{"failed": "x"}\n{"done": "b', encoding="utf-8")
    assert words(tmp_path) == [{"done": "a"}, {"failed": "x"}]
