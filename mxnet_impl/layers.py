"""What MXNet does otherwise than the suite, put right in one place.

`nn.Conv2D`, `nn.Dense`, the pools, activations and `nn.Dropout` already mean what the suite means by them: symmetric
padding, minus infinity around a max-pool, floored sizes, kept activations scaled by 1 / (1 - p). Models use them as
they are. Batch normalization is the suite's too; its constants are written out here because others depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy
from mxnet import np, npx
from mxnet.gluon import HybridBlock, nn
from mxnet.symbol import Symbol

__all__ = ["BATCH_NORM_EPSILON", "BATCH_NORM_MOMENTUM", "BatchNorm", "Tensor", "exact_statistics"]

# Gluon's layers ask for this at every call: without it they take and give MXNet's older arrays.
npx.set_np()

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step."""

Tensor: TypeAlias = np.ndarray | Symbol
"""What a block computes on: an array, or a symbol while a hybridized network is recorded."""


class BatchNorm(nn.BatchNorm):
    """Batch normalization over the batch, for images also over height and width: the shape stays.

    (N, C) or (N, C, H, W) -> the same shape. MXNet moves the running statistics in the backward pass, toward the
    batch's mean and biased variance. It keeps `momentum` as a float32, 0.9 - 2.4e-8, in a network of any dtype; see
    `exact_statistics`.
    """

    def __init__(self, in_channels: int = 0) -> None:
        super().__init__(momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, in_channels=in_channels)


@contextmanager
def exact_statistics(model: HybridBlock) -> Iterator[None]:
    """Let one pass in training mode, forward and backward, move float64 statistics by the momentum that was given.

    With u as MXNet keeps it, a statistic moves by (1 - u) (batch - old): the same way, but for 0.9 too far by 2.4e-7 of
    it.
    """
    statistics: list[tuple[np.ndarray, float]] = []

    def collect(block: HybridBlock) -> None:
        if isinstance(block, nn.BatchNorm) and block.running_mean.dtype == "float64":
            keep = block._kwargs["momentum"]
            missing = (1 - keep) / (1 - float(numpy.float32(keep))) - 1
            statistics.extend((each.data(), missing) for each in (block.running_mean, block.running_var))

    model.apply(collect)
    if not statistics:
        yield
        return
    old = [statistic.copy() for statistic, _ in statistics]
    # MXNet orders neither these copies nor the correction with what a graph with static memory does to the statistics.
    npx.waitall()
    yield
    npx.waitall()
    for (statistic, missing), before in zip(statistics, old, strict=True):
        statistic[:] = statistic + missing * (statistic - before)
