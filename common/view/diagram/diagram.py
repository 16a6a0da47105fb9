"""Draws the architecture of a network as SVG: an overview of its parts, then each kind of block in detail.

The drawing is computed from the dataflow graph of the reference (`common.reference.graph`), so it works for every
network of the catalog. Boxes that repeat are drawn once, as a stack.

A page controls the drawing by CSS:

- Colors are custom properties: `--ink`, `--paper`, `--conv`, `--pool`, `--norm`, `--dense`, `--join`, `--block` and
  `--mark`. The defaults are `LIGHT` or, if the reader prefers a dark color scheme, `DARK`.
- `data-layout="nhwc"` on the drawing or an ancestor shows shapes as height, width, channels.
- The class `marked` highlights a part, as keyboard focus does.
- `data-path` of a part holds the paths that it represents, separated by spaces. `data-detail` of a detail drawing holds
  the paths of its blocks.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from common.catalog import Network
from common.reference.graph import INPUT, OUTPUT, Edges, Node, graph
from common.view import svg
from common.view.diagram.layout import (
    LANES,
    LINE,
    PADDING,
    Cluster,
    Flow,
    Frame,
    Plate,
    Unit,
    draw_join,
    is_elementwise,
    role,
)
from common.view.svg import Shapes, label_width, text_width

__all__ = ["DARK", "LIGHT", "draw"]

MARGIN = 20.0
MAX_WIDTH = 1500.0
"""A wider overview is split into several rows, if it is a chain of parts."""

LIGHT = {
    "ink": "#1b1f24",
    "paper": "#ffffff",
    "conv": "#9bbcf4",
    "pool": "#fbe3ac",
    "norm": "#c2f2dc",
    "dense": "#e3a8cd",
    "join": "#fff3a8",
    "block": "#eef1f4",
    "mark": "#b3261e",
}
DARK = {
    "ink": "#e6edf3",
    "paper": "#0d1117",
    "conv": "#0c5395",
    "pool": "#7a4e10",
    "norm": "#183b24",
    "dense": "#5a0a50",
    "join": "#5a5000",
    "block": "#1f2731",
    "mark": "#ffb4ab",
}


def _variables(colors: dict[str, str], overridable: bool = True) -> str:
    """Return the CSS declaration of every color. If `overridable`, the page's own colors come first."""
    named = ((name, f"var(--{name}, {color})" if overridable else color) for name, color in colors.items())
    return ".drawing { " + " ".join(f"--_{name}: {color};" for name, color in named) + " }"


STYLE = f"""
{_variables(LIGHT)}
@media (prefers-color-scheme: dark) {{ {_variables(DARK)} }}
@media print {{ {_variables(LIGHT, overridable=False)} }}
.drawing {{ background: var(--_paper); fill: var(--_ink); font-family: system-ui, Helvetica, Arial, sans-serif; }}
.drawing text {{ text-anchor: middle; font-variant-numeric: tabular-nums; }}
.drawing .left {{ text-anchor: start; }}
.drawing .title, .drawing .heading, .drawing .label {{ font-weight: 600; }}
.drawing .box {{ stroke: var(--_ink); fill: var(--_paper); }}
.drawing .line {{ stroke: var(--_ink); fill: none; }}
{" ".join(f".drawing .{name} > .box {{ fill: var(--_{name}); }}" for name in list(LIGHT)[2:-1])}
.drawing .stage > .frame {{ stroke-dasharray: 2 3; fill: none; }}
.drawing .part:focus {{ outline: none; }}
.drawing .part:focus-visible > .box, .drawing .marked > .box {{ stroke: var(--_mark); stroke-width: 3; }}
.drawing .nhwc, [data-layout=nhwc] .nchw {{ display: none; }}
[data-layout=nhwc] .nhwc {{ display: inline; }}
"""

LEGEND = {"conv": "convolution", "dense": "dense", "pool": "pooling", "norm": "normalization", "plain": "other layer"}
MEANINGS = {"add": "added", "concatenate": "concatenated"}
Height = Callable[[Node, int], float]
"""Computes the height of a node's box from the node and its number of text lines."""


@dataclass
class Kind:
    """Blocks that differ only in numbers of channels and pixels. They share one detail drawing."""

    title: str
    paths: list[str]


