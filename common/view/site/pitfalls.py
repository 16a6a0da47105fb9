"""Pitfalls of docs/pitfalls.md that affect a network, and the layers where they do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common import reference
from common.catalog import Network
from common.reference import layers
from common.reference.graph import graph
from common.reference.layers import Module, output_size

__all__ = ["Pitfall", "affecting", "headings"]


@dataclass(frozen=True)
class Pitfall:
    """A pitfall and the paths of the layers that it affects, in network order."""

    number: int
    title: str
    paths: tuple[str, ...]


_InputShape = tuple[int, ...]
_Condition = Callable[[Module, _InputShape], bool]
"""True if a pitfall affects a module that gets an input of shape (C, H, W) or (features,)."""


def _is_any(*kinds: type[Module]) -> _Condition:
    return lambda module, _: isinstance(module, kinds)


def _other_padding_gives_same_shape(module: Module, shape: _InputShape) -> bool:
    """True if one pixel more or less of padding leaves the output's shape unchanged."""
    if not isinstance(module, layers.Conv2d):
        return False
    own, *others = (
        [output_size(pixels, module.kernel, module.stride, padding) for pixels in shape[1:]]
        for padding in (module.padding, module.padding + 1, module.padding - 1)
        if padding >= 0
    )
    return own in others


_NORMS = _is_any(layers.BatchNorm1d, layers.BatchNorm2d)
_CONDITIONS: Mapping[int, _Condition] = {
    1: lambda module, _: isinstance(module, layers.Conv2d) and module.stride > 1 and module.padding > 0,
    2: lambda module, _: isinstance(module, layers.MaxPool2d) and module.padding > 0,
    3: lambda module, _: isinstance(module, layers.MaxPool2d) and module.padding > 0,
    4: _other_padding_gives_same_shape,
    15: lambda module, _: isinstance(module, layers.Conv2d) and module.kernel > 1 and module.padding == 0,
    16: _is_any(layers.GlobalAvgPool2d),
    **dict.fromkeys((5, 6, 7, 8, 9), _NORMS),
    10: lambda module, shape: isinstance(module, layers.Flatten) and shape[1:] not in ((), (1, 1)),
    12: lambda module, _: getattr(module, "groups", 1) > 1,
    14: lambda module, _: type(module).__name__ == "Transition",
    17: _is_any(layers.BatchNorm1d, layers.BatchNorm2d, layers.Dropout),
}
"""Conditions of the pitfalls that affect only some layers, by number. The others apply to every network."""


def headings(page: str) -> dict[int, str]:
    """Return the titles of the pitfalls by number, from the text of docs/pitfalls.md."""
    return {int(number): title for number, title in re.findall(r"^### (\d+)\. (.+)$", page, re.MULTILINE)}


def affecting(network: Network, page: str) -> list[Pitfall]:
    """Return the pitfalls that affect some of the network's layers, in order. `page`: text of docs/pitfalls.md."""
    shapes = {path: node.given for path, node in graph(network).nodes.items()}
    modules = [module for module in reference.build(network).modules() if module.path in shapes]
    pitfalls = []
    for number, title in sorted(headings(page).items()):
        if number in _CONDITIONS:
            paths = tuple(module.path for module in modules if _CONDITIONS[number](module, shapes[module.path]))
            pitfalls += [Pitfall(number, title, paths)] if paths else []
    return pitfalls
