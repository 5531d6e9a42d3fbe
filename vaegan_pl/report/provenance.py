"""Provenance of generated images, stored with them."""

import hashlib
from pathlib import Path
from typing import Any

from vaegan_pl.model.saved_model import FITTED, NORMAL, SavedModel
from vaegan_pl.pretrained import name_of
from vaegan_pl.storage.outputs import MADE_BY

NAME = "provenance.json"
DRAWN = {FITTED: "drawn from the fitted prior", NORMAL: "drawn from N(0, I)"}
"""How z was drawn, by `SavedModel.density`."""


def words(model: SavedModel) -> str:
    """The provenance in one phrase, for a picture's metadata."""
    return f"synthetic; trained on {model.trained_on.caption}"


def sha256(path: Path) -> str:
    """SHA-256 digest of a model file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def facts(path: Path, digest: str, model: SavedModel, seed: int, temperature: float, prior: str) -> dict[str, Any]:
    """The full provenance, for a file next to the images; the caller fills in `images` (counts) and `audit`.

    Args:
        path: the model file.
        digest: its SHA-256 digest.
        model: the model.
        seed: seed of the samples.
        temperature: see `SavedModel.draw`.
        prior: see `SavedModel.density`.
    """
    return {
        "what": f"synthetic images, drawn from a {model.kind}; not scans of anyone",
        "made_by": MADE_BY,
        "weights": name_of(path),
        "weights_sha256": digest,
        "trained_on": model.trained_on.plain,
        "seed": seed,
        "temperature": temperature,
        "prior": prior,
        "images": {},
        "audit": None,
    }
