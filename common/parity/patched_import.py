"""Import a second copy of a port with source edits made in memory.

No file changes, and the original port stays loaded beside the edited one.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import linecache
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, ModuleType

from common.backends import environments, registry
from common.backends.protocol import Backend
from common.errors import ConfigError

__all__ = ["Edit", "load", "source"]


@dataclass(frozen=True)
class Edit:
    """Replacement of `old` in a module's source, where it occurs once, or at offset `at`."""

    module: str
    old: str
    new: str
    at: int | None = None

    def apply(self, text: str) -> str:
        """Return the edited source. Raises ConfigError if `old` is not at the offset or not unique."""
        if self.at is not None:
            if not text.startswith(self.old, self.at):
                raise ConfigError(f"{self.module} has no {self.old!r} at offset {self.at}; its source has changed")
            return text[: self.at] + self.new + text[self.at + len(self.old) :]
        if text.count(self.old) != 1:
            raise ConfigError(f"{self.module} holds {self.old!r} {text.count(self.old)} times, expected once")
        return text.replace(self.old, self.new)


def source(module: str) -> str:
    """Return the source of a module of the project without importing it."""
    path = environments.PROJECT.joinpath(*module.split(".")).with_suffix(".py")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the source of {module}: {error.strerror}") from None


_numbers = itertools.count(1)


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module from edited source and writes no bytecode."""

    edits: Sequence[Edit] = ()

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_data(self.path).decode()
        # Last edit first, so that the offsets of the others stay right.
        for edit in sorted(self.edits, key=lambda edit: -(edit.at or 0)):
            text = edit.apply(text)
        # TensorFlow's AutoGraph looks functions up by file name and line; under the real name it would find the
        # original source.
        name = f"<{fullname}, edited, {next(_numbers)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        return compile(text, name, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that have edits."""

    def __init__(self, edits: Iterable[Edit]) -> None:
        self.edits: dict[str, list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault(edit.module, []).append(edit)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.edits:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None:
            return None
        loader = _Loader(fullname, found.origin)
        loader.edits = self.edits[fullname]
        return importlib.util.spec_from_file_location(
            fullname, found.origin, loader=loader, submodule_search_locations=found.submodule_search_locations
        )


@contextmanager
def _reimported(names: set[str]) -> Iterator[None]:
    """Context in which these packages are imported again; afterwards the old modules are restored."""

    def belongs(module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in names)

    before = {name: module for name, module in sys.modules.items() if belongs(name)}
    for name in before:
        parent, _, leaf = name.rpartition(".")
        if parent in sys.modules and parent not in before:
            delattr(sys.modules[parent], leaf)  # or `from parent import leaf` would find the old one
    for name in before:
        del sys.modules[name]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if belongs(name)]:
            del sys.modules[name]
        sys.modules.update(before)
        for name, module in before.items():
            parent, _, leaf = name.rpartition(".")
            if parent in sys.modules and parent not in before:
                setattr(sys.modules[parent], leaf, module)


def load(name: str, edits: Sequence[Edit], device: str = "cpu") -> Backend:
    """Return backend `name` with edits to its package or to modules of `common`, which only this copy sees.

    Raises ConfigError if an edit does not fit the source; exceptions of the edited modules pass through.
    """
    info = registry.get(name)
    finder = _Finder(edits)
    with _reimported({info.package, info.adapters, *finder.edits}):
        sys.meta_path.insert(0, finder)
        try:
            module = importlib.import_module(f"{info.adapters}.backend")
        finally:
            sys.meta_path.remove(finder)
    backend: Backend = module.Backend(device)
    return backend
