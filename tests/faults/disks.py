"""Disks that are full."""

import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vaegan_pl.cli.evaluate import evaluate
from vaegan_pl.cli.inspect_data import inspect_data
from vaegan_pl.cli.sample import sample

from . import command, final_weights, finished, forked, training


@contextmanager
def small_disk(name: str, size: int) -> Iterator[Path | None]:
    """A file system of so many bytes; None where none can be mounted."""
    disk = Path(name).resolve()
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


def grow(disk: Path, size: int) -> None:
    """Make room on a small disk."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def full_disks(expected: list[str]) -> Counter[str]:
    """Fill a small file system while a run writes to it, make room, and resume; twice with W&B writing, too."""
    found: Counter[str] = Counter()
    sizes = sum(path.stat().st_size for path in Path("reference").rglob("*") if path.is_file())
    for share, logger in ((0.02, "csv"), (0.2, "csv"), (0.4, "csv"), (0.6, "default"), (0.8, "csv"), (0.95, "default")):
        with small_disk("disk", int(share * sizes)) as disk:
            if disk is None:
                return Counter({"not tried: no file system can be mounted here": 1})
            name, said = f"{share:.0%} of the space, logger={logger}", Path(f"disk{share}.txt")
            options = [f"hydra.run.dir={disk / 'run'}", "resume=auto", f"logger={logger}"]
            code = finished(forked(training(*options), said))
            found[f"{name}: exit {code}"] += 1
            words = said.read_text(errors="replace")
            if "Traceback" in words or "UNHANDLED" in words:
                found[f"FAILED: a traceback at {name}"] += 1
            if "No space left" not in words:
                found[f"FAILED: nothing said of the space at {name}"] += 1
            grow(disk, 4 * sizes)
            again = finished(forked(training(*options), said))
            words = said.read_text(errors="replace")
            if "contains no checkpoint to resume from" in words and (disk / "run" / "vae_gan_model.pth").exists():
                found["no checkpoint ever fitted: refused, and the model kept"] += 1
                continue
            done = again == 0 or "is finished" in words
            if not done or final_weights(disk / "run")[:-1] != expected[:-1]:
                found[f"FAILED: not resumed at {name} (exit {again}): {said.read_text()[-300:]}"] += 1
    return found


def full_folders() -> Counter[str]:
    """Fill the places of reports, caches and temporary files."""
    weights, data = "weights=reference/vae_gan_model.pth", ["data.root=outputs/phantoms", "data.image_size=32"]
    found: Counter[str] = Counter()

    def judge(name: str, work: Callable[[], None], code: int, words: str) -> None:
        said = Path("folder.txt")
        said.unlink(missing_ok=True)
        ended = finished(forked(work, said))
        output = said.read_text(errors="replace")
        right = ended == code and words in output and "Traceback" not in output and "UNHANDLED" not in output
        found[f"{name}: exit {ended}, and the place is named" if right else f"FAILED: {name}: {output[-500:]}"] += 1

    def with_temporary(folder: Path, work: Callable[[], None]) -> Callable[[], None]:
        def elsewhere() -> None:
            os.environ["TMPDIR"] = str(folder)
            tempfile.tempdir = None
            work()

        return elsewhere

    with small_disk("disk", 16384) as disk:
        if disk is None:
            return Counter({"not tried: no file system can be mounted here": 1})
        into = [f"output={disk / 'made'}"]
        cached = "data.cache=outputs/cache"
        reports = {
            "sample": command(sample, weights, "n=50", *into),
            "evaluate": command(evaluate, weights, *data, "n=8", "seeds=0", cached, *into),
            "inspect_data": command(inspect_data, *data, cached, *into),
        }
        for name, work in reports.items():
            judge(f"a full disk for {name}", work, 1, str(disk / "made"))
        grow(disk, 2**26)
        for name, work in reports.items():
            judge(f"room again for {name}", work, 0, "")
    with small_disk("disk", 16384) as disk:
        assert disk is not None
        inspect = command(inspect_data, *data, f"data.cache={disk / 'cache'}", "output=elsewhere")
        judge("a full disk for the cache", inspect, 0, str(disk / "cache"))
        judge("full disks for the cache and TMPDIR", with_temporary(disk, inspect), 1, str(disk))
        judge("a full disk for TMPDIR", with_temporary(disk, command(inspect_data, *data, "output=other")), 0, "")
    return found
