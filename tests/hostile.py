"""Files that someone made to do harm, for the tests and for `make faults`."""

import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

EXECUTED = "executed"
"""The file that hostile code makes in the working directory."""

NAMES = (
    "$\\frac$",
    "<img src=x onerror=document.title='owned'>",
    '"><script>document.title="owned"</script>',
    "</title><h1>owned</h1>",
    "{{ 7 * 7 }}",
    "javascript:document.title='owned'",
)
"""Names of classes and files that break careless pages and pictures."""


class Code:
    """A pickle that leaves a trace when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import pathlib; pathlib.Path({EXECUTED!r}).touch()",)


def pipe(path: Path) -> None:
    """A pipe that nobody writes to: opening it waits for ever."""
    os.mkfifo(path)


def saved(content: Any) -> bytes:
    """What `torch.save` makes of it."""
    buffer = BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def rewritten(whole: bytes, change: Callable[[str, bytes], bytes | None], compress: str = "") -> bytes:
    """An archive with changed entries; `compress` names one to deflate, and None leaves one out."""
    buffer = BytesIO()
    with zipfile.ZipFile(BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                method = zipfile.ZIP_DEFLATED if compress and name.endswith(compress) else zipfile.ZIP_STORED
                new.writestr(name, data, method)
    return buffer.getvalue()


def _pickled(pickled: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: rewritten(whole, lambda name, data: pickled if name.endswith("data.pkl") else data)


def _inflated(whole: bytes) -> bytes:
    """A few hundred kilobytes that become 300 megabytes."""
    return rewritten(whole, lambda name, data: bytes(3 * 10**8) if name.endswith("data/0") else data, "data/0")


def _strided(whole: bytes) -> bytes:
    """One number that is a tensor of 40 gigabytes."""
    content = torch.load(BytesIO(whole), weights_only=True)
    return saved({**content, "weight": torch.zeros(1).expand(10**6, 10**4)})


def _shared(whole: bytes) -> bytes:
    """A megabyte that is a thousand tensors."""
    one = torch.zeros(2**18)
    return saved({str(i): one.view(-1) for i in range(1000)})


def _crowded(whole: bytes) -> bytes:
    """So many empty parts that their names alone take much memory."""
    buffer = BytesIO(whole)
    with zipfile.ZipFile(buffer, "a") as archive:
        for i in range(30_000):
            archive.writestr(f"{i:08d}", b"")
    return buffer.getvalue()


def _twice(whole: bytes) -> bytes:
    """Two pickles of one name: readers differ in which they take."""
    buffer = BytesIO()
    with zipfile.ZipFile(BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        name = next(name for name in old.namelist() if name.endswith("data.pkl"))
        data = old.read(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            new.writestr(name, data)
    return buffer.getvalue()


def _shadowed(whole: bytes) -> bytes:
    """Another pickle, of a name that PyTorch does not tell from the true one."""
    buffer = BytesIO(whole)
    with zipfile.ZipFile(buffer, "a") as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/data.PKL", b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.")
    return buffer.getvalue()


def _two_tables(whole: bytes) -> bytes:
    """A short table of contents where a reader might look, and one of 400,000 entries where `ZipFile` looks."""
    end = whole.rindex(b"PK\x05\x06")
    (entries,) = struct.unpack_from("<H", whole, end + 10)
    size, start = struct.unpack_from("<II", whole, end + 12)
    made, table = whole[:start], whole[start : start + size]
    header = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 0, 0, 0x21, 0, 0, 0, 8, 0) + b"00000000"
    empty = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 0x21, 0, 0, 0, 8, 0, 0, 0, 0, 0, len(made))
    fake = len(made) + len(header)
    made += header + struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, entries, entries, 100, 0)
    n = 400_000
    table += b"".join(empty + b"%08d" % i for i in range(n))
    record = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, entries + n, entries + n, len(table), len(made))
    locator = struct.pack("<IIQI", 0x07064B50, 0, fake, 1)
    last = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    return made + table + record + locator + last


_PAIRS = b"](" + b"".join(b"M" + struct.pack("<H", i) + b"N\x86" for i in range(20_000)) + b"e\x85q\x01"
_LAUGHS = b"\x80\x02}X\x01\x00\x00\x00a]q\x00"
_LAUGHS += b"".join(b"]q" + bytes([i + 1]) + b"(" + 9 * (b"h" + bytes([i])) + b"e" for i in range(9))

TENSOR_FILES: dict[str, Callable[[bytes], bytes]] = {
    "a deflated tensor": _inflated,
    "a tensor of stride 0": _strided,
    "many tensors in one": _shared,
    "many parts": _crowded,
    "two parts of one name": _twice,
    "20,000 levels": _pickled(b"\x80\x02}X\x01\x00\x00\x00a" + 20_000 * b"]" + 19_999 * b"a" + b"s."),
    "nine to the ninth": _pickled(_LAUGHS + b"s."),
    "itself": _pickled(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."),
    "a large pickle": _pickled(b"\x80\x02]" + 10**6 * b"]a" + b"."),
    "bytes by the number": _pickled(b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R."),
    "storage by the number": _pickled(b"\x80\x02ctorch\nFloatStorage\nJ\x00\x00\x00\x7f\x85R."),
    "storage of a list": _pickled(b"\x80\x02ctorch\nstorage.UntypedStorage\nq\x00](" + b"K\x01" * 60_000 + b"e\x85R."),
    "copies of a dictionary": _pickled(
        b"\x80\x02](ccollections\nOrderedDict\nq\x00" + _PAIRS + b"h\x00h\x01R" * 1500 + b"e."
    ),
    "a number of 1,000 digits": lambda whole: saved({"a": 10**1000}),
    "a pickle of another case": _shadowed,
    "two tables of contents": _two_tables,
    "a list": lambda whole: saved([1, 2]),
    "numbers for names": lambda whole: saved({1: 2}),
    "a bare pickle": lambda whole: b"\x80\x02}.",
    "nothing": lambda whole: b"",
    "an end alone": lambda whole: b"PK\x05\x06",
    "a half": lambda whole: whole[: len(whole) // 2],
}
"""What a file of tensors may become; each must be refused."""


def png_bomb(side: int) -> bytes:
    """A small file that says that it is a picture of so many pixels square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000_000), 9)) + chunk(b"IEND", b"")
