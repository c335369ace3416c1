"""A method is one file: in a copy of the package a file and its YAML are added, and every action knows it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_external_method import LENGTH

import icon_repro
from icon_repro.config.load import conf_dir

YAML = "kind: shortest\nsign: -1\nnoise: 0.5\nrepeats: 2\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of package and conf with one more file each, and a folder to run in."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(icon_repro.__file__).parent, folder / "icon_repro", ignore=ignored)
    shutil.copytree(conf_dir(), folder / "conf")
    (folder / "icon_repro" / "methods" / "shortest.py").write_text(LENGTH, encoding="utf-8")
    (folder / "conf" / "method" / "shortest.yaml").write_text(YAML, encoding="utf-8")
    return folder


def test_one_file_and_one_yaml_add_a_method(checkout: Path) -> None:
    common = ["experiment=smoke_tiny", "judge=none", "base=false", "full=false", "+method@methods.shortest=shortest"]
    common += ["~methods.icon", "cluster.executor=inline", "cluster.device=cpu", "tracking.wandb=disabled", "name=mine"]

    def said(*more: str) -> str:
        command = [sys.executable, "-m", "icon_repro", *common, *more]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "score/shortest-r0" in said("action=plan")
    said("action=run")
    said("action=compare")
    said("action=report")
    said("action=export")
    page = (checkout / "outputs" / "mine" / "table.md").read_text(encoding="utf-8")
    assert "shortest" in page
    cards = [path.read_text(encoding="utf-8") for path in checkout.glob("work/export/mine/shortest-*/README.md")]
    assert len(cards) >= 2 and all("characters of the response; higher" in card for card in cards)
    steps = {path.name.rpartition("-")[0] for path in checkout.glob("work/score/shortest-*")}
    assert steps == {"shortest-r0", "shortest-r1"}
