"""Plots of a run's losses and metrics."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from vaegan_pl.report.page import drawn
from vaegan_pl.runs.metrics import read_series
from vaegan_pl.storage.files import atomic_write

PANELS = {
    "L_prior [nats]": {"loss/prior": "training", "validation/prior": "held out"},
    "L_llike": {"loss/llike": "training", "validation/llike": "held out, z = μ"},
    "-log p(x|z) of the pixels [nats]": {"loss/pixel": "training"},
    "discriminator's cost": {
        "discriminator/cost_real": "real",
        "discriminator/cost_reconstruction": "reconstruction",
        "discriminator/cost_prior": "prior sample",
    },
    "|γ∇L_llike| / |∇L_GAN| at the images": {"decoder/gradient_ratio": "decoder"},
    "held-out PSNR [dB]": {"validation/psnr": "reconstruction"},
    "held-out SSIM": {"validation/ssim": "reconstruction"},
    "KID of samples": {"validation/kid": "prior sample"},
    "samples, as shares of real images": {"validation/coverage": "coverage", "validation/variety": "variety"},
}

COLUMNS = 4


def draw_curves(metrics: Path, picture: Path, caption: str) -> None:
    """Plot the columns of a `metrics.csv` against batches, with a panel for each group of metrics that the model has.

    Args:
        metrics: a CSV file with a `step` column; empty cells are skipped.
        picture: the PNG to write.
        caption: the figure's title.
    """
    series = read_series(metrics)
    panels = {title: [name for name in curves if series[name]] for title, curves in PANELS.items()}
    panels = {title: names for title, names in panels.items() if names}
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    figure = Figure(figsize=(4.25 * COLUMNS, 3.5 * rows), layout="constrained")
    figure.suptitle(caption, parse_math=False)
    for i, (title, names) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, COLUMNS, i)
        for name in names:
            marker = "." if "validation" in name else None
            axes.plot(*zip(*series[name], strict=True), label=PANELS[title][name], marker=marker)
        if "∇" in title:
            axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xlabel("batches")
        axes.legend()
        axes.grid(alpha=0.3)
    atomic_write(picture, drawn(figure, 90), durable=False)
