import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from vaegan_pl import sealed
from vaegan_pl.errors import UserError
from vaegan_pl.model import weights
from vaegan_pl.model.networks import Networks

from ..conftest import networks_with

TRAINED_ON = {"kind": "phantom", "folder": "p", "classes": ["a", "b"], "counts": {}, "caption": "PHANTOMS"}


def saved(path: Path, networks: Networks) -> Path:
    weights.save(path, networks, {"colour": "grey"}, TRAINED_ON, training={"epochs": 1})
    return path


def altered(path: Path, **changes: Any) -> Path:
    """Another file with a seal that fits."""
    content = torch.load(path, weights_only=True)
    sealed.write(path, {name: value for name, value in {**content, **changes}.items() if name != sealed.SEAL})
    return path


def test_a_saved_model_comes_back_the_same(tmp_path: Path, small_networks: Networks) -> None:
    small_networks.decoder(torch.randn(8, 5))  # moves the running statistics, which must be saved too
    model = weights.load(saved(tmp_path / "m.pth", small_networks))
    assert model.trained_on == {
        **TRAINED_ON,
        "fingerprint": None,
        "training_images": None,
        "split": None,
    }  # as in files of earlier versions
    assert model.preprocessing == {
        "image_size": 16,
        "colour": "grey",
        "aspect_ratio": "squash",  # what older files, which do not say, were trained on
        "white": 65535,
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
    assert content["format_version"] == 3
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


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('executed').touch()",))


def test_pickled_code_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "vaegan_pl", "networks": Hostile()}, "torch.pth")
    Path("bare.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match=r"weights=torch\.pth: is refused, since it holds pickled code"):
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
    with pytest.raises(UserError, match="has format 4, this vaegan_pl reads up to 3; upgrade"):
        weights.load(altered(path, format_version=4))

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
        with pytest.raises(UserError, match="its contents do not fit together"):
            weights.load(altered(path, **wrong))


@pytest.mark.parametrize("name", ["../evil", "..", "a/b", ""])
def test_classes_whose_samples_would_leave_their_folder_are_refused(
    tmp_path: Path, small_networks: Networks, name: str
) -> None:
    path = saved(tmp_path / "m.pth", small_networks)
    mixture = {"weights": torch.ones(1), "means": torch.zeros(1, 5), "factors": torch.eye(5)[None]}
    for changes in ({"trained_on": {**TRAINED_ON, "classes": ["a", name]}}, {"mixtures": {name: mixture}}):
        with pytest.raises(UserError, match="cannot name a folder"):
            weights.load(altered(saved(path, small_networks), **changes))


def test_a_flipped_bit_a_swapped_tensor_and_a_missing_seal(tmp_path: Path, small_networks: Networks) -> None:
    path = saved(tmp_path / "m.pth", small_networks)
    whole = path.read_bytes()
    values = small_networks.encoder.mean.weight.detach().numpy().tobytes()
    at = whole.index(values) + len(values) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    torch.load(path, weights_only=True)  # PyTorch by itself sees nothing
    with pytest.raises(UserError, match="its contents do not match their seal; give a whole"):
        weights.load(path)

    path.write_bytes(whole)
    content = torch.load(path, weights_only=True)
    encoder = content["state_dict"]["encoder"]
    encoder["mean.weight"], encoder["log_variance.weight"] = encoder["log_variance.weight"], encoder["mean.weight"]
    torch.save(content, path)
    with pytest.raises(UserError, match="its contents do not match their seal"):
        weights.load(path)

    del content[sealed.SEAL]
    torch.save(content, path)
    with pytest.raises(UserError, match="its seal is missing"):
        weights.load(path)


def test_files_of_version_1_had_no_seal(tmp_path: Path, small_networks: Networks) -> None:
    path = saved(tmp_path / "m.pth", small_networks)
    content = torch.load(path, weights_only=True)
    del content[sealed.SEAL]
    torch.save({**content, "format_version": 1}, path)
    assert weights.load(path).trained_on["folder"] == "p"
