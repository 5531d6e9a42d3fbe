"""A cache of decoded images, written once for a folder and its settings, verified and memory-mapped."""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import time

import numpy as np
from jaxtyping import Int32, UInt8
from numpy import ndarray

from vaegan_pl.data import dicom, figshare
from vaegan_pl.data.copies import COMPARED_SIDE, TURNS, Compared, Pairs, find_pairs
from vaegan_pl.data.images import UNREADABLE, fit, read_file, warnings_in_one_line
from vaegan_pl.data.registration import find_reframed
from vaegan_pl.errors import UserError
from vaegan_pl.progress import announce, track
from vaegan_pl.storage.files import MOST_TEXT, RefusedError, printable, read_json, read_text

log = logging.getLogger(__name__)

VERSION = 5
_UNFINISHED, _FINISHED = ".vaegan_pl-", "vaegan_pl-"
_ABANDONED = 24 * 3600
_UNUSED = 30 * 24 * 3600
_AT_ONCE = 4096
_IMAGES, _PAIRS, _INDEX, _SUMS = "images.npy", "near_copies.npy", "index.json", "SHA256SUMS"
_SLICES = "published_slices.npy"
_COMPARED = "compared.npy"
_DECODED = (_IMAGES, _COMPARED, _SLICES, _INDEX)
"""The files of an entry that do not depend on the search for near-copies."""

OF_SEARCH = ("near_copy_correlation", "registered_correlation", "search")
"""The settings of the search for near-copies."""

_FILES = frozenset({*_DECODED, _PAIRS, _SUMS})
_NAMES = {
    _FINISHED: re.compile(r"vaegan_pl-[0-9a-f]{32}"),
    _UNFINISHED: re.compile(r"\.vaegan_pl-[a-z0-9_]{8}"),
}
_KEY = re.compile("([0-9a-f]{64})?")
_LETTERS, _INDEX_BYTES = 400, 1024
"""Limits on the length of the reason why a file cannot be read, and on the bytes of the index for one file."""

_SECONDS = 0.002
"""Time to read one file and compare it with the others, on two CPU cores."""


@dataclass(frozen=True)
class Decoding:
    """How files are decoded.

    Attributes:
        image_size: side of the square images in pixels.
        aspect_ratio: `pad` or `squash`; see `images.fit`.
        white: the value of more than 8 bits that becomes white; see `images.read_file`.
        range: which values become black to white, one of `grey.RANGES`.
        near_copy_correlation: see `copies.find_pairs`.
        registered_correlation: see `registration.find_reframed`; used only with a near_copy_correlation.
        search: how near-copies are searched for; see `copies.similar`.
    """

    image_size: int
    aspect_ratio: str
    white: int
    range: str
    near_copy_correlation: float | None
    registered_correlation: float | None
    search: str

    def near_copies(self, images: Compared, keys: Sequence[str], slices: Int32[ndarray, " image"]) -> Pairs:
        """All near-copies by these settings.

        Args:
            images: grey values 0..255.
            keys: for each image a hash of its pixels, or an empty string.
            slices: index of the published slice that each shows; see `figshare.recognise`.

        Raises:
            UserError: see `copies.similar`.
        """
        pairs = find_pairs(images, keys, self.near_copy_correlation, self.search)
        if self.near_copy_correlation is None or self.registered_correlation is None:
            return pairs
        numbers = np.array([each.number for each in figshare.slices()] + [-1])[slices]
        groups = pairs.groups(len(images))
        return pairs + find_reframed(images, groups, numbers, self.registered_correlation, self.search)


@dataclass(frozen=True)
class Prepared:
    """Images decoded from a list of files; all sequences are in the order of that list.

    Attributes:
        images: grey values 0..255, memory-mapped; black for unreadable files.
        keys: SHA-256 of each file's grey pixels at their original size; empty for unreadable files.
        shapes: height and width of each file; (0, 0) for unreadable files.
        unreadable: the decoder's error message, by index of the file.
        pairs: pairs of near-copies.
        slices: index of the published slice that each file shows; see `figshare.recognise`.
        patients: a name for the patient of each DICOM file, from its PatientID; empty for other files.
        peaks: the `peak` of each file; see `GreyImage`. 0 for unreadable files.
        levels: the `levels` of each file; 0 for unreadable files.
        coloured: whether each file shows colours.
    """

    images: UInt8[ndarray, "file size size"]
    keys: list[str]
    shapes: list[tuple[int, int]]
    unreadable: dict[int, str]
    pairs: Pairs
    slices: Int32[ndarray, " file"]
    patients: list[str]
    peaks: list[int]
    levels: list[int]
    coloured: list[bool]


