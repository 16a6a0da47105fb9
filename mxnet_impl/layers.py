"""Gluon layers with the suite's semantics.

Gluon's `nn.Conv2D`, `nn.Dense`, pools, activations and `nn.Dropout` have these semantics already, and models use them
directly: symmetric padding, minus infinity around a max-pool, output sizes rounded down, kept activations scaled by
1 / (1 - p).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy
from mxnet import np, npx
from mxnet.gluon import HybridBlock, nn
from mxnet.symbol import Symbol

__all__ = [
    "BATCH_NORM_EPSILON",
    "BATCH_NORM_MOMENTUM",
    "BatchNorm",
    "HybridSequential",
    "NamedChildren",
    "Tensor",
    "exact_statistics",
]

# Gluon's layers check this switch at every call: without it they compute on MXNet's older arrays.
npx.set_np()

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step."""

Tensor: TypeAlias = np.ndarray | Symbol
"""Input of a block: an array, or a symbol while MXNet records the graph of a hybridized network."""


class NamedChildren(HybridBlock):
    """A block whose children are attributes, also those that `register_child(block, name)` adds."""

    def __getattr__(self, name: str) -> HybridBlock:
        children = self.__dict__.get("_children", {})
        if name not in children:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return children[name]

    # Gluon prints the children of containers, but only the attributes of other blocks.
    __repr__ = nn.HybridSequential.__repr__


class HybridSequential(NamedChildren, nn.HybridSequential):
    """Gluon's container, for subclasses that create named layers in their constructors."""

    def __getitem__(self, key: int | slice) -> HybridBlock:
        """Return one layer, or a container of several, which keep their names."""
        if not isinstance(key, slice):
            return super().__getitem__(key)
        # Gluon would call the constructor of this class, which would create the layers anew.
        part = HybridSequential(prefix=self.prefix)
        for name, block in list(self._children.items())[key]:
            part.register_child(block, name)
        return part


class BatchNorm(nn.BatchNorm):
    """Batch normalization over the batch, and over height and width of images.

    (N, C) or (N, C, H, W) -> the same shape. MXNet updates the running statistics in the backward pass, from the
    batch's mean and biased variance. It stores `momentum` in float32, as 0.9 - 2.4e-8, whatever the dtype of the
    network; see `exact_statistics`.
    """

    def __init__(self, in_channels: int = 0) -> None:
        super().__init__(momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, in_channels=in_channels)


@contextmanager
def exact_statistics(model: HybridBlock) -> Iterator[None]:
    """Correct the update of float64 running statistics for the momentum that MXNet rounds to float32.

    The context holds one forward and backward pass in training mode. MXNet moves a statistic by (1 - u) (batch - old)
    with u rounded: for 0.9 that is 2.4e-7 of the update too far.
    """
    statistics: list[tuple[np.ndarray, float]] = []

    def collect(block: HybridBlock) -> None:
        if isinstance(block, nn.BatchNorm) and block.running_mean.dtype == "float64":
            momentum = block._kwargs["momentum"]
            correction = (1 - momentum) / (1 - float(numpy.float32(momentum))) - 1
            statistics.extend((each.data(), correction) for each in (block.running_mean, block.running_var))

    model.apply(collect)
    if not statistics:
        yield
        return
    old = [statistic.copy() for statistic, _ in statistics]
    # With static memory, MXNet does not order the update of the statistics before or after other uses of them.
    npx.waitall()
    yield
    npx.waitall()
    for (statistic, correction), before in zip(statistics, old, strict=True):
        statistic[:] = statistic + correction * (statistic - before)
