"""Variables that change numbers go, others stay; a home is found where there is none."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from icon_repro.engine.environment import clean, find_home, recorded, soft_locks
from icon_repro.engine.leases import alive


def test_clean_removes_what_changes_numbers_and_keeps_the_rest() -> None:
    gone = {"ACCELERATE_MIXED_PRECISION", "ACCELERATE_NEW", "FSDP_X", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"}
    gone |= {"WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_RESUME", "TRANSFORMERS_VERBOSITY", "NVIDIA_TF32_OVERRIDE"}
    gone |= {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "TORCHELASTIC_RUN_ID"}
    gone |= {"ONEDNN_DEFAULT_FPMATH_MODE", "TORCHDYNAMO_DISABLE", "DS_X", "HF_DATASETS_IN_MEMORY_MAX_SIZE"}
    stay = {"DS_ACCELERATOR", "DS_BUILD_OPS", "HF_DATASETS_CACHE", "TRITON_CACHE_DIR"}
    stay |= {"PATH", "HOME", "HF_HOME", "HF_TOKEN", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_JOB_ID"}
    stay |= {
        "WANDB_API_KEY",
        "WANDB_MODE",
        "TRANSFORMERS_OFFLINE",
        "PYTORCH_CUDA_ALLOC_CONF",
        "TORCH_NCCL_BLOCKING_WAIT",
    }
    environment = dict.fromkeys(gone | stay, "1")
    assert clean(environment) == sorted(gone)
    assert clean({"PYTHONWARNINGS": "ignore,error::FutureWarning"}) == ["PYTHONWARNINGS"]
    assert clean({"PYTHONWARNINGS": "ignore"}) == []
    assert set(environment) == stay
    assert clean(environment) == []


def test_recorded_is_what_may_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "secret")
    found = recorded()
    assert found["OMP_NUM_THREADS"] == "3"
    assert "HF_TOKEN" not in found


STANDING = """
import multiprocessing.util, os, subprocess, sys, tempfile
from pathlib import Path
from icon_repro.engine.environment import stand_up
stand_up()
print("to stdout")
child = subprocess.run([sys.executable, "-c", "import sys; print(sys.stdin.read()); sys.stderr.write('x')"])
said = [str(os.fstat(number).st_rdev) for number in range(3)]
said += [str(child.returncode), tempfile.gettempdir(), multiprocessing.util.get_temp_dir()]
Path(sys.argv[1]).write_text("\\n".join(said))
"""


def test_stand_up_lets_no_warning_of_a_library_be_an_error() -> None:
    code = "import warnings; from icon_repro.engine.environment import stand_up; stand_up(); warnings.warn('x')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "UserWarning: x" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_stand_up_gives_closed_streams_and_sockets_a_place(tmp_path: Path, closed: str) -> None:
    temporary = tmp_path / ("x" * 100)
    temporary.mkdir()
    said = tmp_path / "said"
    command = f'exec {sys.executable} -c "$0" "$1" {closed}'
    subprocess.run(["sh", "-c", command, STANDING, str(said)], check=True, env={**os.environ, "TMPDIR": str(temporary)})
    *streams, child, place, sockets = said.read_text(encoding="utf-8").splitlines()
    null = str(os.stat(os.devnull).st_rdev)  # noqa: PTH116
    numbers = [{"<": 0, ">": 1, "2": 2}[sign[0]] for sign in closed.split()]
    assert [streams[number] for number in numbers] == [null] * len(numbers)
    assert (child, place) == ("0", str(temporary)) and len(sockets) < 70


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return tmp_path / f"icon_repro-{os.getuid()}"


def test_find_home_changes_nothing_where_home_can_be_written(tmp_path: Path, temporary: Path) -> None:
    environment = {"HOME": str(tmp_path), "USER": "u"}
    assert find_home(environment) == ""
    assert environment == {"HOME": str(tmp_path), "USER": "u"}
    assert not temporary.exists()


def test_find_home_that_is_not_there_is_replaced_and_named(tmp_path: Path, temporary: Path) -> None:
    environment = {"HOME": str(tmp_path / "none"), "USER": "u"}
    said = find_home(environment)
    assert f"home folder {tmp_path / 'none'} can't be written: {temporary}" in said
    assert environment["ICON_REPRO_CACHE"] == str(temporary / "cache")
    assert environment["HF_DATASETS_CACHE"] == str(temporary / "datasets")
    assert temporary.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["HF_HOME", "HF_DATASETS_CACHE"])
def test_find_home_caches_data_sets_where_that_can_be_done(tmp_path: Path, temporary: Path, name: str) -> None:
    (tmp_path / "file").touch()
    environment = {"HOME": str(tmp_path), "USER": "u", name: str(tmp_path / "file" / "shared")}
    said = find_home(environment)
    assert f"can't be written: data sets are cached in {temporary / 'datasets'}" in said
    assert environment["HF_DATASETS_CACHE"] == str(temporary / "datasets")
    environment = {"HOME": str(tmp_path), "USER": "u", name: str(tmp_path / "mine")}
    before = dict(environment)
    assert find_home(environment) == "" and environment == before


def test_find_home_user_without_a_name_or_home_gets_both(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    environment: dict[str, str] = {"HF_HOME": str(tmp_path / "hub")}
    assert "there is no home folder" in find_home(environment)
    assert environment["HOME"] == str(temporary)
    assert environment["USER"] == f"uid{os.getuid()}"
    assert "HF_DATASETS_CACHE" not in environment  # HF_HOME says where


def test_a_killed_process_that_nobody_waited_for_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert alive(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert not alive(process.pid)
    process.wait()
    assert not alive(process.pid)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_soft_locks_where_the_file_system_has_no_flock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match=os.strerror(number)), filelock.FileLock(tmp_path / "before"):
        pass
    soft_locks()
    soft_locks()  # a process may run several steps
    first, second = (filelock.FileLock(tmp_path / "lock", timeout=0, is_singleton=False) for _ in range(2))
    with first, pytest.raises(filelock.Timeout):
        second.acquire()
    with second:
        assert second.is_locked
