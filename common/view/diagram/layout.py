"""Left-to-right layout of a dataflow graph: boxes in rows, branches above one another, joins."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from common.reference.graph import INPUT, JOINS, OUTPUT, Edges, Node
from common.view import svg
from common.view.svg import Shapes, label_width, text_width

__all__ = [
    "LANES",
    "LINE",
    "PADDING",
    "Cluster",
    "Flow",
    "Frame",
    "Plate",
    "Unit",
    "draw_join",
    "is_elementwise",
    "role",
]

PADDING = 7.0
"""Space between a box and its text, in pixels, as all sizes here."""
LINE = 15.0
"""Height of a line of text."""
STUB = 20.0
"""Length of an arrow without a label, and the extra length of an arrow with one."""
RADIUS = 9.0
"""Radius of the circle of a join."""
SHEET = 3.0
"""Offset of each of the sheets behind a box that represents several layers."""
LANES = 20.0
"""Vertical space between two branches."""

_ROLES = {
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
_CORNERS = {"end": 12.0, "block": 6.0, "plain": 6.0}


def role(node: Node) -> str:
    """Return the style of a node's box: conv, dense, pool, norm, end, plain or block."""
    return _ROLES.get(node.kind, "plain" if node.is_layer else "block")


def is_elementwise(node: Node) -> bool:
    """True if a layer is of a class that always keeps the input's shape."""
    return node.is_layer and node.given == node.shape and role(node) in ("norm", "plain")


# The units of a row. Each has a width, and a height above and below the axis of the row.


@dataclass
class Plate:
    """One box with lines of text (content, style): a layer, a block, the input or the output.

    `paths` are the paths that it represents. `extra` is added to the width that its text needs.
    """

    node: Node
    lines: list[tuple[str, str]]
    paths: list[str]
    height: float
    extra: float = 0

    @property
    def width(self) -> float:
        return max(text_width(*line) for line in self.lines) + 2 * PADDING + self.extra

    def draw(self, parent: ET.Element, x: float, y: float, sheets: int = 0) -> None:
        """Draw the box with its left end at `x` and its middle at `y`, in front of some sheets."""
        node, look = self.node, role(self.node)
        others = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        what = f"{node.label} {node.detail}".strip()
        part = svg.add(
            parent,
            "g",
            f"part {look}",
            data_path=" ".join(self.paths),
            tabindex="0",
            role="img",
            aria_label=f"{self.paths[0]}{others}: {what}, {svg.spoken(node.shape)}",
        )
        for sheet in reversed(range(sheets + 1)):
            left, top = x + sheet * SHEET, y - self.height / 2 - sheet * SHEET
            if look == "pool":
                # Pooling reduces its input, so its box narrows to the right.
                slope, right, bottom = 6, left + self.width, top + self.height
                corners = [(left, top), (right, top + slope), (right, bottom - slope), (left, bottom)]
                points = " ".join(f"{svg.number(x)},{svg.number(y)}" for x, y in corners)
                svg.add(part, "polygon", "box", points=points)
            else:
                corner = _CORNERS.get(look, 2)
                svg.add(part, "rect", "box", x=left, y=top, width=self.width, height=self.height, rx=corner)
        baseline = y - (len(self.lines) - 1) * LINE / 2 + 4
        for i, (content, style) in enumerate(self.lines):
            svg.text(part, style, x + self.width / 2, baseline + i * LINE, content)


@dataclass
class Cluster:
    """Boxes that touch, of layers with the same output shape. It represents `count` of them in sequence."""

    plates: list[Plate]
    count: int = 1

    @property
    def node(self) -> Node:
        """The last node, which determines the output shape."""
        return self.plates[-1].node

    @property
    def parts(self) -> list[str]:
        """The paths of all nodes that it represents, in order."""
        return [path for paths in zip(*(plate.paths for plate in self.plates), strict=True) for path in paths]

    @property
    def _sheets(self) -> int:
        return min(self.count - 1, 2)

    @property
    def _caption(self) -> str:
        """The count above several layers. A block has it in its box."""
        return f"× {self.count}" if self.count > 1 and self.node.is_layer else ""

    @property
    def width(self) -> float:
        return sum(plate.width for plate in self.plates) + self._sheets * SHEET

    @property
    def above(self) -> float:
        return self.below + self._sheets * SHEET + (LINE if self._caption else 0)

    @property
    def below(self) -> float:
        return max(plate.height for plate in self.plates) / 2

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        """Draw the boxes, the sheets behind them, and the caption."""
        if self._caption:
            middle = x + sum(plate.width for plate in self.plates) / 2
            svg.text(parent, "label", middle, y - self.below - self._sheets * SHEET - 4, self._caption)
        for plate in self.plates:
            plate.draw(parent, x, y, self._sheets)
            x += plate.width


