"""Generic mutation operators: change every number, drop every keyword and activation, exchange or zero weights."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from common import reference
from common.backends import registry
from common.catalog import Network, get
from common.choices import MutantKind
from common.parity.patched_import import Edit, source

__all__ = ["MODULES", "Change", "Mutant", "source_mutants", "weight_mutants"]

_BATCH_NORM = (get("bn_lenet"), get("bn_lenet_scratch"))
MODULES: Mapping[str, Sequence[Network]] = {
    "lenet": (get("lenet"),),
    "alexnet": (get("alexnet", input_size=[67, 99]),),
    "vgg": (get("vgg11", arch=[[1, 8], [2, 16]], input_size=[13, 18]),),
    "nin": (get("nin", input_size=[83, 99]),),
    "googlenet": (get("googlenet", input_size=[70, 97]),),
    "batch_norm": _BATCH_NORM,
    "heads": (get("resnet", arch=[[1, 8]], input_size=[38, 51]),),
    "resnet": (get("resnet", arch=[[1, 8], [2, 16], [1, 16]], input_size=[38, 51]),),
    "resnext": (get("resnext", arch=[[1, 8, 4, 1.0], [2, 16, 8, 0.5]], input_size=[38, 51]),),
    "densenet": (get("densenet", arch=[2, 1, 2], growth_rate=4, num_channels=8, input_size=[38, 51]),),
    "anynet": (get("anynet", input_size=[38, 51]),),
}
"""The model files of every port, each with small networks that use it."""


@dataclass(frozen=True)
class Change:
    """A change of the weights before loading: two tensors exchanged, or one filled with a number."""

    names: tuple[str, ...]
    fill: float | None = None


@dataclass(frozen=True)
class Mutant:
    """A port with one mistake.

    `networks`: where to look for it. `owner` and `attribute`: the class and the layer of that class that have the
    mistake, or "". `taps`: the taps that have it, if known; `pattern`: the same as a regular expression. `reason`: why
    the mutant may be equivalent to the port.
    """

    backend: str
    kind: MutantKind
    name: str
    networks: Sequence[Network]
    edits: tuple[Edit, ...] = ()
    change: Change | None = None
    owner: str = ""
    attribute: str = ""
    taps: tuple[str, ...] = ()
    pattern: str = ""
    reason: str = ""


def _offset(text: str, lines: Sequence[int], line: int, column: int) -> int:
    """Return the offset of (line, column) in the text; the syntax tree counts columns in bytes."""
    start = lines[line - 1]
    return start + len(text[start:].encode()[:column].decode())


class _Finder(ast.NodeVisitor):
    """Collects the possible changes of one file, each with its class and layer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = [0, *itertools.accumulate(len(line) for line in text.splitlines(keepends=True))]
        self.found: list[tuple[MutantKind, ast.AST, str, str, str, str]] = []  # kind, node, new, class, layer, reason
        self.owner = self.attribute = self.reason = ""

    def place(self, node: ast.AST) -> tuple[int, str]:
        """Return the offset of a node and its text."""
        begin = _offset(self.text, self.lines, node.lineno, node.col_offset)  # type: ignore[attr-defined]
        end = _offset(self.text, self.lines, node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        return begin, self.text[begin:end]

    def add(self, kind: MutantKind, node: ast.AST, new: str) -> None:
        self.found.append((kind, node, new, self.owner, self.attribute, self.reason))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        before, self.owner = self.owner, node.name
        for statement in node.body:
            self.visit(statement)
        self.owner = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.reason = "every caller overrides this default"
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(default)
        self.reason = ""
        for statement in node.body:
            self.visit(statement)

    def visit_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
        before = self.attribute
        self.attribute = target.attr if own else before  # type: ignore[attr-defined]
        self.visit(node.value)
        self.attribute = before

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, int) and not isinstance(node.value, bool):
            self.add("constant", node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.add("constant", node, repr(node.value * 1.25 or 0.25))

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func).removeprefix("nnx.") in ("relu", "sigmoid"):
            self.add("activation", node, f"({self.place(node.args[0])[1]})")
        text = self.place(node)[1]
        for activation, nothing in _ACTIVATIONS.items():
            if text == activation:
                self.add("activation", node, nothing)
        for keyword in node.keywords:
            if keyword.arg is not None:
                self.add("keyword", keyword, "")
        self.generic_visit(node)


_ACTIVATIONS = {
    "nn.ReLU()": "nn.Identity()",
    "nn.Sigmoid()": "nn.Identity()",
    "keras.layers.ReLU()": "keras.layers.Identity()",
    'keras.layers.Activation("sigmoid")': "keras.layers.Identity()",
    'nn.Activation("relu")': "nn.Dropout(0)",
    'nn.Activation("sigmoid")': "nn.Dropout(0)",
}


def source_mutants(backend: str) -> Iterator[Mutant]:
    """Iterate over the mutants of a port's model files: numbers increased, keywords and activations dropped."""
    package = registry.get(backend).package
    for file, networks in MODULES.items():
        module = f"{package}.{file}"
        text = source(module)
        finder = _Finder(text)
        finder.visit(ast.parse(text))
        for kind, node, new, owner, attribute, reason in finder.found:
            begin, old = finder.place(node)
            if kind == "keyword":
                old = _with_comma(text, begin, old)
            why = reason or (_WITHOUT_EFFECT.get((backend, old.partition("=")[0]), "") if kind == "keyword" else "")
            line = getattr(node, "lineno", 0)
            name = f"{file}.py:{line} {' '.join(old.strip(', ').split())} -> {new or 'nothing'}"
            edit = Edit(module, old, new, begin)
            yield Mutant(backend, kind, name, networks, (edit,), owner=owner, attribute=attribute, reason=why)


_WITHOUT_EFFECT = {
    ("tf", "training"): "Keras passes it to nested layers",
    ("tf", "name"): "weights are not looked up by this name",
    ("tf", "initializer"): "loading weights overwrites it",
    ("mxnet", "init"): "loading weights overwrites it",
    ("mxnet", "strict"): "it rejects lists of different lengths, which MXNet never passes",
    ("mxnet", "shape"): "Gluon infers it from the first input",
    ("mxnet", "in_channels"): "Gluon infers it from the first input",
}
"""Reasons why a keyword may have no effect."""


def _with_comma(text: str, begin: int, old: str) -> str:
    """Return an argument's text with the comma after it, if any."""
    end = begin + len(old)
    rest = text[end:]
    after = len(rest) - len(rest.lstrip())
    return old + rest[: after + 1] if rest.lstrip().startswith(",") else old


def weight_mutants(backend: str) -> Iterator[Mutant]:
    """Iterate over mutants with changed weights: two tensors of one shape exchanged, or one zeroed."""
    for network in dict.fromkeys(network for networks in MODULES.values() for network in networks):
        manifest = reference.describe(network).manifest
        for name in manifest:
            path, _, leaf = name.rpartition(".")
            if leaf != "weight" or manifest[name].kind == "vector":
                yield Mutant(
                    backend,
                    "zero",
                    f"{network.name}: {name} zeroed",
                    (network,),
                    change=Change((name,), 0.0),
                    taps=(path,),
                )
        for first, second in itertools.combinations(manifest, 2):
            if (
                manifest[first].shape == manifest[second].shape
                and first.rpartition(".")[2] == second.rpartition(".")[2]
            ):
                taps = tuple(name.rpartition(".")[0] for name in (first, second))
                name = f"{network.name}: {first} and {second} exchanged"
                yield Mutant(backend, "swap", name, (network,), change=Change((first, second)), taps=taps)
