"""Output folders of commands, in which only files that this project wrote may be replaced or removed."""

import json
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image

from vaegan_pl.errors import UserError
from vaegan_pl.storage.files import MOST_TEXT, RefusedError, read_bytes, read_json
from vaegan_pl.version import __version__

_OURS = "vaegan_pl "
MADE_BY = f"{_OURS}{__version__}"
"""The marker in files that this project writes: `Software` in pictures, the generator in pages, `made_by` in JSON."""

_EARLIER = ("synthetic; trained on", "reconstruction; trained on")
"""How the descriptions begin in pictures written by versions before 0.2."""

_MOST_BYTES = 2**26


def is_ours(path: Path) -> bool:
    """Whether a file's metadata says that this project wrote it; False for links, folders and devices."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        return _KINDS[path.suffix](path)
    except (KeyError, RefusedError, ValueError, TypeError, AttributeError, SyntaxError, zipfile.BadZipFile):
        return False


def _is_picture(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(BytesIO(read_bytes(path, _MOST_BYTES)), formats=["PNG", "GIF"]) as picture:
                found = [picture.info.get(key, "") for key in ("Software", "Description", "comment")]
        except (OSError, Image.DecompressionBombError):
            return False
    texts = [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in found]
    return any(text.startswith(_OURS) for text in texts) or texts[1].startswith(_EARLIER)


def _is_page(path: Path) -> bool:
    head = read_bytes(path, _MOST_BYTES)[:4096]
    return re.search(rb'<meta name="generator" content="vaegan_pl ', head) is not None


def _is_json(path: Path) -> bool:
    return str(read_json(path, _MOST_BYTES)["made_by"]).startswith(_OURS)


def _is_table(path: Path) -> bool:
    """CSV files have no metadata: a sweep's is recognised by its columns and by the JSON file next to it."""
    with path.open("rb") as file:
        return file.read(14) == b"rank,job,seed," and is_ours(path.with_suffix(".json"))


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return size < MOST_TEXT and "vaegan_pl" in json.loads(file.read(size))["__metadata__"]


def _is_onnx(path: Path) -> bool:
    """Look for an entry of `metadata_props`: field 1 is the key, of 9 bytes; field 2 follows."""
    return b"\x0a\x09vaegan_pl\x12" in path.read_bytes()


def _is_pt2(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/extra/vaegan_pl") for name in archive.namelist())


def _is_model(path: Path) -> bool:
    """Look for the name of the format among the values of the pickle."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(name) as file:
            return b"vaegan_pl" in file.read(4096)


def _is_density(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive, archive.open("made_by.npy") as file:
        return _OURS.encode() in file.read(4096)


_KINDS = {
    ".png": _is_picture,
    ".gif": _is_picture,
    ".html": _is_page,
    ".json": _is_json,
    ".csv": _is_table,
    ".safetensors": _is_safetensors,
    ".onnx": _is_onnx,
    ".pt2": _is_pt2,
    ".npz": _is_density,
    ".pth": _is_model,
}


def claim(folder: Path, names: str, overwrite: bool) -> list[Path]:
    """The files in a folder that a command is about to replace or remove.

    Args:
        folder: the command's output folder; it need not exist.
        names: regular expression for the names of all files that the command writes, now or in earlier calls.
        overwrite: whether files of these names that this project did not write may be replaced or removed, too.

    Raises:
        UserError: if there are such files and `overwrite` is False, or a folder has such a name.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a folder to write into")
    found = [path for path in sorted(folder.glob("*")) if re.fullmatch(names, path.name, re.DOTALL)]
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
    """Remove files of an earlier call that this call did not write again, so that outputs of two calls never mix."""
    for path in {*earlier} - {*kept}:
        path.unlink(missing_ok=True)
