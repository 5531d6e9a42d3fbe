"""The files that an evaluation writes: `metrics.json`, `report.html` and `by_class.png`."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vaegan_pl.evaluation.classifier import Labelled
from vaegan_pl.evaluation.evaluation import PRIOR, Evaluation
from vaegan_pl.evaluation.reference import Reference
from vaegan_pl.report.evaluation_figures import gather
from vaegan_pl.report.evaluation_page import page
from vaegan_pl.report.evaluation_words import names
from vaegan_pl.report.pictures import save_png, titled_rows
from vaegan_pl.storage.files import atomic_write

JSON, PAGE, PICTURE = "metrics.json", "report.html", "by_class.png"
NAMES = r"metrics\.json|report\.html|by_class\.png"
OF_EACH_CLASS = 4


def write(evaluations: Sequence[Evaluation], reference: Reference, output: Path) -> list[Path]:
    """Write `metrics.json`, `report.html` and `by_class.png` into a folder; returns their paths."""
    figures = json.dumps(gather(evaluations, reference), indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(output / JSON, figures, durable=False)
    atomic_write(output / PAGE, page(evaluations, reference), durable=False)
    save_png(by_class(evaluations, reference), output / PICTURE, "real images above synthetic ones, as titled")
    return [output / JSON, output / PAGE, output / PICTURE]


def by_class(evaluations: Sequence[Evaluation], reference: Reference) -> Image.Image:
    """Held-out images above samples of each model: the first `OF_EACH_CLASS` of each class, so none is hand-picked."""
    n, classes = OF_EACH_CLASS, len(reference.classes)
    rows = {f"real, held out: {n} of each of {', '.join(reference.classes)}": _of_each(reference.held_out, n, classes)}
    for name, one in zip(names(evaluations), evaluations, strict=True):
        if one.labelled is None:
            rows[f"{name}: samples of the prior"] = one.samples[PRIOR][: n * classes]
        else:
            rows[f"{name}: by class, in the same order"] = _of_each(one.labelled, n, classes)
    what = f"All rows but the first are synthetic. Trained on {evaluations[0].model.trained_on.caption}."
    return titled_rows(rows, f"{what} The first {n} of each class, not hand-picked.")


def _of_each(images: Labelled, n: int, classes: int) -> Tensor:
    black = images.x.new_full((n, *images.x.shape[1:]), -1)  # fills the row of a class of fewer than n images
    return torch.cat([torch.cat([images.x[images.labels == label], black])[:n] for label in range(classes)])
