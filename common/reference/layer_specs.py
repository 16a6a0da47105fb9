"""Descriptions of a framework's layers as reference layers: the class and its arguments."""

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
    """The name of a class of `common.reference.layers`, its arguments, and attributes that differ from the default.

    `kind` "BatchNorm" stands for both batch normalizations; `build` chooses one by the rank of the input.
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
    """Return one number for each size, or None if a size differs between height and width."""
    pairs = [tuple(size) if isinstance(size, Sequence) else (size, size) for size in sizes]
    return [pair[0] for pair in pairs] if all(len(set(pair)) == 1 for pair in pairs) else None


def convolution(
    in_channels: int, out_channels: int, kernel: Size, stride: Size, padding: Size, groups: int = 1, dilation: Size = 1
) -> Specification | None:
    """Return a convolution, or None if its window is dilated or not square: the reference has no such layer."""
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
    """Return a batch normalization.

    `momentum` is the fraction of the old running statistic kept; `unbiased` selects the unbiased running variance.
    """
    attributes = {"epsilon": epsilon, "momentum": momentum, "unbiased": unbiased}
    return Specification("BatchNorm", {"num_features": features}, attributes)


def pool(
    kind: Literal["MaxPool2d", "AvgPool2d"], kernel: Size, stride: Size, padding: Size = 0, dilation: Size = 1
) -> Specification | None:
    """Return a pool, or None if its window is dilated or not square, or if an average pool has padding."""
    square = _square(kernel, stride, padding, dilation)
    if square is None or square[3] != 1 or (kind == "AvgPool2d" and square[2]):
        return None
    window = dict(zip(("kernel", "stride", "padding"), square, strict=False))
    if kind == "AvgPool2d":
        del window["padding"]
    return Specification(kind, window)