class DamagedError(Exception):
    """A cache entry differs from what was written."""


def prepare(root: Path, paths: Sequence[Path], decoding: Decoding, cache: Path) -> Prepared:
    """Decode files, or open what an earlier call decoded from the same files with the same settings.

    The name of a cache entry is a hash of the names, sizes and modification times of all files, so that any change
    makes a new entry. If only the search for near-copies changes, the decoded images are copied from the earlier
    entry. Entries are renamed into place in one step; if two processes write the same one, both continue. A damaged
    entry is rebuilt, and an entry unused for a month is removed. If the cache cannot be written, or a file cannot be
    opened, the decoded images are used by this process only.

    Args:
        root: the folder that contains the paths.
        paths: image files.
        decoding: how they are decoded.
        cache: folder of the cache entries; created if it is missing.

    Raises:
        UserError: if `cache` is a file.
        OSError: if neither the cache nor the system's temporary folder can be written.
    """
    if cache.exists() and not cache.is_dir():
        raise UserError(f"data.cache={cache}: is a file; set data.cache to a folder")
    settings = {**asdict(decoding), **dict.fromkeys(OF_SEARCH)}
    files = [_identity(root, path) for path in paths]
    decoded = _digest([VERSION, _decoders(), str(root.resolve()), settings, files])[:16]
    entry = cache / f"{_FINISHED}{decoded}{_digest([asdict(decoding)[name] for name in OF_SEARCH])[:16]}"
    if entry.exists():
        try:
            return _open(entry, len(paths))
        except DamagedError as damage:
            log.warning("%s is damaged (%s) and will be rebuilt", entry, damage)
            _remove(entry)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=cache, ignore_cleanup_errors=True) as folder:
            unfinished = Path(folder)
            if not _write(unfinished, paths, decoding, _others(cache, decoded)):
                log.warning("some files could not be opened: the others are decoded again in the next run")
                return _open(unfinished, len(paths))  # the memory map outlives the folder
            unfinished.chmod(0o755)
            with suppress(OSError):  # another process was first
                unfinished.rename(entry)
            return _open(entry, len(paths))
    except (OSError, DamagedError) as error:
        log.warning("data.cache=%s cannot be used (%s): images are decoded again in every run", cache, error)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, ignore_cleanup_errors=True) as folder:
        try:
            _write(Path(folder), paths, decoding, [])
        except OSError as error:
            raise OSError(error.errno, error.strerror, folder) from error
        return _open(Path(folder), len(paths))


