"""LeNet with batch normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167): Flax's layer, and one from scratch."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_impl import layers
from jax_impl.layers import (
    BATCH_NORM_EPSILON,
    BATCH_NORM_MOMENTUM,
    AvgPool,
    Conv,
    image_size,
)

__all__ = ["BNLeNet", "BNLeNetScratch", "BatchNorm", "batch_norm"]


def batch_norm(x: Array, mean: Array, variance: Array, weight: Array, bias: Array) -> Array:
    """Normalize by `mean` and `variance`, scale by `weight`, shift by `bias`, all of shape (C,).

    (N, C) or (N, H, W, C) -> the same shape.
    """
    normalized = (x - mean) / jnp.sqrt(variance + BATCH_NORM_EPSILON)
    return weight * normalized + bias


class BatchNorm(nnx.Module):
    """Batch normalization from its definition: (N, C) or (N, H, W, C) -> the same shape.

    Statistics are computed over the batch, for images also over height and width. Training normalizes by the batch's
    mean and biased variance and updates the running statistics; evaluation normalizes by the running statistics.
    """

    def __init__(self, num_features: int, *, rngs: nnx.Rngs) -> None:
        self.scale = nnx.Param(nnx.initializers.ones(rngs.params(), (num_features,), jnp.float32))
        self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (num_features,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(num_features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(num_features, jnp.float32))
        # `nnx.Module.train` and `eval` set this attribute on every module that has it.
        self.use_running_average = False

    def __call__(self, x: Array) -> Array:
        if self.use_running_average:
            return batch_norm(x, self.mean[...], self.var[...], self.scale[...], self.bias[...])
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        variance = x.var(axes)
        self.mean[...] = BATCH_NORM_MOMENTUM * self.mean[...] + (1 - BATCH_NORM_MOMENTUM) * mean
        self.var[...] = BATCH_NORM_MOMENTUM * self.var[...] + (1 - BATCH_NORM_MOMENTUM) * variance
        return batch_norm(x, mean, variance, self.scale[...], self.bias[...])


class BNLeNet(nnx.Module):
    """(conv 5x5, bn, sigmoid, avg-pool 2x2) twice, (dense, bn, sigmoid) of 120 and 84, dense.

    (N, H, W, C) -> (N, num_classes). The first convolution is not padded, unlike LeNet's.
    """

    norm: type[nnx.Module] = layers.BatchNorm

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (28, 28),
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = Conv(in_channels, 6, kernel_size=5, rngs=rngs)
        self.bn1 = self.norm(6, rngs=rngs)
        self.pool1 = AvgPool(2)
        self.conv2 = Conv(6, 16, kernel_size=5, rngs=rngs)
        self.bn2 = self.norm(16, rngs=rngs)
        self.pool2 = AvgPool(2)
        height, width = image_size(input_size, self.conv1, self.pool1, self.conv2, self.pool2)
        self.fc1 = nnx.Linear(height * width * 16, 120, rngs=rngs)
        self.bn3 = self.norm(120, rngs=rngs)
        self.fc2 = nnx.Linear(120, 84, rngs=rngs)
        self.bn4 = self.norm(84, rngs=rngs)
        self.fc3 = nnx.Linear(84, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.pool1(nnx.sigmoid(self.bn1(self.conv1(x))))
        x = self.pool2(nnx.sigmoid(self.bn2(self.conv2(x))))
        x = nnx.sigmoid(self.bn3(self.fc1(x.reshape(x.shape[0], -1))))
        x = nnx.sigmoid(self.bn4(self.fc2(x)))
        return self.fc3(x)


class BNLeNetScratch(BNLeNet):
    """BNLeNet with the batch normalization of this file: (N, H, W, C) -> (N, num_classes)."""

    norm = BatchNorm
