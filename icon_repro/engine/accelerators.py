"""Say before any work whether this machine has the GPUs that are asked for; torch, which takes seconds, isn't imported.

In: ``cluster.device`` and ``cluster.processes``.  Out: a line with the remedy, or nothing.
The number of GPUs is what CUDA's driver says, which heeds CUDA_VISIBLE_DEVICES as torch does.
Known gap: GPUs of AMD aren't counted; whether torch has kernels for a GPU shows when a step starts.
"""

import ctypes
import importlib.metadata

from icon_repro.engine.options import ClusterConfig

_SUCCESS, _NO_DEVICE = 0, 100  # CUresult
_REMEDY = "set cluster.device=auto or cpu, or send the steps to machines that have some (action=submit)"


def missing_gpus(cluster: ClusterConfig) -> list[str]:
    """What of the GPUs that a configuration names isn't here; nothing for auto, which takes what there is."""
    kind, _, number = cluster.device.partition(":")
    if kind != "cuda":
        return []
    where = f"cluster.device={cluster.device!r}"
    torch = importlib.metadata.version("torch")
    if torch.partition("+")[2].startswith("rocm"):
        return []
    if torch.endswith("+cpu"):
        return [f"{where}: torch {torch} is built for the CPU. Install one for CUDA, {_REMEDY}."]
    count, why = gpus()
    if count == 0:
        return [f"{where}: this machine has no GPU ({why}): {_REMEDY}."]
    if number.isdecimal() and int(number) >= count:
        return [f"{where}: this machine has {count}, numbered from 0. Set cluster.device=cuda:{count - 1} or less."]
    if cluster.processes > count:
        return [
            f"cluster.processes={cluster.processes}: this machine has {count} GPU{'s' if count > 1 else ''}, and each "
            f"process of a training needs its own. Set cluster.processes={count}, or: action=submit."
        ]
    return []


def gpus() -> tuple[int, str]:
    """How many GPUs CUDA's driver sees, and why none where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "CUDA's driver, libcuda.so.1, isn't installed"
    if (code := driver.cuInit(0)) != _SUCCESS:
        return 0, "CUDA_VISIBLE_DEVICES may hide them" if code == _NO_DEVICE else f"cuInit gives error {code}"
    count = ctypes.c_int(0)
    if (code := driver.cuDeviceGetCount(ctypes.byref(count))) != _SUCCESS:
        return 0, f"cuDeviceGetCount gives error {code}"
    return count.value, "CUDA's driver sees none"
