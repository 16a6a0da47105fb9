"""Data classes of a source comparison: views, sections, rows, snippets, and the parts of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from common.backends import registry

__all__ = ["Part", "Row", "Section", "Snippet", "View", "in_layout"]


def in_layout(shape: Sequence[int], backend: str) -> tuple[int, ...]:
    """(N, C, H, W) -> the same shape in the backend's layout. Shapes of other ranks are returned unchanged."""
    if registry.get(backend).layout == "NHWC" and len(shape) == 4:
        batch, channels, height, width = shape
        return (batch, height, width, channels)
    return tuple(shape)


@dataclass(frozen=True)
class Snippet:
    """Consecutive lines of a file, unchanged. `path` is relative to the project."""

    backend: str
    path: str
    first_line: int
    source: str

    @property
    def last_line(self) -> int:
        return self.first_line + self.source.count("\n")


@dataclass(frozen=True)
class Row:
    """Corresponding lines of the implementations.

    `key` is the name of a method, or of what the lines create or call, with {} for a number. `parts` are the paths of
    the parts that the lines create, in the first of the section's paths that has any. `notes` explain missing lines.
    """

    key: str
    cells: Mapping[str, Snippet]
    parts: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A class, a function or a constant in every implementation.

    `names`: its name in each implementation. `paths`: the parts of the network that are instances of it. `absent`: why
    an implementation has none.
    """

    title: str
    names: Mapping[str, str]
    rows: tuple[Row, ...]
    paths: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)

    def snippets(self, backend: str) -> Iterator[Snippet]:
        """Iterate over the snippets of one implementation."""
        for row in self.rows:
            if backend in row.cells:
                yield row.cells[backend]


@dataclass(frozen=True)
class Part:
    """A module of a network.

    `path` is "" for the network itself; `kind` is the class in the reference; `shape` is the output's for one image.
    `kinds`: the class or function in each implementation, as written in its source. `created` and `called`: the
    statements of the parent that create it (none for a function) and that call it (none in a sequential container).
    `section`: the title of the section that defines its class, "" for a layer.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    kinds: Mapping[str, str]
    created: Mapping[str, tuple[Snippet, ...]]
    called: Mapping[str, tuple[Snippet, ...]]
    section: str = ""

    def shape_in(self, backend: str) -> tuple[int, ...]:
        """Return the output's shape in the backend's layout."""
        return in_layout(self.shape, backend)


@dataclass(frozen=True)
class View:
    """Sections of source, and the parts of a network in network order.

    The first section of a network holds the docstrings of its files. The first section of a part holds the statements
    that create and call it.
    """

    title: str
    sections: tuple[Section, ...]
    parts: tuple[Part, ...] = ()

    def part(self, path: str) -> Part | None:
        """Return the part at a path, or None if there is none."""
        return next((part for part in self.parts if part.path == path), None)
