"""Break things at random and count what is lost: `make faults`.

Runs are killed and resumed, files mutated, images broken, a disk filled and W&B made to fail. Every process is forked
from this one, which has imported everything, so that one start takes seconds less.
"""

import argparse
import json
import logging
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import vaegan_pl.callbacks
import vaegan_pl.checkpoints
import vaegan_pl.loggers
from vaegan_pl import commands, tensor_files
from vaegan_pl.data.images import UNREADABLE, read_grey
from vaegan_pl.data.phantoms import draw_folders
from vaegan_pl.data.prepared import Decoding, prepare
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation import features
from vaegan_pl.files import RefusedError
from vaegan_pl.model import weights
from vaegan_pl.train import train

from . import hostile
from .conftest import SMALL, digest

SHORT = [
    *SMALL,
    "data.per_class.Training=16",
    "data.per_class.Testing=4",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=2",
    "trainer.precision=32-true",
    "callbacks.checkpoint.batches=1",
    "callbacks.quality.n=8",
    "logger=csv",
]


def forked(work: Callable[[], None], output: Path) -> int:
    """The process id of a fork of this process that does some work; it exits with 1 if that raises anything."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        descriptor = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(descriptor, "a", buffering=1)
        torch.set_num_threads(1)
        work()
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            os.write(2, f"{stop.code}\n".encode())
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        os.write(2, f"UNHANDLED {type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        sys.stdout.flush()
        logging.shutdown()
        os._exit(code)


def finished(process: int) -> int:
    """Wait for a process; its exit code, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def training(*options: str, before: Callable[[], None] | None = None) -> Callable[[], None]:
    """What a process that trains does."""

    def work() -> None:
        if before is not None:
            before()
        sys.argv = ["train", *SHORT, *options]
        commands.run(train, "train")

    return work


def final_weights(run: Path) -> list[str]:
    """Digests of what a run made: its model without the record of what made it, its optimizers, its figures."""
    model, checkpoint = (
        tensor_files.load(run / "vae_gan_model.pth"),
        tensor_files.load(run / "checkpoints" / "last.ckpt"),
    )
    parts = [model["state_dict"], model["mixtures"], checkpoint["state_dict"], checkpoint["optimizer_states"]]
    return [*map(digest, parts), (run / "metrics.csv").read_text()]


def reference() -> tuple[list[str], float]:
    """What a run makes that nobody disturbs, and how long it takes."""
    finished(forked(training("hydra.run.dir=warm"), Path("warm.txt")))  # draws the phantoms, fills the cache
    started = time.monotonic()
    code = finished(forked(training("hydra.run.dir=reference"), Path("reference.txt")))
    if code:
        sys.exit(f"the reference run failed: {Path('reference.txt').read_text()[-2000:]}")
    return final_weights(Path("reference")), time.monotonic() - started


def kills(wanted: int, chance: random.Random, expected: list[str], seconds: float) -> Counter[str]:
    """Kill runs at random moments, resume them, kill them again; half of the kills while a file is being written."""
    found: Counter[str] = Counter()
    bar = tqdm(total=wanted, desc="kills", unit="kill")
    while found["kills"] < wanted:
        run = Path(f"run{found['runs']}")
        for _ in range(100):
            process = forked(training(f"hydra.run.dir={run}", "resume=auto"), Path(f"{run}.txt"))
            at, writing = time.monotonic() + chance.uniform(0, 1.1 * seconds), chance.random() < 0.5
            killed = False
            while os.waitpid(process, os.WNOHANG) == (0, 0):
                unfinished = writing and any(run.rglob(".*.[0-9]*"))
                if time.monotonic() >= at and (unfinished or not writing):
                    os.kill(process, signal.SIGKILL)
                    finished(process)
                    killed = True
                    found["kills"] += 1
                    found["kills while a file was written"] += bool(unfinished)
                    bar.update()
                    break
                time.sleep(0 if writing else 0.002)
            if not killed:
                break
        found["runs"] += 1
        try:
            if final_weights(run) != expected:
                found["lost: other weights or figures"] += 1
            else:
                shutil.rmtree(run)
        except (OSError, KeyError, RefusedError) as error:
            found["lost: not finished"] += 1
            tqdm.write(f"{run}: {error}: {Path(f'{run}.txt').read_text()[-500:]}")
    bar.close()
    return found


