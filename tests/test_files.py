"""Files that anyone may have made are read with limits, and files are written whole or not at all."""

import errno
import os
import resource
import time
from pathlib import Path

import pytest

from vaegan_pl.runs.yaml_files import read_yaml
from vaegan_pl.storage.files import (
    MOST_TEXT,
    UNFINISHED,
    RefusedError,
    atomic_write,
    printable,
    read_bytes,
    read_json,
    read_text,
    unexpected_entries,
)


def test_a_disk_that_reads_back_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"rotten")
    with pytest.raises(OSError, match="the data read back differs from the data written") as failure:
        atomic_write(path, b"new")
    monkeypatch.undo()
    assert (failure.value.errno, failure.value.filename) == (errno.EIO, str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    atomic_write(tmp_path / "gone" / "file", b"new")
    assert (tmp_path / "gone" / "file").read_bytes() == b"new"


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as failure:
            atomic_write(path, 2000 * "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert failure.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "link").read_text() == "new"


def test_unfinished_files_are_known_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def killed(self: Path, target: Path) -> None:
        seen.append(self.name)
        raise OSError(errno.EIO, "killed")

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(OSError, match="killed"):
        atomic_write(tmp_path / "metrics.csv", b"1")
    assert UNFINISHED.fullmatch(seen[0])
    assert not UNFINISHED.fullmatch(".notes.csv.1")


def test_text_with_undecodable_bytes_is_written_as_escapes(tmp_path: Path) -> None:
    atomic_write(tmp_path / "file", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "file").read_bytes() == b"caf\\udce9"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("José γ", "José γ"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x00\x07\x9b", "\\x00\\x07\\x9b"),
        ("right\u202eto left", "right\\u202eto left"),
        (os.fsdecode(b"caf\xe9"), "caf\\udce9"),
    ],
)
def test_what_is_shown_holds_no_control_characters(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(expected) == expected


def test_only_regular_files_of_a_known_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(RefusedError, match="is not a regular file"):
            read_bytes(path, 10)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(RefusedError, match="is larger than 10 bytes"):
        read_bytes(tmp_path / "large", 10)
    (tmp_path / "text").write_bytes(b"\xff")
    with pytest.raises(RefusedError, match="not UTF-8"):
        read_text(tmp_path / "text")


def test_a_sparse_file_of_a_terabyte_costs_nothing(tmp_path: Path) -> None:
    with (tmp_path / "job.json").open("wb") as file:
        file.truncate(2**40)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RefusedError, match="is larger than"):
        read_json(tmp_path / "job.json")
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("text", ["{", "[" * 20_000, "\x00", "1" * 5000, '"\x01"'])
def test_what_is_not_json_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(RefusedError, match="is damaged") as refusal:
        read_json(tmp_path / "job.json")
    assert "\n" not in str(refusal.value)
    assert len(text) < MOST_TEXT


NINE_TIMES = "\n".join([f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(10)])


@pytest.mark.parametrize(
    "text",
    [
        NINE_TIMES,
        "a: &a [*a]",
        "&a {a: *a}",
        "a: !!python/object/apply:os.system [true]",
        "a: !!binary aaaa",
        "[" * 20_000,
        "a: " + "{b: " * 20_000,
        "- x\n" * 30_000,
        "a: [1",
        "a: 1\na: 2",
        "a: \x07",
    ],
    ids=[
        "nine to the ninth",
        "itself",
        "itself again",
        "code",
        "tag",
        "deep",
        "deep map",
        "long",
        "cut",
        "twice",
        "bell",
    ],
)
def test_hostile_yaml_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RefusedError, match="is damaged") as refusal:
        read_yaml(tmp_path / "config.yaml")
    assert "\n" not in str(refusal.value)
    assert time.process_time() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_yaml_is_read_as_omegaconf_reads_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("lr: 1e-4\nname: yes\nnone: null\nlist: [1, 2.5]\n")
    assert read_yaml(tmp_path / "config.yaml") == {"lr": 1e-4, "name": True, "none": None, "list": [1, 2.5]}


def test_links_pipes_and_devices_are_found_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "a" / "inside").symlink_to("../a/file")
    assert list(unexpected_entries(tmp_path)) == []
    (tmp_path / "a" / "b" / "link").symlink_to("/etc")
    (tmp_path / "up").symlink_to("..")
    os.mkfifo(tmp_path / "pipe")
    assert sorted(unexpected_entries(tmp_path)) == [tmp_path / "a" / "b" / "link", tmp_path / "pipe", tmp_path / "up"]
