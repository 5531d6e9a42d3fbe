"""List the files below a folder, in archives too."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vaegan_pl.errors import UserError
from vaegan_pl.importing import archives
from vaegan_pl.importing.volumes import Found

log = logging.getLogger(__name__)


def check_folder(folder: Path) -> None:
    """Check that there is something to import.

    Raises:
        UserError: if there is not.
    """
    if not folder.exists():
        raise UserError(f"from={folder}: no such file or folder; give the folder, file or archive to import")


def files_below(folder: Path, without: Path | None = None) -> list[Found]:
    """All files below a folder or the file itself, sorted by name; hidden files and folders are skipped.

    Args:
        folder: the folder or file.
        without: a folder that is skipped; None for none.
    """
    if folder.is_file():
        return [Found(folder.name, folder)]
    found = []
    hidden = None if without is None else without.resolve()
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith((".", "__")) and Path(parent, name).resolve() != hidden
        ]
        for name in names:
            path = Path(parent, name)
            if not name.startswith((".", "__")) and path.is_file():
                found.append(Found(path.relative_to(folder).as_posix(), path))
    return sorted(found, key=lambda file: file.name)


def with_unpacked(files: Sequence[Found], temporary: Path, limit: int) -> list[Found]:
    """Files with the contents of archives in place of the archives.

    Args:
        files: the files.
        temporary: a folder to unpack into.
        limit: the largest sum of sizes in each archive, in bytes.

    Raises:
        UserError: if an archive cannot be unpacked safely.
    """
    found = []
    for i, file in enumerate(files):
        if not archives.is_archive(file.name):
            found.append(file)
            continue
        log.info("unpacking %s", file.name)
        archives.unpack(file.path, temporary / str(i), limit)
        inside = _without_wrapper(files_below(temporary / str(i)))
        prefix = "" if len(files) == 1 else f"{archives.stem(file.name)}/"
        found += [Found(f"{prefix}{member.name}", member.path) for member in inside]
    return sorted(found, key=lambda file: file.name)


def _without_wrapper(files: Sequence[Found]) -> Sequence[Found]:
    """Files without the one folder that wraps all of them in many archives, if there are folders in it."""
    parts = [PurePosixPath(file.name).parts for file in files]
    if len({of_file[0] for of_file in parts}) != 1 or min(map(len, parts), default=0) < 3:
        return files
    return [Found("/".join(names[1:]), file.path) for file, names in zip(files, parts, strict=True)]
