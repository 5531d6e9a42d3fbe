"""Where classes lie in the latent space, on a few images."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vaegan_pl.inference import class_mixtures
from vaegan_pl.model.mixtures import fit
from vaegan_pl.model.networks import Networks


def test_numbers_of_components_that_come_to_the_same_are_fitted_once(
    small_networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight images of a class are enough for two components, whether four or sixteen are asked for."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 16), dtype=np.uint8)
    collection: Any = SimpleNamespace(
        split=SimpleNamespace(images=lambda name: list(range(16)) if name == "train" else list(range(16, 24))),
        listing=SimpleNamespace(classes=["a", "b"]),
        labels=np.arange(24) % 2,
        prepared=SimpleNamespace(images=pixels),
    )
    fitted, offered = list[int](), list[list[int]]()

    def noted(train: torch.Tensor, components: int) -> Any:
        found = fit(train, components)
        assert found is not None
        fitted.append(len(found.weights))
        return found

    def first(candidates: Any) -> Any:
        offered.extend([len(mixture.weights) for mixture in each.values()] for each in candidates)
        return candidates[0]

    monkeypatch.setattr("vaegan_pl.inference.fit", noted)
    class_mixtures(small_networks.eval(), collection, torch.device("cpu"), first)
    assert fitted == [1, 1, 2, 2]
    assert offered == [[1, 1], [2, 2]]
