"""What there is on the page of a network."""

from __future__ import annotations

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
"""A shape as it is written in each layout: `nchw` and `nhwc`."""


def year(network: Network) -> int:
    """Return when the network's paper appeared."""
    found = re.findall(r"\d{4}", network.paper)
    return int(found[-1])


def in_order() -> list[Network]:
    """Return the catalog in historical order."""
    return sorted(NETWORKS.values(), key=year)


def shapes(shape: Sequence[int]) -> Shapes:
    """Return an output's shape for one image, (1, C, H, W) or (1, features), in both layouts."""
    return {layout: svg.sizes(tuple(shape[1:]), layout if len(shape) == 4 else "nchw") for layout in ("nchw", "nhwc")}


# --- source -----------------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """One implementation's lines of a row: (number, indentation, HTML); `roles` are the parts that they make or run."""

    lines: list[tuple[int, int, str]]
    roles: list[str] = field(default_factory=list)
    note: str = ""
    gap: bool = False


@dataclass
class Line:
    """Cells that correspond. `made`: name, path and shape of the parts that they make; neighbors alike are one."""

    label: str
    cells: dict[str, Cell]
    made: list[tuple[str, str, Shapes]]


@dataclass
class Unit:
    """A class in every implementation: its names and files there, the parts that are instances of it, its lines."""

    title: str
    anchor: str
    files: dict[str, str]
    names: dict[str, str]
    paths: tuple[str, ...]
    absent: Mapping[str, str]
    lines: list[Line]


def units(view: View) -> list[Unit]:
    """Return the source of a network, section by section."""
    roles = _roles(view)
    found = []
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
            lines.append(Line(row.key, cells, _made(row.parts, view)))
        files = {}
        for backend in section.names:
            snippets = list(section.snippets(backend))
            if snippets:
                files[backend] = snippets[0].path
        paths = tuple(path for path in section.paths if path)
        anchor = f"code-{section.title}"
        found.append(Unit(section.title, anchor, files, dict(section.names), paths, section.absent, lines))
    return found


def _roles(view: View) -> dict[tuple[str, int], list[str]]:
    """Return for lines, by file and number, the parts that they make or run, as `class.name`.

    Blocks of a class share its lines: a role stands for a part of each of them.
    """
    titles = {path: section.title for section in view.sections for path in section.paths}
    found: defaultdict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for part in view.parts:
        if part.path:
            for snippet in (each for where in (part.made, part.run) for own in where.values() for each in own):
                for number in range(snippet.first_line, snippet.last_line + 1):
                    found[snippet.path, number][role(part.path, titles)] = None
    return {place: list(names) for place, names in found.items()}


def role(path: str, titles: Mapping[str, str]) -> str:
    """Return what a part is in the class that makes it: `Residual.conv1`."""
    parent, _, name = path.rpartition(".")
    return f"{titles.get(parent, '')}.{name}"


def _made(paths: Iterable[str], view: View) -> list[tuple[str, str, Shapes]]:
    made: list[tuple[str, str, Shapes]] = []
    names: list[list[str]] = []
    for path in paths:
        part = view.part(path)
        if part is None:
            continue
        shape, name = shapes(part.shape), path.rpartition(".")[2]
        if made and made[-1][2] == shape:
            names[-1].append(name)
        else:
            made.append((name, path, shape))
            names.append([name])
    return [(_range(own), path, shape) for own, (_, path, shape) in zip(names, made, strict=True)]


def _range(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{names[0]}–{names[-1].removeprefix(re.sub(r'[0-9]+$', '', names[0]))}"


# --- parts and costs --------------------------------------------------------------------------------------------------


@dataclass
class PartRow:
    """A part: what it is, makes, costs and sees; shares are of the network's whole cost."""

    path: str
    kind: str
    depth: int
    shape: Shapes
    parameters: int
    multiply_accumulates: int
    parameter_share: float
    cost_share: float
    sees: str
    role: str
    unit: str


def part_rows(network: Network, view: View) -> list[PartRow]:
    """Return every part of a network, each before its own."""
    description = reference.describe(network)
    titles = {path: section.title for section in view.sections for path in section.paths}
    kinds = {part.path: part.kind for part in view.parts}
    rows = []
    for row in summary.rows(description.calls, description, "", everything=True):
        sees = ""
        if row.fields and all(each.stride for each in row.fields):
            sees = "×".join(str(each.size) for each in row.fields)
        elif row.fields:
            sees = "whole image"
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
                sees,
                role(row.path, titles),
                titles.get(row.path, ""),
            )
        )
    return rows


# --- a network at a glance --------------------------------------------------------------------------------------------

_TALL, _LONG, _GAP = 44.0, 280.0, 1.0
"""Pixels: how high and how long a fingerprint is at most, and how far two layers are apart."""


def fingerprint(network: Network) -> str:
    """Return a network's layers as bars: the higher the more pixels, the wider the more channels."""
    layers = [node for node in graph.graph(network).nodes.values() if node.is_layer and layout.role(node) != "plain"]
    largest = max(network.config.input_size)
    root = ET.Element("svg", {"class": "fingerprint", "role": "img"})
    widths = [1 + math.log2(max(node.shape[0], 2)) for node in layers]
    scale = min(1.0, (_LONG - _GAP * len(layers)) / sum(widths))
    x = 0.0
    for node, channels in zip(layers, widths, strict=True):
        side = max(node.shape[1:], default=1)
        height = 4 + (_TALL - 4) * math.sqrt(min(side / largest, 1))
        svg.add(root, "rect", layout.role(node), x=x, y=(_TALL - height) / 2, width=channels * scale, height=height)
        x += channels * scale + _GAP
    kinds: dict[str, int] = {}
    for node in layers:
        kinds[layout.role(node)] = kinds.get(layout.role(node), 0) + 1
    words = {"conv": "convolutions", "pool": "pools", "norm": "normalizations", "dense": "dense layers"}
    root.set("aria-label", ", ".join(f"{kinds[name]} {word}" for name, word in words.items() if name in kinds))
    root.set("viewBox", f"0 0 {svg.number(x)} {_TALL:.0f}")
    root.set("width", svg.number(x))
    root.set("height", f"{_TALL:.0f}")
    return ET.tostring(root, encoding="unicode")