@dataclass
class Frame:
    """A stage: a frame around its blocks, with its name at the top."""

    node: Node
    flow: Flow

    @property
    def parts(self) -> list[str]:
        """The paths of all nodes that it represents: the stage's own."""
        return [self.node.path]

    @property
    def width(self) -> float:
        return max(self.flow.width, text_width(self.node.name, "label")) + 2 * PADDING

    @property
    def above(self) -> float:
        return self.flow.axis + LINE + PADDING

    @property
    def below(self) -> float:
        return self.flow.height - self.flow.axis + PADDING

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        """Draw the frame and its blocks."""
        label = f"{self.node.path}: {self.node.label}, {svg.spoken(self.node.shape)}"
        part = svg.add(
            parent, "g", "part stage", data_path=self.node.path, tabindex="0", role="group", aria_label=label
        )
        top, height = y - self.above, self.above + self.below
        svg.add(part, "rect", "box frame", x=x, y=top, width=self.width, height=height, rx=8)
        svg.text(part, "label", x + self.width / 2, top + LINE, self.node.name)
        self.flow.draw(part, x + (self.width - self.flow.width) / 2, y - self.flow.axis)


Unit = Cluster | Frame
Units = Callable[[list[Node]], list[Unit]]
"""Creates the drawing units of a chain of nodes."""


# Rows and branches


@dataclass
class Segment:
    """The units between two points where the flow forks or joins. An identity shortcut has none.

    `arrows` holds (length, label) of the arrow before each unit and of the one after the last.
    """

    start: str
    units: list[Unit]
    end: str
    x: float = 0
    y: float = 0
    arrows: list[tuple[float, str | Shapes]] = field(default_factory=list)

    @property
    def width(self) -> float:
        return sum(unit.width for unit in self.units) + sum(length for length, _ in self.arrows)

    def is_beside(self, other: Segment) -> bool:
        """True if the two segments overlap horizontally, so that they need different lanes."""
        return self.x < other.x + other.width and other.x < self.x + self.width

    @property
    def above(self) -> float:
        """Height above the axis, including the labels of the arrows."""
        return max((unit.above for unit in self.units), default=LINE)

    @property
    def below(self) -> float:
        return max((unit.below for unit in self.units), default=RADIUS)


