"""Independent readers of the file formats, written from their public definitions, to compare the project's with."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["SIZES", "Said", "idx", "safetensors", "unique"]

SIZES = {"F32": 4, "F64": 8, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a number, by safetensors' name of its type; the formats that share bytes are left out."""

Said = tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...], bytes]]]
"""A safetensors file's metadata, and by name each tensor's type, shape and bytes."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("duplicate keys are disallowed")
    return dict(pairs)


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no unsigned number")
    return value


def safetensors(data: bytes) -> Said:
    """Return what a safetensors file says; ValueError where it says nothing, or more than one thing.

    8 bytes: the header's length N, little endian, unsigned. N bytes: JSON in UTF-8, an object of names, each with
    dtype, shape and data_offsets [begin, end) in what follows; __metadata__ maps strings to strings. The rest: the
    tensors, row by row, without gaps and without overlaps.
    """
    if len(data) < 8 or int.from_bytes(data[:8], "little") > len(data) - 8:
        raise ValueError("the header is longer than the file")
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:end].decode("utf-8"), object_pairs_hook=unique), data[end:]
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the metadata maps no strings to strings")
    tensors, spans = {}, []
    for name, entry in header.items():
        if not isinstance(entry, dict):
            raise ValueError(f"{name} is described by no object")
        code, (begin, stop) = entry["dtype"], map(_number, entry["data_offsets"])
        shape = tuple(_number(side) for side in entry["shape"])
        if code not in SIZES or stop - begin != math.prod(shape) * SIZES[code]:
            raise ValueError(f"{name} is not as long as its type and shape")
        spans.append((begin, stop))
        tensors[name] = code, shape, body[begin:stop]
    reached = 0
    for begin, stop in sorted(spans):
        if begin != reached:
            raise ValueError(f"a gap or an overlap at {reached}")
        reached = stop
    if reached != len(body):
        raise ValueError("the tensors do not reach to the end of the file")
    return metadata, tensors


def idx(data: bytes) -> tuple[tuple[int, ...], bytes]:
    """Return shape and bytes of an IDX file of unsigned bytes; ValueError where it is none.

    Two zeros, 8 for unsigned bytes, the rank; each axis in 4 bytes, big endian; the numbers, row by row.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise ValueError("no header of an IDX file of bytes")
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    if len(data) != start + math.prod(shape):
        raise ValueError("not as long as its shape")
    return shape, data[start:]
