"""A real one-node Slurm for the tests here, in a folder of its own; they are skipped where it can't be had."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_node import PATHS, ROOT, queue, until

SCRIPT = ROOT / "slurm" / "test_cluster.sh"


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running cluster; whatever was started is stopped at the end."""
    installed = subprocess.run([SCRIPT, "install"], capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        pytest.skip(f"no Slurm: {installed.stderr.strip()}")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        done = subprocess.run([SCRIPT, "start", folder, str(os.getpid())], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        yield folder
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)


@pytest.fixture
def cluster(started: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cluster, with an empty queue before and after."""
    monkeypatch.setenv("SLURM_CONF", str(started / "slurm.conf"))
    monkeypatch.setenv("PYTHONPATH", PATHS)
    monkeypatch.setenv("PATH", "/usr/sbin:/sbin", prepend=os.pathsep)
    yield started
    subprocess.run(["scancel", "--me"], check=True)
    until(lambda: not queue(), 60)
