"""A model file from Python: `vaegan_pl.load`."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vaegan_pl
from vaegan_pl.cli.sample import sample
from vaegan_pl.errors import UserError

from .conftest import networks_with, save_model

X = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(tmp_path / "m.pth", networks_with())
    return tmp_path / "m.pth"


def test_a_path_may_be_text(path: Path) -> None:
    assert vaegan_pl.load(str(path)).labels == ["a", "b", "c"]
    with pytest.raises(UserError, match="no such file"):
        vaegan_pl.load("nowhere.pth")


def test_samples_are_those_of_the_command(path: Path, run_command: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    options = ["weights=m.pth", "n=2", "seed=3", "label=b", "output=drawn", "accelerator=cpu"]
    assert run_command(sample, "sample", *options) is None  # type: ignore[operator]
    images = vaegan_pl.load("m.pth").sample(2, label="b", seed=3)
    assert images.shape == (2, 1, 16, 16)
    for i, image in enumerate(images):
        written = torch.from_numpy(np.array(Image.open(f"drawn/b_{i:05d}.png"), dtype=np.float32)).flatten()
        assert torch.equal(((image.flatten() + 1) * 127.5).round(), written)


def test_images_are_encoded_decoded_and_reconstructed(path: Path) -> None:
    model = vaegan_pl.load(path)
    with torch.inference_mode():
        mean, _ = model.networks.encoder(X)
        decoded = model.networks.decoder(mean)
    torch.testing.assert_close(model.encode(X), mean)
    torch.testing.assert_close(model.decode(mean), decoded)
    torch.testing.assert_close(model.reconstruct(X), decoded)


@pytest.mark.parametrize("label", ["b", torch.tensor([1, 1, 1])], ids=["name", "indices"])
def test_conditional_models_are_told_the_class(tmp_path: Path, label: str | Tensor) -> None:
    save_model(tmp_path / "m.pth", networks_with(classes=3))
    model = vaegan_pl.load(tmp_path / "m.pth")
    with torch.inference_mode():
        y = torch.tensor([1, 1, 1])
        expected = model.networks.decoder(model.networks.encoder(X, y)[0], y)
    torch.testing.assert_close(model.reconstruct(X, label), expected)
    torch.testing.assert_close(model.decode(model.encode(X, label), label), expected)
    with pytest.raises(UserError, match="the model is conditional"):
        model.encode(X)
    with pytest.raises(UserError, match="label=z"):
        model.decode(torch.zeros(1, 5), "z")


def test_a_gan_can_be_sampled_only(tmp_path: Path) -> None:
    save_model(tmp_path / "m.pth", networks_with(encoder_channels=None), mixtures=None)
    model = vaegan_pl.load(tmp_path / "m.pth")
    assert model.sample(2).shape == (2, 1, 16, 16)
    assert model.decode(torch.zeros(1, 5)).shape == (1, 1, 16, 16)
    for label in (None, torch.zeros(3, dtype=torch.long)):
        with pytest.raises(UserError, match="no encoder"):
            model.reconstruct(X, label)
    save_model(tmp_path / "c.pth", networks_with(encoder_channels=None, classes=3), mixtures=None)
    assert vaegan_pl.load(tmp_path / "c.pth").decode(torch.zeros(1, 5), "b").shape == (1, 1, 16, 16)


def test_what_it_returns_can_be_trained_on(path: Path) -> None:
    model = vaegan_pl.load(path)
    weight = torch.ones(5, requires_grad=True)
    (model.encode(X) * weight).sum().backward()
    assert weight.grad is not None
    assert model.sample(2).clamp_(0, 1).min() >= 0


def test_the_page_on_using_a_model_is_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "using.md").read_text()
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "vaegan_pl.load" in b)
    monkeypatch.chdir(path.parent)
    path.rename("vae_gan_model.pth")
    names: dict[str, Any] = {}
    exec(block.replace("glioma", "a"), names)
    assert names["images"].shape == (16, 1, 16, 16)
    torch.testing.assert_close(names["again"], names["model"].reconstruct(names["images"]))
