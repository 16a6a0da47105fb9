"""What a framework's layer is in the reference's terms: its class of `layers`, and the arguments that make it so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.reference import layers
from common.reference.layers import Layer

__all__ = ["Specification", "batch_norm", "convolution", "dense", "pool"]

Size = int | Sequence[int]


@dataclass(frozen=True)
class Specification:
    """A class of `common.reference.layers` by name, its arguments, and attributes that are not as the suite has them.

    A batch norm is of no rank before it is seen what it is given; its class is called BatchNorm.
    """

    kind: str
    arguments: Mapping[str, int] = field(default_factory=dict)
    attributes: Mapping[str, float] = field(default_factory=dict)

    def build(self, rank: int) -> Layer:
        """Return the layer for inputs of `rank` axes, without weights."""
        kind = {2: "BatchNorm1d", 4: "BatchNorm2d"}[rank] if self.kind == "BatchNorm" else self.kind
        layer: Layer = getattr(layers, kind)(**self.arguments)
        vars(layer).update(self.attributes)
        return layer


def _square(*sizes: Size) -> list[int] | None:
    """Return sizes of which each is the same along both axes, one number each; None where one is not."""
    pairs = [tuple(size) if isinstance(size, Sequence) else (size, size) for size in sizes]
    return [pair[0] for pair in pairs] if all(len(set(pair)) == 1 for pair in pairs) else None


def convolution(
    in_channels: int, out_channels: int, kernel: Size, stride: Size, padding: Size, groups: int = 1, dilation: Size = 1
) -> Specification | None:
    """Return a convolution; None where its windows are not square, or dilated: the reference has no such one."""
    square = _square(kernel, stride, padding, dilation)
    if square is None or square[3] != 1:
        return None
    window = dict(zip(("kernel", "stride", "padding"), square, strict=False))
    return Specification(
        "Conv2d", {"in_channels": in_channels, "out_channels": out_channels, **window, "groups": groups}
    )


def dense(in_features: int, out_features: int) -> Specification:
    """Return a dense layer."""
    return Specification("Linear", {"in_features": in_features, "out_features": out_features})


def batch_norm(features: int, epsilon: float, momentum: float, unbiased: bool = False) -> Specification:
    """Return a batch norm; `momentum` is the fraction of the old statistic kept, `unbiased` the variance kept."""
    attributes = {"epsilon": epsilon, "momentum": momentum, "unbiased": unbiased}
    return Specification("BatchNorm", {"num_features": features}, attributes)


def pool(
    kind: Literal["MaxPool2d", "AvgPool2d"], kernel: Size, stride: Size, padding: Size = 0, dilation: Size = 1
) -> Specification | None:
    """Return a pool; None where its windows are not square, or dilated, or where an average counts padding."""
    square = _square(kernel, stride, padding, dilation)
    if square is None or square[3] != 1 or (kind == "AvgPool2d" and square[2]):
        return None
    window = dict(zip(("kernel", "stride", "padding"), square, strict=False))
    if kind == "AvgPool2d":
        del window["padding"]
    return Specification(kind, window)
