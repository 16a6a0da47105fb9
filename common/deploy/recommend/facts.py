"""What no benchmark shows of the runtimes: whether one is retired, its license, and where else it runs than in Python.

The table is `facts.json`, by the distribution that is installed; each fact has its source and the day it was looked at.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, get_args

from common.choices import Runtime
from common.deploy.execution_paths import ExecutionPath

__all__ = ["PLACES", "Fact", "Place", "Runtime", "RuntimeFacts", "of", "place", "table"]

PLACES: tuple[Runtime, ...] = get_args(Runtime)
"""What a deployment may be asked to run in."""


@dataclass(frozen=True)
class Fact:
    """What is said of a runtime, where (an address, or the metadata of a distribution), and the day it was seen."""

    says: str
    source: str
    seen: str


@dataclass(frozen=True)
class Place(Fact):
    """A fact about somewhere else than Python: whether the artifact can be served there, and by what or why not."""

    serves: bool


@dataclass(frozen=True)
class RuntimeFacts:
    """The facts about a runtime; `elsewhere` has those of c, mobile and browser that are known.

    `formats` has what is otherwise of some of the formats that it serves, by format and place.
    """

    name: str
    retired: bool
    status: Fact
    license: Fact
    platforms: Fact
    elsewhere: Mapping[str, Place]
    formats: Mapping[str, Mapping[str, Place]]


@functools.cache
def table() -> Mapping[str, RuntimeFacts]:
    """Return the facts by distribution."""
    given = json.loads(resources.files("common.deploy.recommend").joinpath("facts.json").read_text(encoding="utf-8"))
    return {name: _facts(**entry) for name, entry in given.items()}


def _facts(
    name: str,
    retired: bool,
    elsewhere: dict[str, Any],
    formats: dict[str, Any] | None = None,
    **facts: dict[str, Any],
) -> RuntimeFacts:
    said = {key: Fact(**fact) for key, fact in facts.items()}
    others = {form: _places(found) for form, found in (formats or {}).items()}
    return RuntimeFacts(name, retired, elsewhere=_places(elsewhere), formats=others, **said)


def _places(given: dict[str, Any]) -> Mapping[str, Place]:
    return {key: Place(**fact) for key, fact in given.items()}


def of(path: ExecutionPath) -> RuntimeFacts:
    """Return the facts about the runtime of an execution path: what it needs first of all."""
    return table()[path.needs[0]]


def place(path: ExecutionPath, runtime: Runtime) -> tuple[bool, str]:
    """Return whether what a path runs can be run somewhere, and by what, or why not; in Python everything can."""
    if runtime in ("python", "any"):
        return True, ""
    if path.format is None:
        return False, "it is this project's Python code, no artifact"
    facts = of(path)
    found = facts.formats.get(path.format, {}).get(runtime) or facts.elsewhere.get(runtime)
    if found is None:
        return False, f"nothing is known of {facts.name} there"
    return found.serves, found.says
