"""What there is to look at of a network or a file: source that corresponds, parts, shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["CHANNELS_LAST", "Part", "Row", "Section", "Snippet", "View", "in_layout"]

CHANNELS_LAST = ("jax", "tf")
"""The implementations whose images are (N, H, W, C); in the others they are (N, C, H, W)."""


def in_layout(shape: Sequence[int], backend: str) -> tuple[int, ...]:
    """(N, C, H, W) -> the same in the backend's layout; a shape of any other rank has no image and stays."""
    if backend in CHANNELS_LAST and len(shape) == 4:
        batch, channels, height, width = shape
        return (batch, height, width, channels)
    return tuple(shape)


@dataclass(frozen=True)
class Snippet:
    """Consecutive lines of a file, as they stand there; `path` is relative to the project."""

    backend: str
    path: str
    first_line: int
    source: str

    @property
    def last_line(self) -> int:
        return self.first_line + self.source.count("\n")


@dataclass(frozen=True)
class Row:
    """Lines that correspond, by implementation; one that has none may have a note of what takes their place.

    `key` says what they do: a method's name, or that of what they make, with {} for a number. `parts` are the paths of
    the parts that they make: those in the first of the section's paths that has any.
    """

    key: str
    cells: Mapping[str, Snippet]
    parts: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A class, a function or a constant in every implementation.

    `names` are its names there. `paths`: which parts of the network are instances of it. `absent`: why an
    implementation has none.
    """

    title: str
    names: Mapping[str, str]
    rows: tuple[Row, ...]
    paths: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)

    def snippets(self, backend: str) -> Iterator[Snippet]:
        """Iterate over one implementation's lines."""
        for row in self.rows:
            if backend in row.cells:
                yield row.cells[backend]


@dataclass(frozen=True)
class Part:
    """A module of a network: its path ("" for the network), the reference's class, its output's shape for one image.

    `kinds`: what each implementation makes it of, as it writes it. `made` and `run`: the statements of its parent that
    make it and that run it; none are there where a sequential parent runs all in order, and where it is a function, and
    not made. `section`: the title of the section that defines it, "" for a layer.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    kinds: Mapping[str, str]
    made: Mapping[str, tuple[Snippet, ...]]
    run: Mapping[str, tuple[Snippet, ...]]
    section: str = ""

    def shape_in(self, backend: str) -> tuple[int, ...]:
        """Return the output's shape in the backend's layout."""
        return in_layout(self.shape, backend)


@dataclass(frozen=True)
class View:
    """What there is to show: sections of source and, of a network, its parts in network order.

    The first section of a network holds the docstrings of its files; of a part, the statements that make and run it.
    """

    title: str
    sections: tuple[Section, ...]
    parts: tuple[Part, ...] = ()

    def part(self, path: str) -> Part | None:
        """Return the part at a path."""
        return next((part for part in self.parts if part.path == path), None)
