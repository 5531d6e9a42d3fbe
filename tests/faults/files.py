"""Files that are damaged, changed or made up."""

import json
import logging
import os
import pickle
import random
import struct
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vaegan_pl.data.images import UNREADABLE, read_grey
from vaegan_pl.data.phantoms import draw_folders
from vaegan_pl.data.prepared import Decoding, prepare
from vaegan_pl.errors import UserError
from vaegan_pl.evaluation import features
from vaegan_pl.model import weights
from vaegan_pl.training import checkpoints

from .. import hostile
from ..conftest import digest
from . import Cases, finished, first, forked
from .mutations import mutations

SAVED_AGAIN = ("tensors swapped", "a tensor changed", "a tensor missing", "another version")
"""What is another whole file, which no checksum tells from the first; whether it fits is looked at afterwards."""


def tampered(path: Path, chance: random.Random) -> Cases:
    """A file of tensors, opened by torch, changed, and saved again as torch saves."""
    whole = path.read_bytes()

    def tensors(node: Any) -> list[tuple[Any, Any]]:
        found: list[tuple[Any, Any]] = []
        for key, value in node.items() if isinstance(node, dict) else enumerate(node if isinstance(node, list) else []):
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
        "model": (run / "vae_gan_model.pth", read_model),
        "checkpoint": (run / "checkpoints" / "last.ckpt", lambda path: checkpoints.read(path)),
        "features": (cache, lambda path: features._read(path)),
    }
    found: Counter[str] = Counter()
    cases = [
        (name, kind, case)
        for name, (path, _) in files.items()
        for make, share in ((mutations(path.read_bytes(), chance), 0.18), (tampered(path, chance), 0.1))
        for kind, case in first(make, int(share * wanted) + 1)
    ]
    for name, kind, case in tqdm(cases, "mutated files", unit="file"):
        path, load = files[name]
        target = Path(f"mutated_{path.name}")
        target.write_bytes(case)
        found[judged(name, kind, load, path, target)] += 1
        found["files"] += 1
    pictures = sorted(Path("outputs/phantoms").rglob("*.png"))
    decoding = Decoding(32, "pad", 65535, "fixed", 0.99, 0.97, "exhaustive")
    truth = prepare(Path("outputs/phantoms"), pictures, decoding, Path("entries"))
    images = np.array(truth.images)  # in memory, since the file behind them is about to be broken
    (entry,) = Path("entries").glob("vaegan_pl-*")
    for name in ("images.npy", "near_copies.npy", "index.json", "SHA256SUMS"):
        whole = (entry / name).read_bytes()
        for kind, case in tqdm([*first(mutations(whole, chance), int(0.04 * wanted) + 1)], name, unit="file"):
            (entry / name).write_bytes(case)

            def load(path: Path) -> None:
                prepared = prepare(Path("outputs/phantoms"), pictures, decoding, path)
                assert np.array_equal(prepared.images, images), "other images were accepted"
                assert prepared.keys == truth.keys, "other keys were accepted"

            found[judged(name, kind, load, Path("entries"), Path("entries"))] += 1
            found["files"] += 1
    return found


def read_model(path: Path) -> object:
    model = weights.load(path)
    return [model.networks.state_dict(), model.trained_on.plain, dict(model.training), dict(model.preprocessing)]


def judged(name: str, kind: str, load: Callable[[Path], object], whole: Path, target: Path) -> str:
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
            os._exit(3)  # a cache that is rebuilt
        if target.is_file() and kind not in SAVED_AGAIN:
            assert digest(content) == digest(load(whole)), "another content was accepted"

    code = finished(forked(work, Path("said.txt")))
    if Path(hostile.EXECUTED).exists() or Path("../../escaped").exists():
        Path(hostile.EXECUTED).unlink(missing_ok=True)
        return f"FAILED: {name}, {kind}: code was executed"
    if code not in (0, 3):
        return f"FAILED: {name}, {kind}: exit {code}: {Path('said.txt').read_text()[-300:]}"
    return f"{name}: " + ("refused" if code == 3 else "as if whole")


def broken_images(n: int, chance: random.Random) -> Cases:
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
        kind, data = chance.choice([*first(mutations(bases[suffix], chance), 9)])
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
        prepared = prepare(
            root, paths, Decoding(64, "pad", 65535, "fixed", 0.99, 0.97, "exhaustive"), Path("image_cache")
        )
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
                read_grey(path, 65535, "fixed")
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
