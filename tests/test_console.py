"""What a person meets at the border: quoting, consoles, pipes, folders that can't be written, modes of files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from icon_repro.config.arguments import open_overrides
from icon_repro.config.load import ConfigError, conf_dir
from icon_repro.engine.artifact import StoreError, check_writable, publish


@pytest.mark.parametrize(
    "value", ["a (1).jsonl", "split=train.jsonl", "データ.jsonl", "~/x#y.jsonl", "a,b}.jsonl", 'q"q.j']
)
def test_override_that_cannot_be_read_says_how_to_quote_it(value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_overrides([f"data.pool.source.path={value}"], conf_dir())
    said = str(raised.value)
    assert said.startswith(f"data.pool.source.path={value}: can't be read.")
    quoted = said.partition("is quoted: ")[2]
    argument = subprocess.run(["sh", "-c", f"printf %s {quoted}"], capture_output=True, text=True, check=True).stdout
    assert OverridesParser.create().parse_override(argument).value() == value
    assert open_overrides([argument], conf_dir()) == [f"++{argument}"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "icon_repro", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, errors="replace"
    )


def test_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-u", "-m", "icon_repro", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_ascii_console_and_launchers_variables_are_named(tmp_path: Path) -> None:
    paths = [f"paths.{name}={tmp_path / name}" for name in ("work", "results", "cache")]
    done = run("experiment=smoke_tiny", "action=plan", *paths, PYTHONIOENCODING="ascii", WORLD_SIZE="2", RANK="0")
    assert done.returncode == 0, done.stderr
    assert "taken out of the environment for this run: RANK, WORLD_SIZE" in done.stderr
    assert "steps" in done.stdout


def test_folder_that_cannot_be_written_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_writable("paths.results", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(StoreError, match=r"paths\.results=.*can't be written .*Set paths\.results to another folder"):
        check_writable("paths.results", tmp_path / "file" / "below")


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o077, 0o600), (0o022, 0o644)])
def test_published_files_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    part = tmp_path / "step.part"
    part.mkdir()
    (part / "weights").write_text("x", encoding="utf-8")
    (part / "weights").chmod(0o600)
    before = os.umask(mask)
    try:
        assert publish(part, tmp_path / "step", {"label": "x"})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "step").iterdir()}
    assert modes == {"weights": mode, "record.json": mode}
