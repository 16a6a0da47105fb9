"""What MXNet does otherwise than the suite, put right in one place.

`nn.Conv2D`, `nn.Dense`, the pools, activations and `nn.Dropout` already mean what the suite means by them: symmetric
padding, minus infinity around a max-pool, floored sizes, kept activations scaled by 1 / (1 - p). Models use them as
they are. Batch normalisation is the suite's too; its constants are written out here because others depend on them.
"""

from __future__ import annotations

from typing import TypeAlias

from mxnet import np, npx
from mxnet.gluon import nn
from mxnet.symbol import Symbol

__all__ = ["BATCH_NORM_EPSILON", "BATCH_NORM_MOMENTUM", "BatchNorm", "Tensor"]

# Gluon's layers ask for this at every call: without it they take and give MXNet's older arrays.
npx.set_np()

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step."""

Tensor: TypeAlias = np.ndarray | Symbol
"""What a block computes on: an array, or a symbol while a hybridized network is recorded."""


class BatchNorm(nn.BatchNorm):
    """Batch normalisation over the batch, for images also over height and width: the shape stays.

    (N, C) or (N, C, H, W) -> the same shape. MXNet moves the running statistics in the backward pass, toward the
    batch's mean and biased variance. It keeps `momentum` as a float32, 0.9 - 2.4e-8, in a network of any dtype.
    """

    def __init__(self, in_channels: int = 0) -> None:
        super().__init__(momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, in_channels=in_channels)
