"""Files of tensors and plain containers, as `torch.save` writes them; reading one executes no code in it."""

import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vaegan_pl.storage.files import MOST_DEPTH, RefusedError, atomic_write

MOST_PICKLE = 2**18
"""The largest size, in bytes, of the part of a file that is not tensors; this project writes at most about 60,000."""

MOST_DIRECTORY = 2**20
MOST_NODES = 50_000
MOST_NUMBER = 2**53
"""The largest whole number: floats represent all whole numbers up to it, and no counter reaches it."""

CALLED = frozenset({"collections OrderedDict", "torch._utils _rebuild_tensor_v2"})
STORAGES = frozenset(
    f"torch {kind}Storage"
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexFloat")
)
ENTRIES = re.compile(
    r"([^/]{1,200})/(data\.pkl|data/\d{1,9}|byteorder|version|\.data/serialization_id|\.format_version|"
    r"\.storage_alignment)"
)
"""Names of the entries in archives that `torch.save` writes."""

TAKEN = {
    **dict.fromkeys(("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "NONE", "NEWTRUE", "NEWFALSE", "BINUNICODE"), 0),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"), 0),
    **dict.fromkeys(("TUPLE1", "BINPERSID", "BUILD", "APPEND"), 1),
    **dict.fromkeys(("TUPLE2", "SETITEM"), 2),
    "TUPLE3": 3,
}
"""How many values the plain opcodes of pickles pop from the stack."""

_END, _LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x07"


def save(path: Path, content: Mapping[str, Any], keep_as: Path | None = None) -> None:
    """Write tensors and plain containers with `torch.save`, atomically.

    Args:
        path: see `atomic_write`.
        content: the contents.
        keep_as: see `atomic_write`.

    Raises:
        OSError: if the file cannot be written; an earlier file stays as it was.
        TypeError: if the contents are not only tensors and plain containers.
    """
    try:
        _check_contents(content, None)
    except RefusedError as error:
        raise TypeError(str(error)) from error
    buffer = BytesIO()
    torch.save(dict(content), buffer)
    atomic_write(path, buffer.getbuffer(), keep_as=keep_as)


def load(path: Path) -> dict[str, Any]:
    """Read a file of tensors and plain containers.

    Before memory is allocated, the archive is checked: it must be uncompressed, match its own checksums (which PyTorch
    does not verify), and build only tensors. Afterwards, no tensor may be larger than its data in the file.

    Raises:
        OSError: if the file cannot be opened.
        RefusedError: if it is damaged, contains code, or anything else that this project does not write.
    """
    if not path.is_file():
        raise RefusedError("is not a regular file")
    with path.open("rb") as file:
        size = _check_archive(file)
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # a damaged pickle may fail anywhere in torch
            raise RefusedError("is damaged") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise RefusedError("has contents that this project does not write")
    _check_contents(content, size)
    return content


def _check_archive(file: BinaryIO) -> int:
    """Check the archive without unpacking it, and return the size of the file in bytes."""
    size = file.seek(0, 2)
    try:
        if _size_of_directory(file, size) > MOST_DIRECTORY:
            raise RefusedError("is damaged (its table of contents is too long)")
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            stored = all(
                e.compress_type == zipfile.ZIP_STORED and e.file_size == e.compress_size and not e.flag_bits & 1
                for e in entries
            )
            if not stored or sum(e.file_size for e in entries) > size:
                raise RefusedError("is refused: it is compressed, or would unpack to more than its size on disk")
            if len({e.filename.lower() for e in entries}) < len(entries):
                raise RefusedError("is damaged (two of its entries have the same name)")
            names = [ENTRIES.fullmatch(e.filename) for e in entries]
            if not all(names) or len({name[1] for name in names if name}) != 1:  # one folder, of PyTorch's files alone
                raise RefusedError("has contents that this project does not write")
            pickles = [e for e in entries if e.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE:
                raise RefusedError("has contents that this project does not write")
            if archive.testzip() is not None:
                raise RefusedError("is damaged: its contents do not match their checksums")
            _check_pickle(archive.read(pickles[0]))
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        LookupError,
        EOFError,
        ValueError,
        struct.error,
        RuntimeError,
    ) as error:
        raise RefusedError("is damaged, or another kind of file") from error
    return size


