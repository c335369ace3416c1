"""A report's folder made again from its stored numbers: tables, figures of rows and page; other figures stay."""

import shutil
from pathlib import Path

import pytest

from icon_repro.engine.artifact import file_sha256
from icon_repro.engine.records import checksum, read_json
from icon_repro.report.remade import main
from icon_repro.report.verify import verify

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY / "results" / "smoke", tmp_path / "results" / "smoke"))


def remake(folder: Path) -> None:
    main([str(folder), "--experiments", str(REPOSITORY / "experiments")])


def test_remade_folder_is_one_that_verifies(folder: Path) -> None:
    rows, other = (folder / "metrics.jsonl").read_bytes(), (folder / "figures" / "overlap.png").read_bytes()
    for name in ("table.md", "verdicts.csv", "figures/scale.csv", "index.html"):
        (folder / name).write_text("altered", encoding="utf-8")
    (folder / "figures" / "pareto.svg").unlink()
    remake(folder)
    said: list[str] = []
    assert verify(folder.parent, REPOSITORY / "experiments", said.append), said
    assert (folder / "metrics.jsonl").read_bytes() == rows
    assert (folder / "figures" / "pareto.svg").is_file() and (folder / "figures" / "overlap.png").read_bytes() == other


def test_remade_figures_are_described_with_their_checksums(folder: Path) -> None:
    before = read_json(folder / "figures" / "figures.json")
    remake(folder)
    after = read_json(folder / "figures" / "figures.json")
    assert after["checksum"] == checksum({key: value for key, value in after.items() if key != "checksum"})
    assert after["files"] == {name: file_sha256(folder / name) for name in after["files"]}
    assert set(after["files"]) == set(before["files"])
    assert [one["name"] for one in after["figures"]] == [one["name"] for one in before["figures"]]
    assert (after["made_of"], after["experiment"]) == (before["made_of"], before["experiment"])


def test_remade_folder_without_rows_has_a_new_page_only(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(REPOSITORY / "results" / "methods_cpu", tmp_path / "methods_cpu"))
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.name != "index.html"}
    (folder / "index.html").unlink()
    remake(folder)
    assert (folder / "index.html").is_file() and {path: path.read_bytes() for path in kept} == kept
