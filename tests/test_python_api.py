"""A model file from Python: `vaegan_pl.load`."""

import re
from collections.abc import Callable
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
from vaegan_pl.report.pictures import CAPTION_SIZE, MARGIN

from .conftest import MIXTURES, networks_with, save_model

Run = Callable[..., str | None]

X = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(tmp_path / "m.pth", networks_with())
    return tmp_path / "m.pth"


def test_a_path_may_be_text(path: Path) -> None:
    assert vaegan_pl.load(str(path)).labels == ["a", "b", "c"]
    with pytest.raises(UserError, match="no such file"):
        vaegan_pl.load("nowhere.pth")


def test_samples_are_those_of_the_command(path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    options = ["weights=m.pth", "n=2", "seed=3", "label=b", "output=drawn", "accelerator=cpu"]
    assert run_command(sample, "sample", *options) is None
    images = vaegan_pl.load("m.pth").sample(2, label="b", seed=3)
    assert images.shape == (2, 1, 16, 16)
    for i, image in enumerate(images):
        written = torch.tensor(list(Image.open(f"drawn/b_{i:05d}.png").get_flattened_data()), dtype=torch.float32)
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


def test_arcs_go_from_one_latent_to_another(path: Path) -> None:
    model = vaegan_pl.load(path)
    start, end = torch.eye(5)[:2], torch.eye(5)[2:4]
    images = model.interpolate(start, end, 3)
    assert images.shape == (3, 2, 1, 16, 16)
    half = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0, 0.0]]) / 2**0.5  # unit vectors at 45 degrees
    with torch.inference_mode():
        expected = torch.stack([model.networks.decoder(z) for z in (start, half, end)])
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_attribute_vectors_lead_from_class_to_class(path: Path, tmp_path: Path) -> None:
    model = vaegan_pl.load(path)  # the means of a, b and c are 0, 2 and -1, of 2, 1 and 1 training images
    vectors = {name: vector.unique().tolist() for name, vector in model.attribute_vectors().items()}
    assert vectors == {"a": [-0.5], "b": [pytest.approx(2 + 1 / 3)], "c": [pytest.approx(-1 - 2 / 3)]}
    from_c = {name: vector.unique().tolist() for name, vector in model.attribute_vectors(away_from="c").items()}
    assert from_c == {"a": [1.0], "b": [3.0]}
    with pytest.raises(UserError, match="label=z"):
        model.attribute_vectors(away_from="z")
    save_model(tmp_path / "few.pth", networks_with(), mixtures={"a": MIXTURES["a"]})
    with pytest.raises(UserError, match="two classes"):
        vaegan_pl.load(tmp_path / "few.pth").attribute_vectors()


def test_a_grid_of_all_classes_has_a_titled_block_for_each(path: Path, run_command: Run) -> None:
    assert run_command(sample, "sample", f"weights={path}", "n_per_class=9", f"output={path.parent / 'drawn'}") is None
    drawn = np.asarray(Image.open(path.parent / "drawn" / "grid.png"))
    model, generator = vaegan_pl.load(path), torch.Generator().manual_seed(0)
    side = 2 * (16 + MARGIN)  # pictures show images twice as large
    block = 2 * side + 2 * MARGIN + CAPTION_SIZE + 6  # nine images are two rows of eight, above their title
    for i, label in enumerate("abc"):
        first = model.sample(9, label, generator)[0, 0]
        top, left = i * block + 2 * MARGIN, 2 * MARGIN
        shown = drawn[top : top + 32 : 2, left : left + 32 : 2]
        np.testing.assert_allclose(shown, (first.numpy() + 1) * 127.5, atol=0.51)


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
