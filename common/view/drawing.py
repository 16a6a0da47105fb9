"""The architecture of a network as one SVG: the whole as a row of its parts, and each kind of block in detail.

Everything is found from the graph of the reference; a network that the reference builds is drawn without a line more.

What a page can do with it, all by CSS: the colours are custom properties (`--ink`, `--paper`, `--conv`, `--pool`,
`--norm`, `--dense`, `--join`), with defaults for light, dark and print; `data-layout="nhwc"` on the drawing or around
it shows every shape as H x W x C. Each box has in `data-path` the paths that it stands for, separated by spaces, and a
block's detail has those of its blocks in `data-detail`.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from common.catalog import Network
from common.view.graph import INPUT, JOINS, OUTPUT, Edges, Graph, Node, graph

__all__ = ["SIZES", "draw", "text_width"]

SIZES = {"title": 17.0, "heading": 14.0, "label": 12.0, "note": 11.0}
"""Font size of each class of text, in pixels."""

MARGIN = 20.0
PADDING = 7.0
"""Between a box and its text."""
LINE = 15.0
"""From one line of text to the next."""
STUB = 20.0
"""The length of an arrow that carries no shape."""
RADIUS = 9.0
"""Of the circle of a join."""
STACK = 3.0
"""How far each of the sheets behind a box that stands for several sticks out."""
LANES = 20.0
"""Between two branches, one above the other."""

ROLES = {
    "Conv2d": "conv",
    "Linear": "dense",
    "MaxPool2d": "pool",
    "AvgPool2d": "pool",
    "GlobalAvgPool2d": "pool",
    "BatchNorm1d": "norm",
    "BatchNorm2d": "norm",
    "input": "end",
    "output": "end",
}
"""What colours a box, by the class of the layer; any other is a plain one."""
LEGEND = {"conv": "convolution", "dense": "dense layer", "pool": "pooling", "norm": "normalisation"}

STYLE = """
.drawing { --_ink: var(--ink, #1b1f24); --_paper: var(--paper, #fff); --_conv: var(--conv, #c4dcf3);
  --_pool: var(--pool, #f9d9a8); --_norm: var(--norm, #c9ead9); --_dense: var(--dense, #ecd0e4);
  --_join: var(--join, #fff3a8); background: var(--_paper); fill: var(--_ink);
  font-family: system-ui, "Helvetica Neue", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { .drawing { --_ink: var(--ink, #e6edf3); --_paper: var(--paper, #0d1117);
  --_conv: var(--conv, #1c4674); --_pool: var(--pool, #6b4410); --_norm: var(--norm, #17513c);
  --_dense: var(--dense, #5e2a53); --_join: var(--join, #5a5000); } }
@media print { .drawing { --_ink: #000; --_paper: #fff; --_conv: #c4dcf3; --_pool: #f9d9a8; --_norm: #c9ead9;
  --_dense: #ecd0e4; --_join: #fff3a8; } }
.drawing text { stroke: none; text-anchor: middle; font-variant-numeric: tabular-nums; }
.drawing .left { text-anchor: start; }
.drawing .title, .drawing .heading, .drawing .label { font-weight: 600; }
.drawing .box, .drawing .frame, .drawing .line { stroke: var(--_ink); fill: var(--_paper); }
.drawing .frame { stroke-dasharray: 2 3; fill: none; }
.drawing .line { fill: none; }
.drawing .conv .box { fill: var(--_conv); } .drawing .pool .box { fill: var(--_pool); }
.drawing .norm .box { fill: var(--_norm); } .drawing .dense .box { fill: var(--_dense); }
.drawing .join .box { fill: var(--_join); }
.drawing .nhwc, [data-layout=nhwc] .nchw { display: none; } [data-layout=nhwc] .nhwc { display: inline; }
.drawing .part:focus { outline: none; } .drawing .part:focus .box { stroke-width: 3; }
"""

_WIDTHS = {
    **dict.fromkeys("fijlrt.,:;|'!()[] ", 0.42),
    **dict.fromkeys("mwMW%", 1.0),
    **dict.fromkeys("ABCDEFGHKNOPQRSTUVXYZ+=→×", 0.84),
}


def text_width(text: str, style: str = "note") -> float:
    """Return the most that `text` takes in any usual font, in pixels."""
    heavy = 1.1 if style != "note" else 1.0
    return SIZES[style] * heavy * sum(_WIDTHS.get(letter, 0.65) for letter in text)


def sizes(shape: Sequence[int], layout: str = "nchw") -> str:
    """Return a shape as it is written: `64×24×24`, or in NHWC `24×24×64`."""
    return "×".join(map(str, shape if layout == "nchw" else (*shape[1:], shape[0])))


def _range(names: Sequence[str]) -> str:
    """Return `block1–4` for block1, block2, block3 and block4, and other names as they are."""
    if len(names) == 1:
        return names[0]
    stem = re.sub(r"\d+$", "", names[0])
    return f"{names[0]}–{names[-1].removeprefix(stem)}"


# Elements


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _add(parent: ET.Element, tag: str, style: str = "", **attributes: float | str) -> ET.Element:
    named = {"class": style} if style else {}
    named |= {
        name.replace("_", "-"): value if isinstance(value, str) else _number(value)
        for name, value in attributes.items()
    }
    return ET.SubElement(parent, tag, named)


def _text(
    parent: ET.Element, style: str, x: float, y: float, content: str | Sequence[int | str], left: bool = False
) -> None:
    """Write a line of text, or a shape in both layouts, centred at `x` or from there."""
    element = _add(parent, "text", f"{style} left" if left else style, x=x, y=y, font_size=SIZES[style])
    if isinstance(content, str):
        element.text = content
    elif len(content) == 1:
        element.text = str(content[0])
    else:
        for layout in ("nchw", "nhwc"):
            _add(element, "tspan", layout).text = sizes(content, layout)


def _line(parent: ET.Element, *points: tuple[float, float], arrow: bool = False) -> None:
    path = "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
    if arrow:
        # The head is part of the line: a marker would need an id, of which a page with two drawings has two.
        (_, y), (_, ahead_y) = points[-2:]
        if ahead_y == y:
            path += "m-5-3.5l5 3.5l-5 3.5"
        else:
            path += "m-3.5-5l3.5 5l3.5-5" if ahead_y > y else "m-3.5 5l3.5-5l3.5 5"
    _add(parent, "path", "line", d=path)


# What stands in a row


@dataclass
class Plate:
    """One box with lines of text: a layer, a block, the input or the output; `paths` are those it stands for."""

    node: Node
    lines: list[tuple[str, str]]
    paths: list[str]
    height: float
    role: str
    spare: float = 0

    @property
    def width(self) -> float:
        return max(text_width(text, style) for text, style in self.lines) + 2 * PADDING + self.spare

    def draw(self, parent: ET.Element, x: float, y: float, sheets: int = 0) -> None:
        node, top = self.node, y - self.height / 2
        count = f", {len(self.paths)} times" if len(self.paths) > 1 else ""
        part = _add(
            parent,
            "g",
            f"part {self.role}",
            data_path=" ".join(self.paths),
            tabindex="0",
            role="img",
            aria_label=f"{_spoken(self.paths)}: {_what(node)}, {' x '.join(map(str, node.shape))}{count}",
        )
        for sheet in reversed(range(sheets + 1)):
            across, up = x + sheet * STACK, top - sheet * STACK
            if self.role == "pool":
                # A pool narrows what it is given, and so does its box.
                slope = min(self.height / 8, 7)
                right, bottom = across + self.width, up + self.height
                points = [(across, up), (right, up + slope), (right, bottom - slope), (across, bottom)]
                _add(part, "polygon", "box", points=" ".join(f"{_number(a)},{_number(b)}" for a, b in points))
            else:
                radius = {"end": self.height / 2, "plain": 6}.get(self.role, 2)
                _add(part, "rect", "box", x=across, y=up, width=self.width, height=self.height, rx=min(radius, 12))
        baseline = y - (len(self.lines) - 1) * LINE / 2 + 4
        for i, (text, style) in enumerate(self.lines):
            _text(part, style, x + self.width / 2, baseline + i * LINE, text)


def _what(node: Node) -> str:
    return f"{node.label} {node.detail}".strip()


def _spoken(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} to {paths[-1]}"


@dataclass
class Cluster:
    """Plates that touch, for layers that all give the same shape, or one box; `count` of them, one after another."""

    plates: list[Plate]
    count: int = 1

    @property
    def sheets(self) -> int:
        return min(self.count - 1, 2)

    @property
    def width(self) -> float:
        return sum(plate.width for plate in self.plates) + self.sheets * STACK

    @property
    def height(self) -> float:
        return max(plate.height for plate in self.plates) + (2 * (LINE + self.sheets * STACK) if self.count > 1 else 0)

    @property
    def node(self) -> Node:
        return self.plates[-1].node

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        for plate in self.plates:
            plate.draw(parent, x, y, self.sheets)
            x += plate.width
        if self.count > 1:
            top = y - max(plate.height for plate in self.plates) / 2 - self.sheets * STACK - 4
            _text(parent, "label", x - sum(plate.width for plate in self.plates) / 2, top, f"× {self.count}")


@dataclass
class Frame:
    """A stage: its blocks in a row, with its name above them."""

    node: Node
    flow: Flow

    @property
    def width(self) -> float:
        return max(self.flow.width, text_width(self.node.name, "label")) + 2 * PADDING

    @property
    def height(self) -> float:
        return self.flow.height + 2 * (LINE + PADDING)

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        node = self.node
        part = _add(
            parent,
            "g",
            "part stage",
            data_path=node.path,
            tabindex="0",
            role="group",
            aria_label=f"{node.path}: {node.kind}, {' x '.join(map(str, node.shape))}",
        )
        top = y - self.height / 2
        _add(part, "rect", "frame box", x=x, y=top, width=self.width, height=self.height, rx=8)
        _text(part, "label", x + self.width / 2, top + LINE, node.name)
        self.flow.draw(part, x + (self.width - self.flow.width) / 2, y - self.flow.height / 2)


Unit = Cluster | Frame


# From a graph to rows


@dataclass
class Segment:
    """What lies between two points where the flow forks or joins: units in a row, or nothing, as on a shortcut."""

    start: str
    units: list[Unit]
    end: str
    x: float = 0
    y: float = 0
    lane: int = 0
    arrows: list[tuple[float, Sequence[int] | str]] = field(default_factory=list)
    """Before each unit and behind the last: its length, and what it carries."""

    @property
    def width(self) -> float:
        return sum(unit.width for unit in self.units) + sum(length for length, _ in self.arrows)

    @property
    def height(self) -> float:
        return max((unit.height for unit in self.units), default=2 * RADIUS)


class Flow:
    """Segments between points, laid out from left to right, branches above one another.

    `begin` and `end` are the points at which it begins and ends; with `stubs`, arrows lead in and out there. With
    `terse`, an arrow carries no shape where what it leads to gives the same one.
    """

    def __init__(
        self,
        edges: Edges,
        given: Sequence[int],
        nodes: Mapping[str, Node],
        units: Callable[[list[Node]], list[Unit]],
        begin: str = INPUT,
        end: str = OUTPUT,
        *,
        stubs: bool = False,
        terse: bool = False,
    ) -> None:
        self.begin, self.end, self.stubs, self.terse = begin, end, stubs, terse
        self.given, self.nodes = given, nodes
        self.segments = list(_segments(edges, begin, end, nodes, units))
        self.leaving: defaultdict[str, list[Segment]] = defaultdict(list)
        self.arriving: defaultdict[str, list[Segment]] = defaultdict(list)
        for segment in self.segments:
            self.leaving[segment.start].append(segment)
            self.arriving[segment.end].append(segment)
        for segment in self.segments:
            segment.arrows = list(self._arrows(segment))
        self.x = self._columns()
        self.width = self.x[end]
        self.lanes = self._lanes()
        self.height = self.lanes[-1][1]
        self.y: dict[str, float] = {}
        self._rows()

    def _is_join(self, point: str) -> bool:
        return point not in (self.begin, self.end) and self.nodes[point].kind in JOINS

    def _shape(self, point: str) -> Sequence[int]:
        return self.given if point == self.begin else self.nodes[point].shape

    def _trunk(self, point: str) -> float:
        """Return the length of the line from a fork to where its branches part."""
        if len(self.leaving[point]) < 2:
            return 0
        return text_width(sizes(self._shape(point))) + STUB

    def _reach(self, point: str) -> float:
        """Return how far it is from where a point is to where what leaves it begins."""
        return (2 * RADIUS if self._is_join(point) else 0) + self._trunk(point)

    def _arrows(self, segment: Segment) -> Iterator[tuple[float, Sequence[int] | str]]:
        def arrow(label: Sequence[int] | str) -> tuple[float, Sequence[int] | str]:
            text = label if isinstance(label, str) else sizes(label)
            return (text_width(text) + STUB if text else STUB), label

        shape = self._shape(segment.start)
        forked = len(self.leaving[segment.start]) > 1
        for i, unit in enumerate(segment.units):
            if i == 0 and segment.start == self.begin and not self.stubs:
                yield 0, ""
            elif (i == 0 and forked) or self._keeps(unit, shape):
                yield arrow("")
            else:
                yield arrow(shape)
            shape = unit.node.shape
        if segment.end == self.end:
            yield arrow(shape) if self.stubs else (0, "")
        elif not self._is_join(segment.end):
            yield 0, ""
        elif self.nodes[segment.end].kind == "add":
            yield arrow("" if segment.units else "identity")
        else:
            yield arrow(shape)

    def _keeps(self, unit: Unit, shape: Sequence[int]) -> bool:
        """Whether the arrow to `unit` need not say what it carries, since the one behind it will."""
        if isinstance(unit, Frame):
            return False
        first = unit.plates[0]
        return (self.terse or _is_elementwise(first.node)) and tuple(unit.node.shape) == tuple(shape)

    def _columns(self) -> dict[str, float]:
        """Return where each point is from left to right, and make the last arrows as long as that needs."""
        x = {self.begin: 0.0}
        waiting = {point: len(segments) for point, segments in self.arriving.items()}
        ready = [self.begin]
        while ready:
            point = ready.pop()
            for segment in self.leaving[point]:
                segment.x = x[point] + self._reach(point)
                x[segment.end] = max(x.get(segment.end, 0), segment.x + segment.width)
                waiting[segment.end] -= 1
                if not waiting[segment.end]:
                    ready.append(segment.end)
        for segment in self.segments:
            length, label = segment.arrows[-1]
            segment.arrows[-1] = length + x[segment.end] - segment.x - segment.width, label
        return x

    def _lanes(self) -> list[tuple[float, float]]:
        """Put each segment into the first lane that is free; return where each lane is from top to bottom."""
        ends: list[float] = []
        heights: list[float] = []
        for segment in sorted(self.segments, key=lambda segment: (segment.x, not segment.units)):
            free = [lane for lane, end in enumerate(ends) if end <= segment.x]
            segment.lane = free[0] if free else len(ends)
            if not free:
                ends.append(0)
                heights.append(0)
            ends[segment.lane] = segment.x + segment.width
            heights[segment.lane] = max(heights[segment.lane], segment.height)
        bottoms = itertools.accumulate(heights, lambda bottom, height: bottom + LANES + height)
        return [(bottom - height, bottom) for bottom, height in zip(bottoms, heights, strict=True)]

    def _rows(self) -> None:
        """Find where each point and segment is from top to bottom."""
        for point in sorted(self.x, key=lambda point: self.x[point]):
            beside = self.arriving[point] or self.leaving[point]
            for segment in self.leaving[point]:
                segment.y = sum(self.lanes[segment.lane]) / 2
            # Where many branches meet is the middle of them; one or two belong to the first, and pass by it.
            rows = [segment.y for segment in beside]
            self.y[point] = (min(rows) + max(rows)) / 2 if len(rows) > 2 else min(rows)
            if len(self.leaving[point]) == 1:
                self.leaving[point][0].y = self.y[point]

    def draw(self, parent: ET.Element, left: float, top: float) -> None:
        """Draw everything, with the upper left corner there."""
        for segment in self.segments:
            self._draw_segment(parent, segment, left, top)
        for point, x in self.x.items():
            y = top + self.y[point]
            if self._is_join(point):
                _draw_join(parent, self.nodes[point], left + x + RADIUS, y)
            if trunk := self._trunk(point):
                start = left + x + self._reach(point) - trunk
                _line(parent, (start, y), (start + trunk, y))
                _text(parent, "note", start + trunk / 2, y - 5, self._shape(point))

    def _draw_segment(self, parent: ET.Element, segment: Segment, left: float, top: float) -> None:
        x, y = left + segment.x, top + segment.y
        last = len(segment.units)
        for i, (length, label) in enumerate(segment.arrows):
            if length:
                points = [(x, y), (x + length, y)]
                if i == 0 and (fork := top + self.y[segment.start]) != y:
                    points.insert(0, (x, fork))
                if i == last and (join := top + self.y[segment.end]) != y:
                    across = x + length + RADIUS
                    points[-1:] = [(across, y), (across, join + math.copysign(RADIUS, y - join))]
                _line(parent, *points, arrow=True)
                if label:
                    _text(parent, "note", x + length / 2 - 2, y - 5, label)
            x += length
            if i < last:
                segment.units[i].draw(parent, x, y)
                x += segment.units[i].width


def _segments(
    edges: Edges, begin: str, end: str, nodes: Mapping[str, Node], units: Callable[[list[Node]], list[Unit]]
) -> Iterator[Segment]:
    following: defaultdict[str, list[str]] = defaultdict(list)
    for source, target in edges:
        following[source].append(target)
    forks = {source for source, targets in following.items() if len(targets) > 1} - {begin}
    joins = {path for edge in edges for path in edge if path not in (begin, end) and nodes[path].kind in JOINS}
    points = {begin, end} | forks | joins
    for start in [begin, *(path for path in following if path in points and path != begin)]:
        for target in following[start]:
            path, between = target, []
            while path not in points:
                between.append(nodes[path])
                path = following[path][0]
            # A layer that many read is the last of its segment, and where the next ones begin.
            if path in forks and path not in joins:
                between.append(nodes[path])
            yield Segment(start, units(between), path)


def _draw_join(parent: ET.Element, node: Node, x: float, y: float) -> None:
    spoken = {"add": "added", "concatenate": "concatenated"}[node.kind]
    group = _add(parent, "g", "join", role="img", aria_label=f"{spoken}: {' x '.join(map(str, node.shape))}")
    _add(group, "circle", "box", cx=x, cy=y, r=RADIUS)
    reach = RADIUS / 2
    if node.kind == "add":
        _line(group, (x - reach, y), (x + reach, y))
        _line(group, (x, y - reach), (x, y + reach))
    else:
        _line(group, (x - 2, y - reach), (x - 2, y + reach))
        _line(group, (x + 2, y - reach), (x + 2, y + reach))


def _role(node: Node) -> str:
    return ROLES.get(node.kind, "plain")


def _is_elementwise(node: Node) -> bool:
    return node.is_layer and node.given == node.shape and _role(node) in ("norm", "plain")


# The whole


@dataclass
class Kind:
    """Blocks that are the same but for their channels and resolution: drawn in detail once."""

    title: str
    paths: list[str]


class _Drawing:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.graph = graph(network)
        self.nodes = self.graph.nodes
        self.kind_of: dict[str, Kind] = {}
        self.kinds = self._find_kinds()

    def _is_stage(self, path: str) -> bool:
        """Whether a composite is a chain with composites in it, and is drawn as a frame around them."""
        edges = self.graph.inside(path)
        parts = self.graph.parts(path)
        return len(edges) == len(parts) + 1 and any(self.graph.parts(part.path) for part in parts)

    def _find_kinds(self) -> list[Kind]:
        """Return the kinds of blocks in order; those of one class have letters."""
        found: dict[object, Kind] = {}

        def visit(path: str) -> None:
            for part in self.graph.parts(path):
                if part.is_layer or not self.graph.parts(part.path):
                    continue
                if self._is_stage(part.path):
                    visit(part.path)
                    continue
                kind = found.setdefault(self._structure(part), Kind(part.kind, []))
                kind.paths.append(part.path)
                self.kind_of[part.path] = kind

        visit("")
        by_title: defaultdict[str, list[Kind]] = defaultdict(list)
        for kind in found.values():
            by_title[kind.title].append(kind)
        for kinds in by_title.values():
            if len(kinds) > 1:
                for i, kind in enumerate(kinds):
                    kind.title += f" {_letters(i)}"
        return list(found.values())

    def _structure(self, block: Node) -> object:
        """Return all that the drawing of a block shows but for numbers of channels and pixels."""
        cut = len(block.path)
        edges = self.graph.flat(block.path)
        inner = {path: self.nodes[path] for edge in edges for path in edge if path not in (INPUT, OUTPUT)}
        said = tuple((path[cut:], node.kind, node.label, node.detail) for path, node in inner.items())
        return (
            block.kind,
            said,
            tuple((source.removeprefix(block.path), target.removeprefix(block.path)) for source, target in edges),
        )

    def _lines(self, node: Node, name: str) -> list[tuple[str, str]]:
        """Return what is written in the box of a layer or block called `name`: lines and their styles."""
        kind = self.kind_of.get(node.path)
        lines = [(line, "label") for line in textwrap.wrap(kind.title if kind else node.label, 12)]
        lines += [(setting, "note") for setting in node.detail.split(", ") if setting]
        if node.groups > 1:
            lines.append((f"{node.groups} groups", "note"))
        if name.lower() != lines[0][0].lower():
            lines.append((name, "note"))
        return lines

    def _clusters(self, nodes: list[Node]) -> list[list[list[Node]]]:
        """Return the nodes as clusters of plates that touch, and clusters that are the same as stacks."""
        clusters: list[list[Node]] = []
        for node in nodes:
            if clusters and _is_elementwise(node) and clusters[-1][-1].is_layer:
                clusters[-1].append(node)
            else:
                clusters.append([node])
        stacks = []
        for _, equal in itertools.groupby(clusters, self._look):
            stack = list(equal)
            # Two layers alike are seen at a glance; two blocks alike say more as one.
            whole = len(stack) > (1 if stack[0][0].path in self.kind_of else 2)
            stacks += [stack] if whole else [[cluster] for cluster in stack]
        return stacks

    def _look(self, cluster: list[Node]) -> object:
        """Return what makes two clusters look the same."""
        kind = self.kind_of.get(cluster[0].path)
        return id(kind) if kind else [(node.label, node.detail, node.groups, node.shape) for node in cluster]

    def _units(
        self, nodes: list[Node], height: Callable[[Node, int], float], blocks: Sequence[str] = ("",)
    ) -> list[Unit]:
        """Return what is drawn for a chain of nodes, which stand for themselves in each of `blocks`, the first's own."""
        units: list[Unit] = []
        for stack in self._clusters(nodes):
            if self.graph.parts(stack[0][0].path) and stack[0][0].path not in self.kind_of:
                units.append(self._frame(stack[0][0], height))
                continue
            plates = []
            for column in zip(*stack, strict=True):
                node = column[-1]
                lines = self._lines(node, _range([each.name for each in column]))
                paths = [block + each.path.removeprefix(blocks[0]) for block in blocks for each in column]
                spare = 0.0 if _is_elementwise(node) else 2 * math.log2(max(node.shape[0], 1))
                plates.append(Plate(node, lines, paths, height(node, len(lines)), _role(node), spare))
            tallest = max(plate.height for plate in plates)
            for plate in plates:
                plate.height = tallest
            units.append(Cluster(plates, len(stack)))
        return units

    def _frame(self, stage: Node, height: Callable[[Node, int], float]) -> Frame:
        flow = Flow(
            self.graph.inside(stage.path),
            stage.given,
            self.nodes,
            lambda nodes: self._units(nodes, height),
            terse=True,
        )
        return Frame(stage, flow)

    def overview(self) -> Flow:
        """Return the whole network as a row; the higher a box, the more pixels its output has."""
        largest = max(self.network.config.input_size)

        def height(node: Node, lines: int) -> float:
            side = max(node.shape[1:], default=0)
            return 60 + 100 * math.sqrt(min(side / largest, 1)) + LINE * max(lines - 3, 0)

        edges = (("", INPUT), *self.graph.inside(), (OUTPUT, "."))
        return Flow(edges, (), self.nodes, lambda nodes: self._units(nodes, height), "", ".", terse=True)

    def panel(self, kind: Kind) -> Panel:
        """Return a kind of block in detail, with the shapes of the first one."""
        first = self.nodes[kind.paths[0]]
        edges = self.graph.flat(first.path)
        inner = {path for edge in edges for path in edge if path not in (INPUT, OUTPUT)}
        most = max(len(self._lines(self.nodes[path], self.nodes[path].name)) for path in inner)
        flow = Flow(
            edges,
            first.given,
            self.nodes,
            lambda nodes: self._units(nodes, lambda *_: most * LINE + 2 * PADDING, kind.paths),
            stubs=True,
        )
        return Panel(kind, flow, [self.nodes[path] for path in kind.paths])


def _letters(index: int) -> str:
    """Return A to Z, then AA and on."""
    return (_letters(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


class Panel:
    """A kind of block in detail, and below it where it occurs, with the shapes that go in and come out."""

    ROWS = 6
    """How many places stand below one another before the next column."""

    def __init__(self, kind: Kind, flow: Flow, blocks: list[Node]) -> None:
        self.kind, self.flow = kind, flow
        self.heading = f"{kind.title} × {len(blocks)}" if len(blocks) > 1 else kind.title
        runs = itertools.groupby(blocks, lambda block: (block.path.rpartition(".")[0], block.given, block.shape))
        self.places = [
            (".".join(filter(None, (stage, _range([block.name for block in run])))), given, shape)
            for (stage, given, shape), run in runs
        ]
        self.indent = max(text_width(name) for name, _, _ in self.places) + 12
        self.column = (
            self.indent + 24 + max(text_width(sizes(given) + "  →  " + sizes(shape)) for _, given, shape in self.places)
        )
        columns = math.ceil(len(self.places) / self.ROWS)
        self.width = max(flow.width, self.column * columns, text_width(self.heading, "heading"))
        self.height = flow.height + LINE * (2 + min(len(self.places), self.ROWS)) + LANES

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        """Draw it with its upper left corner there."""
        group = _add(
            parent,
            "g",
            "detail",
            data_detail=" ".join(self.kind.paths),
            role="group",
            aria_label=f"{self.heading}, in detail",
        )
        _text(group, "heading", x, y + LINE, self.heading, left=True)
        self.flow.draw(group, x, y + 2 * LINE)
        top = y + 2 * LINE + self.flow.height + LANES
        for i, (name, given, shape) in enumerate(self.places):
            across, down = x + i // self.ROWS * self.column, top + i % self.ROWS * LINE
            _text(group, "note", across, down, name, left=True)
            across += self.indent
            _text(group, "note", across, down, given, left=True)
            across += text_width(sizes(given)) + 2
            _text(group, "note", across, down, "→", left=True)
            _text(group, "note", across + 18, down, shape, left=True)


def draw(network: Network) -> str:
    """Return the architecture of `network` as an SVG document.

    Raises ConfigError where the input is too small, or for a network that is not of the catalogue.
    """
    drawing = _Drawing(network)
    overview = drawing.overview()
    panels = [drawing.panel(kind) for kind in drawing.kinds]
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "drawing", "role": "group"})
    for tag, content in (("title", f"{network.name}, {network.paper}"), ("desc", _told(drawing)), ("style", STYLE)):
        _add(svg, tag).text = content
    _text(svg, "title", MARGIN, MARGIN + LINE, network.name, left=True)
    top = MARGIN + 2.5 * LINE
    overview.draw(svg, MARGIN, top)
    top += overview.height + 2 * LANES
    widest = max([overview.width, 900.0, *(panel.width for panel in panels)])
    shelf: list[Panel] = []
    for panel in [*panels, None]:
        taken = sum(each.width + 3 * LANES for each in shelf)
        if shelf and (panel is None or taken + panel.width > widest):
            x = MARGIN
            for each in shelf:
                each.draw(svg, x, top)
                x += each.width + 3 * LANES
            top += max(each.height for each in shelf) + 2 * LANES
            shelf = []
        if panel:
            shelf.append(panel)
    top = _draw_legend(svg, top, drawing)
    width = widest + 2 * MARGIN
    svg.set("viewBox", f"0 0 {math.ceil(width)} {math.ceil(top)}")
    svg.set("width", str(math.ceil(width)))
    svg.set("height", str(math.ceil(top)))
    return ET.tostring(svg, encoding="unicode")


def _told(drawing: _Drawing) -> str:
    """Return in a sentence what there is to see."""
    parts = [part.path for part in drawing.graph.parts() if part.path not in (INPUT, OUTPUT)]
    return f"From the input to the logits: {', '.join(parts)}."


def _draw_legend(svg: ET.Element, top: float, drawing: _Drawing) -> float:
    present = {_role(node) for node in drawing.nodes.values()}
    x = MARGIN
    for role, meaning in LEGEND.items():
        if role in present:
            group = _add(svg, "g", role)
            _add(group, "rect", "box", x=x, y=top, width=18, height=12, rx=2)
            _text(group, "note", x + 24, top + 10, meaning, left=True)
            x += 24 + text_width(meaning) + 24
    _text(svg, "note", x, top + 10, "boxes that touch pass on one shape", left=True)
    return top + LINE + MARGIN
