"""Exports and the snippets of docs/using.md, run by programs that know nothing of this project."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from vaegan_pl.cli.export import export
from vaegan_pl.model import exports, weights
from vaegan_pl.model.mixtures import Mixture, from_plain, to_plain
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.saved_model import SavedModel
from vaegan_pl.model.trained_on import TrainedOn
from vaegan_pl.storage.outputs import is_ours

Run = Callable[..., str | None]
TRAINED_ON = TrainedOn("phantom", "p", ["a", "b"], {"train": {"a": 3, "b": 1}}, "PHANTOMS")
MEANS = {"a": torch.tensor([[1.0, 0, 0, 0, 0], [0, 2, 0, 0, 0]]), "b": torch.tensor([[0.0, 0, 3, 0, 0]])}
MIXTURES = {
    "a": Mixture(torch.tensor([0.25, 0.75]), MEANS["a"], 1e-6 * torch.eye(5).repeat(2, 1, 1)),
    "b": Mixture(torch.ones(1), MEANS["b"], 1e-6 * torch.eye(5)[None]),
}
"""So narrow that draws hardly differ from the means."""
PAGE = Path(__file__).parents[1] / "docs" / "using.md"


@pytest.fixture
def model(tmp_path: Path, small_networks: Networks, monkeypatch: pytest.MonkeyPatch) -> SavedModel:
    """In `vae_gan_model.pth`, with running statistics that matter."""
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        small_networks.decoder(torch.randn(16, 5))
        small_networks.encoder(torch.randn(16, 1, 16, 16))
    weights.save(Path("vae_gan_model.pth"), small_networks, {"colour": "grey"}, TRAINED_ON, {"epochs": 1}, MIXTURES)
    return weights.load(Path("vae_gan_model.pth"))


@pytest.mark.parametrize("file_format", ["safetensors", "onnx", "pt2"])
def test_each_format_gives_the_outputs_of_the_model(
    model: SavedModel, run_command: Run, capfd: pytest.CaptureFixture[str], file_format: str
) -> None:
    assert run_command(export, "export", "weights=vae_gan_model.pth", f"format={file_format}", "output=export") is None
    lines = [line for line in capfd.readouterr().out.splitlines() if "outputs differ from PyTorch's by" in line]
    assert len(lines) == 2
    assert max(float(re.findall(r"by (\S+) at most", line)[0]) for line in lines) <= 1e-4
    assert sorted(path.name for path in Path("export").iterdir()) == [
        f"decoder.{file_format}",
        "density.npz",
        f"encoder.{file_format}",
    ]


def test_files_say_what_they_are(model: SavedModel, run_command: Run) -> None:
    for file_format in ("safetensors", "onnx"):
        options = ["weights=vae_gan_model.pth", f"format={file_format}", "output=export"]
        assert run_command(export, "export", *options) is None
    with safe_open("export/decoder.safetensors", "pt") as file:
        said = json.loads(file.metadata()["vaegan_pl"])
        assert set(file.keys()) == set(model.networks.decoder.state_dict())
    assert said["preprocessing"]["colour"] == "grey"
    assert said["trained_on"]["caption"] == "PHANTOMS"
    assert "not for diagnosis" in said["what"]
    proto = onnx.load("export/decoder.onnx")
    assert {entry.key: json.loads(entry.value) for entry in proto.metadata_props if entry.key == "vaegan_pl"} == {
        "vaegan_pl": said
    }
    assert [output.name for output in onnx.load("export/encoder.onnx").graph.output] == ["mean", "log_variance"]


def test_the_decoder_alone_draws_the_same_images_from_a_small_file(
    model: SavedModel, run_command: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command(export, "export", "weights=vae_gan_model.pth", "format=decoder", "output=export") is None
    (path,) = Path("export").iterdir()
    assert path.name == "vae_gan_decoder.pth"
    shared = weights.load(path)
    assert shared.networks.names == ["decoder"]
    assert (shared.trained_on, shared.labels, shared.has_encoder) == (model.trained_on, ["a", "b"], False)
    difference = (shared.sample(64) - model.sample(64)).square().flatten(1).mean(1).sqrt().max() * 255 / 2
    (said,) = re.findall(r"by (\S+) of 255", capfd.readouterr().out)
    assert 0 < difference <= 1
    assert float(said) <= 1
    content = torch.load(path, weights_only=True)
    floats = [value for value in content["state_dict"]["decoder"].values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float16}
    assert shared.mixtures is not None
    for name, stored in content["mixtures"].items():
        assert stored["factors"].shape == (len(MEANS[name]), 15)  # lower triangles, diagonals included, of 5 x 5
        torch.testing.assert_close(shared.mixtures[name].factors, MIXTURES[name].factors, rtol=0, atol=3e-8)
    assert run_command(export, "export", "weights=vae_gan_model.pth", "format=decoder", "output=export") is None


def test_lower_triangles_come_back_as_factors(model: SavedModel) -> None:
    random = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 5, 5, generator=random).half().float().tril()
    mixture = Mixture(torch.tensor([0.5, 0.25, 0.25]), torch.zeros(3, 5), factors)
    stored = to_plain({"a": mixture}, half=True)
    assert stored["a"]["factors"][1].tolist() == [
        factors[1, row, column] for row in range(5) for column in range(row + 1)
    ]
    torch.testing.assert_close(from_plain(stored, 5)["a"].factors, factors, rtol=0, atol=0)


def test_a_decoder_too_large_for_half_precision_is_refused(model: SavedModel, run_command: Run) -> None:
    with torch.no_grad():
        dict(model.networks.decoder.named_parameters())["image.0.bias"].fill_(
            1e6
        )  # larger than half precision allows, 65,504
    weights.save(Path("large.pth"), model.networks, {"colour": "grey"}, TRAINED_ON, {"epochs": 1}, MIXTURES)
    said = run_command(export, "export", "weights=large.pth", "format=decoder", "output=export")
    assert said is not None
    assert "vae_gan_decoder.pth: the decoder does not survive half precision" in said
    assert not Path("export").exists()


def test_an_export_that_differs_is_not_written(
    model: SavedModel, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an earlier one stays."""
    assert run_command(export, "export", "weights=vae_gan_model.pth", "output=export") is None
    before = {path: path.read_bytes() for path in Path("export").iterdir()}

    def wrong(path: Path, network: nn.Module) -> Callable[[Tensor], list[Tensor]]:
        return lambda x: [network(*x) + 2e-4]

    monkeypatch.setitem(exports.FORMATS, "onnx", (exports.FORMATS["onnx"][0], wrong))
    monkeypatch.setattr(exports, "INPUTS", {"decoder": "z"})
    output = run_command(export, "export", "weights=vae_gan_model.pth", "output=export")
    assert output is not None
    assert "decoder.onnx: would differ from the model by 2.0e-04, more than 0.0001; nothing was written" in output
    assert {path: path.read_bytes() for path in Path("export").iterdir()} == before


