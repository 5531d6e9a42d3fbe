"""Time the search for near-copies against the number of images: `python -m tests.search_scale IMAGES OUTPUT [MOST]`.

IMAGES is a folder of class folders. Its images are deformed at random into as many different heads as are needed; one
in a hundred is a copy of another one, mirrored, cropped by 2 % and darker. Writes OUTPUT.csv and OUTPUT.png.
"""

import argparse
import csv
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional

from vaegan_pl.data.copies import COMPARED_SIDE, SEARCHES, Compared, find_pairs
from vaegan_pl.data.images import fit, read_grey
from vaegan_pl.data.registration import find_reframed

SIZES = (10_000, 20_000, 50_000, 100_000, 200_000, 1_000_000)
MOST_EXHAUSTIVE = 200_000
COPIED = 100
AT_ONCE = 2000


def write_heads(root: Path, path: Path, n: int) -> Compared:
    """Write `n` different images, of which each `COPIED`th is a copy of the one before it in another frame."""
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in (".jpg", ".png"))[::3]
    known = torch.from_numpy(
        np.stack([fit(read_grey(file, 65535, "fixed"), COMPARED_SIDE, "squash") for file in files])
    )
    heads = np.lib.format.open_memmap(path, "w+", np.uint8, (n, COMPARED_SIDE, COMPARED_SIDE))
    generator = torch.Generator().manual_seed(0)
    for start in range(0, n, AT_ONCE):
        m = min(AT_ONCE, n - start)
        angles, shear = (0.4 * (2 * torch.rand(m, generator=generator) - 1) for _ in range(2))
        sizes = 1 + 0.15 * (2 * torch.rand(2, m, generator=generator) - 1)
        maps = torch.zeros(m, 2, 3)
        maps[:, 0, 0], maps[:, 0, 1] = angles.cos() * sizes[0], shear - angles.sin()
        maps[:, 1, 0], maps[:, 1, 1] = angles.sin(), angles.cos() * sizes[1]
        maps[:, :, 2] = 0.1 * (2 * torch.rand(m, 2, generator=generator) - 1)
        coarse = 0.12 * torch.randn(m, 2, 4, 4, generator=generator)
        bent = functional.interpolate(coarse, size=COMPARED_SIDE, mode="bicubic").permute(0, 2, 3, 1)
        grid = functional.affine_grid(maps, [m, 1, COMPARED_SIDE, COMPARED_SIDE], align_corners=False) + bent
        chosen = known[torch.randint(len(known), (m,), generator=generator)][:, None].float()
        made = functional.grid_sample(chosen, grid, align_corners=False)
        copied = made[COPIED - 2 :: COPIED].flip(-1)
        crop = torch.eye(3)[:2].repeat(len(copied), 1, 1) * 0.96
        inner = functional.affine_grid(crop, list(copied.shape), align_corners=False)
        made[COPIED - 1 :: COPIED] = 0.8 * functional.grid_sample(copied, inner, align_corners=False)
        heads[start : start + m] = made[:, 0].clamp(0, 255).byte().numpy()
    heads.flush()
    return heads


def measured(heads: Compared, search: str) -> dict[str, float]:
    """Seconds of both searches, and the share of the planted copies that is found."""
    n = len(heads)
    start = perf_counter()
    pairs = find_pairs(heads, [str(i) for i in range(n)], 0.99, search)
    same_frame = perf_counter()
    pairs += find_reframed(heads, pairs.groups(n), np.full(n, -1), 0.97, search)
    end = perf_counter()
    groups = pairs.groups(n)
    planted = np.arange(COPIED - 1, n, COPIED)
    return {
        "same frame s": same_frame - start,
        "other frame s": end - same_frame,
        "found": float(np.mean(groups[planted] == groups[planted - 1])),
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def rows(root: Path, sizes: list[int]) -> Iterator[dict[str, float | str]]:
    """What each search takes for each number of images."""
    with tempfile.TemporaryDirectory() as folder:
        heads = write_heads(root, Path(folder) / "heads.npy", max(sizes))
        for n in sizes:
            for search in SEARCHES:
                if search == "approximate" or n <= MOST_EXHAUSTIVE:
                    yield {"images": n, "search": search, **measured(heads[:n], search)}


def draw(table: list[dict[str, float | str]], path: Path) -> None:
    """Plot the time against the number of images."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for search in SEARCHES:
        own = [row for row in table if row["search"] == search]
        seconds = [float(row["same frame s"]) + float(row["other frame s"]) for row in own]
        axes.plot([float(row["images"]) for row in own], seconds, "o-", label=f"data.search={search}")
    axes.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds on two cores")
    axes.set_title("Search for near-copies")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130, metadata={"Software": "vaegan_pl"})


def main() -> None:
    """Measure, and write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("most", type=int, nargs="?", default=SIZES[-1])
    arguments = parser.parse_args()
    table = []
    for row in rows(arguments.images, [n for n in SIZES if n <= arguments.most]):
        table.append(row)
        sys.stdout.write(
            ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()) + "\n"
        )
        sys.stdout.flush()
        with arguments.output.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(table)
        draw(table, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
