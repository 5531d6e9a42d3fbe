"""Where images of a model come from, for whoever meets them without it."""

import hashlib
from pathlib import Path
from typing import Any

from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.storage.outputs import MADE_BY

NAME = "provenance.json"


def words(model: SavedModel) -> str:
    """In one phrase, for a picture's metadata."""
    return f"synthetic; trained on {model.trained_on.caption}"


def sha256(path: Path) -> str:
    """Digest of a model's file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def facts(path: Path, digest: str, model: SavedModel, seed: int, temperature: float) -> dict[str, Any]:
    """In full, for a file beside the images; who draws them adds to `images` how many there are, and what `audit` said.

    Args:
        path: the model's file.
        digest: its SHA-256.
        model: the model.
        seed: seed of the samples.
        temperature: see `SavedModel.draw`.
    """
    return {
        "what": f"synthetic images, drawn from a {model.kind}; not photographs of anyone",
        "made_by": MADE_BY,
        "weights": str(path),
        "weights_sha256": digest,
        "trained_on": model.trained_on.plain,
        "seed": seed,
        "temperature": temperature,
        "images": {},
        "audit": None,
    }