def draw(network: Network) -> str:
    """Return the architecture of `network` as an SVG document.

    Raises ConfigError if the input is too small, or for a network that is not in the catalog.
    """
    drawing = _Drawing(network)
    rows = drawing.overview()
    panels = [drawing.panel(kind) for kind in drawing.kinds]
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "drawing", "role": "group"})
    root.set("aria-label", f"Architecture of {network.name}")
    svg.add(root, "title").text = f"{network.name} ({network.paper})"
    svg.add(root, "desc").text = drawing.summary()
    svg.add(root, "style").text = STYLE
    svg.text(root, "title", MARGIN, MARGIN + LINE, network.name, left=True)
    widths = [row.width for row in rows]
    y = MARGIN + 2.5 * LINE
    for row in rows:
        row.draw(root, MARGIN, y)
        y += row.height + 2 * LANES
    for shelf in _shelves(panels, max(MAX_WIDTH, *widths)):
        x = 0.0
        for panel in shelf:
            panel.draw(root, MARGIN + x, y)
            x += panel.width + 3 * LANES
        widths.append(x - 3 * LANES)
        y += max(panel.height for panel in shelf) + 2 * LANES
    width, y = drawing.legend(root, y)
    size = (math.ceil(max(width, *widths) + 2 * MARGIN), math.ceil(y + MARGIN))
    root.set("viewBox", f"0 0 {size[0]} {size[1]}")
    root.set("width", str(size[0]))
    root.set("height", str(size[1]))
    return ET.tostring(root, encoding="unicode")


def _shelves(panels: Sequence[Panel], width: float) -> list[list[Panel]]:
    """Arrange the panels in rows, in order, with as many in a row as fit."""
    shelves: list[list[Panel]] = []
    free = 0.0
    for panel in panels:
        if panel.width > free:
            shelves.append([])
            free = width
        shelves[-1].append(panel)
        free -= panel.width + 3 * LANES
    return shelves


