"""The latent command on small models whose answers are known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from vaegan_pl.cli.latent import latent
from vaegan_pl.data.images import fit, read_grey, to_unit_range
from vaegan_pl.model.networks import Networks
from vaegan_pl.storage.outputs import MADE_BY

from .conftest import networks_with, save_model

Run = Callable[..., str | None]
TILE = 2 * 16 + 4  # 16 pixels twice as large, and a margin of 2 pixels twice as large


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_networks: Networks) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(Path("m.pth"), small_networks)
    random = np.random.default_rng(0)
    for name in ("x", "y"):
        Image.fromarray(random.integers(0, 256, (20, 20), dtype=np.uint8)).save(f"{name}.png")


def tile(picture: Image.Image, row: int, column: int) -> np.ndarray:
    """An image of a grid, at its own size."""
    top, left = 4 + row * TILE, 4 + column * TILE
    return np.asarray(picture.convert("L"))[top : top + 32 : 2, left : left + 32 : 2]


def milliseconds(picture: Image.Image) -> int:
    """How long an animation lasts; equal frames are stored as one that lasts longer."""
    return sum(int(frame.info["duration"]) for frame in ImageSequence.Iterator(picture))


def image(name: str) -> torch.Tensor:
    return to_unit_range(torch.from_numpy(fit(read_grey(Path(f"{name}.png"), 65535, "fixed"), 16, "pad")))[None, None]


def grey(images: torch.Tensor) -> np.ndarray:
    values: np.ndarray = ((images.detach()[0, 0] + 1) * 127.5).numpy()
    return values


def test_between_two_images_it_goes_from_one_reconstruction_to_the_other(
    run_command: Run, small_networks: Networks
) -> None:
    options = ["weights=m.pth", "images=[x.png,y.png]", "frames=5", "columns=3", "output=out"]
    assert run_command(latent, "latent", *options) is None
    with Image.open("out/interpolate.png") as still:
        assert "Trained on" not in still.info  # it is in the picture
        provenance = "original images next to synthetic; trained on PHANTOMS (drawings, not MRI)"
        assert still.info["Description"] == provenance
        np.testing.assert_allclose(tile(still, 0, 0), grey(image("x")), atol=0.51)
        np.testing.assert_allclose(tile(still, 0, 4), grey(image("y")), atol=0.51)
        for column, name in ((1, "x"), (3, "y")):
            expected = grey(small_networks.decoder(small_networks.encoder(image(name))[0]))
            np.testing.assert_allclose(tile(still, 0, column), expected, atol=0.51)
        first = tile(still, 0, 1)
    with Image.open("out/interpolate.gif") as moving:
        assert milliseconds(moving) == 80 * (5 + 3)  # there and back
        assert moving.info["loop"] == 0
        assert moving.info["comment"] == f"{MADE_BY}: {provenance}".encode()
        moving.seek(0)
        np.testing.assert_allclose(tile(moving, 0, 1), first, atol=1)


def test_attributes_move_along_differences_of_class_means(run_command: Run, small_networks: Networks) -> None:
    Path("mine").mkdir()
    for name in ("x", "y"):
        Path(f"{name}.png").rename(f"mine/{name}.png")
    options = ["weights=m.pth", "tool=attributes", "images=mine", "strength=0.5", "frames=3", "output=out"]
    assert run_command(latent, "latent", *options) is None
    for name in ("x", "y"):
        Path(f"mine/{name}.png").rename(f"{name}.png")
    z = small_networks.encoder(image("y"))[0]
    # Means 0, 2 and -1 of 2, 1 and 1 images: from the others to b are 2 - (2 * 0 - 1) / 3, to a 0 - (2 - 1) / 2.
    with Image.open("out/attributes.png") as still:
        np.testing.assert_allclose(tile(still, 1, 0), grey(image("y")), atol=0.51)
        np.testing.assert_allclose(tile(still, 1, 1), grey(small_networks.decoder(z)), atol=0.51)
        np.testing.assert_allclose(tile(still, 1, 2), grey(small_networks.decoder(z - 0.5 * 0.5)), atol=0.51)
        np.testing.assert_allclose(tile(still, 1, 3), grey(small_networks.decoder(z + 0.5 * 7 / 3)), atol=0.51)
    options = ["weights=m.pth", "tool=attributes", "images=x.png", "strength=0.5", "frames=3", "output=known"]
    assert run_command(latent, "latent", *options, "label=c") is None
    with Image.open("known/attributes.png") as still:
        assert still.width == 4 + 4 * TILE  # original, reconstruction, a and b
        z = small_networks.encoder(image("x"))[0]
        np.testing.assert_allclose(tile(still, 0, 2), grey(small_networks.decoder(z + 0.5 * 1)), atol=0.51)
        np.testing.assert_allclose(tile(still, 0, 3), grey(small_networks.decoder(z + 0.5 * 3)), atol=0.51)


def test_a_walk_is_a_loop_and_repeats_itself(run_command: Run) -> None:
    for output, options in (("a", []), ("b", []), ("c", ["seed=1"]), ("d", ["label=b"])):
        walk = ["weights=m.pth", "tool=walk", "n=2", "frames=16", "columns=4", f"output={output}", *options]
        assert run_command(latent, "latent", *walk) is None
    a, b, c, d = (Path(output, "walk.gif").read_bytes() for output in "abcd")
    assert a == b
    assert len({a, c, d}) == 3
    with Image.open("a/walk.gif") as moving:
        assert milliseconds(moving) == 80 * 16
        assert moving.info["comment"] == f"{MADE_BY}: synthetic; trained on PHANTOMS (drawings, not MRI)".encode()
    with Image.open("a/walk.png") as still:
        assert still.width == 4 + 4 * TILE


def test_a_conditional_model_keeps_the_head_and_changes_the_class(run_command: Run) -> None:
    networks = networks_with(classes=3).eval()
    save_model(Path("m.pth"), networks)
    options = ["weights=m.pth", "tool=attributes", "images=x.png", "frames=2", "strength=0", "output=out"]
    said = run_command(latent, "latent", *options)
    assert said is not None
    assert "the model is conditional; give the images' class" in said
    assert run_command(latent, "latent", *options, "label=a") is None
    z = networks.encoder(image("x"), torch.tensor([0]))[0]
    with Image.open("out/attributes.png") as still:
        for column, label in ((1, 0), (2, 1), (3, 2)):
            expected = grey(networks.decoder(z, torch.tensor([label])))
            np.testing.assert_allclose(tile(still, 0, column), expected, atol=0.51)
    for tool in ("tool=walk", "tool=interpolate", "tool=walk label=b"):
        assert run_command(latent, "latent", "weights=m.pth", "frames=2", *tool.split()) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["tool=fly"], "tool=fly: must be one of interpolate, attributes, walk"),
        (["tool=attributes"], "images: tool=attributes needs an image or a folder"),
        (["images=x.png"], "interpolate needs two images; give images=[A,B]"),
        (["images=[x.png,nowhere.png]"], "images=nowhere.png: no such file or folder"),
        (["images=[x.png,y.png]", "label=a"], "label=a: the model is not conditional"),
        (["tool=attributes", "images=x.png", "label=q"], "label=q: must be one of the model's classes: a, b, c"),
        (["tool=walk", "label=q"], "label=q: must be one of the model's classes: a, b, c"),
        (["frames=1"], "frames=1: must be at least 2"),
        (["n=0"], "n=0: must be at least 1"),
        (["seed=-1"], "seed=-1: must lie between 0 and 4294967295"),
        (["seed=4294967296"], "seed=4294967296: must lie between 0 and 4294967295"),
        (["tool=attributes", "images=[x.png,y.png]"], "attributes takes one image or one folder; give images=PATH"),
        (["strength=nan"], "strength=nan: must be a finite number, such as 1"),
    ],
)
def test_mistakes_end_with_one_clear_message(run_command: Run, options: list[str], message: str) -> None:
    said = run_command(latent, "latent", "weights=m.pth", *options)
    assert said is not None
    assert message in said


def test_models_that_lack_a_part_say_so(run_command: Run) -> None:
    save_model(Path("m.pth"), networks_with(encoder_channels=None), None)
    assert run_command(latent, "latent", "weights=m.pth", "frames=2") is None
    said = run_command(latent, "latent", "weights=m.pth", "images=[x.png,y.png]")
    assert said == "error: weights: the file contains no encoder; the model can only be sampled"
    save_model(Path("m.pth"), networks_with(), None)
    said = run_command(latent, "latent", "weights=m.pth", "tool=attributes", "images=x.png")
    assert said is not None
    assert "contains no classes" in said
