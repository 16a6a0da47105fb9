"""Read JSON that another program or person wrote, and check it against a dataclass."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections import Counter
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from common.errors import shown

__all__ = ["build", "parse"]

_Record = TypeVar("_Record")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{shown(name)} is given more than once")
    return record


def parse(text: str | bytes) -> Any:
    """Return the value of JSON text.

    Raises ValueError for text that is not JSON in UTF-8, a name that an object has twice, and values nested too deeply.
    """
    # The standard library's parser, because msgspec's takes the last value of a repeated name without an error. It
    # guesses the encoding of bytes, so they are decoded here: JSON is UTF-8 (RFC 8259, section 8.1).
    try:
        return json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError(f"nested too deeply: {error}") from None


def build(kind: type[_Record] | UnionType, given: object) -> _Record:
    """Return a record of class `kind` (a dataclass or msgspec.Struct, or a union of these) from a parsed JSON object.

    Nested objects become records and lists become tuples, as the field types say. Dataclasses refuse unknown fields and
    numbers that are not finite. Raises ValueError that names the field, its value and the expected type.
    """
    try:
        record: _Record = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        # A ValueError of the record's own __post_init__ is the cause, and says all there is to say.
        raise error.__cause__ or ValueError(_explanation(str(error), kind, given)) from None
    _check("", record, given)
    return record


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _check(name: str, value: object, given: Any) -> None:
    """Raise ValueError for what msgspec lets pass: unknown fields of a dataclass, NaN and infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{name}` (={given}): expected a finite number")
    if isinstance(value, tuple):
        for item, item_given in zip(value, given, strict=True):
            _check(name, item, item_given)
    elif dataclasses.is_dataclass(value):
        kind: Any = type(value)
        names = _hints(kind)
        for field in given:
            if field not in names:
                raise ValueError(f"there is no field {shown(field)}; expected {', '.join(names)}")
            _check(field, getattr(value, field), given[field])


def _explanation(message: str, kind: Any, given: Any) -> str:
    """Return msgspec's message in one line with the value that it is about, and the choices where there are any."""
    problem, _, path = message.partition(" - at `$")
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        if name:
            owner: Any = next((each for each in (kind, *get_args(kind)) if dataclasses.is_dataclass(each)), None)
            kind, given = _hints(owner)[name] if owner else None, given[name]
        else:
            kind, given = next(iter(get_args(kind)), None), given[int(index)]
    if problem.startswith("Invalid enum value"):
        problem = f"expected one of {', '.join(map(str, get_args(kind)))}"
    elif problem.startswith("Object missing required field "):
        problem = problem.replace("Object missing required field", "it has no")
    else:
        problem = problem[0].lower() + problem[1:].replace("`", "")
    where = path.removeprefix(".").rstrip("`")
    return f"`{where}` (={shown(given)}): {problem}" if where else problem
