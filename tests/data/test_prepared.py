import hashlib
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaegan_pl.data import prepared
from vaegan_pl.data.grey import GreyImage
from vaegan_pl.data.images import fit, read_file, read_grey
from vaegan_pl.data.prepared import Decoding, Prepared, prepare
from vaegan_pl.errors import UserError

from ..processes import server

DECODING = Decoding(
    image_size=16,
    aspect_ratio="pad",
    white=65535,
    range="fixed",
    near_copy_correlation=0.99,
    registered_correlation=None,
    search="exhaustive",
)


@pytest.fixture
def root(tmp_path: Path, write_classes: Callable[..., Path]) -> Path:
    return write_classes(tmp_path / "d", 10, ["a"])


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.png"))


def ready(root: Path, decoding: Decoding = DECODING) -> Prepared:
    return prepare(root, files(root), decoding, root.parent / "cache")


def entries(root: Path) -> list[Path]:
    return sorted((root.parent / "cache").iterdir())


def expected(root: Path) -> np.ndarray:
    """Decoded from the files, without the cache."""
    return np.stack([fit(read_grey(path, 65535, "fixed"), 16, "pad") for path in files(root)])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from here on."""
    seen: list[Path] = []

    def read(path: Path, *options: Any) -> GreyImage:
        seen.append(path)
        return read_file(path, *options)

    monkeypatch.setattr(prepared, "read_file", read)
    return seen


def test_images_are_decoded_once_and_memory_mapped(root: Path, decoded: list[Path]) -> None:
    first = ready(root)
    assert sorted(decoded) == files(root)
    decoded.clear()
    second = ready(root)
    assert decoded == []
    for result in (first, second):
        assert isinstance(result.images, np.memmap)
        assert np.array_equal(result.images, expected(root))
        assert result.shapes == [(30, 40)] * 10
    assert first.keys == second.keys
    pixels = np.asarray(Image.open(files(root)[3]))
    assert first.keys[3] == hashlib.sha256(b"30x40 " + pixels.tobytes()).hexdigest()


def test_nothing_in_an_entry_needs_unpickling(root: Path) -> None:
    ready(root)
    (entry,) = entries(root)
    assert sorted(path.name for path in entry.iterdir()) == [
        "SHA256SUMS",
        "compared.npy",
        "images.npy",
        "index.json",
        "near_copies.npy",
        "published_slices.npy",
    ]
    np.load(entry / "published_slices.npy", allow_pickle=False)
    np.load(entry / "images.npy", allow_pickle=False)
    np.load(entry / "near_copies.npy", allow_pickle=False)
    json.loads((entry / "index.json").read_text())
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=entry, check=True, capture_output=True)


@pytest.mark.parametrize("change", ["add", "remove", "rewrite", "rewrite with the old time and size", "rename"])
def test_any_change_of_the_folder_is_seen(root: Path, change: str) -> None:
    ready(root)
    (before,) = entries(root)
    first, second = files(root)[:2]
    if change == "add":
        shutil.copy(first, first.with_name("new.png"))
    elif change == "remove":
        first.unlink()
    elif change == "rename":
        first.rename(first.with_name("z.png"))
    else:
        status = first.stat()
        shutil.copy(second, first)
        if change != "rewrite":
            first.write_bytes(
                first.read_bytes().ljust(status.st_size, b"\0")[: max(status.st_size, len(second.read_bytes()))]
            )
            os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    result = ready(root)
    assert np.array_equal(result.images, expected(root))
    assert len(entries(root)) == 2
    assert before in entries(root)


def test_other_settings_and_other_folders_have_entries_of_their_own(root: Path) -> None:
    ready(root)
    small = ready(root, replace(DECODING, image_size=8))
    assert small.images.shape == (10, 8, 8)
    other = root.parent / "other" / "d"
    shutil.copytree(root, other)
    prepare(other, files(other), DECODING, root.parent / "cache")
    assert len(entries(root)) == 3


def test_another_decoder_decodes_anew(root: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ready(root)
    decoded.clear()
    monkeypatch.setattr(prepared, "version", lambda package: f"another {package}")
    ready(root)
    assert len(decoded) == 10


def test_entries_that_nobody_uses_go_after_a_month(root: Path) -> None:
    ready(root)
    (used,) = entries(root)
    ready(root, replace(DECODING, image_size=8))
    somebodys = root.parent / "cache" / "thesis"
    somebodys.mkdir()
    for entry in entries(root):
        os.utime(entry, (time.time() - 31 * 86400,) * 2)
    ready(root)  # using an entry makes it young again
    ready(root, replace(DECODING, image_size=4))
    assert len(entries(root)) == 3
    assert used in entries(root)
    assert somebodys in entries(root)


@pytest.mark.parametrize("name", ["images.npy", "near_copies.npy", "index.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["cut", "flip a bit", "remove", "empty"])
def test_a_damaged_entry_is_made_anew(root: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    ready(root)
    (entry,) = entries(root)
    content = (entry / name).read_bytes()
    if damage == "remove":
        (entry / name).unlink()
    else:
        flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
        (entry / name).write_bytes({"cut": content[: len(content) // 2], "flip a bit": flipped, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(ready(root).images, expected(root))
    assert "is damaged" in caplog.text
    assert (entry / name).read_bytes() == content
    assert entries(root) == [entry]


def test_a_cache_that_is_a_file_is_a_mistake(root: Path) -> None:
    (root.parent / "cache").touch()
    with pytest.raises(UserError, match=r"data\.cache=.*cache: is a file"):
        ready(root)


def test_a_cache_that_cannot_be_written_is_done_without(
    root: Path, decoded: list[Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(self: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with caplog.at_level(logging.WARNING):
        result = ready(root)
    assert "cannot be used ([Errno 30] Read-only file system" in caplog.text
    assert np.array_equal(result.images, expected(root))
    assert len(decoded) == 10


def test_a_damaged_entry_that_cannot_be_removed_is_done_without(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(root)
    (entry,) = entries(root)
    (entry / "index.json").write_text("{}")
    monkeypatch.setattr(prepared, "_remove", lambda _: None)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(ready(root).images, expected(root))
    assert "cannot be used (index.json does not match SHA256SUMS)" in caplog.text


def test_a_file_that_could_not_be_opened_once_is_tried_again(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, *options: Any) -> GreyImage:
        if path.name == "3.png":
            raise OSError(5, "Input/output error")
        return read_file(path, *options)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(prepared, "read_file", failing)
        result = ready(root)
        assert result.unreadable == {3: "[Errno 5] Input/output error"}
        assert np.array_equal(result.images[4], expected(root)[4])
    assert "decoded again in the next run" in caplog.text
    assert entries(root) == []
    assert ready(root).unreadable == {}


def test_a_full_disk_costs_the_cache_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = prepared._write

    def on_a_full_disk(folder: Path, *arguments: Any) -> bool:
        if folder.parent == root.parent / "cache":
            (folder / "images.npy").write_bytes(b"as much as there was room for")
            raise OSError(28, "No space left on device")
        return write(folder, *arguments)

    monkeypatch.setattr(prepared, "_write", on_a_full_disk)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(ready(root).images, expected(root))
    assert "No space left on device" in caplog.text
    assert entries(root) == []


def test_full_disks_everywhere_end_with_the_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared, "_write", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tempfile.gettempdir()}/.vaegan_pl-"):
        ready(root)


def test_another_correlation_compares_again_and_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ready(root)
    monkeypatch.setattr(prepared, "read_file", None)
    paths = files(root)
    for correlation in (None, 0.5):
        decoding = replace(DECODING, near_copy_correlation=correlation)
        again = prepare(root, paths, decoding, root.parent / "cache")
        assert np.array_equal(again.images, before.images)
        assert (again.keys, again.shapes) == (before.keys, before.shapes)
    assert len(entries(root)) == 3


@pytest.mark.parametrize("forged", [False, True], ids=["changed", "with a checksum"])
def test_another_correlation_decodes_again_if_what_was_decoded_is_damaged(root: Path, forged: bool) -> None:
    ready(root)
    (entry,) = entries(root)
    content = array("|u1", (10, 64, 2**40))
    (entry / "compared.npy").write_bytes(content)
    if forged:
        lines = [line for line in (entry / "SHA256SUMS").read_text().splitlines() if "compared.npy" not in line]
        lines.append(f"{hashlib.sha256(content).hexdigest()}  compared.npy")
        (entry / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    again = ready(root, replace(DECODING, near_copy_correlation=0.5))
    assert np.array_equal(again.images, expected(root))
    assert len(entries(root)) == 2


def test_unreadable_files_are_black_and_named(root: Path) -> None:
    files(root)[4].write_bytes(b"no image")
    for _ in range(2):
        result = ready(root)
        assert list(result.unreadable) == [4]
        assert "cannot identify" in result.unreadable[4]
        assert result.keys[4] == ""
        assert result.shapes[4] == (0, 0)
        assert not result.images[4].any()


def test_large_images_are_compared_at_their_own_scale(tmp_path: Path) -> None:
    """Copies are found whatever size is trained at: at 4 x 4 pixels all noise is alike."""
    root = tmp_path / "d" / "a"
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (64, 64), dtype=np.uint8) for _ in range(3)]
    for i, pixels in enumerate([*pictures, np.fliplr(pictures[1])]):
        Image.fromarray(pixels).save(root / f"{i}.png")
    pairs = ready(root.parent, replace(DECODING, image_size=4)).pairs
    assert list(zip(pairs.first, pairs.second, pairs.turn, strict=True)) == [(1, 3, 1)]


def _in_a_process(root: Path, barrier: Barrier, n: int, sums: "multiprocessing.Queue[tuple[int, str]]") -> None:
    for _ in range(5):
        barrier.wait()
        images = prepare(root, files(root)[:n], DECODING, root.parent / "cache").images
        sums.put((n, hashlib.sha256(images.tobytes()).hexdigest()))
        if barrier.wait() == 0:
            shutil.rmtree(root.parent / "cache")
        barrier.wait()


def test_processes_at_once_agree(root: Path) -> None:
    """Two make the same entry and one another, at the same moment, five times."""
    context = server() or multiprocessing.get_context("spawn")
    barrier, sums = context.Barrier(3), context.Queue()
    lengths = (10, 10, 7)
    processes = [context.Process(target=_in_a_process, args=(root, barrier, n, sums)) for n in lengths]
    for process in processes:
        process.start()
    results = [sums.get(timeout=120) for _ in range(15)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    everything = expected(root)
    assert set(results) == {(n, hashlib.sha256(everything[:n].tobytes()).hexdigest()) for n in lengths}


def test_the_second_of_two_takes_the_entry_of_the_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = prepared._write

    def meanwhile(folder: Path, *arguments: Any) -> bool:
        monkeypatch.setattr(prepared, "_write", write)
        ready(root)
        return write(folder, *arguments)

    monkeypatch.setattr(prepared, "_write", meanwhile)
    assert np.array_equal(ready(root).images, expected(root))
    assert len(entries(root)) == 1


def test_a_process_killed_half_way_leaves_nothing_that_counts(root: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from vaegan_pl.data import prepared
read = prepared.read_file
def slowly(path, *options):
    if path.name == "5.png":
        print("half way", flush=True)
        time.sleep(60)
    return read(path, *options)
prepared.read_file = slowly
root = Path({str(root)!r})
decoding = prepared.Decoding(16, "pad", 65535, "fixed", 0.99, 0.97, "exhaustive")
prepared.prepare(root, sorted(root.rglob("*.png")), decoding, root.parent / "cache")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (unfinished,) = entries(root)
    assert unfinished.name.startswith(".vaegan_pl-")
    assert np.array_equal(ready(root).images, expected(root))
    assert unfinished.exists()  # it may be another process's that is still at work
    os.utime(unfinished, (time.time() - 2 * 86400,) * 2)
    shutil.rmtree(next(entry for entry in entries(root) if entry != unfinished))
    ready(root)
    assert not unfinished.exists()  # after a day it is nobody's


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("vaegan_pl-notes", "images.npy"),
        ("vaegan_pl-" + "0" * 32, "thesis.tex"),
        (".vaegan_pl-abcdefgh", "thesis.tex"),
        (".vaegan_pl-backup-2024", "images.npy"),
    ],
)
def test_folders_of_the_users_in_the_cache_stay_for_ever(root: Path, name: str, holds: str) -> None:
    mine = root.parent / "cache" / name
    mine.mkdir(parents=True)
    (mine / holds).write_text("weeks of work")
    os.utime(mine, (time.time() - 60 * 86400,) * 2)
    ready(root)
    assert (mine / holds).read_text() == "weeks of work"


def test_a_link_in_the_place_of_an_entry_is_not_followed(root: Path) -> None:
    ready(root)
    (entry,) = entries(root)
    elsewhere = root.parent / "elsewhere"
    entry.rename(elsewhere)
    (elsewhere / "index.json").write_text("{}")
    entry.symlink_to(elsewhere)
    assert np.array_equal(ready(root).images, expected(root))
    assert (elsewhere / "index.json").read_text() == "{}"
    assert (elsewhere / "images.npy").exists()


def array(kind: str, shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """A NumPy file that says of itself what it likes."""
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


def index(**changes: Any) -> bytes:
    whole = {
        "keys": ["a" * 64] * 10,
        "shapes": [[30, 40]] * 10,
        "patients": [0] * 10,
        "stored": [[0, 3, False]] * 10,
        "unreadable": [],
    }
    return json.dumps({**whole, **changes}).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images.npy", array("|u1", (10, 16, 2**40))),
        ("images.npy", array("|u1", (10, 16, 16), bytes(10))),
        ("images.npy", array("<f8", (10, 16, 16), bytes(8 * 2560))),
        ("images.npy", array("|u1", (9, 16, 16), bytes(9 * 256))),
        ("images.npy", array("|u1", (10, 256), bytes(2560))),
        ("images.npy", array("|O", (10, 16, 16))),
        ("near_copies.npy", array("<i4", (3, 2**40))),
        ("near_copies.npy", array("<i4", (3, 1), np.array([0, 10, 0], dtype="<i4").tobytes())),
        ("near_copies.npy", array("<i4", (3, 1), np.array([0, -1, 0], dtype="<i4").tobytes())),
        ("near_copies.npy", array("<i4", (3, 1), np.array([0, 1, 4], dtype="<i4").tobytes())),
        ("near_copies.npy", array("<i4", (3, 1, 1), np.array([0, 1, 0], dtype="<i4").tobytes())),
        ("published_slices.npy", array("<i4", (9,), bytes(36))),
        ("published_slices.npy", array("<i4", (10,), np.full(10, 10**6, dtype="<i4").tobytes())),
        ("published_slices.npy", array("<i4", (10,), np.full(10, -2, dtype="<i4").tobytes())),
        ("index.json", index(patients=["Smith"] * 10)),
        ("index.json", index(patients=[11] * 10)),
        ("index.json", index(patients=[0])),
        ("index.json", b"[" * 20_000),
        ("index.json", b"[]"),
        ("index.json", index(keys="x" * 10)),
        ("index.json", index(keys=["../../precious"] * 10)),
        ("index.json", index(keys=[1] * 10)),
        ("index.json", index(shapes=[["high", 40]] * 10)),
        ("index.json", index(shapes=[[-1, 40]] * 10)),
        ("index.json", index(shapes=[[1, 2, 3]] * 10)),
        ("index.json", index(unreadable=[[3, "no reason"]])),
        ("index.json", index(unreadable=[[99, "no reason"]])),
        ("index.json", index(unreadable=3)),
        ("index.json", index(stored=[[0, 3, False]])),
        ("index.json", index(stored=[["x", 3, False]] * 10)),
        ("index.json", index(unreadable=[[[], "x"]])),
        ("index.json", b"x" * 2**21),
        ("SHA256SUMS", b"\xff"),
    ],
)
def test_an_entry_that_somebody_made_up_costs_nothing_and_is_made_anew(
    root: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes
) -> None:
    ready(root)
    (entry,) = entries(root)
    (entry / name).write_bytes(content)
    if name != "SHA256SUMS":
        sums = (entry / "SHA256SUMS").read_text().splitlines(keepends=True)
        sums = [line for line in sums if not line.endswith(f"  {name}\n")]
        (entry / "SHA256SUMS").write_text("".join([*sums, f"{hashlib.sha256(content).hexdigest()}  {name}\n"]))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(ready(root).images, expected(root))
    assert "is damaged" in caplog.text
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_what_somebody_put_into_an_entry_stays(root: Path) -> None:
    ready(root)
    (entry,) = entries(root)
    (entry / "images.npy").unlink()
    (entry / "images.npy").mkdir()
    (entry / "images.npy" / "thesis.txt").write_text("mine")
    os.utime(entry, (0, 0))
    prepared._sweep(entry.parent)
    assert (entry / "images.npy" / "thesis.txt").read_text() == "mine"


def test_a_pipe_in_an_entry_is_not_waited_for(root: Path) -> None:
    ready(root)
    (entry,) = entries(root)
    for name in ("images.npy", "SHA256SUMS"):
        (entry / name).unlink()
        os.mkfifo(entry / name)
        assert np.array_equal(ready(root).images, expected(root))


def test_reasons_are_one_line_that_can_be_shown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, *options: Any) -> GreyImage:
        raise ValueError("\x1b[2Jcleared\nforged line")

    monkeypatch.setattr(prepared, "read_file", failing)
    for _ in range(2):
        assert set(ready(root).unreadable.values()) == {"\\x1b[2Jcleared"}
