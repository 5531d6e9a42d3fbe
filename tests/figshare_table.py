"""Make `vaegan_pl/data/figshare.csv`: `python -m tests.figshare_table IMAGES PATIENTS.csv`.

IMAGES is the public dataset. PATIENTS.csv has the columns path, cheng_slice, cheng_fold (1 to 5) and patient for the
files that show slices of Cheng et al. Versions of a slice whose signatures agree, up to a few bits, share a row.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from vaegan_pl.data import figshare
from vaegan_pl.data.copies import turn_signs
from vaegan_pl.data.images import fit, read_grey

SAME = 6
"""Bits in which signatures of one row may differ."""


def main(root: Path, table: Path) -> None:
    """Write the table."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = [fit(read_grey(root / row["path"], 65535), 64, "squash") for row in rows]
    found = figshare.signatures(np.stack(images))
    signs = [figshare._signs(found, turn[1:]) for turn in turn_signs(16)]
    kept: list[int] = []
    for i in range(len(rows)):
        agreement = max((turned[i] @ signs[0][kept].T).max() for turned in signs) if kept else 0
        if (255 - agreement) / 2 > SAME:
            kept.append(i)
    with (Path(figshare.__file__).with_name("figshare.csv")).open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["signature", "fold", "patient"])
        for i in sorted(kept, key=lambda i: int(rows[i]["cheng_slice"])):
            writer.writerow([found[i].tobytes().hex(), int(rows[i]["cheng_fold"]) - 1, rows[i]["patient"]])
    sys.stdout.write(f"{len(rows)} files, {len(kept)} rows\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