def _size_of_directory(file: BinaryIO, size: int) -> int:
    """Size in bytes of an archive's central directory (APPNOTE 4.3.14 and 4.3.16), which `ZipFile` reads as a whole.

    Raises:
        ValueError: if there is none.
        struct.error: if it is truncated.
    """
    start = max(0, size - 2**16 - 22)
    file.seek(start)
    tail = file.read()
    end = tail.rindex(_END)
    if tail[max(0, end - 20) : end].startswith(_LOCATOR_64):
        (at,) = struct.unpack_from("<Q", tail, end - 12)
        if at != start + end - 20 - 56:  # `ZipFile` reads the record there, whatever the locator says
            raise ValueError("a record in another place")
        file.seek(at)
        return int(struct.unpack_from("<Q", file.read(56), 40)[0])
    return int(struct.unpack_from("<I", tail, end + 12)[0])


def _check_pickle(pickled: bytes) -> None:
    """Trace a pickle without building anything, and refuse what `torch.save` does not write for plain contents.

    A pickle may call only two functions: the one that builds tensors, and `OrderedDict` without arguments, because with
    arguments it can copy existing contents again and again.

    Raises:
        LookupError: if it pops more from the stack than is there.
        RefusedError: if it contains anything else.
        ValueError: if it is truncated.
    """
    code = RefusedError("is refused: it contains pickled code; only tensors and plain containers are loaded")
    stack: list[str] = []
    marks: list[int] = []
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name == "GLOBAL":
            if argument not in CALLED | STORAGES:
                raise code
            stack.append(str(argument) if argument in CALLED else "")
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument or 0] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument or 0])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("TUPLE", "SETITEMS", "APPENDS"):
            del stack[marks.pop() :]
            if name == "TUPLE":
                stack.append("")
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            if called not in CALLED or (called.endswith("OrderedDict") and arguments != "()"):
                raise code
            stack.append("")
        elif name in TAKEN:
            for _ in range(TAKEN[name]):
                stack.pop()
            if name not in ("SETITEM", "APPEND", "BUILD"):
                stack.append("()" if name == "EMPTY_TUPLE" else "")
        elif name not in ("PROTO", "STOP"):
            raise code


def _check_contents(content: object, size: int | None) -> None:
    """Check that contents are tensors and plain containers, not too many or too deep, and fit the size of the file.

    Raises:
        RefusedError: if they are not.
    """
    left, nodes, held = [(content, 0)], 0, 0
    while left:
        value, depth = left.pop()
        nodes += 1
        if nodes > MOST_NODES or depth > MOST_DEPTH:
            raise RefusedError("has contents that this project does not write (too many values, or nested too deeply)")
        if type(value) is Tensor:
            if value.layout != torch.strided or value.device.type == "meta":
                raise RefusedError("has contents that this project does not write (a tensor without its values)")
            held += value.numel() * value.element_size()
        elif type(value) in (dict, OrderedDict):
            assert isinstance(value, dict)
            left += [(part, depth + 1) for item in value.items() for part in item]
        elif type(value) in (list, tuple):
            assert isinstance(value, list | tuple)
            left += [(part, depth + 1) for part in value]
        elif type(value) is int and not -MOST_NUMBER <= value <= MOST_NUMBER:
            raise RefusedError("has contents that this project does not write (a number that is too large)")
        elif value is not None and type(value) not in (bool, int, float, str):
            raise RefusedError(f"has contents that this project does not write (a {type(value).__name__})")
    if size is not None and held > size:
        raise RefusedError("is refused: its tensors would need more memory than its size on disk")
