"""W&B: which mode, and what a run without network leaves on disk."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from icon_repro.config import TrackingConfig, WandbMode
from icon_repro.engine.tracking import TrackingError, log_experiment, wandb_mode

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


# ---------------------------------------------------------------- a run without network

CONFIG = {"training": {"learning_rate": 0.00125}, "seeds": [0, 1], "note": "naïve"}
ROWS: list[dict[str, Any]] = [
    {"method": "base", "fraction": None, "seed": None, "selection_seed": None, "benchmarks": {"arc": {"value": 0.25}}},
    {
        "method": "icon",
        "fraction": 0.15,
        "seed": 1,
        "selection_seed": 7,
        "benchmarks": {"arc": {"value": 0.375}, "siqa": {"value": 0.5}},
    },
    {"method": "full", "fraction": 1.0, "seed": 1, "selection_seed": None, "benchmarks": {}},
]
TABLE = (["method", "arc"], [["base", "25.00"], ["icon", "37.50 ± 3.00"]])


def log(folder: Path, rows: list[dict[str, Any]] | None = None, **more: Any) -> str:
    values: dict[str, Any] = {
        "cfg": TrackingConfig(wandb=WandbMode.offline, project="toys", entity="lab"),
        "name": "toy",
        "config": CONFIG,
        "rows": ROWS if rows is None else rows,
        "table": TABLE,
        "selections": {},
        "folder": folder,
        **more,
    }
    return log_experiment(**values)


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


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


def test_log_experiment_offline_run_holds_config_metrics_table_and_selections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps([f"{number:016x}" for number in range(5000)]))  # more than one block of the log
    many = {**CONFIG, "long": "x" * 70_000}
    said = log(tmp_path / "work", config=many, selections={"icon-f0.15.json": ids})
    (run,) = runs(tmp_path / "work")
    assert "offline" in said and "wandb sync" in said and str(tmp_path / "work") in said
    records = read_back(run)

    (started,) = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (started.project, started.entity, started.run_group, started.display_name) == ("toys", "lab", "toy", "toy")
    config = items(started.config.update)
    assert {key: config[key] for key in many} == many

    summary: dict[str, Any] = {}
    for record in records:
        summary |= items(record.summary.update)
    assert summary["base/arc"] == 0.25
    assert summary["icon-0.15-r7-1/arc"] == 0.375 and summary["icon-0.15-r7-1/siqa"] == 0.5
    (logged,) = [items(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]
    table = json.loads((run / "files" / logged["results:path"]).read_text(encoding="utf-8"))
    assert (table["columns"], table["data"]) == TABLE

    artifacts = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
    artifacts += [r.request.log_artifact.artifact for r in records if r.request.HasField("log_artifact")]
    (selections,) = [a for a in artifacts if a.type == "selection"]
    assert selections.name == "toy-selections"
    (entry,) = selections.manifest.contents
    assert entry.path == "icon-f0.15.json" and entry.size == ids.stat().st_size

    assert CANARY not in "".join(capfd.readouterr()) + said
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_log_experiment_same_results_are_logged_once(tmp_path: Path) -> None:
    assert "offline" in log(tmp_path)
    assert "nothing new" in log(tmp_path)
    # neither batch sizes nor a remark in the config are results
    assert "nothing new" in log(tmp_path, config={**CONFIG, "cluster": {"micro_batch_size": 2}})
    assert len(runs(tmp_path)) == 1
    changed = json.loads(json.dumps(ROWS))
    changed[1]["benchmarks"]["arc"]["value"] = 0.4
    assert "offline" in log(tmp_path, changed)
    assert len({path.name.rsplit("-", 1)[1] for path in runs(tmp_path)}) == 2


def test_log_experiment_disabled_writes_nothing(tmp_path: Path) -> None:
    assert "disabled" in log(tmp_path / "work", cfg=TrackingConfig(wandb=WandbMode.disabled))
    assert not (tmp_path / "work").exists()


def test_log_experiment_wandb_that_fails_loses_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def init(**settings: Any) -> None:
            raise wandb.errors.CommError("no such host")

        patch.setattr(wandb, "init", init)
        assert "not logged (CommError: no such host)" in log(tmp_path)
        assert "not logged" in log(tmp_path)
    assert "nothing new" not in log(tmp_path)
    assert len(runs(tmp_path)) == 1
