"""What the page does with a model, against the commands that do the same and against numpy."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import MIXTURES, networks_with, save_model
from vaegan_pl.cli.sample import sample
from vaegan_pl.data.images import fit, read_grey, to_unit_range
from vaegan_pl.errors import UserError
from vaegan_pl.explorer.studio import Point, Studio
from vaegan_pl.model import weights
from vaegan_pl.model.networks import Networks
from vaegan_pl.report.provenance import sha256

Run = Callable[..., str | None]
CPU = torch.device("cpu")


def studio_of(networks: Networks, mixtures: object = MIXTURES) -> Studio:
    path = Path("m.pth")
    save_model(path, networks, mixtures)
    return Studio("m.pth", path, sha256(path), weights.load(path))


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_networks: Networks) -> Studio:
    monkeypatch.chdir(tmp_path)
    return studio_of(small_networks)


def grey(images: torch.Tensor) -> np.ndarray:
    values: np.ndarray = ((images.detach()[:, 0] + 1) * 127.5).numpy()
    return values


def pictures(*paths: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in paths])


@pytest.mark.parametrize(("label", "name"), [(None, "sample"), ("b", "b")])
def test_samples_are_those_of_the_command(run_command: Run, studio: Studio, label: str | None, name: str) -> None:
    options = [] if label is None else [f"label={label}"]
    common = ["weights=m.pth", "n=5", "seed=3", "temperature=0.7", "output=out"]
    assert run_command(sample, "sample", *common, *options) is None
    expected = pictures(*(Path(f"out/{name}_{i:05d}.png") for i in range(5)))
    np.testing.assert_allclose(grey(studio.draw(label, 5, 3, 0.7).images), expected, atol=0.51)


def test_class_folders_are_those_of_the_command(run_command: Run, studio: Studio) -> None:
    assert run_command(sample, "sample", "weights=m.pth", "n_per_class=2", "seed=4", "output=out") is None
    with ZipFile(BytesIO(studio.class_folders(2, 4, 1.0))) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".png"))
        assert names == sorted(str(path.relative_to("out")) for path in Path("out").glob("*/*.png"))
        for name in names:
            with Image.open(BytesIO(file.read(name))) as image:
                assert np.array_equal(np.asarray(image), pictures(Path("out", name))[0])
                assert image.info["Description"] == "synthetic; trained on PHANTOMS (drawings, not MRI)"
        assert json.loads(file.read("provenance.json")) == json.loads(Path("out/provenance.json").read_text())


def test_at_temperature_zero_all_are_the_class_mean(studio: Studio) -> None:
    networks = studio.model.networks
    with torch.no_grad():
        mean = networks.decoder(torch.full((1, 5), 2.0))
    torch.testing.assert_close(studio.draw("b", 3, 0, 0.0).images, mean.expand(3, -1, -1, -1))


def test_an_image_is_encoded_to_its_posterior_mean(studio: Studio) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)).save("x.png")
    point = studio.encoded(Path("x.png"), None)
    x = to_unit_range(torch.from_numpy(fit(read_grey(Path("x.png"), 65535, "fixed"), 16, "pad")))[None, None]
    assert point.image is not None
    assert torch.equal(point.image, x)
    with torch.no_grad():
        torch.testing.assert_close(point.z, studio.model.networks.encoder(x)[0])
        torch.testing.assert_close(studio.decoded(point), studio.model.networks.decoder(point.z))


def test_directions_are_differences_of_class_means_and_singular_vectors(studio: Studio) -> None:
    start = Point(torch.full((1, 5), 0.5), None, None)
    # The others of b are 2 images of a, at 0, and 1 of c, at -1: b lies 2 - (-1/3) from their mean.
    towards = studio.moved(start, {"b": 0.6}, [0] * 6)
    torch.testing.assert_close(towards.z, torch.full((1, 5), 0.5 + 0.6 * (2 + 1 / 3)))
    weight, gain, variance = (
        studio.model.networks.decoder.state_dict()[f"hidden.{name}"].double().numpy()
        for name in ("0.weight", "1.weight", "1.running_var")
    )
    rows = (gain / np.sqrt(variance + 1e-5))[:, None] * weight
    leading = np.linalg.svd(rows)[2][:2]
    for i, expected in enumerate(leading):
        along = [0.0] * i + [3.0]
        step = (studio.moved(start, {}, along).z - start.z)[0].numpy()
        assert abs(step @ expected) == pytest.approx(3, abs=1e-4)
        assert np.linalg.norm(step) == pytest.approx(3, abs=1e-4)


def test_the_way_between_two_points_begins_and_ends_there(studio: Studio) -> None:
    start, end = studio.point(studio.draw("a", 2, 0, 1.0), 1), studio.point(studio.draw(None, 1, 1, 1.0), 0)
    tour = studio.between(start, end)
    assert tour.frames.shape[:2] == (24, 1)
    assert len(tour.still) == 8
    torch.testing.assert_close(tour.frames[0], studio.decoded(start))
    torch.testing.assert_close(tour.frames[-1], studio.decoded(end))
    assert tour.caption == "Synthetic, not for diagnosis. Trained on PHANTOMS (drawings, not MRI)."
    Image.new("L", (16, 16), 90).save("x.png")
    tour = studio.between(start, studio.encoded(Path("x.png"), None))
    assert len(tour.still) == tour.columns == 9
    assert tour.caption.startswith("Original: the last image. Synthetic")


def test_broken_images_are_named_with_the_reason(studio: Studio) -> None:
    Path("x.png").write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(UserError, match=r"^x.png: cannot be read \(.*use an intact image file"):
        studio.encoded(Path("x.png"), None)


def test_a_gan_draws_and_is_not_asked_for_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    studio = studio_of(networks_with(encoder_channels=None), None)
    assert (studio.labels, studio.directed, studio.model.has_encoder) == ([], [], False)
    assert studio.draw(None, 2, 0, 1.0).images.shape == (2, 1, 16, 16)
    samples = studio.draw(None, 2, 0, 1.0)
    torch.testing.assert_close(studio.decoded(studio.point(samples, 1)), samples.images[1:])
    moved = studio.moved(studio.point(samples, 0), {}, [1.0] * 6)
    assert studio.decoded(moved).shape == (1, 1, 16, 16)
    Image.new("L", (16, 16)).save("x.png")
    with pytest.raises(UserError, match="no encoder"):
        studio.encoded(Path("x.png"), None)


def test_a_conditional_model_is_told_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    studio = studio_of(networks_with(classes=3))
    Image.new("L", (16, 16), 90).save("x.png")
    with pytest.raises(UserError, match="give the images' class"):
        studio.encoded(Path("x.png"), None)
    point = studio.encoded(Path("x.png"), "c")
    x = to_unit_range(torch.from_numpy(fit(read_grey(Path("x.png"), 65535, "fixed"), 16, "pad")))[None, None]
    networks, y = studio.model.networks, torch.tensor([2])
    with torch.no_grad():
        expected = networks.decoder(networks.encoder(x, y)[0], y)
    torch.testing.assert_close(studio.decoded(point), expected)
    assert studio.moved(point, {"a": 0.5}, [0.1] * 6).label == "c"
    samples = studio.draw("b", 2, 0, 1.0)
    other = studio.point(samples, 1)
    torch.testing.assert_close(studio.decoded(other), samples.images[1:])
    with pytest.raises(UserError, match="one end is c, the other b: this model needs both ends in one class"):
        studio.between(point, other)
