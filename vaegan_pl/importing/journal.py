"""The record of an import in its folder, by which it is continued: `imported.jsonl`."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaegan_pl.data.patients import IMPORTED
from vaegan_pl.errors import UserError
from vaegan_pl.importing.volumes import LeftOut
from vaegan_pl.storage.files import RefusedError, read_text
from vaegan_pl.storage.outputs import MADE_BY

_MOST_BYTES = 2**30

UNPACKED = ".unpacked"
"""The folder, inside the folder that is imported into, in which archives are unpacked."""


@dataclass(frozen=True)
class Entry:
    """A finished source.

    Attributes:
        source: its stem, which names no patient.
        stamp: see `Source.stamp`.
        files: its pictures, relative to the folder, with their patients.
        left_out: what was left out of it.
    """

    source: str
    stamp: str
    files: dict[str, str]
    left_out: list[LeftOut]


class Journal:
    """The record of an import.

    A line is written before the first picture of a source and another one after the last. Pictures of a source that
    was not finished are removed when the import is continued.

    Args:
        folder: the folder that is imported into; `start` creates it.
        options: the options of the import.

    Raises:
        UserError: if the folder contains other things, or an import with other options.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / IMPORTED
        self.done: dict[str, Entry] = {}
        self.begun: set[str] = set()
        if folder.exists() and not folder.is_dir():
            raise UserError(f"to={folder}: is a file; give a folder to import into")
        self.options = dict(options)
        if self.path.is_file():
            self._read()
        elif folder.is_dir() and any(entry.name != UNPACKED for entry in folder.iterdir()):
            raise UserError(f"to={folder}: is not empty, and holds no import to continue; give a new folder")

    def start(self) -> None:
        """Create the folder and the record, unless an import is continued."""
        if not self.path.is_file() or not self.path.stat().st_size:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._append({"made_by": MADE_BY, "options": self.options})

    def _read(self) -> None:
        try:
            text = read_text(self.path, _MOST_BYTES)
        except RefusedError as error:
            raise UserError(f"{self.path}: {error}; import into a new folder") from error
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # the last line was not finished
            os.truncate(self.path, len(whole.encode()))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            before = lines[0]["options"] if lines else self.options
            entries = [line if "begun" in line else _entry(line) for line in lines[1:]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path}: is damaged; import into a new folder") from error
        for name, value in self.options.items():
            if before.get(name) != value:
                shown = "" if name in ("from", "table") else f" ({before.get(name)}, now {value})"
                raise UserError(
                    f"to={self.folder}: holds an import with another {name}{shown}; import into a new folder"
                )
        for entry in entries:
            if isinstance(entry, Entry):
                self.done[entry.source] = entry
                self.begun.discard(entry.source)
            else:
                self.begun.add(str(entry["begun"]))
                self.done.pop(str(entry["begun"]), None)

    def is_done(self, source: str, stamp: str) -> bool:
        """Whether a source was finished, has not changed, and all its pictures are there."""
        entry = self.done.get(source)
        return (
            entry is not None and entry.stamp == stamp and all((self.folder / name).is_file() for name in entry.files)
        )

    def begin(self, source: str) -> None:
        """Record that the pictures of a source are about to be written, and remove earlier ones.

        Pictures of an unfinished source are not recorded, but all names begin with its stem.
        """
        entry = self.done.pop(source, None)
        earlier = [self.folder / name for name in entry.files] if entry is not None else []
        if source in self.begun:
            earlier += [path for path in self.folder.rglob("*.png") if path.name.startswith(source)]
        for path in earlier:
            path.unlink(missing_ok=True)
        self.begun.add(source)
        self._append({"begun": source})

    def finish(self, entry: Entry) -> None:
        """Record that a source is finished."""
        self.done[entry.source] = entry
        self.begun.discard(entry.source)
        self._append(asdict(entry))

    def _append(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(line) + "\n")


def _entry(line: dict[str, Any]) -> Entry:
    files = {str(name): str(patient) for name, patient in line["files"].items()}
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError("paths that lead elsewhere")
    left_out = [LeftOut(str(part["name"]), str(part["reason"])) for part in line["left_out"]]
    return Entry(str(line["source"]), str(line["stamp"]), files, left_out)
