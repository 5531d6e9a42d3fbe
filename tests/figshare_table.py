"""Make `vaegan_pl/data/figshare.csv`: `python -m tests.figshare_table IMAGES PATIENTS.csv`.

IMAGES is the public dataset. PATIENTS.csv has the columns path, cheng_slice, cheng_fold (1 to 5) and patient for the
files that show slices of Cheng et al. Versions of a slice whose signatures agree, up to a few bits, share a row.

Some persons were scanned more than once, and have a code for each time. The authors' folds divide by code, so such a
person is in several. `SAME_PERSON` lists those that were found: several slices in a row, registered to each other,
correlate at 0.95 to 0.99, and the shape of the head and the place of the tumour or of the surgery agree by eye. Their
slices get one fold and one code here. There may be others, in other planes or at a lower correlation.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from vaegan_pl.data import figshare
from vaegan_pl.data.images import fit, read_grey

SAME = 6
"""Bits in which signatures of one row may differ."""

SAME_PERSON: dict[str, tuple[str | range, ...]] = {
    "p105": ("p105", "p106"),
    "p125": ("p125", "p126", range(2349, 2350)),
    "p128": ("p128", range(2350, 2362)),
    "p129": ("p129", "p130", range(2394, 2410)),
    "p143": ("p143", "p144", range(2362, 2373), range(2373, 2394)),
    "u1": (range(2321, 2333), range(2499, 2509)),
    "u2": (range(2496, 2499), range(2680, 2682)),
    "u3": (range(2530, 2546), range(2650, 2664)),
    "u4": (range(2750, 2753), range(3039, 3047)),
}
"""Codes, and numbers of slices without a code, that belong to one person. A range is a run of
consecutive numbers in one of the authors' folds; it may contain other patients, who move to the same fold. The first
entry gives the fold."""


def one_fold_for_each_person(rows: list[dict[str, str]]) -> None:
    """Give the slices of each of `SAME_PERSON` the fold of its first entry, and its name."""

    def is_of(row: dict[str, str], of: str | range) -> bool:
        return row["patient"] == of if isinstance(of, str) else int(row["cheng_slice"]) in of

    for name, parts in SAME_PERSON.items():
        fold = next(row["cheng_fold"] for row in rows if is_of(row, parts[0]))
        for row in rows:
            if any(is_of(row, part) for part in parts):
                row["cheng_fold"], row["patient"] = fold, name


def turn_signs(n: int) -> list[np.ndarray]:
    """For each of `TURNS`, the signs by which it changes the lowest `n` x `n` coefficients, flattened.

    A reflection changes the sign of the odd frequencies along its axis.
    """
    ones, odd = np.ones(n), np.where(np.arange(n) % 2, -1.0, 1.0)
    return [np.outer(rows, columns).ravel() for rows in (ones, odd) for columns in (ones, odd)]


def main(root: Path, table: Path) -> None:
    """Write the table."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    one_fold_for_each_person(rows)
    images = [fit(read_grey(root / row["path"], 65535, "fixed"), 64, "squash") for row in rows]
    found = figshare.signatures(np.stack(images))
    signs = figshare._signs(found).reshape(-1, 256)
    turned = [signs * turn.astype(np.float32) for turn in turn_signs(16)]
    kept: list[int] = []
    for i in range(len(rows)):
        agreement = max((each[i] @ signs[kept].T).max() for each in turned) if kept else 0
        if (255 - agreement) / 2 > SAME:
            kept.append(i)
    with (Path(figshare.__file__).with_name("figshare.csv")).open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["signature", "slice", "fold", "patient"])
        for i in sorted(kept, key=lambda i: int(rows[i]["cheng_slice"])):
            row = rows[i]
            writer.writerow([found[i].tobytes().hex(), row["cheng_slice"], int(row["cheng_fold"]) - 1, row["patient"]])
    sys.stdout.write(f"{len(rows)} files, {len(kept)} rows\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
