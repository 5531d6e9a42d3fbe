"""The choice of a density: the lowest KID to validation images, without copies of training images."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vaegan_pl.data.images import to_unit_range
from vaegan_pl.evaluation import choice
from vaegan_pl.evaluation.choice import by_validation


class Drawn:
    """A model that draws the images it is given as its mixtures."""

    device = torch.device("cpu")

    def __init__(self, mixtures: Any = None) -> None:
        self.mixtures = mixtures

    def sample(self, n: int) -> torch.Tensor:
        images: torch.Tensor = self.mixtures[:n]
        return images


@pytest.fixture
def images() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(400, 1, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    known = (255 * smooth).round().byte()[:, 0]
    near, far = to_unit_range(known[200:, None]), torch.zeros(200, 1, 32, 32) + 0.8
    return {"known": known, "near": near, "copies": to_unit_range(known[:100, None]).repeat(2, 1, 1, 1), "far": far}


def choose_among(images: dict[str, torch.Tensor], names: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(choice, "replace", lambda model, mixtures: type(model)(mixtures))
    split = SimpleNamespace(images=lambda name: list(range(100)) if name == "train" else list(range(100, 250)))
    collection: Any = SimpleNamespace(split=split, leaking={}, prepared=SimpleNamespace(images=images["known"].numpy()))
    space: Any = lambda x: x.flatten(1)[None, :, ::16]  # noqa: E731
    model: Any = Drawn()
    candidates: Any = [images[name] for name in names]
    chosen: Any = by_validation(model, collection, space)(candidates)
    return next(name for name in names if chosen is images[name])


def test_the_nearest_is_chosen(images: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_among(images, ["far", "near"], monkeypatch) == "near"


def test_copies_are_not_chosen(images: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_among(images, ["copies", "far"], monkeypatch) == "far"
    assert choose_among(images, ["copies"], monkeypatch) == "copies"
