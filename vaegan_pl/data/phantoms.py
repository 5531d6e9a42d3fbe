"""MRI-like phantoms: drawings of head slices with a class-dependent lesion, so that the project runs without data.

They imitate the layout and rough appearance of brain-tumour MRI (three views, several contrasts, skull, cortex,
ventricles, lesions of four classes) and nothing else: none of their anatomy, intensities or statistics are measured.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from vaegan_pl.errors import UserError
from vaegan_pl.progress import announce, track
from vaegan_pl.storage.files import RefusedError, read_json

PHANTOM_MARKER = "PHANTOMS-NOT-MRI.json"
"""The file at the root of a folder of phantoms that says what it contains and how it was drawn."""

SIDE = 128
VIEWS = ("axial", "coronal", "sagittal")
VERSION = 1
_SECONDS = 0.011
"""Time to draw one phantom, on one CPU core."""

Map = Float[ndarray, "side side"]


@dataclass(frozen=True)
class Contrast:
    """Grey levels in [0, 1] of the tissues under one MRI weighting."""

    fat: float
    bone: float
    fluid: float
    grey: float
    white: float
    lesion: float
    oedema: float


CONTRASTS = {
    "T1": Contrast(fat=0.85, bone=0.06, fluid=0.10, grey=0.40, white=0.55, lesion=0.30, oedema=0.34),
    "T1c": Contrast(fat=0.88, bone=0.06, fluid=0.09, grey=0.38, white=0.48, lesion=0.92, oedema=0.30),
    "T2": Contrast(fat=0.60, bone=0.05, fluid=0.95, grey=0.52, white=0.36, lesion=0.78, oedema=0.72),
    "FLAIR": Contrast(fat=0.55, bone=0.05, fluid=0.08, grey=0.50, white=0.40, lesion=0.80, oedema=0.75),
}


def draw_folders(root: Path, classes: Sequence[str], per_class: Mapping[str, int], seed: int) -> None:
    """Write `root/SPLIT/CLASS/*.png` and the marker file in one step, unless `root` holds the same phantoms already.

    Args:
        root: the folder to write.
        classes: classes to draw: glioma, meningioma, notumor, pituitary.
        per_class: number of images of each class by split folder, such as {"Training": 320, "Testing": 80}.
        seed: seed of the drawings.

    Raises:
        UserError: if `root` contains anything but these phantoms, or there are no phantoms of a class.
    """
    recipe = {
        "what": "phantoms drawn by vaegan_pl; not MRI",
        "version": VERSION,
        "seed": seed,
        "per_class": dict(per_class),
        "classes": list(classes),
    }
    if _holds(root, recipe):
        return
    if is_phantoms(root):
        raise UserError(
            f"data.root={root}: holds phantoms that were drawn with other options (data.per_class, data.phantom_seed, "
            "data.classes); set data.root to another folder"
        )
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(
            f"data.root={root}: holds other files, and data=phantom draws its own images; to train on your images, add "
            "data=mri"
        )
    unknown = sorted(set(classes) - set(LESIONS))
    if unknown:
        raise UserError(
            f"data.classes={unknown}: phantoms exist only for {', '.join(LESIONS)}; use data=mri for other classes"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        jobs = ((split, name, i) for split, n in per_class.items() for name in classes for i in range(n))
        total = len(classes) * sum(per_class.values())
        announce(f"drawing {total:,} phantoms (first time only)", _SECONDS * total)
        for split, name, i in track(jobs, "drawing phantoms", "image", total):
            key = [seed, sorted(per_class).index(split), sorted(LESIONS).index(name), i]
            path = unfinished / split / name / f"phantom_{name}_{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(name, np.random.default_rng(key))).save(path)
        (unfinished / PHANTOM_MARKER).write_text(json.dumps(recipe, indent=2))
        unfinished.chmod(0o755)
        unfinished.rename(root)
    except OSError:
        if not _holds(root, recipe):  # otherwise, another run has just drawn them
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_phantoms(folder: Path) -> bool:
    """Whether a folder was written by `draw_folders`."""
    try:
        return "per_class" in read_json(folder / PHANTOM_MARKER)
    except (OSError, RefusedError, TypeError):
        return False


def _holds(root: Path, recipe: Mapping[str, object]) -> bool:
    try:
        return bool(read_json(root / PHANTOM_MARKER) == recipe)
    except (OSError, RefusedError):
        return False


def draw(name: str, random: np.random.Generator) -> UInt8[ndarray, "side side"]:
    """One phantom of class `name`; the same generator state gives the same image."""
    view = VIEWS[random.choice(3, p=LESIONS[name].views)]
    contrast = CONTRASTS[str(random.choice(list(CONTRASTS), p=LESIONS[name].contrasts))]
    u, v = _coordinates(random)
    head = _HEADS[view](u, v, contrast, random)
    LESIONS[name].draw(head, u, v, view, contrast, np.random.default_rng(random.integers(2**32)))
    image = head.image * (1 + 0.18 * _smooth_noise(random, 3))
    image = np.hypot(image + 0.025 * random.standard_normal(image.shape), 0.02 * random.standard_normal(image.shape))
    image *= random.uniform(0.75, 1.05)
    blurred = Image.fromarray((255 * image.clip(0, 1)).astype(np.uint8)).resize(
        (SIDE - 16, SIDE - 16), Image.Resampling.BICUBIC
    )
    return np.asarray(blurred.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


@dataclass
class _Head:
    """A head being drawn: its image, and the depth below the brain's surface (0 at the surface, 1 at the centre)."""

    image: Map
    depth: Map


