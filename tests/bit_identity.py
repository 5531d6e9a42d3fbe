"""Digests of the gradients under every combination of options, to hold a refactoring to the same bits.

`python -m tests.bit_identity before.json` before a change, `python -m tests.bit_identity after.json before.json` after
it: some minutes each, on one thread. Digests differ between machines and versions of torch, so none are kept here.
"""

import copy
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vaegan_pl.model.algorithm import VAEGAN
from vaegan_pl.model.baselines import GAN, VAE
from vaegan_pl.model.batch import Batch, Noise
from vaegan_pl.model.generative import GenerativeModel
from vaegan_pl.model.losses import Prior

from .conftest import adversary_with, networks_with

ADVERSARY: dict[str, list[Any]] = {
    "game": ["saturating", "non_saturating"],
    "lecam": [0.0, 0.3],
    "diffaugment": [[], ["brightness", "translation", "cutout"]],
    "norm and r1": [("batch", 0.0), ("spectral", 0.0), ("group", 2.0)],
    "classes": [0, 2],
}
VAE_GAN: dict[str, list[Any]] = {
    **ADVERSARY,
    "fakes": ["both", "reconstruction", "prior"],
    "batch_norm": ["joint", "paired", "separate", "authors"],
    "adversarial": [True, False],
    "sigma": [None, "learned"],
    "normalised_similarity": [False, True],
}


def main() -> None:
    """Write the digests and, given earlier ones, name what differs."""
    torch.set_num_threads(1)
    own = {json.dumps(options): digests(options) for options in tqdm([*combinations()], "digests", unit="combination")}
    Path(sys.argv[1]).write_text(json.dumps(own))
    if len(sys.argv) > 2:
        earlier = json.loads(Path(sys.argv[2]).read_text())
        differing = [key for key in {**earlier, **own} if earlier.get(key) != own.get(key)]
        for key in differing[:10]:
            sys.stdout.write(f"{key}\n")
        sys.stdout.write(f"{len(own)} combinations, {len(differing)} differ\n")
        sys.exit(1 if differing else 0)


def combinations() -> Iterator[dict[str, Any]]:
    """Every model under every combination of options."""
    for kind, options in (("VAE/GAN", VAE_GAN), ("GAN", ADVERSARY)):
        for values in itertools.product(*options.values()):
            yield {"kind": kind, **dict(zip(options, values, strict=True))}
    for sigma, free_bits in itertools.product((0.5, "learned"), (0.0, 0.1)):
        yield {"kind": "VAE", "sigma": sigma, "free_bits": free_bits}


def digests(options: dict[str, Any]) -> list[str]:
    """Of the gradients, metrics, costs and buffers of the first two steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 16, 16, generator=generator) * 2 - 1
    epsilon, z_p = torch.randn(2, 6, 5, generator=generator)
    uniform = torch.rand(6, 6, generator=generator) if options.get("diffaugment") else None
    y = torch.tensor([0, 1] * 3) if options.get("classes") else None
    model = _model(options)
    found = []
    for step in range(2):
        gradients = model.gradients(Batch(x, y, step), Noise(epsilon, z_p, uniform))
        digest = hashlib.sha256()
        for tensor in (*gradients.encoder, *gradients.decoder, *gradients.discriminator, *model.buffers()):
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        for name, value in sorted(gradients.metrics.items()):
            digest.update(name.encode() + value.numpy().tobytes())
        for cost in (gradients.cost_real, gradients.cost_fake):
            digest.update(b"none" if cost is None else cost.numpy().tobytes())
        found.append(digest.hexdigest())
    return found


def _model(options: dict[str, Any]) -> GenerativeModel:
    if options["kind"] == "VAE":
        return VAE(_networks(discriminator_channels=None), options["sigma"], Prior(2.0, options["free_bits"]), None)
    norm, r1 = options["norm and r1"]
    adversary = adversary_with(**{name: options[name] for name in ("game", "lecam", "diffaugment")}, r1=r1)
    networks = {"discriminator_norm": norm, "classes": options["classes"]}
    if options["kind"] == "GAN":
        return GAN(_networks(encoder_channels=None, **networks), adversary, None)
    own = {name: options[name] for name in ("fakes", "batch_norm", "adversarial", "sigma", "normalised_similarity")}
    prior = Prior(1.0, 0.1 if options["classes"] else 0.0)
    return VAEGAN(
        _networks(**networks),
        gamma=0.3,
        similarity_layer="conv3",
        gate=None,
        prior=prior,
        adversary=adversary,
        ema=None,
        **own,
    )


_MADE: dict[str, Any] = {}


def _networks(**options: Any) -> Any:
    key = json.dumps(options)
    if key not in _MADE:
        _MADE[key] = networks_with(**options)
    return copy.deepcopy(_MADE[key])


if __name__ == "__main__":
    main()
