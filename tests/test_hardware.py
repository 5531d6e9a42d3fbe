"""What the machine has, against its own description, and what is made of it."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vaegan_pl.errors import UserError
from vaegan_pl.hardware import choose_precision, cpu_quota, native_bfloat16, pick_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo")
def test_native_bfloat16_is_what_the_processor_says_of_itself() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    expected = "AMX" if "amx_bf16" in flags else "AVX512-BF16" if "avx512_bf16" in flags else None
    assert native_bfloat16(CPU) == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "AMX"),
        ({"amx_bf16": False, "avx512_bf16": True}, "AVX512-BF16"),
        ({"avx2": True}, None),
        ({"architecture": "arm64", "bf16": True}, None),
    ],
)
def test_bfloat16_on_cpus(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert native_bfloat16(CPU) == expected
    assert choose_precision("auto", CPU) == ("bf16-mixed" if expected else "32-true")


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), None), ((8, 0), "CUDA 8.0"), ((9, 0), "CUDA 9.0"), ((12, 0), "CUDA 12.0")]
)
def test_bfloat16_on_gpus(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_bfloat16(CUDA) == expected
    assert choose_precision("auto", CUDA) == ("bf16-mixed" if expected else "32-true")


def test_on_other_devices_auto_is_float32() -> None:
    assert choose_precision("auto", torch.device("mps")) == "32-true"


@pytest.mark.parametrize(
    ("asked", "precision"),
    [("32-true", "32-true"), (32, "32-true"), ("bf16", "bf16-mixed"), ("bf16-mixed", "bf16-mixed"), (64, "64-true")],
)
def test_what_is_asked_for_is_respected(asked: str | int, precision: str) -> None:
    assert choose_precision(asked, CPU) == precision


def test_apples_gpus_have_no_double_precision() -> None:
    assert choose_precision("bf16-mixed", torch.device("mps")) == "bf16-mixed"
    with pytest.raises(UserError, match=r"trainer\.precision=64-true: .* use trainer\.accelerator=cpu"):
        choose_precision("64-true", torch.device("mps"))


@pytest.mark.parametrize("asked", ["16-mixed", "bf16-true", "transformer-engine", "fast"])
def test_other_precisions_are_refused(asked: str) -> None:
    with pytest.raises(
        UserError, match=rf"trainer\.precision={asked}: is not supported; use one of auto, 32-true, bf16"
    ):
        choose_precision(asked, CPU)


def test_an_unknown_accelerator_is_named_as_it_was_set() -> None:
    assert pick_device("cpu") == CPU
    with pytest.raises(UserError, match=r"trainer\.accelerator=quantum: .*use trainer\.accelerator=auto"):
        pick_device("quantum", "trainer.accelerator")


@pytest.mark.parametrize(
    ("content", "processors"),
    [("max 100000", None), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("nonsense", None)],
)
def test_processors_granted_by_a_control_group(tmp_path: Path, content: str, processors: int | None) -> None:
    (tmp_path / "cpu.max").write_text(f"{content}\n")
    assert cpu_quota(tmp_path / "cpu.max") == processors


def test_without_a_control_group_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "cpu.max") is None


@pytest.mark.parametrize(("processes", "threads"), [(1, "4 None"), (2, "2 2"), (8, "1 1")])
def test_processes_share_what_a_container_is_granted(processes: int, threads: str) -> None:
    script = (
        "import os, torch; from vaegan_pl import hardware; torch.set_num_threads(16); "
        f"hardware.cpu_quota = lambda file: 4; hardware.prepare_cpu({processes}); "
        "print(torch.get_num_threads(), os.environ.get('OMP_NUM_THREADS'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == threads


FAULTS = """
import resource, torch
from vaegan_pl.hardware import prepare_cpu
{first}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, 16,384 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(10):
    faults()
print(faults())
"""
"""Blocks are reused after a few rounds, when glibc no longer sets aside the small pieces between them."""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_not_faulted_in_again() -> None:
    def faults(first: str, **variables: str) -> int:
        script = FAULTS.format(first=first)
        environment = {**os.environ, **variables}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        return int(re.findall(r"\d+", done.stdout)[-1])

    before = faults("")
    assert before > 0  # a page at least, however large pages are here
    assert faults("prepare_cpu()") < before / 10
    assert faults("prepare_cpu()", MALLOC_MMAP_MAX_="65536") == pytest.approx(before, rel=0.2)
