"""Clean the environment of a run: variables that would change numbers are taken out, a home is found.

In: environment variables.  Out: the same without what other launchers and libraries' switches left there; a line for
each thing that was changed; what remains and may matter, for a step's record.
Of some families of variables those alone stay that are known to change no number (``_KEPT``).
Known gap: variables of other programs that a library of the future may read.
"""

import errno
import multiprocessing.util
import os
import sys
import tempfile
import warnings
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, cast

# of another launcher: a process would wait for partners that never come
_LAUNCHERS = {"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "ROLE_RANK"}
_LAUNCHERS |= {"MASTER_ADDR", "MASTER_PORT", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE"}
_SWITCHES = {"NVIDIA_TF32_OVERRIDE", "USE_TORCH_XLA", "PJRT_DEVICE", "XRT_TPU_CONFIG", "FORCE_TORCHRUN"}
# families of which nothing stays, or only what ``_KEPT`` names
_FAMILIES: tuple[str, ...] = (
    "ACCELERATE_",
    "FSDP_",
    "MEGATRON_LM_",
    "PARALLELISM_CONFIG_",
    "TORCHELASTIC_",
    "TRL_",
    "TRANSFORMERS_",
)
# arithmetic in 16 bits on a CPU, compilers, patches of other packages, how data sets are read
_FAMILIES = (*_FAMILIES, "ONEDNN_", "DNNL_", "TORCHDYNAMO_", "TORCHINDUCTOR_", "TRITON_", "DS_", "DEEPSPEED_")
_FAMILIES = (*_FAMILIES, "UNSLOTH_", "BNB_", "BITSANDBYTES_", "XFORMERS_", "FLASH_ATTENTION_", "HF_DATASETS_")
_FAMILIES = (*_FAMILIES, "WANDB_", "TORCH_", "PYTORCH_", "OMPI_COMM_WORLD_", "PMI_", "MV2_COMM_", "LMEVAL_", "PEFT_")
_KEPT = {"TRANSFORMERS_OFFLINE", "TRANSFORMERS_CACHE", "TORCH_HOME", "TORCH_EXTENSIONS_DIR", "TORCH_CUDA_ARCH_LIST"}
_KEPT |= {"TORCH_CPP_LOG_LEVEL", "TORCH_DISTRIBUTED_DEBUG", "TORCH_SHOW_CPP_STACKTRACES", "PYTORCH_KERNEL_CACHE_PATH"}
# accelerate sets the last one itself: how GPUs are counted
_KEPT |= {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "TORCH_LOGS", "PYTORCH_NVML_BASED_CUDA_CHECK"}
_KEPT |= {f"WANDB_{name}" for name in ("API_KEY", "MODE", "BASE_URL", "DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR")}
_KEPT |= {
    f"WANDB_{name}" for name in ("ARTIFACT_DIR", "INSECURE_DISABLE_SSL", "HTTP_TIMEOUT", "INIT_TIMEOUT", "SILENT")
}
_KEPT |= {"ONEDNN_VERBOSE", "DNNL_VERBOSE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TRITON_HOME"}
_KEPT |= {"DS_ACCELERATOR", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "HF_DATASETS_DOWNLOADED_DATASETS_PATH"}
_KEPT_PREFIXES = ("TORCH_NCCL_", "WANDB__", "WANDB_X_", "DS_BUILD_", "DS_SKIP_")
# threads, determinism, devices: they stay, and are in the step's record
_RECORDED: tuple[str, ...] = (
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "KMP_",
    "GOMP_",
    "CUBLAS_",
    "CUDNN_",
    "NCCL_",
    "TORCH_",
    "PYTORCH_",
    "ATEN_",
)
_RECORDED = (*_RECORDED, "CUDA_", "HIP_", "ROCR_", "VLLM_", "PYTHONHASHSEED", "DS_ACCELERATOR")
_SOCKET = 70  # characters of a folder in which a socket's path isn't too long
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")


class UnfitProcessError(RuntimeError):
    """This process can't run as it was started."""


def stand_up() -> None:
    """Give this process what it needs to run at all: standard streams, a short path for its sockets, no telemetry.

    Raises:
        UnfitProcessError: its folder is gone, no folder for temporary files is there, or Python leaves out checks.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed (`>&-`): the next file would take its number, and get what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    # nobody is told of a run; libraries of a hub would send word of each training
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if sys.flags.optimize:
        raise UnfitProcessError(
            "Python was started without its checks (-O or PYTHONOPTIMIZE), on which results and libraries rely. Unset "
            "PYTHONOPTIMIZE."
        )
    if any(map(_strict, sys.warnoptions)):  # a library's note to its developers would end a training
        sys.warnoptions[:] = [option for option in sys.warnoptions if not _strict(option)]
        filters = cast("list[Any]", warnings.filters)
        filters[:] = [one for one in filters if one[0] != "error"]
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise UnfitProcessError("the current folder isn't there any more. Change to another one (cd).") from None
    if here != Path(__file__).parents[2]:  # else this package may be found by it alone
        os.environ["PYTHONSAFEPATH"] = "1"  # processes that are started here take no random.py of a user for a library
    try:
        place = tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UnfitProcessError(f"{error}. Set TMPDIR to a folder that can be written.") from error
    if len(place) > _SOCKET and (short := next((one for one in _SHORT if os.access(one, os.W_OK | os.X_OK)), None)):
        before, tempfile.tempdir = tempfile.tempdir, short
        multiprocessing.util.get_temp_dir()  # from now on the place for sockets of this process and its children
        tempfile.tempdir = before


def clean(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Remove variables that would change numbers, end a step or have it wait for others; returns their names."""
    removed = sorted(name for name in environment if _removed(name, environment[name]))
    for name in removed:
        del environment[name]
    return removed


def _strict(option: str) -> bool:
    """Whether an option for Python's warnings makes errors of some."""
    action = option.strip().partition(":")[0]
    return bool(action) and "error".startswith(action)


def _removed(name: str, value: str) -> bool:
    if name == "PYTHONWARNINGS":
        return any(map(_strict, value.split(",")))
    if name in _LAUNCHERS or name in _SWITCHES:
        return True
    return name.startswith(_FAMILIES) and name not in _KEPT and not name.startswith(_KEPT_PREFIXES)


def recorded() -> dict[str, str]:
    """What remains in the environment and may change a number's last digits or a step's speed."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_RECORDED)}


def soft_locks() -> None:
    """Have libraries lock where a file system has no flock, as steps do: by the existence of a file.

    filelock does so where flock isn't there at all (ENOSYS); NFS and Lustre answer otherwise.
    """
    import fcntl

    flock = fcntl.flock
    if flock.__module__ == __name__:  # a process that runs several steps
        return

    def or_missing(descriptor: Any, operation: int) -> None:
        try:
            flock(descriptor, operation)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise OSError(errno.ENOSYS, "the file system has no flock") from error
            raise

    fcntl.flock = or_missing


def find_home(environment: MutableMapping[str, str] = os.environ) -> str:
    """Have libraries find a user's name and folders that can be written; returns what was changed, in sentences.

    Containers run as a user id that has no entry, some without HOME, some with one that can't be written; clusters
    share a read-only HF_HOME.
    """
    _name_user(environment)
    home = _home(environment)
    at_home = home is not None and _writable(home)
    place = environment.get("HF_DATASETS_CACHE") or (
        f"{environment['HF_HOME']}/datasets" if "HF_HOME" in environment else ""
    )
    datasets = not place or _can_be_filled(Path(place).expanduser())
    if at_home and datasets:
        return ""
    instead = Path(tempfile.gettempdir()) / f"icon_repro-{os.getuid()}"
    instead.mkdir(mode=0o700, exist_ok=True)
    if instead.stat().st_uid != os.getuid():
        what = f"{place}" if at_home else "the home folder"
        name = "HF_DATASETS_CACHE" if at_home else "HOME"
        return f"{what} can't be written, and {instead} belongs to another user: set {name} to a folder of yours."
    texts = []
    if not at_home:
        texts.append(_replace_home(environment, home, instead))
    if not datasets:
        environment["HF_DATASETS_CACHE"] = str(instead / "datasets")
        texts.append(f"{place} can't be written: data sets are cached in {instead / 'datasets'} (HF_DATASETS_CACHE).")
    return " ".join(filter(None, texts))


def _replace_home(environment: MutableMapping[str, str], home: Path | None, instead: Path) -> str:
    changed = []
    for name, folder in (("ICON_REPRO_CACHE", "cache"), ("HF_DATASETS_CACHE", "datasets"), ("XDG_CACHE_HOME", "cache")):
        own = name == "HF_DATASETS_CACHE" and "HF_HOME" in environment
        if name not in environment and not own and not (name == "ICON_REPRO_CACHE" and "XDG_CACHE_HOME" in environment):
            environment[name] = str(instead / folder)
            changed.append(name)
    if home is None:
        environment["HOME"] = str(instead)
        changed.append("HOME")
    why = "there is no home folder" if home is None else f"the home folder {home} can't be written"
    return f"{why}: {instead} is used in its place ({', '.join(changed)})." if changed else ""


def _can_be_filled(folder: Path) -> bool:
    """Whether files can be made in the folder, which is made if it isn't there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _name_user(environment: MutableMapping[str, str]) -> None:
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not any(environment.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            environment["USER"] = environment["LOGNAME"] = f"uid{os.getuid()}"


def _home(environment: MutableMapping[str, str]) -> Path | None:
    if environment.get("HOME"):
        return Path(environment["HOME"])
    try:
        return Path.home()
    except RuntimeError:
        return None


def _writable(home: Path) -> bool:
    """Whether caches can be made there: in the first of .cache and home that exists."""
    folder = next((path for path in (home / ".cache", home) if path.is_dir()), None)
    return folder is not None and os.access(folder, os.W_OK | os.X_OK)
