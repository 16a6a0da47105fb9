"""A graph laid out from left to right: boxes in rows, forks into branches, joins."""

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
"""Between a box and its text."""
LINE = 15.0
"""From one line of text to the next."""
STUB = 20.0
"""The length of an arrow that carries no shape, and what one is longer than its shape."""
RADIUS = 9.0
"""Of the circle of a join."""
SHEET = 3.0
"""How far each of the sheets behind a box that stands for several sticks out."""
LANES = 20.0
"""Between two branches, one above the other."""

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
    """Return what colors the node's box, and shapes it."""
    return _ROLES.get(node.kind, "plain" if node.is_layer else "block")


def is_elementwise(node: Node) -> bool:
    """Whether a layer hands on the shape that it is given, as every one of its class does."""
    return node.is_layer and node.given == node.shape and role(node) in ("norm", "plain")


# What stands in a row: each has a width, reaches above and below the axis of its row, and is drawn from its left end.


@dataclass
class Plate:
    """One box with lines of text and their styles: a layer, a block, the input or the output.

    `paths` are those that it stands for, `spare` is what it is wider than its text needs.
    """

    node: Node
    lines: list[tuple[str, str]]
    paths: list[str]
    height: float
    spare: float = 0

    @property
    def width(self) -> float:
        """Room for the longest line."""
        return max(text_width(*line) for line in self.lines) + 2 * PADDING + self.spare

    def draw(self, parent: ET.Element, x: float, y: float, sheets: int = 0) -> None:
        """Draw it, in front of as many sheets."""
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
                # A pool narrows what it is given, and so does its box.
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
    """One box, or plates that touch, of layers that all give one shape; `count` of them, one after another."""

    plates: list[Plate]
    count: int = 1

    @property
    def node(self) -> Node:
        """The last of what it shows, which gives its shape."""
        return self.plates[-1].node

    @property
    def parts(self) -> list[str]:
        """The paths of all that it stands for, in order."""
        return [path for paths in zip(*(plate.paths for plate in self.plates), strict=True) for path in paths]

    @property
    def _sheets(self) -> int:
        return min(self.count - 1, 2)

    @property
    def _caption(self) -> str:
        """Several layers have their number above them; a block says it itself."""
        return f"× {self.count}" if self.count > 1 and self.node.is_layer else ""

    @property
    def width(self) -> float:
        """From the left end of the first plate to the right end of the last sheet."""
        return sum(plate.width for plate in self.plates) + self._sheets * SHEET

    @property
    def above(self) -> float:
        """Half a plate, the sheets behind it and the caption."""
        return self.below + self._sheets * SHEET + (LINE if self._caption else 0)

    @property
    def below(self) -> float:
        """Half a plate."""
        return max(plate.height for plate in self.plates) / 2

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        """Draw the plates and what is above them."""
        if self._caption:
            middle = x + sum(plate.width for plate in self.plates) / 2
            svg.text(parent, "label", middle, y - self.below - self._sheets * SHEET - 4, self._caption)
        for plate in self.plates:
            plate.draw(parent, x, y, self._sheets)
            x += plate.width


@dataclass
class Frame:
    """A stage: its blocks in a row, with its name above them."""

    node: Node
    flow: Flow

    @property
    def parts(self) -> list[str]:
        """Its path."""
        return [self.node.path]

    @property
    def width(self) -> float:
        """Room for the blocks, or for the name."""
        return max(self.flow.width, text_width(self.node.name, "label")) + 2 * PADDING

    @property
    def above(self) -> float:
        """From its upper edge."""
        return self.flow.axis + LINE + PADDING

    @property
    def below(self) -> float:
        """To its lower edge."""
        return self.flow.height - self.flow.axis + PADDING

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        """Draw the frame and what is in it."""
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
"""Makes of a chain of nodes what is drawn for them."""


# How the rows hang together


@dataclass
class Segment:
    """What lies between two points where the flow forks or joins: units in a row, or nothing, as on a shortcut.

    `arrows` are those before each unit and behind the last: how long each is, and what it carries.
    """

    start: str
    units: list[Unit]
    end: str
    x: float = 0
    y: float = 0
    arrows: list[tuple[float, str | Shapes]] = field(default_factory=list)

    @property
    def width(self) -> float:
        """From one point to the other."""
        return sum(unit.width for unit in self.units) + sum(length for length, _ in self.arrows)

    def is_beside(self, other: Segment) -> bool:
        """Whether one of the two would run into the other in one lane."""
        return self.x < other.x + other.width and other.x < self.x + self.width

    @property
    def above(self) -> float:
        """How far it reaches above its axis, where the writing on its arrows is too."""
        return max((unit.above for unit in self.units), default=LINE)

    @property
    def below(self) -> float:
        """How far it reaches below its axis."""
        return max((unit.below for unit in self.units), default=RADIUS)


class Flow:
    """Segments between points, laid out from left to right, branches above one another.

    `begin` and `end` are the points where it begins, with the shape `given`, and ends; arrows lead there as `lead_in`
    and `lead_out` say. With `terse`, an arrow carries no shape where what it leads to gives the same one.
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
        """Yield how long each arrow of a segment is, unless what it carries needs more, and what that is."""
        shape = self._shape(segment.start)
        for i, unit in enumerate(segment.units):
            forked = i == 0 and len(self.leaving[segment.start]) > 1
            if i == 0 and segment.start == self.begin and not forked:
                yield 0, [shape] if self.lead_in else ""
            else:
                # The trunk of a fork says what it carries, and so does the arrow behind a unit that keeps the shape.
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
        """Return where each point is from left to right, and make the last arrows as long as that needs."""
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
        """Return where each point is from top to bottom, and how high it all is."""
        lanes: list[list[Segment]] = []
        # Each segment is in the first lane that is free there; bare shortcuts come last, and so below what they pass.
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
            # Where many branches meet is the middle of them; of two, the lower one passes by the upper.
            axes = [segment.y for segment in self.arriving[point] or self.leaving[point]]
            y[point] = (min(axes) + max(axes)) / 2 if len(axes) > 2 else min(axes)
            if len(self.leaving[point]) == 1:
                self.leaving[point][0].y = y[point]
        return y, bottom

    def draw(self, parent: ET.Element, left: float, top: float) -> None:
        """Draw everything, with the upper left corner there."""
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
            # A layer that several read is the last of its segment, and where the next ones begin.
            if path in forks:
                between.append(nodes[path])
            yield Segment(start, units(between), path)


def draw_join(parent: ET.Element, kind: str, x: float, y: float, shape: tuple[int, ...] = ()) -> None:
    """Draw a circled + or || around a point."""
    said = {"add": "added", "concatenate": "concatenated"}[kind]
    label = f"{said}: {svg.spoken(shape)}" if shape else said
    join = svg.add(parent, "g", "join", role="img", aria_label=label)
    svg.add(join, "circle", "box", cx=x, cy=y, r=RADIUS)
    reach = RADIUS / 2
    if kind == "add":
        svg.line(join, (x - reach, y), (x + reach, y))
        svg.line(join, (x, y - reach), (x, y + reach))
    else:
        for beside in (x - 2, x + 2):
            svg.line(join, (beside, y - reach), (beside, y + reach))
