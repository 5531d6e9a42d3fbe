"""Draw the measurements of docs/models.csv: `python -m tests.models_plot` writes docs/models_*.png."""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

DOCS = Path(__file__).parents[1] / "docs"
PANELS = (
    ("KID, samples by class", "kid_by_class", "log"),
    ("coverage, samples by class", "coverage_by_class", "linear"),
    ("PSNR of reconstructions [dB]", "psnr", "linear"),
    ("TSTR / TRTR", "usefulness", "linear"),
)
"""Title, column and scale of each panel."""


def draw(rows: dict[str, list[dict[str, str]]], path: Path) -> None:
    """Plot one line for each setting and one mark for each seed; bars are 95 % intervals."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 1.2 + 0.27 * len(rows)), sharey=True, layout="constrained")
    for panel, (title, column, scale) in zip(axes, PANELS, strict=True):
        for place, of_setting in enumerate(rows.values()):
            for row in of_setting:
                if not row[column]:
                    continue
                value, seed = float(row[column]), int(row["seed"])
                y = place + 0.25 * (seed - (len(of_setting) - 1) / 2)
                low, high = (row.get(f"{column}_{end}", "") for end in ("low", "high"))
                errors = [[value - float(low)], [float(high) - value]] if low and high else None
                panel.errorbar(value, y, xerr=errors, fmt="os^"[seed], color=f"C{seed}", markersize=4, linewidth=1)
        panel.set(xscale=scale, ylim=(len(rows) - 0.4, -0.6))
        panel.set_title(title, fontsize=10)
        if scale == "log":
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.grid(visible=True, axis="both", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), list(rows), fontsize=8)
    figure.savefig(path, dpi=100, metadata={"Software": "vaegan_pl"})


def main() -> None:
    """Draw one picture for each table in the file."""
    tables: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    with (DOCS / "models.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            tables[row["table"]][row["options"]].append(row)
    for name, rows in tables.items():
        path = DOCS / f"models_{name}.png"
        draw(rows, path)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
