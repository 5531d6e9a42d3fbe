"""Decoded images on disk: written once for a folder and its settings, checked, and memory-mapped from then on."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from os import cpu_count
from pathlib import Path
from time import time

import numpy as np
import PIL
from jaxtyping import UInt8
from numpy import ndarray
from tqdm import tqdm

from vaegan_pl.data.copies import COMPARED_SIDE, Pairs, find_pairs
from vaegan_pl.data.images import UNREADABLE, fit, read_grey

log = logging.getLogger(__name__)

VERSION = 1
_ABANDONED = 24 * 3600
_IMAGES, _PAIRS, _INDEX, _SUMS = "images.npy", "near_copies.npy", "index.json", "SHA256SUMS"


@dataclass(frozen=True)
class Decoding:
    """How files become images.

    Attributes:
        image_size: side of the square images in pixels.
        aspect_ratio: `pad` or `squash`; see `images.fit`.
        white: the value of 16-bit files that is white.
        near_copy_correlation: see `copies.find_pairs`.
    """

    image_size: int
    aspect_ratio: str
    white: int
    near_copy_correlation: float | None


@dataclass(frozen=True)
class Prepared:
    """What was read from a list of files; all sequences follow that list.

    Attributes:
        images: grey values 0..255, memory-mapped; black where the file is unreadable.
        keys: SHA-256 of each file's grey pixels at their own size; empty where it is unreadable.
        shapes: height and width of each file; (0, 0) where it is unreadable.
        unreadable: the decoder's reason, by index of the file.
        pairs: near-copies.
    """

    images: UInt8[ndarray, "file size size"]
    keys: list[str]
    shapes: list[tuple[int, int]]
    unreadable: dict[int, str]
    pairs: Pairs


class DamagedError(Exception):
    """A cache entry is not what was written."""


def prepare(root: Path, paths: Sequence[Path], decoding: Decoding, cache: Path) -> Prepared:
    """Decode files, or take what an earlier call decoded from the same files with the same settings.

    The entry's name carries names, sizes and times of change of all files, so any change makes a new one, which takes
    the old one's place. Entries appear whole, under their name, in one step: of two processes at once, one wins and
    both go on. A damaged entry is rebuilt. Where the cache cannot be written, a temporary folder serves for this
    process.

    Args:
        root: the folder that the paths lie in.
        paths: image files.
        decoding: how they are read.
        cache: folder of the entries; made if it is missing.

    Raises:
        OSError: if neither the cache nor the system's temporary folder can be written.
    """
    settings = _digest([VERSION, PIL.__version__, str(root.resolve()), asdict(decoding)])[:12]
    listing = _digest([_identity(root, path) for path in paths])[:16]
    entry = cache / f"{root.resolve().name}-{settings}-{listing}"
    if entry.is_dir():
        try:
            return _open(entry, len(paths))
        except DamagedError as damage:
            log.warning("%s is damaged (%s) and is made anew", entry, damage)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=cache))
        try:
            _write(unfinished, paths, decoding)
            return _publish(unfinished, entry, len(paths), f"{root.resolve().name}-{settings}-*")
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        log.warning("data.cache=%s cannot be written (%s): images are decoded again in every run", cache, error)
    temporary = tempfile.TemporaryDirectory(prefix="vaegan_pl-")
    _write(Path(temporary.name), paths, decoding)
    prepared = _open(Path(temporary.name), len(paths))
    temporary.cleanup()  # the memory map keeps what it needs
    return prepared


def _identity(root: Path, path: Path) -> list[str | int]:
    status = path.stat()
    return [path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _write(folder: Path, paths: Sequence[Path], decoding: Decoding) -> None:
    keys: list[str] = []
    shapes: list[tuple[int, int]] = []
    unreadable: dict[int, str] = {}
    size = decoding.image_size
    # Plain writes, because a full disk makes them raise, where it would kill a process that writes through a map.
    with (folder / _IMAGES).open("wb") as images, (folder / "compared.npy").open("wb") as compared:
        for file, side in ((images, size), (compared, COMPARED_SIDE)):
            shape = (len(paths), side, side)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for i, result in enumerate(_decoded(paths, decoding)):
            if isinstance(result, str):
                unreadable[i] = result
                result = _Decoded("", (0, 0), bytes(size**2), bytes(COMPARED_SIDE**2))
            keys.append(result.key)
            shapes.append(result.shape)
            images.write(result.image)
            compared.write(result.compared)
    map_ = np.load(folder / "compared.npy", mmap_mode="r")
    pairs = find_pairs(map_, keys, decoding.near_copy_correlation)
    del map_
    (folder / "compared.npy").unlink()
    with (folder / _PAIRS).open("wb") as file:
        np.save(file, np.stack([pairs.first, pairs.second, pairs.turn]))
    index = {
        "version": VERSION,
        "decoding": asdict(decoding),
        "keys": keys,
        "shapes": shapes,
        "unreadable": [[i, reason] for i, reason in unreadable.items()],
    }
    (folder / _INDEX).write_text(json.dumps(index))
    sums = [f"{_sha256(folder / name)}  {name}\n" for name in (_IMAGES, _PAIRS, _INDEX)]
    (folder / _SUMS).write_text("".join(sums))


@dataclass(frozen=True)
class _Decoded:
    key: str
    shape: tuple[int, int]
    image: bytes
    compared: bytes


def _decoded(paths: Sequence[Path], decoding: Decoding) -> Iterator[_Decoded | str]:
    def decode(path: Path) -> _Decoded | str:
        try:
            grey = read_grey(path, decoding.white)
        except UNREADABLE as error:
            return str(error)
        height, width = grey.shape
        image = fit(grey, decoding.image_size, decoding.aspect_ratio).tobytes()
        same = decoding.image_size == COMPARED_SIDE and (decoding.aspect_ratio == "squash" or height == width)
        compared = image if same else fit(grey, COMPARED_SIDE, "squash").tobytes()
        key = hashlib.sha256(f"{height}x{width} ".encode() + grey.tobytes()).hexdigest()
        return _Decoded(key, (height, width), image, compared)

    with ThreadPoolExecutor(cpu_count()) as pool:
        yield from tqdm(pool.map(decode, paths), "reading images", len(paths), unit="image", leave=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(unfinished: Path, entry: Path, n: int, earlier: str) -> Prepared:
    """Give a finished entry its name; where another process was first with a sound one, take that."""
    for _ in range(2):
        try:
            unfinished.chmod(0o755)
            unfinished.rename(entry)
            break
        except OSError:
            try:
                return _open(entry, n)
            except DamagedError:
                _remove(entry)
    prepared = _open(entry, n)
    for other in entry.parent.glob(earlier):
        if other != entry:
            _remove(other)
    return prepared


def _sweep(cache: Path) -> None:
    """Remove what killed processes left behind long enough ago to be nobody's."""
    for unfinished in cache.glob(".unfinished-*"):
        if time() - unfinished.stat().st_mtime > _ABANDONED:
            _remove(unfinished)


def _remove(entry: Path) -> None:
    shutil.rmtree(entry, ignore_errors=True)


def _open(entry: Path, n: int) -> Prepared:
    """Check an entry against its sums and map it.

    Raises:
        DamagedError: if anything in it is missing or was changed.
    """
    try:
        sums = (entry / _SUMS).read_text()
        for name in (_IMAGES, _PAIRS, _INDEX):
            if f"{_sha256(entry / name)}  {name}\n" not in sums:
                raise DamagedError(f"{name} does not match {_SUMS}")
        index = json.loads((entry / _INDEX).read_text())
        images = np.load(entry / _IMAGES, mmap_mode="r")
        first, second, turn = np.load(entry / _PAIRS)
    except (OSError, ValueError) as error:
        raise DamagedError(str(error)) from error
    if len(images) != n or len(index["keys"]) != n:
        raise DamagedError(f"{len(images)} images instead of {n}")
    unreadable = {int(i): str(reason) for i, reason in index["unreadable"]}
    shapes = [(int(height), int(width)) for height, width in index["shapes"]]
    return Prepared(images, index["keys"], shapes, unreadable, Pairs(first, second, turn))
