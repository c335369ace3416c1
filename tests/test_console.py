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

ROOT = Path(__file__).parents[1]


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


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "icon_repro", *arguments]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=settings, errors="replace", cwd=cwd)


def test_modules_of_a_user_in_the_current_folder_are_taken_for_no_library(tmp_path: Path) -> None:
    for name in ("random", "datasets", "yaml"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)", encoding="utf-8")
    done = run("experiment=smoke_tiny", "action=plan", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run("--help", cwd=ROOT).returncode == 0  # where the package itself is in the current folder


def test_a_current_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    command = f'cd "$0" && rmdir "$0" && exec {sys.executable} -m icon_repro action=plan'
    done = subprocess.run(
        ["sh", "-c", command, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (1, 0)
    assert "the current folder isn't there any more" in done.stderr


def test_python_without_its_checks_is_refused() -> None:
    done = run("action=plan", PYTHONOPTIMIZE="1")
    assert done.returncode == 1 and "Unset PYTHONOPTIMIZE" in done.stderr


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
