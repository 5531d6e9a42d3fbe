"""Output folders of commands: only files that this project wrote may be replaced or removed."""

import re
from collections.abc import Iterable
from pathlib import Path

from vaegan_pl import __version__
from vaegan_pl.errors import UserError

MADE_BY = f"vaegan_pl {__version__}"
"""The marker in written files: `Software` in pictures, the generator in pages, `made_by` in JSON."""

_MARKS = (
    b"vaegan_pl",
    b"rank,job,seed,",  # a sweep's CSV has no place for more
    b"synthetic; trained on",  # pictures of versions before 0.2
    b"reconstruction; trained on",
)
_NEAR_THE_ENDS = 2**16


def is_ours(path: Path) -> bool:
    """Whether a file says, near its start or end, that this project wrote it; links, folders and devices do not."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(_NEAR_THE_ENDS)
        file.seek(max(0, path.stat().st_size - _NEAR_THE_ENDS))
        end = file.read(_NEAR_THE_ENDS)
    return any(mark in part for mark in _MARKS for part in (start, end))


def claim(folder: Path, names: str, overwrite: bool) -> list[Path]:
    """The files of a folder that a command is about to replace or remove.

    Args:
        folder: where the command writes; it need not exist.
        names: regular expression of the names of everything that it writes, now or in earlier calls.
        overwrite: whether files of these names that somebody else made may go, too.

    Raises:
        UserError: if there is such a file, and `overwrite` does not say that it may go.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a folder to write into")
    found = [path for path in sorted(folder.glob("*")) if re.fullmatch(names, path.name)]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            raise UserError(f"{path}: is a folder where a file is to be written; write into another folder")
        if not overwrite and not is_ours(path):
            raise UserError(
                f"{path}: was not written by this project and would be replaced or removed; write into another folder, "
                "or add overwrite=true"
            )
    return found


def remove(earlier: Iterable[Path], kept: Iterable[Path]) -> None:
    """Remove the files of an earlier call that this one did not write again, so that two calls never mix."""
    for path in {*earlier} - {*kept}:
        path.unlink(missing_ok=True)
