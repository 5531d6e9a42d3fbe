"""The sample and reconstruct commands on a saved model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vaegan_pl.cli.reconstruct import reconstruct
from vaegan_pl.cli.sample import sample
from vaegan_pl.data.dicom import Window
from vaegan_pl.data.images import fit, read_file, read_grey, to_unit_range
from vaegan_pl.inference import read_images
from vaegan_pl.model import weights
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.trained_on import TrainedOn

from .data.test_dicom import slice_file

Run = Callable[..., str | None]


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_networks: Networks) -> Path:
    monkeypatch.chdir(tmp_path)
    trained_on = TrainedOn("phantom", "p", ["a"], {}, "PHANTOMS (drawings, not MRI)")
    preprocessing = {"aspect_ratio": "pad", "white": 65535, "grey_range": "fixed"}
    weights.save(tmp_path / "m.pth", small_networks, preprocessing, trained_on, training={})
    return tmp_path / "m.pth"


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_the_same_seed_gives_the_same_images(run_command: Run) -> None:
    for output, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run_command(sample, "sample", "weights=m.pth", "n=5", f"seed={seed}", f"output={output}") is None
    a, b, c = files("a"), files("b"), files("c")
    pictures = ["grid.png", *(f"sample_{i:05d}.png" for i in range(5))]
    assert sorted(a) == ["PHANTOMS-NOT-MRI.json", "grid.png", "provenance.json", *pictures[1:]]
    assert a == b
    assert all(a[name] != c[name] for name in pictures)


def test_samples_of_an_earlier_call_do_not_stay(run_command: Run) -> None:
    Path("out").mkdir()
    Path("out/sample_notes.png").touch()
    for n in (3, 2):
        assert run_command(sample, "sample", "weights=m.pth", f"n={n}", "output=out") is None
    pictures = [path.name for path in Path("out").glob("*.png")]
    assert sorted(pictures) == ["grid.png", "sample_00000.png", "sample_00001.png", "sample_notes.png"]


def test_samples_are_decoded_draws_of_the_prior(run_command: Run, small_networks: Networks) -> None:
    assert run_command(sample, "sample", "weights=m.pth", "n=70", "seed=3", "output=out") is None
    z = torch.randn(70, 5, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = (small_networks.eval().decoder(z)[66, 0] + 1) * 127.5
    with Image.open("out/sample_00066.png") as image:
        np.testing.assert_allclose(np.asarray(image), expected.numpy(), atol=0.51)
        assert image.info["Description"] == "synthetic; trained on PHANTOMS (drawings, not MRI)"


def test_grey_values_are_read_as_in_training(tmp_path: Path, small_networks: Networks) -> None:
    """A 12-bit slice and two DICOM slices of one series, by the range that the model file records."""
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 8 + 500).save(folder / "c.png")
    for name, centre in (("a", 1000), ("b", 3000)):
        slice_file(folder / f"{name}.dcm", SeriesInstanceUID="1.2.3", WindowCenter=centre, WindowWidth=1000)
    trained_on = TrainedOn("images", "p", ["a"], {}, "images of p")
    for range_, series in (("fixed", None), ("percentile", None), ("series", Window(2000, 1000, "LINEAR"))):
        preprocessing = {"aspect_ratio": "pad", "white": 4095, "grey_range": range_}
        weights.save(tmp_path / "m.pth", small_networks, preprocessing, trained_on, training={})
        names, x = read_images(folder, weights.load(tmp_path / "m.pth"))
        assert names == ["a", "b", "c"]
        grey = [read_file(path, 4095, range_, series).grey for path in sorted(folder.iterdir())]
        assert torch.equal(x[:, 0], to_unit_range(torch.from_numpy(np.stack(grey))))


def test_reconstructions_pair_with_their_images(
    run_command: Run, write_classes: Callable[..., Path], small_networks: Networks
) -> None:
    folder = write_classes(Path("mine"), 4) / "notumor"
    (folder / "1.png").write_bytes(b"no image")
    options = ["weights=m.pth", f"images={folder}", "output=out"]
    assert run_command(reconstruct, "reconstruct", *options) is None
    names = ["grid.png", "reconstruction_00000_0.png", "reconstruction_00001_2.png", "reconstruction_00002_3.png"]
    assert sorted(files("out")) == names
    x = to_unit_range(torch.from_numpy(fit(read_grey(folder / "2.png", 65535, "fixed"), 16, "pad")))[None, None]
    with torch.no_grad():
        mean, _ = small_networks.eval().encoder(x)
        expected = (small_networks.decoder(mean)[0, 0] + 1) * 127.5
    with Image.open("out/reconstruction_00001_2.png") as image:
        np.testing.assert_allclose(np.asarray(image), expected.numpy(), atol=0.51)


@pytest.mark.parametrize(
    ("command", "overrides", "message"),
    [
        (sample, [], "weights is not set; add weights=VALUE"),
        (sample, ["weights=nowhere.pth"], "weights=nowhere.pth: no such file"),
        (sample, ["weights=m.pth", "n=0"], "n=0: must be a whole number of at least 1"),
        (sample, ["weights=m.pth", "n=1.5"], "n=1.5: must be a whole number, such as 64"),
        (sample, ["weights=m.pth", "seed=abc"], "seed=abc: must be a whole number"),
        (sample, ["weights=m.pth", "accelerator=foo"], "accelerator=foo: "),
        (sample, ["weights=m.pth", "+foo=1"], "there is no option foo"),
        (sample, ["weights=123"], "weights=123: no such file"),
        (reconstruct, ["weights=m.pth", "images=m.pth", "shown=0"], "shown=0: must be at least 1"),
        (sample, ["weights=m.pth", "number=3"], "there is no option number"),
        (sample, ["weights=m.pth", "output=/dev/null/out"], "/dev/null/out"),
        (reconstruct, ["weights=m.pth"], "images is not set; add images=VALUE"),
        (reconstruct, ["weights=m.pth", "images=nowhere"], "images=nowhere: no such file or folder"),
        (reconstruct, ["weights=m.pth", "images=m.pth"], "images=m.pth: none of the images there can be read"),
    ],
)
def test_mistakes_end_with_one_clear_message(
    run_command: Run, command: Callable[..., None], overrides: list[str], message: str
) -> None:
    output = run_command(command, command.__name__, *overrides)
    assert output is not None
    assert output.startswith("error: ")
    assert message in output
