"""Import what people have: `python -m vaegan_pl.import_images from=PATH to=DIR`."""

import hashlib
import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaegan_pl.cli import commands
from vaegan_pl.console import as_typed
from vaegan_pl.errors import UserError
from vaegan_pl.importing import dicom_headers, listing, scan, tables, writer
from vaegan_pl.importing.journal import UNPACKED, Journal
from vaegan_pl.importing.labelling import Labelling
from vaegan_pl.importing.slices import Cutting
from vaegan_pl.importing.volumes import ACQUIRED, PLANES, Found
from vaegan_pl.storage.files import RefusedError, printable, read_bytes

log = logging.getLogger(__name__)

_NO_EFFECT = frozenset({"to", "workers", "most_gigabytes"})
"""Options that do not change what is written."""

_MOST_TABLE = 2**26


def import_images(config: DictConfig) -> None:
    """Write class folders, `patients.csv`, a contact sheet and a report, and log the main numbers."""
    folder, to = Path(str(config["from"])), Path(str(config.to))
    choosing = scan.Choosing(
        [str(pattern) for pattern in config.include],
        _pattern(config, "series", groups=0),
        None if config.class_tag is None else str(config.class_tag),
        _whole(config, "volume", 0),
        _cutting(config),
    )
    workers = _whole(config, "workers", 1) or 1
    if choosing.class_tag is not None:
        dicom_headers.check_keyword(choosing.class_tag)
    listing.check_folder(folder)
    if to.resolve() == folder.resolve():
        raise UserError(f"to={to}: is the folder that is imported; give a new one")
    journal = Journal(to, _fingerprint(config))
    unpacked = to / UNPACKED
    try:
        files = listing.files_below(folder, to)
        if unpacked.exists():
            shutil.rmtree(unpacked)  # of a call that was killed
        files = listing.with_unpacked(files, unpacked, int(float(config.most_gigabytes) * 1e9))
        imported = _import(config, files, folder, journal, choosing, workers)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
        if to.is_dir() and not any(to.iterdir()):
            to.rmdir()
    _show(imported, to)


def _import(
    config: DictConfig, files: list[Found], folder: Path, journal: Journal, choosing: scan.Choosing, workers: int
) -> writer.Imported:
    """Import files, and write everything but the contact sheet."""
    with writer.quiet_libraries():
        found, left_out, hidden = scan.sources(files, choosing)
        labelling = _labelling(config, files)
        try:
            sources, unlabelled = labelling(found, folder)
            journal.start()
            imported = writer.write(sources, journal, choosing.cutting, labelling.folder_of, hidden, workers)
        except UserError as error:
            raise UserError(hidden(str(error))) from error
    others = [writer.tidy(part, hidden) for part in [*left_out, *unlabelled]]
    imported = writer.Imported(imported.files, [*others, *imported.left_out], imported.skipped)
    if not imported.files:
        raise UserError(f"from={folder}: nothing could be imported ({imported.reasons or 'it holds no files'})")
    writer.write_tables(imported, journal.folder)
    return imported


def _show(imported: writer.Imported, to: Path) -> None:
    """Write the contact sheet, and log what was imported, what was left out, and how to go on."""
    commands.import_torch("torchvision")
    from vaegan_pl.data.patients import CONTACT_SHEET, REPORT
    from vaegan_pl.report.contact_sheet import contact_sheet
    from vaegan_pl.report.pictures import save_png

    titles = {}
    for label, files in imported.classes.items():
        n = imported.patients(files)
        titles[label] = f"{label}: {len(files):,} slices" + (f" of {n:,} patients" if n else "")
    save_png(contact_sheet(to, imported.classes, titles), to / CONTACT_SHEET, "Slices that import_images wrote")
    if imported.skipped:
        log.info("continued    %d files or series were finished before", imported.skipped)
    patients = imported.patients(list(imported.files))
    log.info(
        "imported     %s slices, %s",
        f"{len(imported.files):,}",
        f"{patients:,} patients" if patients else "patients unknown",
    )
    for title in titles.values():
        log.info("  %s", title)
    if imported.left_out:
        log.info("left out     %d files or series: %s; see %s", len(imported.left_out), imported.reasons, to / REPORT)
    if len(titles) > 2 and all(imported.patients(files) == 1 for files in imported.classes.values()):
        log.warning(
            "WARNING      each class has only one patient; if the folders are patients, give table or class_pattern"
        )
    log.info("look at      %s", to / CONTACT_SHEET)
    command = ["python -m vaegan_pl.inspect_data", "data=mri", as_typed("data.root", to.resolve()), "data.classes=null"]
    log.info("then         %s", " ".join(command))