class Flow:
    """A layout of segments from left to right, with branches above one another.

    It starts at the point `begin` with the shape `given` and ends at the point `end`. `lead_in` and `lead_out`: whether
    labeled arrows lead to the first and from the last unit. With `terse`, an arrow has no label if the unit that it
    leads to has the same output shape.
    """

    def __init__(
        self,
        edges: Edges,
        nodes: Mapping[str, Node],
        given: tuple[int, ...],
        units: Units,
        begin: str = INPUT,
        end: str = OUTPUT,
        *,
        lead_in: bool = False,
        lead_out: bool = False,
        terse: bool = False,
    ) -> None:
        self.nodes, self.given, self.begin, self.end = nodes, given, begin, end
        self.lead_in, self.lead_out, self.terse = lead_in, lead_out, terse
        self.segments = list(_segments(edges, nodes, units, begin, end))
        self.leaving: defaultdict[str, list[Segment]] = defaultdict(list)
        self.arriving: defaultdict[str, list[Segment]] = defaultdict(list)
        for segment in self.segments:
            self.leaving[segment.start].append(segment)
            self.arriving[segment.end].append(segment)
        for segment in self.segments:
            segment.arrows = [
                (label_width(carried) + STUB if carried else length, carried)
                for length, carried in self._arrows(segment)
            ]
        self.x = self._columns()
        self.y, self.height = self._rows()
        self.width, self.axis = self.x[end], self.y[begin]

    def _is_join(self, point: str) -> bool:
        return point not in (self.begin, self.end) and self.nodes[point].kind in JOINS

    def _shape(self, point: str) -> tuple[int, ...]:
        return self.given if point == self.begin else self.nodes[point].shape

    def _trunk(self, point: str) -> float:
        """Return the length of the line from a fork to where its branches part."""
        return label_width([self._shape(point)]) + STUB if len(self.leaving[point]) > 1 else 0

    def _arrows(self, segment: Segment) -> Iterator[tuple[float, str | Shapes]]:
        """Iterate over (minimum length, label) of the arrows of a segment."""
        shape = self._shape(segment.start)
        for i, unit in enumerate(segment.units):
            forked = i == 0 and len(self.leaving[segment.start]) > 1
            if i == 0 and segment.start == self.begin and not forked:
                yield 0, [shape] if self.lead_in else ""
            else:
                # The shape is already at the trunk of a fork, or follows behind a unit that keeps it.
                yield STUB, "" if forked or self._keeps(unit, shape) else [shape]
            shape = unit.node.shape
        if segment.end == self.end:
            yield 0, [shape] if self.lead_out else ""
        elif not self._is_join(segment.end):
            yield 0, ""
        elif self.nodes[segment.end].kind == "add":
            forked = len(self.leaving[segment.start]) > 1
            yield STUB, "identity" if forked and not segment.units else ""
        else:
            yield STUB, [shape]

    def _keeps(self, unit: Unit, shape: tuple[int, ...]) -> bool:
        if isinstance(unit, Frame) or unit.node.kind == "output":
            return False
        return (self.terse or is_elementwise(unit.plates[0].node)) and unit.node.shape == shape

    def _columns(self) -> dict[str, float]:
        """Return the x coordinate of each point, and lengthen the last arrow of each segment to reach its end."""
        x = {self.begin: 0.0}
        waiting = {point: len(segments) for point, segments in self.arriving.items()}
        ready = [self.begin]
        while ready:
            point = ready.pop()
            for segment in self.leaving[point]:
                segment.x = x[point] + (2 * RADIUS if self._is_join(point) else 0) + self._trunk(point)
                x[segment.end] = max(x.get(segment.end, 0), segment.x + segment.width)
                waiting[segment.end] -= 1
                if not waiting[segment.end]:
                    ready.append(segment.end)
        for segment in self.segments:
            length, carried = segment.arrows[-1]
            segment.arrows[-1] = length + x[segment.end] - segment.x - segment.width, carried
        return x

    def _rows(self) -> tuple[dict[str, float], float]:
        """Return the y coordinate of each point, and the total height."""
        lanes: list[list[Segment]] = []
        # Each segment takes the first free lane. Identity shortcuts come last, so that they run below other branches.
        bare = [segment for segment in self.segments if not segment.units]
        others = [segment for segment in self.segments if segment.units]
        for segment in [*sorted(others, key=lambda each: each.x), *sorted(bare, key=lambda each: each.width)]:
            free = [lane for lane in lanes if not any(segment.is_beside(other) for other in lane)]
            if not free:
                free = [[]]
                lanes += free
            free[0].append(segment)
        bottom = -LANES
        for lane in lanes:
            axis = bottom + LANES + max(segment.above for segment in lane)
            bottom = axis + max(segment.below for segment in lane)
            for segment in lane:
                segment.y = axis
        y: dict[str, float] = {}
        for point in sorted(self.x, key=lambda point: self.x[point]):
            # Three or more branches meet at their middle. Of two, the lower one bends up to the upper one.
            axes = [segment.y for segment in self.arriving[point] or self.leaving[point]]
            y[point] = (min(axes) + max(axes)) / 2 if len(axes) > 2 else min(axes)
            if len(self.leaving[point]) == 1:
                self.leaving[point][0].y = y[point]
        return y, bottom

    def draw(self, parent: ET.Element, left: float, top: float) -> None:
        """Draw all segments and joins, with the upper left corner at (left, top)."""
        for segment in self.segments:
            self._draw_segment(parent, segment, left, top)
        for point, y in self.y.items():
            x = left + self.x[point]
            if self._is_join(point):
                draw_join(parent, self.nodes[point].kind, x + RADIUS, top + y, self.nodes[point].shape)
                x += 2 * RADIUS
            if trunk := self._trunk(point):
                svg.line(parent, (x, top + y), (x + trunk, top + y))
                svg.text(parent, "note", x + trunk / 2, top + y - 5, [self._shape(point)])

    def _draw_segment(self, parent: ET.Element, segment: Segment, left: float, top: float) -> None:
        x, y = left + segment.x, top + segment.y
        start, end = top + self.y[segment.start], top + self.y[segment.end]
        last = len(segment.units)
        for i, (length, carried) in enumerate(segment.arrows):
            points = [(x, y), (x + length, y)]
            if i == 0 and start != y:
                points.insert(0, (x, start))
            if i == last and end != y:
                beside = x + length + RADIUS
                points[-1:] = [(beside, y), (beside, end + math.copysign(RADIUS, y - end))]
            if length:
                svg.line(parent, *points, arrow=True)
            if carried:
                svg.text(parent, "note", x + length / 2 - 2, y - 5, carried)
            x += length
            if i < last:
                segment.units[i].draw(parent, x, y)
                x += segment.units[i].width


def _segments(edges: Edges, nodes: Mapping[str, Node], units: Units, begin: str, end: str) -> Iterator[Segment]:
    following: defaultdict[str, list[str]] = defaultdict(list)
    for source, target in edges:
        following[source].append(target)
    joins = {path for edge in edges for path in edge if path not in (begin, end) and nodes[path].kind in JOINS}
    forks = {source for source, targets in following.items() if len(targets) > 1} - joins - {begin}
    points = {begin, end} | forks | joins
    for start in [begin, *(source for source in following if source in forks | joins)]:
        for target in following[start]:
            path, between = target, []
            while path not in points:
                between.append(nodes[path])
                (path,) = following[path]
            # A layer with several readers ends its segment, and the next ones start there.
            if path in forks:
                between.append(nodes[path])
            yield Segment(start, units(between), path)


def draw_join(parent: ET.Element, kind: str, x: float, y: float, shape: tuple[int, ...] = ()) -> None:
    """Draw a circled + or || around a point."""
    meaning = {"add": "added", "concatenate": "concatenated"}[kind]
    label = f"{meaning}: {svg.spoken(shape)}" if shape else meaning
    join = svg.add(parent, "g", "join", role="img", aria_label=label)
    svg.add(join, "circle", "box", cx=x, cy=y, r=RADIUS)
    reach = RADIUS / 2
    if kind == "add":
        svg.line(join, (x - reach, y), (x + reach, y))
        svg.line(join, (x, y - reach), (x, y + reach))
    else:
        for beside in (x - 2, x + 2):
            svg.line(join, (beside, y - reach), (beside, y + reach))
