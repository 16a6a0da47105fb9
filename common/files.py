"""Atomic file writes, hashes, safetensors input and output."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import safe_open

from common import json_records
from common.errors import InputError, shown

__all__ = [
    "DTYPES",
    "atomic_writer",
    "check_writable",
    "map_safetensors",
    "safetensors_header",
    "sha256_of",
    "write_safetensors",
]


def check_writable(path: Path) -> None:
    """Raise InputError if no file can be written at `path`. Call this before long work."""
    folder = path.parent
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give the name of a file")
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {folder}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"cannot write {path}: permission denied")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_writer(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `path` when the context ends, and is deleted on an error.

    Readers see the old file or the new one, never a part. `durable`: sync the file to disk, against power loss.
    Raises InputError where the file cannot be written.
    """
    check_writable(path)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        # mkstemp creates files that only their owner can read; use the default permissions instead.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
"""Supported types of tensors, by their names in safetensors."""
_LONGEST_HEADER = 1 << 23
"""Bytes; several times the header of the largest network in the catalog, and still parsed in little memory."""
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def safetensors_header(shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype, metadata: Mapping[str, str]) -> bytes:
    """Return the header of a safetensors file of tensors in the order of `shapes`, all of one dtype.

    The safetensors library sorts tensors by name when it writes; the format allows any order.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # align the numbers
    return len(header).to_bytes(8, "little") + header


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None, durable: bool = True
) -> None:
    """Write tensors of one dtype, float32 or float64, in the given order; `durable` as for `atomic_writer`.

    Raises InputError where the file cannot be written.
    """
    (dtype,) = {array.dtype for array in tensors.values()}
    with atomic_writer(path, durable) as file:
        file.write(safetensors_header({name: array.shape for name, array in tensors.items()}, dtype, metadata or {}))
        for array in tensors.values():
            file.write(np.ascontiguousarray(array, dtype=dtype.newbyteorder("<")).data)


def map_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Return the metadata of a safetensors file and its tensors, in file order and mapped into memory.

    Writing to a tensor changes its copy in memory, never the file. Raises SafetensorError where the file is incomplete
    or has another format, OSError where it cannot be read, ValueError where its header is too long, repeats a name, or
    describes a tensor that is not an array of F32 or F64.
    """
    with path.open("rb") as start_of_file:
        length = int.from_bytes(start_of_file.read(8), "little")
    if _LONGEST_HEADER < length <= path.stat().st_size:
        raise ValueError(f"its header is of {length} bytes; expected at most {_LONGEST_HEADER}")
    with safe_open(path, "numpy") as file:
        # The library checks that tensors fill the file without gaps or overlaps. It accepts a repeated name, taking the
        # last entry, and a list in place of an object; both are refused below.
        names = file.offset_keys()
    mapped = np.asarray(np.memmap(path, np.uint8, "c"))
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    header = json_records.parse(mapped[8:start].tobytes())
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        entry = header[name]
        if not isinstance(entry, dict):
            raise ValueError(f"{name} is described by {shown(entry)}; expected an object of dtype, shape, data_offsets")
        code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(code, str) or code not in DTYPES:
            raise ValueError(f"{name} is of type {code}; expected {' or '.join(DTYPES)}")
        try:
            tensors[name] = mapped[start + begin : start + end].view(DTYPES[code]).reshape(shape)
        except (ValueError, OverflowError):  # too many axes, or an empty tensor with a huge axis
            raise ValueError(f"{name} has shape {shown(shape)}, which no array can have") from None
    return header.get("__metadata__") or {}, tensors


def save(path: Path, text: str) -> None:
    """Write a rendered report. Raises InputError where the file cannot be written."""
    with atomic_writer(path) as file:
        file.write(text.encode())
