"""Convert sources one after the other into PNG files, and write the table of patients and the report."""

import csv
import io
import json
import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vaegan_pl.data.patients import REPORT, TABLE
from vaegan_pl.importing.journal import Entry, Journal
from vaegan_pl.importing.labelling import Source
from vaegan_pl.importing.slices import Cutting, cut
from vaegan_pl.importing.volumes import LeftOut, LeftOutError, Picture, Volume
from vaegan_pl.progress import track
from vaegan_pl.storage.files import atomic_write, printable
from vaegan_pl.storage.outputs import MADE_BY

_KINDS = 6
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Imported:
    """What an import has written.

    Attributes:
        files: the pictures, relative to the folder, with their patients, sorted.
        left_out: what was left out.
        skipped: how many sources were finished by an earlier call.
    """

    files: dict[str, str]
    left_out: list[LeftOut]
    skipped: int

    @property
    def classes(self) -> dict[str, list[str]]:
        """The pictures of each class, over all splits."""
        found = defaultdict(list)
        for name in self.files:
            found[PurePosixPath(name).parent.name].append(name)
        return {label: found[label] for label in sorted(found)}

    def patients(self, files: Sequence[str]) -> int:
        """How many patients are known among pictures."""
        return len({self.files[name] for name in files} - {""})

    @property
    def reasons(self) -> str:
        """How many files or series were left out for each reason, most frequent first."""
        counts = Counter(part.reason.partition(":")[0] for part in self.left_out).most_common()
        shown = [f"{n} {reason}" for reason, n in counts[:_KINDS]]
        rest = sum(n for _, n in counts[_KINDS:])
        return "; ".join([*shown, f"{rest} for other reasons"] if rest else shown)


def write(
    sources: Sequence[Source],
    journal: Journal,
    how: Cutting,
    folder_of: Callable[[str], str],
    hidden: Callable[[str], str],
    workers: int,
) -> Imported:
    """Import the sources that are not finished yet.

    Args:
        sources: the sources.
        journal: the record of the import.
        how: how volumes are cut.
        folder_of: the class folder of a label that a picture brings itself.
        hidden: removes what names patients from a message.
        workers: how many sources are read at a time.

    Raises:
        UserError: if a label cannot be the name of a folder.
    """
    for name in (REPORT, TABLE):
        (journal.folder / name).unlink(missing_ok=True)
    stems = {source.stem for source in sources}
    for stem in [stem for stem in journal.done if stem not in stems]:
        journal.begin(stem)  # it has left the folder that is imported, and its pictures go, too
    todo = [source for source in sources if not journal.is_done(source.stem, source.stamp)]

    def convert(source: Source) -> Entry:
        return _convert(source, journal.folder, how, folder_of, hidden)

    with ThreadPoolExecutor(workers) as pool:
        running: set[Future[Entry]] = set()
        try:
            for source in track(todo, "importing", "source"):
                journal.begin(source.stem)
                running.add(pool.submit(convert, source))
                if len(running) == workers:
                    running = _finish(running, journal)
            while running:
                running = _finish(running, journal)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    entries = [journal.done[source.stem] for source in sources]
    files = {name: patient for entry in entries for name, patient in entry.files.items()}
    left_out = [part for entry in entries for part in entry.left_out]
    return Imported(dict(sorted(files.items())), left_out, len(sources) - len(todo))


def _finish(running: set[Future[Entry]], journal: Journal) -> set[Future[Entry]]:
    """Record the sources that are converted, waiting for one; the others."""
    done, left = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        journal.finish(future.result())
    return left


def _convert(
    source: Source, folder: Path, how: Cutting, folder_of: Callable[[str], str], hidden: Callable[[str], str]
) -> Entry:
    """Write the pictures of a source."""
    files: dict[str, str] = {}
    left_out: list[LeftOut] = []
    try:
        for part in source.read():
            for picture in cut(part, how) if isinstance(part, Volume) else [part]:
                if isinstance(picture, LeftOut):
                    left_out.append(picture)
                    continue
                label = source.label or folder_of(picture.label or "")
                name = "-".join(filter(None, (source.stem, picture.name)))
                path = PurePosixPath(picture.split or source.split, label, f"{name}.png")
                _save(picture, folder / path)
                files[str(path)] = printable(source.patient or picture.patient or "")
    except LeftOutError as error:
        left_out.append(LeftOut("", str(error)))
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.filename is not None and Path(error.filename).is_relative_to(folder):
            raise
        left_out.append(
            LeftOut("", f"cannot be read: {error}" if isinstance(error, OSError) else "too large for memory")
        )
    named = [replace(part, name=part.name or source.name) for part in left_out]
    return Entry(source.stem, source.stamp, files, [tidy(part, hidden) for part in named])


def tidy(part: LeftOut, hidden: Callable[[str], str]) -> LeftOut:
    """What was left out, as it may be shown and written."""
    return LeftOut(hidden(printable(part.name)), hidden(printable(part.reason.strip()))[:_LONGEST_REASON])


def _save(picture: Picture, path: Path) -> None:
    info = PngInfo()
    info.add_text("Software", MADE_BY)
    buffer = io.BytesIO()
    Image.fromarray(picture.grey).save(buffer, "PNG", pnginfo=info, compress_level=1)
    atomic_write(path, buffer.getvalue(), durable=False)


def write_tables(imported: Imported, folder: Path) -> None:
    """Write `patients.csv`, if any patient is known, and then the report, with which the import has finished."""
    rows = [(name, patient) for name, patient in imported.files.items() if patient]
    if rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("path", "patient"), *rows])
        atomic_write(folder / TABLE, text.getvalue())
    classes = {
        label: {"slices": len(files), "patients": imported.patients(files)} for label, files in imported.classes.items()
    }
    report = {
        "made_by": MADE_BY,
        "slices": len(imported.files),
        "patients": imported.patients(list(imported.files)),
        "classes": classes,
        "left_out": [asdict(part) for part in imported.left_out],
    }
    atomic_write(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep warnings of decoders from the console; what cannot be read is in the report."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "nibabel")]
    nothing = logging.NullHandler()
    with suppress(ImportError):
        import gdcm

        gdcm.Trace.WarningOff()
        gdcm.Trace.ErrorOff()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.addHandler(nothing)
            logger.propagate = False
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(nothing)
                logger.propagate = True
