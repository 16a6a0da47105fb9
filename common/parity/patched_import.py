"""A port with a mistake put into it: its modules are imported once more, from source that was changed in memory.

No file is touched, and the port as it stands stays loaded beside the changed one.
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
    """A piece of a module's source to be replaced: the one place where `old` stands, or that at offset `at`."""

    module: str
    old: str
    new: str
    at: int | None = None

    def apply(self, text: str) -> str:
        """Return the changed source. Raises ConfigError where `old` does not stand there, or not once."""
        if self.at is not None:
            if not text.startswith(self.old, self.at):
                raise ConfigError(f"{self.module} has no {self.old!r} at offset {self.at}; its source has changed")
            return text[: self.at] + self.new + text[self.at + len(self.old) :]
        if text.count(self.old) != 1:
            raise ConfigError(f"{self.module} holds {self.old!r} {text.count(self.old)} times, expected once")
        return text.replace(self.old, self.new)


def source(module: str) -> str:
    """Return the source of one of the project's modules, without importing it, which would need its framework."""
    path = environments.PROJECT.joinpath(*module.split(".")).with_suffix(".py")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"there is no source of {module}: {error.strerror}") from None


_numbers = itertools.count(1)


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module from its changed source, and leaves no bytecode behind."""

    edits: Sequence[Edit] = ()

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_data(self.path).decode()
        # From behind, so that the offsets of what stands before stay right.
        for edit in sorted(self.edits, key=lambda edit: -(edit.at or 0)):
            text = edit.apply(text)
        # TensorFlow's AutoGraph compiles functions anew from the source that belongs to their file's name: by its own
        # name that would be the unchanged one.
        name = f"<{fullname}, changed, {next(_numbers)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        return compile(text, name, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are to be changed."""

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
def _afresh(names: set[str]) -> Iterator[None]:
    """Have modules imported anew inside, and the old ones back in their places afterwards."""

    def belongs(module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in names)

    before = {name: module for name, module in sys.modules.items() if belongs(name)}
    for name in before:
        parent, _, leaf = name.rpartition(".")
        if parent in sys.modules and parent not in before:
            delattr(sys.modules[parent], leaf)  # where `from parent import leaf` would find the old one
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
    """Return backend `name` with `edits` made to its package, or to modules that only it is then to see changed.

    Raises ConfigError where an edit does not fit, and whatever a changed module raises when it is imported.
    """
    info = registry.get(name)
    finder = _Finder(edits)
    with _afresh({info.package, info.adapters, *finder.edits}):
        sys.meta_path.insert(0, finder)
        try:
            module = importlib.import_module(f"{info.adapters}.backend")
        finally:
            sys.meta_path.remove(finder)
    backend: Backend = module.Backend(device)
    return backend
