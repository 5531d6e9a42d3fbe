"""The losses of a run as one picture."""

import csv
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

PANELS = {
    "L_prior [nats]": {"loss/prior": "training", "validation/prior": "held out"},
    "L_llike": {"loss/llike": "training", "validation/llike": "held out, z = μ"},
    "discriminator's cost [nats]": {
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


def draw_curves(metrics: Path, picture: Path, caption: str) -> None:
    """Plot the columns of a `metrics.csv` against batches.

    Args:
        metrics: a CSV file with a `step` column; empty cells are skipped.
        picture: the PNG to write.
        caption: the figure's title.
    """
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    series[name].append((int(row["step"]), float(value)))
    figure = Figure(figsize=(17, 7), layout="constrained")
    figure.suptitle(caption, parse_math=False)
    for axes, (title, curves) in zip(figure.subplots(2, 4).flat, PANELS.items(), strict=True):
        for name, label in curves.items():
            axes.plot(
                *zip(*series[name], strict=True) if series[name] else ([], []),
                label=label,
                marker="." if "validation" in name else None,
            )
        if "∇" in title and series["decoder/gradient_ratio"]:
            axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xlabel("batches")
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=90)
