"""What to do about a folder in which the class folders or their images are not found.

Each function returns a sentence that names an option or a command, or None if its case does not apply.
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from vaegan_pl.console import as_option, as_typed, quoted
from vaegan_pl.storage.files import printable

Fits = Callable[[Path, Sequence[str] | None, Mapping[str, str]], bool]
"""Whether a root, with classes and additional aliases, can be read."""

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
VOLUMES = (".nii", ".nii.gz", ".mgz", ".mgh", ".ima")
"""Suffixes of files that `import_images` reads."""

_OTHER_ARCHIVES, _OTHER_VOLUMES = (".7z", ".rar"), (".mha", ".mhd", ".nrrd")
"""Suffixes of files that it does not read."""

_DEEPEST, _MOST_FOLDERS, _MOST_FILES = 3, 300, 2000
_SHOWN = 3
_KEY = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_DICM_AT = 128


def file_as_root(path: Path) -> str:
    """What to do with a file in place of a folder."""
    kind = _special(path)
    if kind in ARCHIVES:
        return f"is an archive; unpack it and set data.root to the new folder, or use {import_command(path)}"
    if kind is not None:
        return f"is a volume; use {import_command(path)}"
    if path.name.lower().endswith(_OTHER_ARCHIVES):
        return "is an archive; unpack it and set data.root to the new folder"
    if path.name.lower().endswith(_OTHER_VOLUMES):
        return "is a volume; convert it to NIfTI, and then use python -m vaegan_pl.import_images"
    return "is a file; set data.root to the folder that holds the class folders"


def _special(path: Path) -> str | None:
    """The suffix of a volume or an archive; None for other files."""
    return next((suffix for suffix in (*VOLUMES, *ARCHIVES) if path.name.lower().endswith(suffix)), None)


def kinds_in(folder: Path) -> str:
    """What a folder contains by kind, such as "12 .txt, 3 folders"."""
    counts = Counter("folder" if entry.is_dir() else _suffix(entry) for entry in visible(folder))
    plurals = {"folder": "folders", "file without suffix": "files without suffix"}
    kinds = (f"{n} {kind if n == 1 else plurals.get(kind, kind)}" for kind, n in counts.most_common())
    return printable(", ".join(kinds)) or "nothing"


def _suffix(path: Path) -> str:
    return _special(path) or path.suffix.lower() or "file without suffix"


def visible(folder: Path) -> list[Path]:
    """The entries of a folder that are not hidden, sorted; none if it cannot be opened."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))
    except OSError:
        return []


def deeper(root: Path, classes: Sequence[str] | None, fits: Fits) -> str | None:
    """If the class folders are below the root: the `data.root` that works."""
    level = [root]
    for _ in range(_DEEPEST):
        level = [entry for folder in level for entry in visible(folder) if entry.is_dir()][:_MOST_FOLDERS]
        found = [folder for folder in level if fits(folder, classes, {})]
        if found:
            one = as_typed("data.root", found[0])
            if len(found) == 1:
                return f"the class folders are in {found[0]}; use {one}"
            names = ", ".join(printable(folder.relative_to(root)) for folder in found[:_SHOWN])
            return (
                f"several folders contain class folders ({names}{', ...' if len(found) > _SHOWN else ''}); for one of "
                f"them use {one}; if they are splits, rename them to Training and Testing"
                + ("; if they are classes, move their images directly into them" if classes is None else "")
            )
    return None


def renamed(root: Path, classes: Sequence[str], missing: Sequence[str], there: Sequence[str], fits: Fits) -> str | None:
    """If each missing class has a folder of a similar name: the aliases that work."""
    aliases: dict[str, str] = {}
    for name in missing:
        similar = [folder for folder in there if folder not in aliases and _is_similar(folder, name)]
        if len(similar) != 1:
            return None
        aliases[similar[0]] = name
    if not aliases:
        return None
    keys = {re.sub(r"[ -]", "_", folder): name for folder, name in aliases.items()}
    if all(map(_KEY.fullmatch, keys)) and fits(root, classes, keys):
        return f"add {' '.join(as_typed(f'+data.aliases.{key}', name) for key, name in keys.items())}"
    moves = ", ".join(f"{printable(folder)} to {name}" for folder, name in aliases.items())
    return f"rename {moves}"


def _is_similar(folder: str, name: str) -> bool:
    one, other = (re.sub(r"[\W_]", "", text).lower() for text in (folder, name))
    contained = min(len(one), len(other)) > 3 and (one in other or other in one)
    return contained or difflib.SequenceMatcher(None, one, other).ratio() > 0.75


def loose(root: Path, n: int, classes: Sequence[str] | None, fits: Fits) -> str | None:
    """If the root itself contains `n` images: the options that use them."""
    if not n:
        return None
    says = f"{n} images are in {root} itself, not in class folders"
    parent, name = root.resolve().parent, root.resolve().name
    if classes is not None and fits(parent, classes, {}):
        return f"{says}; it seems to be one of the class folders: use {as_typed('data.root', parent)}"
    if fits(parent, [name], {}):
        return f"{says}; to use them as one class: {as_typed('data.root', parent)} {named([name])}"
    return f"{says}; move them into a folder for each class"


def imported(root: Path) -> str | None:
    """If there are volumes, DICOM files without suffix, or archives: the command that imports them."""
    for path in _files(root):
        kind = _special(path)
        if kind is None and not path.suffix.strip(".0123456789") and _is_dicom(path):
            kind = "DICOM files without the suffix .dcm"
        if kind is not None:
            what = f"{kind} files" if kind.startswith(".") else kind
            return f"there are {what}, such as {printable(path)}; to turn them into images, use {import_command(root)}"
    return None


def listed(root: Path, there: Sequence[str], fits: Fits) -> str | None:
    """If the folders that are there can be used as classes: the option that does it."""
    if there and fits(root, there, {}):
        return f"to use these folders as classes: {named(there)}"
    return None


def named(classes: Sequence[str]) -> str:
    """`data.classes` with some classes, quoted for a shell."""
    return quoted(f"data.classes=[{','.join(as_option('', name)[1:] for name in classes)}]")


def import_command(path: Path) -> str:
    """The command that imports volumes, series, tables and archives."""
    return f"python -m vaegan_pl.import_images {as_typed('from', path)} to=NEW_FOLDER"


def _files(root: Path) -> Iterator[Path]:
    seen = 0
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(files):
            seen += 1
            if seen > _MOST_FILES:
                return
            if not name.startswith("."):
                yield Path(folder, name)


def _is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM after its preamble."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(_DICM_AT + 4)[_DICM_AT:] == b"DICM"
    except OSError:
        return False