def mutations(data: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """A file in ever other broken forms."""
    while True:
        at, size = chance.randrange(len(data)), chance.choice([1, 1, 1, 2, 8, 64])
        yield "truncated", data[: chance.randrange(len(data))]
        flipped = bytearray(data)
        for _ in range(size):
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        yield "bits flipped", bytes(flipped)
        yield "bits flipped in the head", bytes([data[0] ^ (1 << chance.randrange(8))]) + data[1:]
        tail = bytearray(data)
        tail[-chance.randrange(1, min(2000, len(data)))] ^= 1 << chance.randrange(8)
        yield "bits flipped in the tail", bytes(tail)
        yield "zeros within", data[:at] + bytes(min(4096, len(data) - at)) + data[at + 4096 :]
        yield "a piece missing", data[:at] + data[at + size * 16 :]
        yield "a piece twice", data[:at] + data[max(0, at - 512) : at] + data[at:]
        yield "noise", chance.randbytes(chance.choice([0, 10, 5000]))
        yield "something appended", data + chance.randbytes(size)


def tampered(path: Path, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """A file of tensors, opened by torch, changed, and saved again as torch saves."""
    whole = path.read_bytes()

    def tensors(node: Any) -> list[tuple[dict[str, Any], str]]:
        found: list[tuple[dict[str, Any], str]] = []
        for key, value in node.items() if isinstance(node, dict) else []:
            found += [(node, key)] if isinstance(value, torch.Tensor) else tensors(value)
        return found

    def saved(content: Any) -> bytes:
        buffer = BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    def opened() -> dict[str, Any]:
        return dict(torch.load(BytesIO(whole), weights_only=True))

    while True:
        content = opened()
        (a, key), (b, other) = chance.sample(tensors(content), 2)
        a[key], b[other] = b[other], a[key]
        yield "tensors swapped", saved(content)
        content = opened()
        node, key = chance.choice(tensors(content))
        node[key] = node[key] + 1
        yield "a tensor changed", saved(content)
        content = opened()
        node, key = chance.choice(tensors(content))
        del node[key]
        yield "a tensor missing", saved(content)
        content = opened()
        content["format_version"] = chance.choice([0, 3, 99, "2", None])
        yield "another version", saved(content)
        content = opened()
        content[chance.choice([*content])] = hostile.Code()
        yield "code inside", saved(content)
        yield "a bare pickle", pickle.dumps({**opened(), "x": hostile.Code()})
        yield "another project's", saved({"model": {"layer.weight": torch.zeros(3)}})
        archive = BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("../../escaped", "x")
            file.writestr("archive/data.pkl", pickle.dumps(hostile.Code()))
        yield "an archive that leaves its folder", archive.getvalue()


def file_faults(wanted: int, chance: random.Random) -> Counter[str]:
    """Load mutated files: each must be refused with a message, or give exactly what the whole one gives."""
    run = Path("reference")
    cache = next(path for path in Path().rglob("features-*.pth") if path.parent.name == "cache" or path.parent.is_dir())
    entry = next(path for path in cache.parent.glob("vaegan_pl-*") if path.is_dir())
    files: dict[str, tuple[Path, Callable[[Path], object]]] = {
        "model": (run / "vae_gan_model.pth", lambda path: _model(path)),
        "checkpoint": (run / "checkpoints" / "last.ckpt", lambda path: vaegan_pl.checkpoints.read(path)),
        "features": (cache, lambda path: features._read(path)),
    }
    found: Counter[str] = Counter()
    cases = [
        (name, kind, case)
        for name, (path, _) in files.items()
        for make, share in ((mutations(path.read_bytes(), chance), 0.18), (tampered(path, chance), 0.1))
        for kind, case in _first(make, int(share * wanted) + 1)
    ]
    for name, kind, case in tqdm(cases, "mutated files", unit="file"):
        path, load = files[name]
        target = Path(f"mutated_{path.name}")
        target.write_bytes(case)
        found[_judged(name, kind, load, path, target)] += 1
        found["files"] += 1
    pictures = sorted(Path("outputs/phantoms").rglob("*.png"))
    decoding = Decoding(32, "pad", 65535, 0.99)
    truth = prepare(Path("outputs/phantoms"), pictures, decoding, Path("entries"))
    images = np.array(truth.images)  # in memory, since the file behind them is about to be broken
    (entry,) = Path("entries").glob("vaegan_pl-*")
    for name in ("images.npy", "near_copies.npy", "index.json", "SHA256SUMS"):
        whole = (entry / name).read_bytes()
        for kind, case in tqdm([*_first(mutations(whole, chance), int(0.04 * wanted) + 1)], name, unit="file"):
            (entry / name).write_bytes(case)

            def load(path: Path) -> None:
                prepared = prepare(Path("outputs/phantoms"), pictures, decoding, path)
                assert np.array_equal(prepared.images, images), "other images were accepted"
                assert prepared.keys == truth.keys, "other keys were accepted"

            found[_judged(name, kind, load, Path("entries"), Path("entries"))] += 1
            found["files"] += 1
    return found


def _model(path: Path) -> object:
    model = weights.load(path)
    return [model.networks.state_dict(), dict(model.trained_on), dict(model.training), dict(model.preprocessing)]


def _first(cases: Iterator[tuple[str, bytes]], n: int) -> Iterator[tuple[str, bytes]]:
    for _, case in zip(range(n), cases, strict=False):
        yield case


def _judged(name: str, kind: str, load: Callable[[Path], object], whole: Path, target: Path) -> str:
    """Load in a process of its own; what came of it."""
    Path("said.txt").unlink(missing_ok=True)

    def work() -> None:
        logging.disable()
        try:
            content = load(target)
        except UserError as refusal:
            words = str(refusal)
            if str(target) not in words or "\n" in words:
                raise RuntimeError(f"a message without the file, or of several lines: {words}") from refusal
            os._exit(3)
        if content is None:
            os._exit(3)  # a cache that is made anew
        if target.is_file() and content is not None:
            assert digest(content) == digest(load(whole)), "another content was accepted"

    code = finished(forked(work, Path("said.txt")))
    if Path(hostile.EXECUTED).exists() or Path("../../escaped").exists():
        Path(hostile.EXECUTED).unlink(missing_ok=True)
        return f"FAILED: {name}, {kind}: code was executed"
    if code not in (0, 3):
        return f"FAILED: {name}, {kind}: exit {code}: {Path('said.txt').read_text()[-300:]}"
    return f"{name}: " + ("refused" if code == 3 else "as if whole")


def broken_images(n: int, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Names and contents of image files, few of them whole."""
    grey = np.asarray(Image.fromarray(np.arange(96 * 80, dtype=np.uint16).reshape(96, 80).astype(np.uint8)))
    bases: dict[str, bytes] = {}
    for suffix, kind, options in (
        ("jpg", "JPEG", {}),
        ("png", "PNG", {}),
        ("tif", "TIFF", {}),
        ("tiff", "TIFF", {"compression": "tiff_lzw"}),
        ("bmp", "BMP", {}),
        ("webp", "WEBP", {}),
    ):
        buffer = BytesIO()
        Image.fromarray(grey).save(buffer, kind, **options)
        bases[suffix] = buffer.getvalue()
    for i in range(n):
        suffix = chance.choice([*bases])
        kind, data = chance.choice([*_first(mutations(bases[suffix], chance), 9)])
        if i % 10 == 0:
            kind, suffix, data = "bomb", "png", hostile.png_bomb(chance.choice([30_000, 100_000, 2**31 - 1]))
        elif i % 10 == 1:
            kind, suffix, data = (
                "bomb",
                "bmp",
                b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, *[0] * 6),
            )
        elif i % 10 == 2:
            kind, data = "another format", bases[chance.choice([*bases])]
        elif i % 10 == 3:
            kind, data = "text", b"<svg onload='alert(1)'/>" * chance.randrange(1, 99)
        yield f"{i:05d}_{kind.replace(' ', '_').replace(chr(39), '')}.{suffix}", data


def image_faults(wanted: int, chance: random.Random) -> Counter[str]:
    """Put broken images among whole ones and read the folder as training does."""
    root = Path("images")
    draw_folders(root, ["glioma", "notumor"], {"Training": 20, "Testing": 5}, 0)
    for name, data in broken_images(wanted, chance):
        (root / "Training" / "glioma" / name).write_bytes(data)
    paths = sorted(
        path for path in root.rglob("*") if path.is_file() and path.suffix != ".json" and path.name[0] != "."
    )
    found: Counter[str] = Counter()

    def work() -> None:
        warnings.simplefilter("ignore")
        prepared = prepare(root, paths, Decoding(64, "pad", 65535, 0.99), Path("image_cache"))
        reasons = {paths[i].name: reason for i, reason in prepared.unreadable.items()}
        Path("reasons.json").write_text(json.dumps(reasons))

    started = time.monotonic()
    code = finished(forked(work, Path("images.txt")))
    found["seconds"] = round(time.monotonic() - started)
    if code:
        found[f"FAILED: exit {code}: {Path('images.txt').read_text()[-500:]}"] += 1
        return found
    reasons = json.loads(Path("reasons.json").read_text())
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_grey(path, 65535)
            readable = True
        except UNREADABLE:
            readable = False
        if readable == (path.name in reasons):
            found[f"FAILED: {path.name} was counted wrong"] += 1
        if "bomb" in path.name and readable:
            found[f"FAILED: {path.name} was decoded"] += 1
        found["whole, or decodes all the same" if readable else "skipped and counted"] += 1
    found["images"] = len(paths)
    return found


def full_disks(expected: list[str]) -> Counter[str]:
    """Fill a small file system while a run writes to it, make room, and resume."""
    found: Counter[str] = Counter()
    disk = Path("disk").resolve()
    disk.mkdir(exist_ok=True)
    sizes = sum(path.stat().st_size for path in Path("reference").rglob("*") if path.is_file())
    for share in (0.02, 0.2, 0.4, 0.6, 0.8, 0.95):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={int(share * sizes)}", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return Counter({"not tried: no file system can be mounted here": 1})
        try:
            code = finished(forked(training(f"hydra.run.dir={disk / 'run'}", "resume=auto"), Path(f"disk{share}.txt")))
            said = Path(f"disk{share}.txt").read_text(errors="replace")
            found[f"{share:.0%} of the space: exit {code}"] += 1
            if "Traceback" in said or "UNHANDLED" in said:
                found[f"FAILED: a traceback at {share:.0%}"] += 1
            if "No space left" not in said:
                found[f"FAILED: nothing said of the space at {share:.0%}"] += 1
            subprocess.run(["mount", "-o", f"remount,size={4 * sizes}", str(disk)], check=True)
            again = finished(forked(training(f"hydra.run.dir={disk / 'run'}", "resume=auto"), Path(f"disk{share}.txt")))
            done = again == 0 or "is finished" in Path(f"disk{share}.txt").read_text(errors="replace")
            if not done or final_weights(disk / "run")[:-1] != expected[:-1]:
                found[f"FAILED: not resumed at {share:.0%} (exit {again})"] += 1
        finally:
            subprocess.run(["umount", str(disk)], check=False)
    return found


def wandb_faults(expected: list[str]) -> Counter[str]:
    """W&B that cannot start, fails in the middle, fails at the end, or is not there: training ends as ever."""
    import wandb

    def raising(*_: Any, **__: Any) -> Any:
        raise wandb.errors.CommError("the network is gone")

    def at_start() -> None:
        wandb.init = raising

    def in_the_middle() -> None:
        real, calls = wandb.Run.log, Counter[str]()

        def log(*arguments: Any, **options: Any) -> Any:
            calls["log"] += 1
            return raising() if calls["log"] > 3 else real(*arguments, **options)

        wandb.Run.log = log  # type: ignore[method-assign]

    def at_the_end() -> None:
        wandb.finish = raising

    def unreachable() -> None:
        os.environ |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": 40 * "0"}

    found: Counter[str] = Counter()
    online = ["logger.wandb.offline=false", "+logger.wandb.settings.init_timeout=5.0"]
    for name, before, options in (
        ("at_start", at_start, []),
        ("in_the_middle", in_the_middle, []),
        ("at_the_end", at_the_end, []),
        ("unreachable", unreachable, online),
    ):
        run, said = Path(f"wandb_{name}"), Path(f"wandb_{name}.txt")
        code = finished(forked(training("logger=default", f"hydra.run.dir={run}", *options, before=before), said))
        words = said.read_text(errors="replace")
        right = code == 0 and "W&B" in words and "Traceback" not in words and final_weights(run)[:-1] == expected[:-1]
        found[
            f"{name}: trained to the end, and said so" if right else f"FAILED: {name}: exit {code}: {words[-800:]}"
        ] += 1
    return found


def main() -> None:
    """Run the campaign in a temporary folder and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="vaegan_pl-faults-")
    os.chdir(folder)
    chance = random.Random(arguments.seed)
    expected, seconds = reference()
    table = {
        "kills": kills(arguments.kills, chance, expected, seconds),
        "mutated files": file_faults(arguments.files, chance),
        "broken images": image_faults(arguments.images, chance),
        "full disks": full_disks(expected),
        "W&B": wandb_faults(expected),
    }
    bad = 0
    for name, found in table.items():
        sys.stdout.write(f"\n{name}\n" + "".join(f"  {number:6d}  {what}\n" for what, number in sorted(found.items())))
        bad += sum(number for what, number in found.items() if what.startswith(("FAILED", "lost")))
    sys.stdout.write(f"\n{bad} failures in all; seed {arguments.seed}\n")
    if not arguments.keep:
        with suppress(OSError):
            shutil.rmtree(folder)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
