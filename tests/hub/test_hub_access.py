"""What a hub doesn't give, or this machine's caches lack, is known before any work, each with what mends it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import ACCEPTED, HubServer
from hub_server import Repository as Stored
from huggingface_hub import constants

from icon_repro.data import hub_access, weights
from icon_repro.data.hub_access import Repository, lost, unreadable
from icon_repro.data.model_files import ModelError

COMMIT, OTHER = "a" * 40, "b" * 40
MODEL = Repository("model", "model", "org/open", COMMIT)
GATED = Repository("methods.armorm.reward", "model", "org/gated", COMMIT)
ROWS = Repository("data.pool.source", "dataset", "org/my_Rows", COMMIT)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    stored = [Stored("model", "org/open", COMMIT), Stored("model", "org/gated", COMMIT, gated=True)]
    with HubServer(*stored, Stored("dataset", "org/my_Rows", COMMIT)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        yield server


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, a network, nobody logged in, no pauses."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(hub_access, "_PAUSES_S", (0.0, 0.0))
    return tmp_path


def cached(place: Path, files: dict[str, str], commit: str = COMMIT) -> Path:
    """A snapshot of org/open in the hub's cache."""
    folder = place / "hub" / "models--org--open" / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_what_can_be_read_has_no_line_and_nothing_is_downloaded(
    hub: HubServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ACCEPTED)
    assert unreadable([MODEL, GATED, ROWS, MODEL]) == []
    asked = [one for one in hub.asked if "/revision/" in one or one.endswith("/auth-check")]
    assert len(asked) == 6 and hub.downloads() == [] and list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("token", "repository", "parts"),
    [
        (
            "",
            GATED,
            ("methods.armorm.reward.hub_id='org/gated': is gated, and nobody is logged in (HTTP 401)", "Accept"),
        ),
        ("hf_other", GATED, ("is gated, and this login has no access (HTTP 403)", "/org/gated", "fine-grained")),
        (ACCEPTED, replace(MODEL, hub_id="org/none"), ("model.hub_id='org/none': no such repository", "(HTTP 404)")),
        ("", replace(MODEL, hub_id="org/none"), ("no such repository, or a private one (HTTP 401)", "hf auth login")),
        ("", replace(MODEL, commit=OTHER), (f"has no commit {OTHER} (HTTP 404)", "Correct model.revision")),
        ("", replace(ROWS, commit=OTHER), ("data.pool.source.hub_id='org/my_Rows'", "/datasets/org/my_Rows")),
    ],
)
def test_what_the_hub_refuses_is_named_with_its_key_and_a_remedy(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str, repository: Repository, parts: Sequence[str]
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    (line,) = unreadable([repository, ROWS] if repository.kind == "model" else [repository])
    assert all(part in line for part in parts) and (not token or token not in line), line


@pytest.mark.parametrize(("status", "part"), [(429, "asked too often (HTTP 429, 3 tries)"), (503, "HTTP 503 (3 tries")])
def test_hub_that_is_busy_is_asked_again_and_then_named(hub: HubServer, status: int, part: str) -> None:
    hub.fail_every = (2, status)  # each second request: a further try gets through
    assert unreadable([MODEL]) == [] and hub.statuses[status] > 0
    hub.fail_every = (1, status)
    (line,) = unreadable([MODEL])
    assert line.startswith("model.hub_id='org/open': ") and part in line and "Run again" in line


def test_hub_that_cant_be_reached_is_said_once(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    with HubServer() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    (line,) = unreadable([MODEL, GATED, ROWS])
    assert line.startswith("the hub can't be reached (ConnectError")
    assert all(part in line for part in (MODEL.text, GATED.text, ROWS.text, "action=fetch", str(place / "datasets")))


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        (None, "no aaaaaaaaaaaa"),
        ({"model.safetensors": ""}, "no config.json"),
        ({"config.json": "{}"}, "no *.safetensors"),
        (
            {
                "config.json": "{}",
                "model.safetensors.index.json": json.dumps(
                    {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
                ),
                "m-1.safetensors": "",
            },
            "no m-2.safetensors",
        ),
        ({"config.json": "{}", "model.safetensors.index.json": "{"}, "model.safetensors.index.json is damaged"),
        ({"config.json": "{}", "model.safetensors": ""}, None),
    ],
)
def test_offline_the_file_that_a_cached_model_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, place: Path, files: dict[str, str] | None, lacks: str | None
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if files is not None:
        cached(place, files)
    assert lost([MODEL, MODEL]) == ([] if lacks is None else [MODEL])
    found = unreadable([MODEL])
    assert (found == []) == (lacks is None)
    if lacks is not None:
        assert f"model.hub_id='org/open' ({lacks})" in found[0] and "action=fetch" in found[0]
        assert found[0].startswith("HF_HUB_OFFLINE is set") and str(place / "hub") in found[0]


def test_link_whose_file_is_gone_is_no_cached_file(place: Path) -> None:
    folder = cached(place, {"config.json": "{}", "model.safetensors": ""})
    assert MODEL.absent() is None
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(place / "blobs" / "gone")  # as a cleaned cache leaves it
    assert MODEL.absent() == "no *.safetensors"


@pytest.mark.parametrize(
    ("folder", "subset", "there"),
    [
        ("org___my_rows/default/0.0.0", None, True),
        ("org___my_rows/xl/0.0.0", "xl", True),
        ("org___my_rows/xl/0.0.0", "debiased", False),
        ("other___my_rows/default/0.0.0", None, False),
    ],
)
def test_offline_a_data_set_is_looked_for_by_subset_and_commit(
    monkeypatch: pytest.MonkeyPatch, place: Path, folder: str, subset: str | None, there: bool
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (place / "datasets" / folder / COMMIT).mkdir(parents=True)
    wanted = replace(ROWS, subset=subset)
    assert (unreadable([wanted]) == []) is there
    assert unreadable([replace(wanted, commit=OTHER)])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(place / "elsewhere"))
    (line,) = unreadable([wanted])
    assert str(place / "elsewhere") in line and (subset is None or f"no subset {subset} at {COMMIT[:12]}" in line)


def test_a_branch_without_a_commit_has_its_own_line_elsewhere(hub: HubServer) -> None:
    assert unreadable([replace(MODEL, commit="unresolved:main")]) == [] and hub.asked == []


def test_model_that_a_finished_step_has_read_is_had_again_where_the_cache_lacks_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(weights, "download", lambda hub_id, commit, where: asked.append((hub_id, commit)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=rf"org/open at {COMMIT}: .*doesn't hold .*HF_HOME .*action=fetch"):
        weights.download_again("org/open", COMMIT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    weights.download_again("org/open", COMMIT)  # on a compute node with a cache of its own
    assert asked == [("org/open", COMMIT)]
    cached(place, {"config.json": "{}", "model.safetensors": ""})
    weights.download_again("org/open", COMMIT)
    assert len(asked) == 1


def test_mirror_that_says_nothing_of_logins_is_taken_for_open(hub: HubServer) -> None:
    hub.mirror = True
    assert unreadable([MODEL, GATED]) == []
    assert len(unreadable([replace(MODEL, commit=OTHER)])) == 1