def test_differences_are_found_in_shapes_and_in_nan(small_networks: Networks) -> None:
    decoder = small_networks.eval().decoder
    assert exports.difference(decoder, lambda x: [decoder(*x)[:1]], (5,), 0) == float("inf")
    assert exports.difference(decoder, lambda x: [decoder(*x) * torch.nan], (5,), 0) == float("inf")
    assert exports.difference(decoder, lambda x: [decoder(*x)], (5,), 0) == 0


def test_a_missing_package_and_a_wrong_format(
    model: SavedModel, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    output = run_command(export, "export", "weights=vae_gan_model.pth", "output=export")
    assert output is not None
    assert "format=onnx: needs onnx" in output
    assert "pip install -e '.[export]'" in output
    output = run_command(export, "export", "weights=vae_gan_model.pth", "format=tflite")
    assert output == "error: format=tflite: must be one of safetensors, onnx, pt2, decoder"


def snippet(words: str) -> str:
    """The page's Python block with these words in it."""
    found: list[str] = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if words in block
    ]
    assert len(found) == 1
    return found[0]


def run_alone(code: str) -> None:
    """Run code in a process in which this project cannot be imported, and keep what it calls z and images."""
    alone = "import sys; sys.modules['vaegan_pl'] = None\n" + (
        "import torch; torch.manual_seed(0)\n" * ("torch" in code)
    )
    keep = "\nimport numpy as np; np.savez('made.npz', z=np.asarray(z), images=np.asarray(images))\n"
    subprocess.run([sys.executable, "-c", alone + code + keep], check=True)


def made() -> tuple[Tensor, Tensor]:
    with np.load("made.npz") as file:
        return torch.from_numpy(file["z"]), torch.from_numpy(file["images"])


def test_the_density_weighs_classes_by_their_training_images(model: SavedModel, run_command: Run) -> None:
    assert run_command(export, "export", "weights=vae_gan_model.pth", "format=safetensors", "output=export") is None
    with np.load("export/density.npz") as file:
        np.testing.assert_allclose(file["weights"], [0.1875, 0.5625, 0.25], rtol=1e-6)
        assert [str(name) for name in file["classes"][file["class_index"]]] == ["a", "a", "b"]
        np.testing.assert_array_equal(file["means"], torch.cat([MEANS["a"], MEANS["b"]]))
        np.testing.assert_allclose(file["factors"], np.tile(1e-6 * np.eye(5), (3, 1, 1)))
    assert is_ours(Path("export/density.npz"))
    Path("export/density.npz").write_bytes(b"mine")
    refused = run_command(export, "export", "weights=vae_gan_model.pth", "format=safetensors", "output=export")
    assert refused is not None
    assert "density.npz: was not written by this project" in refused


def test_without_a_fitted_density_the_export_says_so(
    model: SavedModel, run_command: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    weights.save(Path("early.pth"), model.networks, {"colour": "grey"}, TRAINED_ON, {"epochs": 1})
    assert run_command(export, "export", "weights=early.pth", "format=safetensors", "output=export") is None
    assert "Draw z from N(0, I): the model file contains no fitted density" in capfd.readouterr().out
    assert not Path("export/density.npz").exists()


def is_drawn_from_the_mixtures(z: Tensor) -> bool:
    distances = torch.cdist(z.float(), torch.cat([MEANS["a"], MEANS["b"]]))
    return bool((distances.min(1).values < 1e-4).all()) and len(distances.argmin(1).unique()) > 1


def test_the_readme_opens_a_model_with_torch_alone(model: SavedModel) -> None:
    run_alone(snippet("torch.load"))
    z, images = made()
    assert is_drawn_from_the_mixtures(z)
    torch.testing.assert_close(images, model.networks.decoder(z.float()).detach(), atol=1e-5, rtol=0)


def test_the_readme_runs_the_decoder_with_onnxruntime_alone(model: SavedModel, run_command: Run) -> None:
    assert run_command(export, "export", "weights=vae_gan_model.pth", "output=export") is None
    code = snippet("onnxruntime")
    assert "torch" not in code
    run_alone(code)
    z, images = made()
    assert is_drawn_from_the_mixtures(z)
    torch.testing.assert_close(images, model.networks.decoder(z.float()).detach(), atol=1e-5, rtol=0)
