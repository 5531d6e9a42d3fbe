"""Files of tensors: what is written comes back, and what others made costs nothing."""

import pickle
import random
import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vaegan_pl.storage import tensor_files
from vaegan_pl.storage.files import RefusedError

from . import hostile
from .conftest import digest

CONTENT: dict[str, Any] = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "state": OrderedDict(bias=torch.zeros(2, dtype=torch.bfloat16)),
    "names": ["a", "b"],
    "pair": (1, 2.5),
    "steps": {0: 1, 1: 2.5},
    "none": None,
}


def test_content_comes_back(tmp_path: Path) -> None:
    tensor_files.save(tmp_path / "file", CONTENT)
    assert digest(tensor_files.load(tmp_path / "file")) == digest(CONTENT)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "file") == []


@pytest.mark.parametrize("value", [Path(), {"a": {1, 2}}, [b"bytes"], torch.nn.Parameter(torch.zeros(1))])
def test_what_is_not_plain_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="has contents that this project does not write"):
        tensor_files.save(tmp_path / "file", {"value": value})
    assert not list(tmp_path.iterdir())


def test_every_flipped_bit_of_the_contents_is_found(tmp_path: Path) -> None:
    """By the archive's own checksums; where the contents are the same, the bit was in none of them."""
    path, chance = tmp_path / "file", random.Random(0)
    tensor_files.save(path, CONTENT)
    whole, expected = path.read_bytes(), digest(CONTENT)
    refused = 0
    for _ in range(300):
        at = chance.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
        try:
            assert digest(tensor_files.load(path)) == expected
        except RefusedError:
            refused += 1
    assert refused > 100
    values = CONTENT["weight"].numpy().tobytes()
    for bit in range(8 * len(values)):
        at = whole.index(values) + bit // 8
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit % 8)]) + whole[at + 1 :])
        torch.load(path, weights_only=True)  # PyTorch by itself sees nothing
        with pytest.raises(RefusedError, match="do not match their checksums"):
            tensor_files.load(path)


@pytest.mark.parametrize("make", hostile.TENSOR_FILES.values(), ids=hostile.TENSOR_FILES)
def test_hostile_files_are_refused_within_a_second_and_200_megabytes(
    tmp_path: Path, make: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "file"
    tensor_files.save(path, CONTENT)
    path.write_bytes(make(path.read_bytes()))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RefusedError) as refusal:
        tensor_files.load(path)
    assert "\n" not in str(refusal.value)
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_code_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": hostile.Code()}, "torch.pth")
    with pytest.raises(RefusedError, match="is refused: it contains pickled code"):
        tensor_files.load(Path("torch.pth"))
    Path("bare.pth").write_bytes(pickle.dumps(hostile.Code()))
    with pytest.raises(RefusedError, match="is damaged, or another kind of file"):
        tensor_files.load(Path("bare.pth"))
    assert not Path(hostile.EXECUTED).exists()


def test_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    hostile.pipe(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(RefusedError, match="is not a regular file"):
            tensor_files.load(path)
