"""What this machine has, and how it is used well: devices, bfloat16, processors, freed memory."""

import ctypes
import math
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from lightning import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from vaegan_pl.errors import UserError

PRECISIONS = ("auto", "32-true", "bf16-mixed", "64-true")
_ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def pick_device(accelerator: str, option: str = "accelerator") -> torch.device:
    """The device of one of Lightning's accelerators: auto, cpu, gpu, mps, ...

    Args:
        accelerator: its name.
        option: where the user set it.

    Raises:
        UserError: if there is no such accelerator, or none on this machine.
    """
    try:
        return Fabric(accelerator=accelerator, devices=1, plugins=[LightningEnvironment()]).device
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{option}={accelerator}: {error}; take {option}=auto") from error


def started_together() -> int:
    """How many processes torchrun or Slurm's srun started together with this one; a Slurm shell by itself is one."""
    found = [os.environ.get(name, "") for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")]
    return max(int(n) if n.isdecimal() else 1 for n in found)


def alone() -> list[ClusterEnvironment]:
    """The plugin by which one process trains alone, whatever tasks the Slurm shell around it may start."""
    return [LightningEnvironment()] if started_together() == 1 else []


def total_memory() -> float:
    """Bytes of memory that this process may use; infinite where that is not known."""
    limits = [math.inf]
    with suppress(OSError, ValueError, AttributeError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # "max", or no control groups
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def native_bfloat16(device: torch.device) -> str | None:
    """What multiplies bfloat16 numbers natively on a device, such as `AMX`, `AVX512-BF16` or `CUDA 9.0`; or None."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return "CUDA {}.{}".format(*capability) if capability >= (8, 0) else None
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    has = torch.cpu.get_capabilities()
    return next((name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if has.get(flag)), None)


def choose_precision(asked: str | int, device: torch.device) -> str:
    """Lightning's name of the precision to compute in.

    Args:
        asked: one of `PRECISIONS`; `auto` is bf16-mixed where `native_bfloat16`, and 32-true elsewhere.
        device: what computes.

    Raises:
        UserError: for any other precision. Half precision needs its losses scaled, and parameters and optimizers kept
            in bfloat16 stop learning; neither is done here. Apple's GPUs have no double precision.
    """
    precision = _ALIASES.get(str(asked), str(asked))
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision={asked}: is not supported; take one of {', '.join(PRECISIONS)}")
    if precision == "64-true" and device.type == "mps":
        raise UserError("trainer.precision=64-true: Apple's GPUs cannot; take trainer.accelerator=cpu, or 32-true")
    if precision == "auto":
        return "bf16-mixed" if native_bfloat16(device) else "32-true"
    return precision


def prepare_cpu(processes: int = 1) -> None:
    """Use no more threads than processors are allowed, and keep freed memory for the next batch.

    A container may be granted fewer processors than it sees; they are shared out over the `processes` that train here.
    OMP_NUM_THREADS, if set, is respected; it is set for processes that are started later.

    Blocks above 32 MB are handed back to the system when they are freed, and every new one is then faulted in page by
    page: a sixth of a training step. glibc is told to keep them. MALLOC_MMAP_MAX_ or MALLOC_TRIM_THRESHOLD_ in the
    environment, its own settings, are respected; MALLOC_MMAP_MAX_=65536 is its default.
    """
    quota = cpu_quota(Path("/sys/fs/cgroup/cpu.max"))
    if quota is not None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, min(quota, torch.get_num_threads()) // processes)
        torch.set_num_threads(threads)
        if processes > 1:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # Lightning would share out all processors that it sees
    if sys.platform == "linux" and not {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys():
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def cpu_quota(file: Path) -> int | None:
    """Whole processors granted by a control group's `cpu.max` (`QUOTA PERIOD` in microseconds), at least 1; or None."""
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
