"""Dataflow graph of a network, traced by running the reference on shapes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common import reference
from common.catalog import Network
from common.errors import ConfigError
from common.reference import ExternalNetwork, layers
from common.reference.layers import Layer, Module, Shape

__all__ = ["INPUT", "JOINS", "OUTPUT", "Graph", "Node", "graph"]

INPUT = "input"
OUTPUT = "logits"
JOINS = {"add": "+", "concatenate": "||"}
"""Functions that join several inputs, and the sign of each in a path (`stage1.block1.+`), which no attribute has."""


@dataclass(frozen=True)
class Node:
    """A layer, a composite such as a block, a join, the input or the output.

    `kind` is the class, `input`, `output`, or the name of the joining function. `label` and `detail` describe the
    operation and its settings without channels. `given` and `shape` are the shapes of input and output for one example;
    `given` is empty if the node does not have exactly one input.
    """

    path: str
    kind: str
    label: str
    detail: str
    given: tuple[int, ...]
    shape: tuple[int, ...]
    groups: int = 1
    is_layer: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


Edges = tuple[tuple[str, str], ...]


class Graph:
    """Nodes by path, in order of completion, and edges between layers, joins, input and output."""

    def __init__(self, nodes: Mapping[str, Node], edges: Edges) -> None:
        self.nodes = nodes
        self.edges = edges
        self._parts: defaultdict[str, list[Node]] = defaultdict(list)
        self._inside: defaultdict[str, dict[tuple[str, str], None]] = defaultdict(dict)
        self._flat: defaultdict[str, dict[tuple[str, str], None]] = defaultdict(dict)
        for node in nodes.values():
            if node.path:
                self._parts[node.path.rpartition(".")[0]].append(node)
        for source, target in edges:
            above_source, above_target = _above(source), _above(target)
            for path in dict.fromkeys(above_source + above_target):
                start = source if path in above_source else INPUT
                end = target if path in above_target else OUTPUT
                self._flat[path][start, end] = None
                start, end = _part(path, start), _part(path, end)
                if start != end:
                    self._inside[path][start, end] = None

    def parts(self, path: str = "") -> list[Node]:
        """Return the children and joins of a composite, in order."""
        return self._parts[path]

    def inside(self, path: str = "") -> Edges:
        """Return the edges between the parts of a composite, from INPUT and to OUTPUT."""
        return tuple(self._inside[path])

    def flat(self, path: str = "") -> Edges:
        """Return the edges between all layers and joins in a composite, at any depth, from INPUT and to OUTPUT."""
        return tuple(self._flat[path])


def _above(path: str) -> list[str]:
    """Return the composites that contain `path`, the network first."""
    names = path.split(".")
    return [".".join(names[:depth]) for depth in range(len(names))]


def _part(path: str, end: str) -> str:
    """Return the part of the composite `path` that is `end` or contains it."""
    if end in (INPUT, OUTPUT):
        return end
    depth = path.count(".") + 1 if path else 0
    return ".".join(end.split(".")[: depth + 1])


def graph(network: Network) -> Graph:
    """Return the dataflow graph of `network`.

    Raises ConfigError if the input is too small, or if the network is not in the catalog.
    """
    if isinstance(network, ExternalNetwork):
        raise ConfigError(f"{network.name} is not in the catalog, so the connections between its layers are unknown")
    return _Tracer(network).graph()


class _Tracer:
    """Follows the `Shape` objects through the network by their identity."""

    def __init__(self, network: Network) -> None:
        module = reference.build(network)
        x = Shape((1, *network.input_shape))
        self.nodes: list[Node | Shape] = [Node(INPUT, "input", "input", "", (), network.input_shape)]
        self.arrivals: list[tuple[Shape, str]] = []
        self.producers = {id(x): INPUT}
        self.owners: dict[int, str] = {}
        """The composite whose `forward` calls each join."""
        self.settled: set[int] = set()
        self.kept = [x]
        """All shapes, kept alive so that no two have the same id."""
        module.observe(self._record)
        y = module(x)
        self.arrivals.append((y, OUTPUT))
        self.nodes.append(Node(OUTPUT, "output", OUTPUT, "", tuple(y[1:]), tuple(y[1:])))

    def _record(self, module: Module, x: np.ndarray | Shape, y: np.ndarray | Shape) -> Shape | None:
        if not isinstance(x, Shape) or not isinstance(y, Shape):
            raise TypeError(f"a graph is traced with shapes, but {module.path} ran on an array")
        is_layer = isinstance(module, Layer)
        # Modules finish from the inside out, so the last one to receive a join is its sibling.
        self._join(x, module.path.rpartition(".")[0], final=False)
        if not is_layer:
            self._join(y, module.path, final=True)
        kind, groups = type(module).__name__, getattr(module, "groups", 1)
        self.nodes.append(Node(module.path, kind, *_operation(module), tuple(x[1:]), tuple(y[1:]), groups, is_layer))
        if not is_layer:
            return None
        self.arrivals.append((x, module.path))
        # A layer may return its input; a new object identifies the layer's output.
        output = Shape(y)
        output.image = y.image
        self.producers[id(output)] = module.path
        self.kept.append(output)
        return output

    def _join(self, shape: Shape, owner: str, final: bool) -> None:
        """Record `owner` as the composite that joined this shape, unless that is settled or the shape is no join."""
        if not shape.joined_by or id(shape) in self.settled:
            return
        if id(shape) not in self.owners:
            for part in shape.parts:
                self._join(part, owner, final)
            self.nodes.append(shape)
            self.kept.append(shape)
        self.owners[id(shape)] = owner
        if final:
            self.settled.add(id(shape))

    def graph(self) -> Graph:
        """Return the graph, with a path for every join."""
        nodes: dict[str, Node] = {}
        for traced in self.nodes:
            node = self._named(traced, nodes) if isinstance(traced, Shape) else traced
            nodes[node.path] = node
        order = {path: position for position, path in enumerate(nodes)}
        edges = [(self.producers[id(shape)], target) for shape, target in self.arrivals]
        return Graph(nodes, tuple(sorted(edges, key=lambda edge: order[edge[1]])))

    def _named(self, joined: Shape, taken: Mapping[str, Node]) -> Node:
        """Return the node of a join. Its name is its sign, followed by a number from the second in a composite on."""
        sign, owner = JOINS[joined.joined_by], self.owners[id(joined)]
        names = (f"{sign}{count}" for count in itertools.chain([""], itertools.count(2)))
        paths = (f"{owner}.{name}" if owner else name for name in names)
        path = next(path for path in paths if path not in taken)
        self.producers[id(joined)] = path
        self.arrivals += [(part, path) for part in joined.parts]
        return Node(path, joined.joined_by, sign, "", (), tuple(joined[1:]))


def _operation(module: Module) -> tuple[str, str]:
    """Return a short label for a module's operation, and its settings without channels."""
    kind = type(module).__name__
    label, setting = kind.lower() if isinstance(module, Layer) else kind, ""
    match module:
        case layers.Conv2d():
            label, setting = f"conv {_square(module.kernel)}", _window(module.stride, 1, module.padding)
        case layers.MaxPool2d():
            label, setting = f"max pool {_square(module.kernel)}", _window(module.stride, 0, module.padding)
        case layers.AvgPool2d():
            label, setting = f"avg pool {_square(module.kernel)}", _window(module.stride, 0, module.padding)
        case layers.GlobalAvgPool2d():
            label = "global avg pool"
        case layers.Linear():
            label = "dense"
        case layers.BatchNorm1d() | layers.BatchNorm2d():
            label = "bn"
        case layers.Dropout():
            setting = f"p = {module.rate:g}"
    return label, setting


def _square(size: int) -> str:
    return f"{size}×{size}"


def _window(stride: int, default: int, padding: int) -> str:
    settings = [f"stride {stride}"] if stride != default else []
    return ", ".join(settings + ([f"pad {padding}"] if padding else []))
