"""Runtime metadata: status, license, platforms, and support for C, mobile and browser.

Read from `facts.json`, by distribution; each fact has its source and the date it was checked.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import get_args

import msgspec

from common.choices import Runtime
from common.deploy.execution_paths import ExecutionPath

__all__ = ["PLACES", "Fact", "Place", "Runtime", "RuntimeFacts", "of", "place", "table"]

PLACES: tuple[Runtime, ...] = get_args(Runtime)
"""The values of `--runtime`."""


@dataclass(frozen=True)
class Fact:
    """A statement about a runtime, its source (a URL or a distribution's metadata), and the date it was checked."""

    says: str
    source: str
    seen: str


@dataclass(frozen=True)
class Place(Fact):
    """True if an artifact can be served in C, on a phone or in a browser; `says` names how, or why not."""

    serves: bool


@dataclass(frozen=True)
class RuntimeFacts:
    """Facts about a runtime. `elsewhere`: by c, mobile and browser, where known.

    `formats`: exceptions for some of its artifact formats, by format and place.
    """

    name: str
    retired: bool
    status: Fact
    license: Fact
    platforms: Fact
    elsewhere: Mapping[str, Place]
    formats: Mapping[str, Mapping[str, Place]] = field(default_factory=dict)


@functools.cache
def table() -> Mapping[str, RuntimeFacts]:
    """Return the facts by distribution."""
    text = resources.files("common.deploy.recommend").joinpath("facts.json").read_bytes()
    return msgspec.json.decode(text, type=dict[str, RuntimeFacts])


def of(path: ExecutionPath) -> RuntimeFacts:
    """Return the facts about an execution path's runtime, the first of its packages."""
    return table()[path.needs[0]]


def place(path: ExecutionPath, runtime: Runtime) -> tuple[bool, str]:
    """Return whether a path can be served in a runtime, and how or why not. All can be in Python."""
    if runtime in ("python", "any"):
        return True, ""
    if path.format is None:
        return False, "it is this project's Python code, not an artifact"
    facts = of(path)
    entry = facts.formats.get(path.format, {}).get(runtime) or facts.elsewhere.get(runtime)
    if entry is None:
        return False, f"it is not known whether {facts.name} runs there"
    return entry.serves, entry.says
