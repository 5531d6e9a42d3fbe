"""Unpack .zip and .tar archives safely: nothing is written outside the folder, and sizes are known first."""

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import first_line, printable

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

MOST_FILES = 2_000_000
_AT_ONCE = 2**20
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What the standard library raises for archives that are damaged, encrypted or of an unknown kind."""


def is_archive(name: str) -> bool:
    """Whether a file name is that of an archive."""
    return name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """A file name without the suffix of an archive."""
    suffix = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len)
    return name[: -len(suffix)]


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Unpack all files of an archive.

    Args:
        archive: the file.
        folder: a new folder to unpack into.
        limit: the largest sum of sizes in bytes.

    Raises:
        UserError: if the archive is damaged, too large for `limit` or the disk, or a member is a link, a device, or
            would be written outside the folder; nothing is unpacked then. Damage, names that occur twice and members
            larger than they declare may be noticed only after others are unpacked.
    """
    try:
        if archive.name.lower().endswith(".zip"):
            _unpack_zip(archive, folder, limit)
        else:
            _unpack_tar(archive, folder, limit)
    except _DAMAGED as error:
        raise UserError(f"{archive}: is damaged or encrypted ({first_line(error)}); unpack it by hand") from error


def _unpack_zip(archive: Path, folder: Path, limit: int) -> None:
    with zipfile.ZipFile(archive) as file:
        members = [member for member in file.infolist() if not member.is_dir()]
        for member in members:
            mode = stat.S_IFMT(member.external_attr >> 16)
            _check_member(archive, member.filename, mode in (0, stat.S_IFREG))
        _check_size(archive, folder, [member.file_size for member in members], limit)
        modified = archive.stat().st_mtime_ns
        for member in members:
            with file.open(member) as source:
                _write(archive, source, folder / member.filename, member.file_size, modified)


def _unpack_tar(archive: Path, folder: Path, limit: int) -> None:
    sizes: list[int] = []
    total = 0
    with tarfile.open(archive) as file:  # once through, since no part of it says how large the whole is
        for member in _members(file, archive):
            sizes.append(member.size)
            total += member.size
            if len(sizes) > MOST_FILES or total > limit:
                break
        else:
            _check_end(file, limit - total)
    _check_size(archive, folder, sizes, limit)
    modified = archive.stat().st_mtime_ns
    with tarfile.open(archive) as file:
        for member in _members(file, archive):
            source = file.extractfile(member)
            assert source is not None
            with source:
                _write(archive, source, folder / member.name, member.size, modified)


def _check_end(file: tarfile.TarFile, most: int) -> None:
    """Read an archive to its end, where compressed files have a checksum.

    Raises:
        ValueError: if much more than files follows.
    """
    assert file.fileobj is not None
    while data := file.fileobj.read(_AT_ONCE):
        most -= len(data)
        if most < -_AT_ONCE:
            raise ValueError("data behind its end")


def _members(file: tarfile.TarFile, archive: Path) -> Iterator[tarfile.TarInfo]:
    """The files in a tar archive, each checked; folders are left out."""
    for member in file:
        if not member.isdir():
            _check_member(archive, member.name, member.isreg())
            yield member


def _check_member(archive: Path, name: str, is_file: bool) -> None:
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts or not path.parts
    if outside or PureWindowsPath(name).drive or "\\" in name or "\0" in name:
        raise UserError(f"{archive}: {printable(name)} would be written outside its folder; do not use this archive")
    if not is_file:
        raise UserError(f"{archive}: {printable(name)} is a link or a device; unpack it by hand")


def _check_size(archive: Path, folder: Path, sizes: list[int], limit: int) -> None:
    total = sum(sizes)
    if total > limit or len(sizes) > MOST_FILES:
        raise UserError(
            f"{archive}: holds {len(sizes):,} files of {total / 1e9:.1f} GB, more than most_gigabytes={limit / 1e9:g} "
            "allows; raise it, or unpack by hand what you need"
        )
    folder.mkdir(parents=True)
    free = shutil.disk_usage(folder).free
    if total > 0.95 * free:
        raise UserError(
            f"{archive}: needs {total / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left; free some space"
        )


def _write(archive: Path, source: IO[bytes], path: Path, size: int, modified: int) -> None:
    """Write a member, of no more than the size that it declares, with the archive's time of modification."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = size
    if path.exists():
        raise UserError(f"{archive}: holds {printable(path.name)} twice; unpack it by hand")
    with path.open("xb") as file:
        while data := source.read(min(_AT_ONCE, left + 1)):
            left -= len(data)
            if left < 0:
                raise UserError(
                    f"{archive}: {printable(path.name)} is larger than it declares; do not use this archive"
                )
            file.write(data)
    os.utime(path, ns=(modified, modified))
