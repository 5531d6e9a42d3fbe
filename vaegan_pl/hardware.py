"""Devices, precision, threads and memory of this machine."""

import ctypes
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vaegan_pl.errors import UserError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

PRECISIONS = ("auto", "32-true", "bf16-mixed", "64-true")
_ALIASES = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def pick_device(accelerator: str, option: str = "accelerator") -> torch.device:
    """The device of one of Lightning's accelerators.

    If the answer is the CPU, Lightning is not imported, which would take several seconds.

    Args:
        accelerator: its name: auto, cpu, gpu, mps, ...
        option: the option that names it, for the message.

    Raises:
        UserError: if there is no such accelerator, or this machine has none.
    """
    if accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available()):
        return torch.device("cpu")
    from lightning import Fabric
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    try:
        return Fabric(accelerator=accelerator, devices=1, plugins=[LightningEnvironment()]).device
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{option}={accelerator}: {error}; use {option}=auto") from error


def started_together() -> int:
    """Number of processes that torchrun or srun started together, this one included; 1 in a plain Slurm shell."""
    found = [os.environ.get(name, "") for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")]
    return max(int(n) if n.isdecimal() else 1 for n in found)


def alone() -> "list[ClusterEnvironment]":
    """Plugins that make a single process train alone, even in a Slurm allocation with several tasks."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    return [LightningEnvironment()] if started_together() == 1 else []


def peak_memory(device: torch.device) -> int:
    """The most memory, in bytes, that this process has used so far: of a CUDA device, otherwise of the machine.

    0 if it is unknown.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows lacks it
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def total_memory() -> float:
    """Memory that this process may use, in bytes; infinite if unknown."""
    limits = [math.inf]
    with suppress(OSError, ValueError, AttributeError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # "max", or no control groups
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def native_bfloat16(device: torch.device) -> str | None:
    """The hardware feature that computes in bfloat16, e.g. `AMX`, `AVX512-BF16`, `CUDA 9.0`; None if there is none."""
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
        asked: one of `PRECISIONS`; `auto` is bf16-mixed where bfloat16 is native, and 32-true elsewhere.
        device: the device that computes.

    Raises:
        UserError: for any other precision, and for double precision on Apple's GPUs, which have none. Half precision
            is not supported, because it needs loss scaling; nor is `bf16-true`, because parameters kept in bfloat16
            lose small updates.
    """
    precision = _ALIASES.get(str(asked), str(asked))
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision={asked}: is not supported; use one of {', '.join(PRECISIONS)}")
    if precision == "64-true" and device.type == "mps":
        raise UserError(
            "trainer.precision=64-true: Apple's GPUs have no double precision; use trainer.accelerator=cpu, or 32-true"
        )
    if precision == "auto":
        return "bf16-mixed" if native_bfloat16(device) else "32-true"
    return precision


def prepare_cpu(processes: int = 1) -> None:
    """Limit threads to the processors that this process may use, and reuse freed memory.

    A container may be granted fewer processors than it sees; they are divided among the `processes` that train here.
    OMP_NUM_THREADS is left as it is if set, and otherwise set for processes that are started later.

    By default, glibc returns freed blocks above 32 MB to the system, and the page faults of new ones take a sixth of a
    training step; this function makes it keep them. If one of glibc's own settings, MALLOC_MMAP_MAX_ (65536 by default)
    or MALLOC_TRIM_THRESHOLD_, is in the environment, nothing is changed.

    Args:
        processes: number of processes that train on this machine.
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
    """Number of processors that a control group grants, at least 1; None for no limit.

    Args:
        file: its `cpu.max`, which holds `QUOTA PERIOD` in microseconds.
    """
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
