import pickle
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from vaegan_pl.errors import UserError
from vaegan_pl.model import weights
from vaegan_pl.model.networks import Networks
from vaegan_pl.model.trained_on import TrainedOn
from vaegan_pl.storage.files import printable

from .. import hostile
from ..conftest import networks_with

COUNTS = {"train": {"a": 2, "b": 1}}
TRAINED_ON: dict[str, Any] = {
    "kind": "phantom",
    "folder": "p",
    "classes": ["a", "b"],
    "counts": COUNTS,
    "caption": "PHANTOMS",
}


def saved(path: Path, networks: Networks) -> Path:
    weights.save(path, networks, {"colour": "grey"}, TrainedOn(**TRAINED_ON), training={"epochs": 1})
    return path


def altered(path: Path, **changes: Any) -> Path:
    """The same file with other contents."""
    path.write_bytes(hostile.saved({**torch.load(path, weights_only=True), **changes}))
    return path


def test_a_saved_model_comes_back_the_same(tmp_path: Path, small_networks: Networks) -> None:
    small_networks.decoder(torch.randn(8, 5))  # moves the running statistics, which must be saved too
    model = weights.load(saved(tmp_path / "m.pth", small_networks))
    later = dict.fromkeys(("fingerprint", "training_images", "split", "release"))
    assert model.trained_on.plain == {**TRAINED_ON, **later}
    assert model.preprocessing == {
        "image_size": 16,
        "colour": "grey",
        "aspect_ratio": "squash",  # what older files, which do not say, were trained on
        "white": 65535,
        "grey_range": "fixed",
    }
    assert not model.networks.training
    z = torch.randn(3, 5)
    torch.testing.assert_close(model.networks.decoder(z), small_networks.eval().decoder(z), rtol=0, atol=0)
    assert model.networks.state_dict().keys() == small_networks.state_dict().keys()


@pytest.mark.parametrize(
    "options",
    [
        {"encoder_channels": None},
        {"discriminator_channels": None},
        {"classes": 2},
        {"norm": "group", "discriminator_norm": "group"},
        {"discriminator_norm": "spectral"},
        {"decoder_kernel": 5, "discriminator_first_stride": 1},
    ],
    ids=str,
)
def test_every_kind_of_networks_comes_back_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    networks = networks_with(**options).train()
    x, z, y = torch.rand(3, 1, 16, 16), torch.randn(3, 5), torch.tensor([0, 1, 1])
    for _ in range(2):  # moves running statistics and singular vectors
        images = networks.decoder(z, y)
        if "discriminator" in networks.names:
            networks.discriminator(images, y)
    loaded = weights.load(saved(tmp_path / "m.pth", networks)).networks
    networks.eval()
    assert loaded.names == networks.names
    torch.testing.assert_close(loaded.decoder(z, y), networks.decoder(z, y), rtol=0, atol=0)
    for name in set(networks.names) - {"decoder"}:
        ours, theirs = getattr(networks, name)(x, y)[0], getattr(loaded, name)(x, y)[0]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_files_of_earlier_versions_hold_the_reports_networks(tmp_path: Path, small_networks: Networks) -> None:
    path = saved(tmp_path / "m.pth", small_networks)
    new = ("decoder_kernel", "discriminator_first_stride", "norm", "discriminator_norm", "classes")
    old = {name: value for name, value in small_networks.arguments.items() if name not in new}
    loaded = weights.load(altered(path, format_version=2, networks=old)).networks
    z = torch.randn(3, 5)
    torch.testing.assert_close(loaded.decoder(z), small_networks.eval().decoder(z), rtol=0, atol=0)


def test_the_file_is_plain(tmp_path: Path, small_networks: Networks) -> None:
    path = saved(tmp_path / "m.pth", small_networks.to(memory_format=torch.channels_last))
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    content = torch.load(path, weights_only=True)
    assert content["format"] == "vaegan_pl"
    assert content["format_version"] == 5
    assert set(content["state_dict"]) == {"encoder", "decoder", "discriminator"}
    assert all(tensor.is_contiguous() for state in content["state_dict"].values() for tensor in state.values())


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, small_networks: Networks) -> None:
    path = saved(tmp_path / "m.pth", small_networks)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as failure:
            saved(path, small_networks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert failure.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_pickled_code_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "vaegan_pl", "networks": hostile.Code()}, "torch.pth")
    Path("bare.pth").write_bytes(pickle.dumps(hostile.Code()))
    with pytest.raises(UserError, match=r"weights=torch\.pth: is refused: it contains pickled code"):
        weights.load(Path("torch.pth"))
    with pytest.raises(UserError, match=r"weights=bare\.pth: is damaged, or another kind of file"):
        weights.load(Path("bare.pth"))
    assert not Path("executed").exists()


