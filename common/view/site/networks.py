"""Data for a network's page: aligned source, parts with their costs, and a small picture of the layers."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from common import reference
from common.catalog import NETWORKS, Network
from common.reference import graph
from common.view import summary, svg
from common.view.diagram import layout
from common.view.side_by_side.model import View
from common.view.site.code import lines_of

__all__ = ["Cell", "Line", "PartRow", "Unit", "fingerprint", "in_order", "part_rows", "shapes", "units", "year"]

Shapes = Mapping[str, str]
"""A shape written in each layout: `nchw` and `nhwc`."""


def year(network: Network) -> int:
    """Return the year of the network's paper."""
    return int(re.findall(r"\d{4}", network.paper)[-1])


def in_order() -> list[Network]:
    """Return the networks of the catalog in historical order."""
    return sorted(NETWORKS.values(), key=year)


def shapes(shape: Sequence[int]) -> Shapes:
    """Format the shape of an output for one image, (1, C, H, W) or (1, features), in both layouts."""
    return {layout: svg.sizes(tuple(shape[1:]), layout if len(shape) == 4 else "nchw") for layout in ("nchw", "nhwc")}


# --- source -----------------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """The lines of one implementation in a row: (number, indentation, HTML).

    `roles` are the parts that the lines create or call. `gap`: whether lines before these are left out.
    """

    lines: list[tuple[int, int, str]]
    roles: list[str] = field(default_factory=list)
    note: str = ""
    gap: bool = False


@dataclass
class Line:
    """A row of corresponding cells.

    `created` holds (name, path, shapes) of the parts that the code creates; neighbors of the same shape are merged.
    """

    cells: dict[str, Cell]
    created: list[tuple[str, str, Shapes]]


@dataclass
class Unit:
    """One class in every implementation: its files, the parts of the network that are instances of it, its lines."""

    title: str
    anchor: str
    files: dict[str, str]
    paths: tuple[str, ...]
    absent: Mapping[str, str]
    lines: list[Line]


def units(view: View) -> list[Unit]:
    """Return the source of a network, one unit per section."""
    roles = _roles(view)
    result = []
    for section in view.sections[1:]:
        last: dict[str, int] = {}
        lines = []
        for row in section.rows:
            cells = {}
            for backend, snippet in row.cells.items():
                gap = backend in last and snippet.first_line != last[backend] + 1
                last[backend] = snippet.last_line
                numbers = range(snippet.first_line, snippet.last_line + 1)
                own = dict.fromkeys(role for number in numbers for role in roles.get((snippet.path, number), ()))
                cells[backend] = Cell(lines_of(snippet), list(own), gap=gap)
            for backend, note in row.notes.items():
                cells.setdefault(backend, Cell([], note=note))
            lines.append(Line(cells, _created(row.parts, view)))
        files = {each: next((snippet.path for snippet in section.snippets(each)), "") for each in section.names}
        paths = tuple(path for path in section.paths if path)
        result.append(Unit(section.title, f"code-{section.title}", files, paths, section.absent, lines))
    return result


def _roles(view: View) -> dict[tuple[str, int], list[str]]:
    """Return the roles of the parts that each line, by file and number, creates or calls.

    All blocks of a class share its lines, so that one role can stand for several parts.
    """
    titles = _titles(view)
    roles: defaultdict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for part in view.parts:
        if part.path:
            for snippet in (each for where in (part.created, part.called) for own in where.values() for each in own):
                for number in range(snippet.first_line, snippet.last_line + 1):
                    roles[snippet.path, number][_role(part.path, titles)] = None
    return {line: list(names) for line, names in roles.items()}


def _titles(view: View) -> dict[str, str]:
    """Return the title of the section that defines the class of each part, by path."""
    return {path: section.title for section in view.sections for path in section.paths}


def _role(path: str, titles: Mapping[str, str]) -> str:
    """Return the class that contains a part, and the part's name: `Residual.conv1`."""
    parent, _, name = path.rpartition(".")
    return f"{titles.get(parent, '')}.{name}"


def _created(paths: Iterable[str], view: View) -> list[tuple[str, str, Shapes]]:
    parts = [part for path in paths if (part := view.part(path)) is not None]
    created = []
    for shape, group in itertools.groupby(parts, key=lambda part: part.shape):
        alike = [part.path for part in group]
        created.append((svg.name_range([path.rpartition(".")[2] for path in alike]), alike[0], shapes(shape)))
    return created


# --- parts and costs --------------------------------------------------------------------------------------------------


@dataclass
class PartRow:
    """A row of the table of parts. The shares are fractions of the whole network's parameters and operations."""

    path: str
    kind: str
    depth: int
    shape: Shapes
    parameters: int
    multiply_accumulates: int
    parameter_share: float
    cost_share: float
    receptive_field: str
    role: str
    unit: str


def part_rows(network: Network, view: View) -> list[PartRow]:
    """Return a row for every part of a network. Each part comes before its own parts."""
    description = reference.describe(network)
    titles = _titles(view)
    kinds = {part.path: part.kind for part in view.parts}
    rows = []
    for row in summary.rows(description.calls, description, "", everything=True):
        field = ""
        if row.fields:
            spatial = all(each.stride for each in row.fields)
            field = "×".join(str(each.size) for each in row.fields) if spatial else "whole image"
        rows.append(
            PartRow(
                row.path,
                titles.get(row.path) or kinds.get(row.path, row.kind),
                row.path.count("."),
                shapes(row.shape),
                row.parameters,
                row.multiply_accumulates,
                row.parameters / max(description.parameters, 1),
                row.multiply_accumulates / max(description.multiply_accumulates, 1),
                field,
                _role(row.path, titles),
                titles.get(row.path, ""),
            )
        )
    return rows


# --- a network at a glance --------------------------------------------------------------------------------------------

_TALL, _LONG, _GAP = 44.0, 280.0, 1.0
"""Maximum height and width of a fingerprint, and the gap between two layers, in pixels."""


def fingerprint(network: Network) -> str:
    """Draw a network's layers as a row of bars. Height: pixels. Width: channels."""
    layers = [node for node in graph.graph(network).nodes.values() if node.is_layer and layout.role(node) != "plain"]
    roles = [layout.role(node) for node in layers]
    words = {"conv": "convolutions", "pool": "pools", "norm": "normalizations", "dense": "dense layers"}
    label = ", ".join(f"{roles.count(name)} {word}" for name, word in words.items() if name in roles)
    largest = max(network.config.input_size)
    widths = [1 + math.log2(max(node.shape[0], 2)) for node in layers]
    scale = min(1.0, (_LONG - _GAP * len(layers)) / sum(widths))
    root = svg.root("fingerprint", sum(widths) * scale + _GAP * len(layers), _TALL, label)
    x = 0.0
    for node, channels in zip(layers, widths, strict=True):
        side = max(node.shape[1:], default=1)
        height = 4 + (_TALL - 4) * math.sqrt(min(side / largest, 1))
        svg.add(root, "rect", layout.role(node), x=x, y=(_TALL - height) / 2, width=channels * scale, height=height)
        x += channels * scale + _GAP
    return ET.tostring(root, encoding="unicode")
