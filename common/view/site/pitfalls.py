"""Which of the places where frameworks silently differ a network goes by, and at which of its layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common import reference
from common.catalog import Network
from common.reference import layers
from common.reference.graph import graph
from common.reference.layers import Module, output_size

__all__ = ["Matter", "headings", "matters"]


@dataclass(frozen=True)
class Matter:
    """A pitfall and the layers of a network that it lies at, in network order."""

    number: int
    title: str
    paths: tuple[str, ...]


_Given = tuple[int, ...]
_At = Callable[[Module, _Given], bool]
"""Whether a pitfall lies at a module that is given so many channels, rows and columns."""


def _is_any(*kinds: type[Module]) -> _At:
    return lambda module, _: isinstance(module, kinds)


def _keeps_its_shape(module: Module, given: _Given) -> bool:
    """Whether another padding would make as many pixels."""
    if not isinstance(module, layers.Conv2d):
        return False
    own, *others = (
        [output_size(pixels, module.kernel, module.stride, padding) for pixels in given[1:]]
        for padding in (module.padding, module.padding + 1, module.padding - 1)
        if padding >= 0
    )
    return own in others


_NORMS = _is_any(layers.BatchNorm1d, layers.BatchNorm2d)
_AT: Mapping[int, _At] = {
    1: lambda module, _: isinstance(module, layers.Conv2d) and module.stride > 1 and module.padding > 0,
    2: lambda module, _: isinstance(module, layers.MaxPool2d) and module.padding > 0,
    3: lambda module, _: isinstance(module, layers.MaxPool2d) and module.padding > 0,
    4: _keeps_its_shape,
    15: lambda module, _: isinstance(module, layers.Conv2d) and module.kernel > 1 and module.padding == 0,
    16: _is_any(layers.GlobalAvgPool2d),
    **dict.fromkeys((5, 6, 7, 8, 9), _NORMS),
    10: lambda module, given: isinstance(module, layers.Flatten) and given[1:] not in ((), (1, 1)),
    12: lambda module, _: getattr(module, "groups", 1) > 1,
    14: lambda module, _: type(module).__name__ == "Transition",
    17: _is_any(layers.BatchNorm1d, layers.BatchNorm2d, layers.Dropout),
}
"""The pitfalls that lie at some layers only. The others go with any network."""


def headings(page: str) -> dict[int, str]:
    """Return the titles of the pitfalls by number, as the page has them."""
    return {int(number): title for number, title in re.findall(r"^### (\d+)\. (.+)$", page, re.MULTILINE)}


def matters(network: Network, page: str) -> list[Matter]:
    """Return the pitfalls that lie at some of the network's layers, by number."""
    given = {path: node.given for path, node in graph(network).nodes.items()}
    modules = [module for module in reference.build(network).modules() if module.path in given]
    found = []
    for number, title in sorted(headings(page).items()):
        if number in _AT:
            paths = tuple(module.path for module in modules if _AT[number](module, given[module.path]))
            found += [Matter(number, title, paths)] if paths else []
    return found