def test_foreign_newer_and_broken_files(tmp_path: Path, small_networks: Networks) -> None:
    path = saved(tmp_path / "m.pth", small_networks)
    whole = path.read_bytes()

    with pytest.raises(UserError, match="nowhere: no such file"):
        weights.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a folder; give the vae_gan_model"):
        weights.load(tmp_path)
    torch.save(small_networks.state_dict(), tmp_path / "foreign.pth")
    with pytest.raises(UserError, match="was not written by vaegan_pl"):
        weights.load(tmp_path / "foreign.pth")
    torch.save({"pytorch-lightning_version": "2.6.6", "state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"is a training checkpoint; give the vae_gan_model\.pth"):
        weights.load(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="has format 6, but this vaegan_pl reads up to 5; upgrade"):
        weights.load(altered(path, format_version=6))

    for damage in (whole[: len(whole) // 2], b"", b"not a model"):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"m\.pth: is damaged"):
            weights.load(path)


def test_contents_that_do_not_fit_together(tmp_path: Path, small_networks: Networks) -> None:
    path = saved(tmp_path / "m.pth", small_networks)
    arguments = small_networks.arguments
    wrong: dict[str, Any]
    for wrong in (
        {"networks": {**arguments, "latent_dim": 6}},
        {"networks": {"depth": 3}},
        {"networks": {**arguments, "encoder_features": 10**12}},  # refused before it takes memory
        {"state_dict": {}},
        {"trained_on": {}},
        {"trained_on": None},
    ):
        saved(path, small_networks)
        with pytest.raises(UserError, match="its contents are inconsistent"):
            weights.load(altered(path, **wrong))


@pytest.mark.parametrize("name", ["../evil", "..", "a/b", ""])
def test_classes_whose_samples_would_leave_their_folder_are_refused(
    tmp_path: Path, small_networks: Networks, name: str
) -> None:
    path = saved(tmp_path / "m.pth", small_networks)
    mixture = {"weights": torch.ones(1), "means": torch.zeros(1, 5), "factors": torch.eye(5)[None]}
    for changes in ({"trained_on": {**TRAINED_ON, "classes": ["a", name]}}, {"mixtures": {name: mixture}}):
        with pytest.raises(UserError, match=r"cannot name a folder|mixtures of unknown classes"):
            weights.load(altered(saved(path, small_networks), **changes))


def test_files_of_earlier_versions_with_a_checksum_of_their_own(tmp_path: Path, small_networks: Networks) -> None:
    for version in (1, 2, 3):
        path = altered(saved(tmp_path / "m.pth", small_networks), format_version=version, sha256="0" * 64)
        assert weights.load(path).trained_on.folder == "p"


LAUGHS: Any = "x"
for _ in range(9):
    LAUGHS = [LAUGHS] * 9
BAD_NETWORKS = (
    ("encoder_features", 10**12),
    ("latent_dim", -1),
    ("latent_dim", True),
    ("latent_dim", 5.5),
    ("image_size", 2**20),
    ("image_size", "16"),
    ("encoder_channels", [4] * 1000),
    ("encoder_channels", ["x"]),
    ("norm", "none"),
    ("classes", 3),
)


@pytest.mark.parametrize(("name", "value"), BAD_NETWORKS)
def test_networks_that_no_file_of_this_project_has(
    tmp_path: Path, small_networks: Networks, name: str, value: object
) -> None:
    path = saved(tmp_path / "m.pth", small_networks)
    with pytest.raises(UserError, match="its contents are inconsistent") as refusal:
        weights.load(altered(path, networks={**small_networks.arguments, name: value}))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("training", [1, 2]),
        ("training", {"model": "a dog"}),
        ("training", {"note": "\x1b[31mred"}),
        ("training", {"lr": float("nan")}),
        ("training", {1: 2}),
        ("training", {"x": torch.zeros(1)}),
        ("training", {"x": LAUGHS}),
        ("training", {"x": "long " * 10_000}),
        ("trained_on", {**TRAINED_ON, "classes": ["a", "a\0b"]}),
        ("trained_on", {**TRAINED_ON, "classes": ["a", "a"]}),
        ("trained_on", {**TRAINED_ON, "classes": "ab"}),
        ("trained_on", {**TRAINED_ON, "classes": []}),
        ("trained_on", {**TRAINED_ON, "kind": "photographs"}),
        ("trained_on", {**TRAINED_ON, "caption": 3}),
        ("trained_on", {**TRAINED_ON, "counts": {"train": {"a": -1}}}),
        ("trained_on", {**TRAINED_ON, "counts": {"train": [1]}}),
        ("trained_on", {**TRAINED_ON, "split": "group"}),
        ("preprocessing", {"image_size": 16, "white": 0}),
        ("preprocessing", {"image_size": 16, "white": "x"}),
        ("preprocessing", {"image_size": 16, "aspect_ratio": "bend"}),
        ("preprocessing", {"image_size": 16, "grey_range": "bend"}),
        ("preprocessing", {"image_size": 32}),
        ("state_dict", {"encoder": [], "decoder": {}, "discriminator": {}}),
        ("format_version", "3"),
        ("format_version", None),
        ("mixtures", {"a": {"weights": torch.ones(1), "means": torch.zeros(1, 5)}}),
        ("mixtures", {"z": {"weights": torch.ones(1), "means": torch.zeros(1, 5), "factors": torch.eye(5)[None]}}),
        ("mixtures", {"a": {"weights": -torch.ones(1), "means": torch.zeros(1, 5), "factors": torch.eye(5)[None]}}),
        ("mixtures", {"a": {"weights": torch.ones(1), "means": torch.zeros(1, 5) / 0, "factors": torch.eye(5)[None]}}),
        ("mixtures", {"a": {"weights": [1.0], "means": torch.zeros(1, 5), "factors": torch.eye(5)[None]}}),
        ("mixtures", [1]),
    ],
)
def test_whatever_is_wrong_is_said_in_one_line(
    tmp_path: Path, small_networks: Networks, part: str, value: object
) -> None:
    path = altered(saved(tmp_path / "m.pth", small_networks), **{part: value})
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UserError, match=r"weights=.*m\.pth: ") as refusal:
        weights.load(path)
    message = str(refusal.value)
    assert printable(message) == message
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_and_variances_below_zero(
    tmp_path: Path, small_networks: Networks, value: float
) -> None:
    state = torch.load(saved(tmp_path / "m.pth", small_networks), weights_only=True)["state_dict"]
    state["decoder"]["hidden.0.weight"][0, 0] = value
    with pytest.raises(UserError, match=r"hidden\.0\.weight contains numbers that are not finite"):
        weights.load(altered(tmp_path / "m.pth", state_dict=state))
    state["decoder"]["hidden.0.weight"][0, 0] = 0
    state["decoder"]["hidden.1.running_var"][0] = -1
    with pytest.raises(UserError, match=r"hidden\.1\.running_var contains .* a negative variance"):
        weights.load(altered(tmp_path / "m.pth", state_dict=state))
    state["decoder"]["hidden.1.running_var"][0] = 1
    state["decoder"]["hidden.0.weight"] = state["decoder"]["hidden.0.weight"].to(torch.complex64)
    with pytest.raises(UserError, match="wrong kind of number"):
        weights.load(altered(tmp_path / "m.pth", state_dict=state))


class Own(Networks):
    """Networks of somebody's own, which look like this project's."""


def test_networks_of_ones_own_are_refused_before_they_are_trained(small_networks: Networks) -> None:
    weights.check_storable(small_networks)
    own = Own(**small_networks.arguments)
    with pytest.raises(UserError, match="cannot be stored in a model file"):
        weights.check_storable(own)
    small_networks.decoder.image.append(torch.nn.Identity())
    with pytest.raises(UserError, match="cannot be stored in a model file"):
        weights.check_storable(small_networks)