def _letters(index: int) -> str:
    """Return A, B, ..., Z, AA, AB, ..."""
    return (_letters(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


class _Drawing:
    """Divides a network into an overview and detail drawings."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.graph = graph(network)
        self.nodes = self.graph.nodes
        self.kind_of: dict[str, Kind] = {}
        self.kinds = self._find_kinds()

    def _is_stage(self, path: str) -> bool:
        """True if a composite is a chain that contains composites. A stage is drawn as a frame around them."""
        parts = self.graph.parts(path)
        is_chain = len(self.graph.inside(path)) == len(parts) + 1
        return is_chain and any(self.graph.parts(part.path) for part in parts)

    def _find_kinds(self) -> list[Kind]:
        """Return the kinds of blocks in network order. If a class has several kinds, letters distinguish them."""
        kinds: dict[object, Kind] = {}

        def visit(path: str) -> None:
            for part in self.graph.parts(path):
                if self._is_stage(part.path):
                    visit(part.path)
                elif self.graph.parts(part.path):
                    kind = kinds.setdefault(self._structure(part), Kind(part.label, []))
                    kind.paths.append(part.path)
                    self.kind_of[part.path] = kind

        visit("")
        of_class: defaultdict[str, list[Kind]] = defaultdict(list)
        for kind in kinds.values():
            of_class[kind.title].append(kind)
        for several in of_class.values():
            for i, kind in enumerate(several if len(several) > 1 else []):
                kind.title += f" {_letters(i)}"
        return list(kinds.values())

    def _structure(self, block: Node) -> object:
        """Return everything that the detail drawing of a block shows, except numbers of channels and pixels."""
        edges = [
            (source.removeprefix(block.path), target.removeprefix(block.path))
            for source, target in self.graph.flat(block.path)
        ]
        inner = [
            (node.path.removeprefix(block.path), node.kind, node.label, node.detail) for node in self._inner(block.path)
        ]
        return block.kind, tuple(edges), tuple(inner)

    def _inner(self, block: str) -> list[Node]:
        """Return the layers and joins in a block."""
        paths = dict.fromkeys(path for edge in self.graph.flat(block) for path in edge)
        return [self.nodes[path] for path in paths if path not in (INPUT, OUTPUT)]

    def _lines(self, node: Node, name: str) -> list[tuple[str, str]]:
        """Return the text in the box of a layer or block called `name`: (line, style)."""
        kind = self.kind_of.get(node.path)
        lines = [(line, "label") for line in textwrap.wrap(kind.title if kind else node.label, 14)]
        lines += [(setting, "note") for setting in node.detail.split(", ") if setting]
        if node.groups > 1:
            lines.append((f"{node.groups} groups", "note"))
        if name.lower() != lines[0][0].lower():
            lines.append((name, "note"))
        return lines

    def _stacks(self, chain: list[Node]) -> list[list[list[Node]]]:
        """Split a chain into clusters of nodes whose boxes touch, and put consecutive equal clusters into a stack."""
        clusters: list[list[Node]] = []
        for node in chain:
            if clusters and is_elementwise(node) and clusters[-1][-1].is_layer:
                clusters[-1].append(node)
            else:
                clusters.append([node])
        stacks: list[list[list[Node]]] = []
        for _, equal in itertools.groupby(clusters, self._look):
            stack = list(equal)
            # Two equal layers are clearer side by side; two equal blocks are clearer as a stack.
            minimum = 3 if stack[0][0].is_layer else 2
            stacks += [stack] if len(stack) >= minimum else [[cluster] for cluster in stack]
        return stacks

    def _look(self, cluster: list[Node]) -> object:
        """Return a key that is equal for clusters that may be stacked."""
        first = cluster[0]
        if first.is_layer:
            return [(node.label, node.detail, node.groups, node.shape) for node in cluster]
        if first.path not in self.kind_of:
            return first.path
        # Blocks of one kind within a stage are stacked, as in the papers. Direct parts of the network must also have
        # the same shape.
        return id(self.kind_of[first.path]), first.shape if first.name == first.path else None

    def _units(self, chain: list[Node], height: Height, blocks: Sequence[str] = ("",)) -> list[Unit]:
        """Return the drawing units of a chain of nodes in the first of `blocks`. They represent all of `blocks`."""
        units: list[Unit] = []
        for stack in self._stacks(chain):
            first = stack[0][0]
            if self._is_stage(first.path):
                units.append(self._frame(first, height))
                continue
            plates = []
            for equal in zip(*stack, strict=True):
                node = equal[-1]
                lines = self._lines(node, svg.name_range([each.name for each in equal]))
                if len(stack) > 1 and not node.is_layer:
                    lines.append((f"× {len(stack)}", "label"))
                paths = [block + each.path.removeprefix(blocks[0]) for block in blocks for each in equal]
                # More channels make a box wider, except for elementwise layers, which keep their number.
                extra = 0.0 if is_elementwise(node) else 2 * math.log2(node.shape[0])
                plates.append(Plate(node, lines, paths, height(node, len(lines)), extra))
            tallest = max(plate.height for plate in plates)
            for plate in plates:
                plate.height = tallest
            units.append(Cluster(plates, len(stack)))
        return units

    def _frame(self, stage: Node, height: Height) -> Frame:
        edges = self.graph.inside(stage.path)
        return Frame(stage, Flow(edges, self.nodes, stage.given, lambda chain: self._units(chain, height), terse=True))

    def overview(self) -> list[Flow]:
        """Return the overview of the network in one or more rows. More output pixels make a box higher."""
        largest = max(self.network.config.input_size)

        def height(node: Node, lines: int) -> float:
            side = max(node.shape[1:], default=0)
            return 60 + 100 * math.sqrt(min(side / largest, 1)) + LINE * max(lines - 3, 0)

        def flow(edges: Edges, given: tuple[int, ...] = (), lead_in: bool = False, lead_out: bool = False) -> Flow:
            def units(chain: list[Node]) -> list[Unit]:
                return self._units(chain, height)

            # Input and output have boxes here, so the flow starts before the input and ends after the output.
            return Flow(edges, self.nodes, given, units, "<", ">", lead_in=lead_in, lead_out=lead_out, terse=True)

        whole = flow((("<", INPUT), *self.graph.inside(), (OUTPUT, ">")))
        count = math.ceil(whole.width / MAX_WIDTH)
        if count == 1 or len(whole.segments) > 1:
            return [whole]
        rows = _cut(whole, count)
        return [
            flow(
                tuple(itertools.pairwise(["<", *row, ">"])),
                self.nodes[row[0]].given,
                lead_in=row is not rows[0],
                lead_out=row is not rows[-1],
            )
            for row in rows
        ]

    def panel(self, kind: Kind) -> Panel:
        """Return the detail drawing of a kind of block, with the shapes of its first block."""
        first = self.nodes[kind.paths[0]]
        lines = max(len(self._lines(node, node.name)) for node in self._inner(first.path))
        flow = Flow(
            self.graph.flat(first.path),
            self.nodes,
            first.given,
            lambda chain: self._units(chain, lambda *_: lines * LINE + 2 * PADDING, kind.paths),
            lead_in=True,
            lead_out=True,
        )
        blocks = [self.nodes[path] for path in kind.paths]
        groups = [max(node.groups for node in self._inner(path)) for path in kind.paths]
        return Panel(kind, flow, blocks, groups if len(set(groups)) > 1 else None)

    def summary(self) -> str:
        """Describe the drawing in a sentence or two."""
        parts = ", ".join(part.path for part in self.graph.parts())
        kinds = ", ".join(f"{kind.title} ({len(kind.paths)})" for kind in self.kinds)
        return f"From left to right: {parts}." + (f" In detail: {kinds}." if kinds else "")

    def legend(self, root: ET.Element, y: float) -> tuple[float, float]:
        """Draw the legend at `y` and return its width and the y coordinate of its last line."""
        roles = {role(node) for node in self.nodes.values()}
        kinds = {node.kind for node in self.nodes.values()}
        x = MARGIN
        for name, meaning in LEGEND.items():
            if name in roles:
                sample = svg.add(root, "g", name)
                svg.add(sample, "rect", "box", x=x, y=y, width=18, height=12, rx=6 if name == "plain" else 2)
                svg.text(root, "note", x + 24, y + 10, meaning, left=True)
                x += 24 + text_width(meaning) + LANES
        for kind, meaning in MEANINGS.items():
            if kind in kinds:
                draw_join(root, kind, x + 9, y + 6)
                svg.text(root, "note", x + 24, y + 10, meaning, left=True)
                x += 24 + text_width(meaning) + LANES
        width = x - MARGIN
        y += LANES + LINE
        order = {"nchw": "channels × height × width", "nhwc": "height × width × channels"}
        notes = ["Height: pixels. Width: channels. Boxes that touch have the same output shape."]
        if any(len(kind.paths) > 1 for kind in self.kinds):
            notes.append("Shapes in a detail drawing are those of the first block in its list.")
        svg.text(root, "note", MARGIN, y, {layout: f"Shapes: {axes}." for layout, axes in order.items()}, left=True)
        for note in notes:
            y += LINE
            svg.text(root, "note", MARGIN, y, note, left=True)
        return max(width, *map(text_width, notes)), y


def _cut(flow: Flow, count: int) -> list[list[str]]:
    """Split a chain into `count` rows of about the same width. Return the paths of the parts in each row."""
    (segment,) = flow.segments
    rows: list[list[str]] = [[]]
    x = 0.0
    for unit, (length, _) in zip(segment.units, segment.arrows, strict=False):
        if x + length + unit.width / 2 > flow.width * len(rows) / count:
            rows.append([])
        rows[-1] += unit.parts
        x += length + unit.width
    return rows


class Panel:
    """Detail drawing of a kind of block, above a list of its blocks with their input and output shapes.

    `groups`: the number of convolution groups of each block, if it differs between them.
    """

    ROWS = 6
    """Number of list entries in one column."""

    def __init__(self, kind: Kind, flow: Flow, blocks: list[Node], groups: list[int] | None) -> None:
        self.kind, self.flow = kind, flow
        self.heading = f"{kind.title} × {len(blocks)}" if len(blocks) > 1 else kind.title
        self.places = _places(blocks, groups)
        self.place = ""
        if len(self.places) == 1:
            # A list of one block would only repeat the shapes of the drawing.
            ((name, _),) = self.places
            self.places, self.place = [], name if name.lower() != kind.title.lower() else ""
        self.indent = 12 + max((text_width(name) for name, _ in self.places), default=0)
        self.column = self.indent + 24 + max((label_width(shapes) for _, shapes in self.places), default=0)
        columns = math.ceil(len(self.places) / self.ROWS)
        heading = text_width(self.heading, "heading") + 12 + text_width(self.place)
        self.width = max(flow.width, self.column * columns, heading)
        self.height = 2 * LINE + flow.height
        if self.places:
            self.height += LANES + LINE * (min(len(self.places), self.ROWS) - 1) + 4

    def draw(self, parent: ET.Element, x: float, y: float) -> None:
        """Draw the panel with its upper left corner at (x, y)."""
        label = f"{self.heading}, in detail"
        group = svg.add(parent, "g", "detail", data_detail=" ".join(self.kind.paths), role="group", aria_label=label)
        svg.text(group, "heading", x, y + LINE, self.heading, left=True)
        if self.place:
            beside = x + text_width(self.heading, "heading") + 12
            svg.text(group, "note", beside, y + LINE, self.place, left=True)
        self.flow.draw(group, x, y + 2 * LINE)
        below = y + 2 * LINE + self.flow.height + LANES
        for i, (name, shapes) in enumerate(self.places):
            left, baseline = x + i // self.ROWS * self.column, below + i % self.ROWS * LINE
            svg.text(group, "note", left, baseline, name, left=True)
            svg.text(group, "note", left + self.indent, baseline, shapes, left=True)


def _places(blocks: list[Node], groups: list[int] | None) -> list[tuple[str, Shapes]]:
    """Return the names and [input, output] shapes of blocks. Consecutive equal blocks are one entry."""
    places: list[tuple[str, Shapes]] = []
    several = zip(blocks, groups or [0] * len(blocks), strict=True)
    for (stage, count, *shapes), run in itertools.groupby(
        several, lambda each: (each[0].path.rpartition(".")[0], each[1], each[0].given, each[0].shape)
    ):
        name = svg.name_range([block.name for block, _ in run])
        name = f"{stage}.{name}" if stage else name
        places.append((f"{name}, {count} groups" if groups else name, shapes))
    return places
