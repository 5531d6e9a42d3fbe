"""Files that are whole or not there: the seal, and writing in one step."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from vaegan_pl import sealed

CONTENT: dict[str, Any] = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "names": ["a", "b"],
    "steps": {0: 1, 1: 2.5},
    "none": None,
}


def test_content_comes_back_with_its_seal(tmp_path: Path) -> None:
    sealed.write(tmp_path / "file", CONTENT)
    content = sealed.read(tmp_path / "file")
    assert content.pop(sealed.SEAL) == sealed.digest(CONTENT)
    assert torch.equal(content.pop("weight"), torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert content == {name: value for name, value in CONTENT.items() if name != "weight"}
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize(
    "other",
    [
        {**CONTENT, "weight": torch.arange(6.0).reshape(3, 2)},
        {**CONTENT, "weight": torch.arange(6.0, dtype=torch.float64).reshape(2, 3)},
        {**CONTENT, "weight": -torch.arange(6.0).reshape(2, 3)},
        {**CONTENT, "names": ["ab"]},
        {**CONTENT, "names": ("a", "b")},
        {**CONTENT, "steps": {0: 2.5, 1: 1}},
        {**CONTENT, "steps": {"0": 1, "1": 2.5}},
        {**CONTENT, "none": False},
        {name: CONTENT[name] for name in ("weight", "names", "steps")},
    ],
)
def test_the_seal_covers_everything(other: dict[str, Any]) -> None:
    assert sealed.digest(other) != sealed.digest(CONTENT)


def test_the_seal_does_not_depend_on_memory_layout() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert sealed.digest(x.to(memory_format=torch.channels_last)) == sealed.digest(x)
    assert sealed.digest(torch.zeros(0, dtype=torch.bfloat16)) == sealed.digest(torch.zeros(0, dtype=torch.bfloat16))


def test_what_cannot_be_sealed_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a PosixPath"):
        sealed.write(tmp_path / "file", {"path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_a_disk_that_reads_back_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    sealed.publish(path, b"old")
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"rotten")
    with pytest.raises(OSError, match="reads back otherwise than it was written") as failure:
        sealed.publish(path, b"new")
    monkeypatch.undo()
    assert (failure.value.errno, failure.value.filename) == (errno.EIO, str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    sealed.publish(tmp_path / "gone" / "file", b"new")
    assert (tmp_path / "gone" / "file").read_bytes() == b"new"
