"""JSON from outside, and the records made of it: nothing said twice, nested too deeply or of another type gets in."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from common.errors import shown

__all__ = ["build", "parse"]

_Record = TypeVar("_Record")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{shown(twice)} is given more than once")
    return found


def parse(text: str | bytes) -> Any:
    """Return what JSON says. Raises ValueError where it is none, gives a name twice or is nested too deeply."""
    try:
        # Of bytes json would guess the encoding; JSON is UTF-8 (RFC 8259, section 8.1).
        return json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError(f"nested too deeply: {error}") from None


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def build(kind: type[_Record], given: object) -> _Record:
    """Return the dataclass that a JSON object gives the fields of, others within it too; lists become tuples.

    Raises ValueError for a field that is unknown, missing or of another type than it should be.
    """
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    if not isinstance(given, Mapping):
        raise ValueError(f"expected an object with {', '.join(hints)}, and found {shown(given)}")
    if unknown := [name for name in given if name not in hints]:
        raise ValueError(f"{shown(unknown[0])} is none of {', '.join(hints)}")
    needed = (
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    if missing := [name for name in needed if name not in given]:
        raise ValueError(f"it has no `{missing[0]}`")
    return kind(**{name: _value(name, hints[name], value) for name, value in given.items()})


def _value(name: str, hint: Any, value: object) -> Any:
    """Return a field's value, with the records that the hint names within it: one, one or null, or a list of them."""
    origin, inner = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value)  # type: ignore[arg-type]
    if origin in (Union, UnionType) and value is not None:
        for option in filter(dataclasses.is_dataclass, inner):
            return build(option, value)  # type: ignore[arg-type]
    if origin is tuple and dataclasses.is_dataclass(inner[0]) and isinstance(value, list | tuple):
        return tuple(build(inner[0], item) for item in value)  # type: ignore[arg-type]
    if not _fits(hint, value):
        raise ValueError(f"`{name}` (={shown(value)}) must be {_described(hint)}")
    return tuple(value) if origin is tuple else value  # type: ignore[arg-type]


def _fits(hint: Any, value: object) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(option, value) for option in inner)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(inner[0], item) for item in value)
    if hint is float:
        return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 2**1023)
    return type(value) is (origin or hint)


def _described(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin in (Union, UnionType):
        return " or ".join(_described(option) for option in inner)
    if origin is tuple:
        return f"a list, each {_described(inner[0])}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a string", dict: "an object"}
    return names.get(origin or hint, "null")