def _cutting(config: DictConfig) -> Cutting:
    """How volumes are cut.

    Raises:
        UserError: if an option is out of range.
    """
    planes = (ACQUIRED, *PLANES[::-1], "all")
    if config.plane not in planes:
        raise UserError(f"plane={config.plane}: must be one of {', '.join(planes)}")
    first, last = _range(config, "slices", 1)
    lowest, highest = _range(config, "percentiles", 100)
    if not 0 <= config.empty < 1:
        raise UserError(f"empty={config.empty}: must be a number of at least 0 and below 1")
    if not 0 < config.most_gigabytes < math.inf:
        raise UserError(f"most_gigabytes={config.most_gigabytes}: must be a number above 0")
    every = _whole(config, "every", 1) or 1
    return Cutting(config.plane, first, last, every, lowest, highest, float(config.empty), bool(config.dicom_window))


def _range(config: DictConfig, name: str, most: float) -> tuple[float, float]:
    values = list(config[name])
    if len(values) != 2 or not all(isinstance(value, int | float) and 0 <= value <= most for value in values):
        raise UserError(f"{name}={values}: must be two numbers from 0 to {most:g}, such as '{name}=[0,{most:g}]'")
    if not values[0] < values[1]:
        raise UserError(f"{name}={values}: the first number must be smaller than the second")
    return float(values[0]), float(values[1])


def _whole(config: DictConfig, name: str, least: int) -> int | None:
    value = config[name]
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise UserError(f"{name}={value}: must be a whole number of at least {least}")
    return value


def _pattern(config: DictConfig, name: str, groups: int = 1) -> str | None:
    value = config[name]
    if value is None:
        return None
    try:
        if re.compile(str(value)).groups >= groups:
            return str(value)
    except re.error as error:
        raise UserError(f"{name}={value}: is not a regular expression ({error})") from error
    raise UserError(f"{name}={value}: must contain a group, such as '([a-z]+)'")


def _labelling(config: DictConfig, files: list[Found]) -> Labelling:
    """How classes and patients are known.

    Raises:
        UserError: if options contradict each other, or a table cannot be used.
    """
    columns = [None if config[name] is None else str(config[name]) for name in _COLUMNS]
    names = {str(name): str(label) for name, label in config.class_names.items()}
    class_pattern, patient_pattern = _pattern(config, "class_pattern"), _pattern(config, "patient_pattern")
    elsewhere = config.class_name is not None or class_pattern is not None or config.class_tag is not None
    table = participants = None
    if config.table is not None:
        table = tables.read(Path(str(config.table)), "table", columns, not elsewhere)
    bids = next((file.path for file in files if file.name == "participants.tsv"), None)
    if bids is not None and table is None:
        participants = tables.read(bids, "participants", columns, False)
    elif table is None and any(columns):
        name = next(name for name, column in zip(_COLUMNS, columns, strict=True) if column is not None)
        raise UserError(f"{name}={config[name]}: there is no table; give table=FILE.csv")
    class_name = None if config.class_name is None else str(config.class_name)
    return Labelling(table, participants, class_pattern, patient_pattern, class_name, names)


_COLUMNS = ("file_column", "class_column", "patient_column")


def _fingerprint(config: DictConfig) -> dict[str, Any]:
    """The options that decide what is written; of paths and tables, which may name patients, only a digest."""
    options: Any = OmegaConf.to_container(config)
    kept = {name: value for name, value in options.items() if name not in _NO_EFFECT}
    kept["from"] = _digest(str(Path(str(config["from"])).resolve()).encode(errors="surrogateescape"))
    if config.table is not None:
        try:
            kept["table"] = _digest(read_bytes(Path(str(config.table)), _MOST_TABLE))
        except FileNotFoundError as error:
            raise UserError(f"table={config.table}: no such file") from error
        except RefusedError as error:
            raise UserError(f"table={printable(config.table)}: {error}; give a CSV or TSV file of text") from error
    return kept


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