def _coordinates(random: np.random.Generator) -> tuple[Map, Map]:
    """Right (u) and down (v) in [-1, 1], rotated, shifted, scaled and gently warped."""
    line = np.linspace(-1, 1, SIDE)
    v, u = np.meshgrid(line, line, indexing="ij")
    angle, scale = random.normal(0, 0.07), random.uniform(1.0, 1.12)
    u, v = u - random.normal(0, 0.03), v - random.normal(0, 0.03)
    u, v = (np.cos(angle) * u - np.sin(angle) * v) * scale, (np.sin(angle) * u + np.cos(angle) * v) * scale
    return u + 0.035 * _smooth_noise(random, 4), v + 0.035 * _smooth_noise(random, 4)


def _smooth_noise(random: np.random.Generator, cells: int) -> Map:
    """Noise of about unit size whose bumps are 1/`cells` of the image wide."""
    coarse = random.standard_normal((cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.float64)


def _edge(distance: Map, softness: float = 0.02) -> Map:
    """1 where `distance` is well below 0, 0 where it is well above, smooth in between."""
    return 1 / (1 + np.exp(np.clip(distance / (softness / 3), -50, 50)))


def _ellipse(u: Map, v: Map, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Map:
    """Approximate signed distance to an ellipse rotated by `turn` radians; negative inside."""
    x, y = u - centre[0], v - centre[1]
    x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    distance: Map = (np.hypot(x / radii[0], y / radii[1]) - 1) * min(radii)
    return distance


def _paint(image: Map, mask: Map, level: float | Map) -> None:
    image += mask * (level - image)


def _shells(u: Map, v: Map, radii: tuple[float, float], tissue: Contrast, random: np.random.Generator) -> _Head:
    """Scalp, bone, fluid, folded cortex and white matter of an egg-shaped head."""
    head = _ellipse(u, v * (1 - 0.07 * v), (0, 0), radii)
    scalp, bone = random.uniform(0.045, 0.08), random.uniform(0.04, 0.06)
    brain = head + scalp + bone
    image = np.zeros_like(u)
    _paint(image, _edge(head), tissue.fat)
    _paint(image, _edge(head + scalp), tissue.bone)
    _paint(image, _edge(brain), tissue.fluid)
    folds = _smooth_noise(random, 16)
    _paint(image, _edge(brain + 0.02 + 0.02 * folds.clip(0, 2)), tissue.grey)
    angle = np.arctan2(v, u)
    gyri = 0.03 * np.sin(random.integers(13, 18) * angle + 2 * _smooth_noise(random, 5)) + 0.03 * folds
    _paint(image, _edge(brain + 0.12 + gyri, 0.03), tissue.white)
    sulci = _edge(np.abs(np.sin(random.integers(9, 13) * angle + 1.5 * _smooth_noise(random, 4))) - 0.09, 0.1)
    _paint(image, 0.55 * sulci * _edge(brain) * _edge(-(brain + 0.11), 0.05), tissue.fluid)
    return _Head(image, (-brain / (min(radii) - scalp - bone)).clip(-1, 1))


def _axial(u: Map, v: Map, tissue: Contrast, random: np.random.Generator) -> _Head:
    head = _shells(u, v, (random.uniform(0.70, 0.78), random.uniform(0.86, 0.93)), tissue, random)
    inside = _edge(-head.depth)
    _paint(head.image, 0.8 * inside * _edge(np.abs(u) - 0.012) * _edge(0.28 - np.abs(v), 0.08), tissue.fluid)
    wide = random.uniform(0.6, 1.5)
    for side in (-1, 1):
        _paint(head.image, _edge(_ellipse(u, v, (side * 0.20, 0.0), (0.11, 0.19), side * -0.25), 0.05), tissue.grey)
        _paint(
            head.image,
            _edge(_ellipse(u, v, (side * 0.09 * wide, -0.20), (0.045 * wide, 0.15), side * -0.35)),
            tissue.fluid,
        )
        _paint(
            head.image, _edge(_ellipse(u, v, (side * 0.15 * wide, 0.25), (0.05 * wide, 0.16), side * 0.4)), tissue.fluid
        )
    _paint(head.image, _edge(_ellipse(u, v, (0, 0.03), (0.018 * wide, 0.10))), tissue.fluid)
    return head


def _coronal(u: Map, v: Map, tissue: Contrast, random: np.random.Generator) -> _Head:
    head = _shells(u, v, (random.uniform(0.74, 0.80), random.uniform(0.80, 0.86)), tissue, random)
    inside = _edge(-head.depth)
    _paint(head.image, 0.8 * inside * _edge(np.abs(u) - 0.012) * _edge(v + 0.30, 0.08), tissue.fluid)
    wide = random.uniform(0.6, 1.5)
    for side in (-1, 1):
        fissure = np.abs(v - 0.05 + 0.25 * (np.abs(u) - 0.5)) - 0.018
        _paint(head.image, 0.8 * _edge(fissure) * _edge(0.36 - side * u, 0.05) * inside, tissue.fluid)
        _paint(head.image, _edge(_ellipse(u, v, (side * 0.20, -0.02), (0.09, 0.13), side * 0.3), 0.05), tissue.grey)
        _paint(
            head.image,
            _edge(_ellipse(u, v, (side * 0.11 * wide, -0.20), (0.09 * wide, 0.045), side * -0.5)),
            tissue.fluid,
        )
    _paint(head.image, _edge(_ellipse(u, v, (0, -0.02), (0.02 * wide, 0.11))), tissue.fluid)
    _paint(head.image, _edge(_ellipse(u, v, (0, 0.40), (0.13, 0.26)), 0.04), tissue.white)
    for side in (-1, 1):
        _paint(
            head.image, 0.9 * _edge(_ellipse(u, v, (side * 0.25, 0.56), (0.23, 0.13), side * 0.25), 0.03), tissue.grey
        )
        _paint(
            head.image,
            0.8 * _edge(np.abs(_ellipse(u, v, (side * 0.25, 0.56), (0.25, 0.15), side * 0.25)) - 0.008),
            tissue.fluid,
        )
    return head


def _sagittal(u: Map, v: Map, tissue: Contrast, random: np.random.Generator) -> _Head:
    head = _shells(u, v + 0.08, (random.uniform(0.84, 0.90), random.uniform(0.74, 0.80)), tissue, random)
    face = _edge(0.30 - v + 0.30 * u, 0.06)
    _paint(head.image, face * (head.image > 0.02), 0.30 * tissue.fat + 0.10 * _smooth_noise(random, 12))
    _paint(head.image, _edge(_ellipse(u, v, (0.12, 0.62), (0.10, 0.42), -0.12), 0.04), tissue.white)
    _paint(head.image, _edge(_ellipse(u, v, (0.10, 0.33), (0.13, 0.15)), 0.04), tissue.white)
    ripple = 0.5 + 0.5 * np.sin(45 * np.hypot(u - 0.18, v - 0.38))
    _paint(head.image, _edge(_ellipse(u, v, (0.42, 0.40), (0.22, 0.17), 0.3), 0.03), tissue.grey * (0.7 + 0.4 * ripple))
    _paint(head.image, _edge(_ellipse(u, v, (0.235, 0.37), (0.025, 0.09), -0.2)), tissue.fluid)
    arc = np.abs(_ellipse(u, v, (0.0, 0.02), (0.36, 0.24))) - 0.032
    _paint(head.image, _edge(arc) * _edge(v + 0.02, 0.05), min(1.0, tissue.white * 1.2))
    inner = _ellipse(u, v, (0.0, 0.02), (0.30, 0.17))
    _paint(head.image, _edge(inner) * _edge(v + 0.06, 0.05), tissue.fluid)
    _paint(head.image, _edge(_ellipse(u, v, (0.0, 0.06), (0.15, 0.08)), 0.04), tissue.grey)
    return head


_HEADS = {"axial": _axial, "coronal": _coronal, "sagittal": _sagittal}


def _blob(
    u: Map, v: Map, centre: tuple[float, float], radius: float, ragged: float, random: np.random.Generator
) -> Map:
    """Approximate signed distance to a lump whose outline varies by `ragged` of its radius."""
    stretch = random.uniform(0.8, 1.2)
    lump = _ellipse(u, v, centre, (radius * stretch, radius / stretch), random.uniform(0, np.pi))
    return lump + ragged * radius * _smooth_noise(random, 9)


def _place(depth: Map, wanted: tuple[float, float], u: Map, v: Map, random: np.random.Generator) -> tuple[float, float]:
    """A random point of the upper brain whose depth lies in `wanted`."""
    rows, columns = np.nonzero((depth > wanted[0]) & (depth < wanted[1]) & (v < 0.35) & (np.abs(u) > 0.15))
    pick = random.integers(len(rows))
    return float(u[rows[pick], columns[pick]]), float(v[rows[pick], columns[pick]])


def _no_tumor(head: _Head, u: Map, v: Map, view: str, tissue: Contrast, random: np.random.Generator) -> None:
    """A healthy head."""


def _glioma(head: _Head, u: Map, v: Map, view: str, tissue: Contrast, random: np.random.Generator) -> None:
    """Deep, ragged, with a bright rim around a dark core and swelling around both."""
    centre, radius = _place(head.depth, (0.35, 0.75), u, v, random), random.uniform(0.13, 0.26)
    lump = _blob(u, v, centre, radius, 0.22, random)
    brain = _edge(-(head.depth - 0.05), 0.05)
    _paint(head.image, 0.8 * brain * _edge(lump - 0.09 + 0.05 * _smooth_noise(random, 8), 0.08), tissue.oedema)
    rough = tissue.lesion * (0.85 + 0.12 * _smooth_noise(random, 14))
    _paint(head.image, brain * _edge(lump, 0.03), rough)
    core = lump + radius * random.uniform(0.25, 0.5) + 0.03 * _smooth_noise(random, 12)
    _paint(head.image, 0.85 * brain * _edge(core, 0.03), 0.5 * (tissue.fluid + tissue.grey))


def _meningioma(head: _Head, u: Map, v: Map, view: str, tissue: Contrast, random: np.random.Generator) -> None:
    """At the brain's surface, round, even and sharply bounded."""
    centre, radius = _place(head.depth, (0.12, 0.30), u, v, random), random.uniform(0.13, 0.24)
    lump = _blob(u, v, centre, radius, 0.04, random)
    brain = _edge(-(head.depth + 0.02), 0.03)
    _paint(head.image, 0.7 * brain * _edge(np.abs(lump) - 0.012), tissue.fluid)
    _paint(head.image, brain * _edge(lump), tissue.lesion * 0.95)


def _pituitary(head: _Head, u: Map, v: Map, view: str, tissue: Contrast, random: np.random.Generator) -> None:
    """Small, midline, at the base of the skull."""
    centre = {"axial": (0.0, -0.22), "coronal": (0.0, 0.36), "sagittal": (-0.12, 0.30)}[view]
    centre = (centre[0] + random.normal(0, 0.02), centre[1] + random.normal(0, 0.02))
    lump = _blob(u, v, centre, random.uniform(0.07, 0.14), 0.06, random)
    _paint(head.image, _edge(np.abs(lump) - 0.015), tissue.bone)
    _paint(head.image, _edge(lump), tissue.lesion)


@dataclass(frozen=True)
class _Lesion:
    """How a class is drawn, and the probabilities of each of `VIEWS` and of `CONTRASTS`."""

    draw: Callable[[_Head, Map, Map, str, Contrast, np.random.Generator], None]
    views: tuple[float, float, float]
    contrasts: tuple[float, float, float, float]


LESIONS = {
    "glioma": _Lesion(_glioma, (0.4, 0.3, 0.3), (0.1, 0.7, 0.1, 0.1)),
    "meningioma": _Lesion(_meningioma, (0.4, 0.3, 0.3), (0.1, 0.7, 0.1, 0.1)),
    "notumor": _Lesion(_no_tumor, (0.7, 0.15, 0.15), (0.3, 0.1, 0.35, 0.25)),
    "pituitary": _Lesion(_pituitary, (0.2, 0.4, 0.4), (0.15, 0.75, 0.05, 0.05)),
}
