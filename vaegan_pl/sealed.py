"""Files of tensors and plain containers that are whole or not there, and are refused when anything in them changed."""

import errno
import hashlib
import os
import pickle
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

SEAL = "sha256"


class RefusedError(Exception):
    """A file must not be trusted; the message says why."""


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain containers by `torch.save`, with a seal over all of them; see `publish`.

    Raises:
        OSError: if the file cannot be written; an earlier one stays.
        TypeError: if there is anything but tensors and plain containers.
    """
    buffer = BytesIO()
    torch.save({**content, SEAL: digest(content)}, buffer)
    publish(path, buffer.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """Read such a file without executing anything in it; without a seal, it is up to the caller to refuse it.

    PyTorch checks no sums when it reads, so that a flipped bit would pass for another weight.

    Raises:
        OSError: if the file cannot be opened.
        RefusedError: if it is damaged, holds code, or does not match its seal.
    """
    with path.open("rb") as file:
        is_archive = is_zipfile(file)
    if not is_archive:
        raise RefusedError("is damaged, or another kind of file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RefusedError(
            "is refused, since it holds pickled code; only plain tensors and containers are opened"
        ) from error
    except OSError:
        raise
    except Exception as error:  # a damaged archive or pickle may fail anywhere in torch
        raise RefusedError("is damaged") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise RefusedError("holds something else than this project writes")
    seal = content.pop(SEAL, None)
    try:
        if seal is not None and seal != digest(content):
            raise RefusedError("is damaged: its contents do not match their seal")
    except TypeError as error:
        raise RefusedError(f"holds something else than this project writes ({error})") from error
    return content | ({SEAL: seal} if seal is not None else {})


def digest(content: object) -> str:
    """SHA-256 of nested containers of tensors, strings, numbers and None, whatever their device and memory layout.

    Raises:
        TypeError: if there is anything else.
    """
    sha = hashlib.sha256()

    def feed(value: object) -> None:
        if isinstance(value, Tensor):
            sha.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
            sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            sha.update(f"mapping {len(value)} ".encode())
            for item in value.items():
                feed(item)
        elif isinstance(value, list | tuple):
            sha.update(f"{'list' if isinstance(value, list) else 'tuple'} {len(value)} ".encode())
            for part in value:
                feed(part)
        elif value is None or isinstance(value, bool | int | float | str):
            sha.update(f"{type(value).__name__} {value!r} ".encode())
        else:
            raise TypeError(f"a {type(value).__name__}")

    feed(content)
    return sha.hexdigest()


def publish(path: Path, data: bytes | memoryview, verified: bool = True) -> None:
    """Put a file in place in one step: written beside, flushed to the disk, read back, and renamed over the old one.

    Args:
        path: the file; its folder is made if it is missing.
        data: what it holds.
        verified: False leaves out flushing and reading back, which take time for files that can be made again.

    Raises:
        OSError: if that fails, with the path; an earlier file stays as it was.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(data)
            if verified:
                file.flush()
                os.fsync(file.fileno())
        if verified and unfinished.read_bytes() != data:
            raise OSError(errno.EIO, "reads back otherwise than it was written")
        unfinished.replace(path)
        if verified and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)