def _decoders() -> list[str]:
    """Versions of the decoding libraries; another version may read more files, or different values."""
    found = []
    for package in ("pillow", "pydicom", "pylibjpeg", "python-gdcm", "pyjpegls"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return found


def _identity(root: Path, path: Path) -> list[str | int]:
    status = path.stat()
    return [path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _others(cache: Path, decoded: str) -> list[Path]:
    """The entries with the same decoded images and other near-copies."""
    return [entry for entry in cache.glob(f"{_FINISHED}{decoded}*") if _NAMES[_FINISHED].fullmatch(entry.name)]


def _write(folder: Path, paths: Sequence[Path], decoding: Decoding, others: Sequence[Path]) -> bool:
    """Write an entry; False if a file could not be opened, which may succeed another time.

    Args:
        folder: the folder of the entry.
        paths: the image files.
        decoding: how they are decoded.
        others: entries that may contain the decoded images already.
    """
    complete = any(_take(folder, other, len(paths)) for other in others) or _decode(folder, paths, decoding)
    keys = read_json(folder / _INDEX, MOST_TEXT + len(paths) * _INDEX_BYTES)["keys"]
    compared = np.load(folder / _COMPARED, mmap_mode="r" if paths else None)
    pairs = decoding.near_copies(compared, keys, np.load(folder / _SLICES))
    with (folder / _PAIRS).open("wb") as file:
        np.save(file, np.stack([pairs.first, pairs.second, pairs.turn, pairs.registered.astype(np.int32)]))
    sums = [f"{_sha256(folder / name)}  {name}\n" for name in (*_DECODED, _PAIRS)]
    (folder / _SUMS).write_text("".join(sums))
    return complete


def _take(folder: Path, other: Path, n: int) -> bool:
    """Copy the decoded images of another entry, unless it is damaged."""
    try:
        _open(other, n)
        _verify(other, _COMPARED)
        if _mapped(other / _COMPARED, np.dtype(np.uint8)).shape != (n, COMPARED_SIDE, COMPARED_SIDE):
            return False
        for name in _DECODED:
            shutil.copyfile(other / name, folder / name)
    except (OSError, ValueError, RefusedError, DamagedError):
        return False
    return True


def _decode(folder: Path, paths: Sequence[Path], decoding: Decoding) -> bool:
    """Decode the files of an entry; False if one could not be opened."""
    complete = True
    keys: list[str] = []
    shapes: list[tuple[int, int]] = []
    patients: list[str] = []
    stored: list[tuple[int, int, bool]] = []
    unreadable: dict[int, str] = {}
    size = decoding.image_size
    announce(f"reading {len(paths):,} images and comparing them (first time only)", _SECONDS * len(paths))
    # Plain writes raise if the disk is full; writing through a memory map would kill the process.
    with (folder / _IMAGES).open("wb") as images, (folder / _COMPARED).open("wb") as compared:
        for file, side in ((images, size), (compared, COMPARED_SIDE)):
            shape = (len(paths), side, side)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for i, result in enumerate(_decoded(paths, decoding)):
            if isinstance(result, BaseException):
                unreadable[i] = printable(str(result).partition("\n")[0])[:_LETTERS]
                complete &= not (isinstance(result, OSError) and result.errno)
                result = _Decoded("", (0, 0), bytes(size**2), bytes(COMPARED_SIDE**2), "", (0, 0, False))
            keys.append(result.key)
            shapes.append(result.shape)
            patients.append(result.patient)
            stored.append(result.stored)
            images.write(result.image)
            compared.write(result.compared)
    map_ = np.load(folder / _COMPARED, mmap_mode="r" if paths else None)
    blocks = [figshare.signatures(map_[i : i + _AT_ONCE]) for i in range(0, len(map_), _AT_ONCE)]
    slices = figshare.recognise(np.concatenate(blocks))
    slices[[not key for key in keys]] = -1
    with (folder / _SLICES).open("wb") as file:
        np.save(file, slices)
    index = {
        "keys": keys,
        "shapes": shapes,
        "patients": _numbered(patients),
        "stored": stored,
        "unreadable": list(unreadable.items()),
    }
    (folder / _INDEX).write_text(json.dumps(index))
    return complete


@dataclass(frozen=True)
class _Decoded:
    key: str
    shape: tuple[int, int]
    image: bytes
    compared: bytes
    patient: str
    stored: tuple[int, int, bool]


def _numbered(patients: Sequence[str]) -> list[int]:
    """A number from 1 for each patient, in the order of appearance; 0 where there is none. IDs are not stored."""
    numbers = {patient: i for i, patient in enumerate(dict.fromkeys(filter(None, patients)), 1)}
    return [numbers.get(patient, 0) for patient in patients]


def _decoded(paths: Sequence[Path], decoding: Decoding) -> Iterator[_Decoded | BaseException]:
    with warnings_in_one_line():
        series = dicom.series_windows(paths) if decoding.range == "series" else {}

    def decode(path: Path) -> _Decoded | BaseException:
        try:
            read = read_file(path, decoding.white, decoding.range, series.get(path))
        except UNREADABLE as error:
            return error
        grey = read.grey
        height, width = grey.shape
        image = fit(grey, decoding.image_size, decoding.aspect_ratio).tobytes()
        same = decoding.image_size == COMPARED_SIDE and (decoding.aspect_ratio == "squash" or height == width)
        compared = image if same else fit(grey, COMPARED_SIDE, "squash").tobytes()
        key = hashlib.sha256(f"{height}x{width} ".encode() + grey.tobytes()).hexdigest()
        stored = read.peak, read.levels, read.coloured
        return _Decoded(key, (height, width), image, compared, dicom.patient_id(path), stored)

    with warnings_in_one_line(), ThreadPoolExecutor(os.cpu_count()) as pool:
        results = (
            result
            for start in range(0, len(paths), _AT_ONCE)
            for result in pool.map(decode, paths[start : start + _AT_ONCE])
        )
        yield from track(results, "reading images", "image", len(paths))


def _sha256(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):
        raise RefusedError("is not a regular file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sweep(cache: Path) -> None:
    """Remove what killed processes left behind, and entries unused for a month."""
    for prefix, kept in ((_UNFINISHED, _ABANDONED), (_FINISHED, _UNUSED)):
        for entry in cache.glob(f"{prefix}*"):
            with suppress(FileNotFoundError):  # another process was first
                if _NAMES[prefix].fullmatch(entry.name) and time() - entry.stat().st_mtime > kept:
                    _remove(entry)


def _remove(entry: Path) -> None:
    """Remove an entry, unless it is a link or contains other files than those of the cache."""
    with suppress(OSError):
        files = list(entry.iterdir())
        if not entry.is_symlink() and all(path.name in _FILES and path.is_file() for path in files):
            for path in files:
                path.unlink()
            entry.rmdir()


def _verify(entry: Path, *names: str) -> None:
    """Verify files of an entry by its checksums.

    Raises:
        OSError: if a file cannot be opened.
        RefusedError: if one is not a regular file, or the checksums are not text.
        DamagedError: if one was changed.
    """
    sums = read_text(entry / _SUMS)
    for name in names:
        if f"{_sha256(entry / name)}  {name}\n" not in sums:
            raise DamagedError(f"{name} does not match {_SUMS}")


def _open(entry: Path, n: int) -> Prepared:
    """Verify an entry by its checksums and memory-map it.

    Raises:
        DamagedError: if a file is missing, was changed, or does not have the form that `_write` writes.
    """
    try:
        _verify(entry, _IMAGES, _SLICES, _INDEX, _PAIRS)
        index = read_json(entry / _INDEX, MOST_TEXT + n * _INDEX_BYTES)
        keys, shapes = list(index["keys"]), [(height, width) for height, width in index["shapes"]]
        unreadable = {i: printable(reason) for i, reason in index["unreadable"]}
        if not len(keys) == len(shapes) == n or not all(map(_KEY.fullmatch, keys)):
            raise DamagedError(f"its index does not describe {n} images")
        if not all(type(side) is int and side >= 0 for shape in shapes for side in shape):
            raise DamagedError("its index contains invalid sizes")
        people = list(index["patients"])
        if len(people) != n or not all(type(number) is int and 0 <= number <= n for number in people):
            raise DamagedError("its index contains invalid patients")
        if {i for i, key in enumerate(keys) if not key} != {*unreadable}:
            raise DamagedError("its index is inconsistent")
        stored = [(peak, levels, coloured) for peak, levels, coloured in index["stored"]]
        if len(stored) != n or not all((type(p), type(v), type(c)) == (int, int, bool) for p, v, c in stored):
            raise DamagedError("its index contains invalid values")
        images = _mapped(entry / _IMAGES, np.dtype(np.uint8))
        first, second, turn, registered = _mapped(entry / _PAIRS, np.dtype(np.int32))
        slices = _mapped(entry / _SLICES, np.dtype(np.int32))
    except (OSError, ValueError, TypeError, KeyError, RefusedError) as error:
        raise DamagedError(printable(str(error).partition("\n")[0])) from error
    if len(images) != n or images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise DamagedError(f"does not contain {n} images")
    if slices.shape != (n,) or (n and not -1 <= slices.min() <= slices.max() < len(figshare.slices())):
        raise DamagedError("its published slices do not exist")
    numbers = np.stack([first, second])
    inside = not numbers.size or (
        0 <= numbers.min() <= numbers.max() < n and 0 <= turn.min() <= turn.max() < len(TURNS)
    )
    if numbers.ndim != 2 or not inside:
        raise DamagedError("its near-copies refer to images that do not exist")
    with suppress(OSError):  # the entry may belong to another user
        os.utime(entry, follow_symlinks=False)
    patients = [f"DICOM patient {number}" if number else "" for number in people]
    pairs = Pairs(first, second, turn, registered.astype(bool))
    peaks, levels, coloured = ([each[part] for each in stored] for part in range(3))
    return Prepared(images, keys, shapes, unreadable, pairs, slices, patients, peaks, levels, coloured)


def _mapped(path: Path, kind: "np.dtype[np.generic]") -> ndarray:
    """The memory-mapped array of a file, if the file has exactly the size that its header says.

    Raises:
        ValueError: otherwise.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        size = file.tell() + math.prod(shape) * dtype.itemsize
        if by_column or dtype != kind or min(shape, default=-1) < 0 or size != os.fstat(file.fileno()).st_size:
            raise ValueError(f"{path.name} contains a different array")
    # torch needs writable memory, although nothing is written to it. An empty array cannot be memory-mapped.
    array: ndarray = np.load(path, mmap_mode="c" if math.prod(shape) else None)
    return array
