"""Say before any work whether this machine has the GPUs that are asked for; torch, which takes seconds, isn't imported.

In: ``cluster.device`` and ``cluster.processes``.  Out: a line with the remedy, or nothing.
The number of GPUs is what CUDA's driver says, which heeds CUDA_VISIBLE_DEVICES as torch does.
Known gap: GPUs of AMD aren't counted; whether torch has kernels for a GPU shows when a step starts.
"""

import importlib.metadata
import subprocess
import sys

from icon_repro.engine.options import ClusterConfig

_PATIENCE_S = 60.0
# prints how many there are, and why none; 100 is CUDA_ERROR_NO_DEVICE
_ASK = """
import ctypes
try:
    driver = ctypes.CDLL("libcuda.so.1")
except OSError:
    print("0 CUDA's driver, libcuda.so.1, isn't installed")
else:
    count = ctypes.c_int(0)
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    said = "CUDA_VISIBLE_DEVICES may hide them" if code in (0, 100) else f"CUDA's driver gives error {code}"
    print(0 if code else count.value, said)
"""
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
    try:  # in a process of its own: one that has asked the driver can't fork others that use it
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _ASK], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 0, f"CUDA's driver doesn't answer within {_PATIENCE_S:.0f} s"
    count, _, why = done.stdout.strip().partition(" ")
    if done.returncode != 0 or not count.isdecimal():
        return 0, f"asking CUDA's driver ends with {done.returncode}"
    return int(count), why
