"""The stem and the head that several networks share."""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_impl.layers import BatchNorm, Conv, GlobalAvgPool, MaxPool

__all__ = ["Head", "Stem"]


class Stem(nnx.Module):
    """conv 7x7/2, bn, relu, max-pool 3x3/2: (N, H, W, C) -> (N, H/4, W/4, channels)."""

    def __init__(self, in_channels: int, channels: int = 64, *, rngs: nnx.Rngs) -> None:
        self.conv = Conv(in_channels, channels, kernel_size=7, stride=2, padding=3, rngs=rngs)
        self.bn = BatchNorm(channels, rngs=rngs)
        self.pool = MaxPool(3, stride=2, padding=1)

    def __call__(self, x: Array) -> Array:
        return self.pool(nnx.relu(self.bn(self.conv(x))))


class Head(nnx.Module):
    """Global average pool, dense: (N, H, W, C) -> (N, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.pool = GlobalAvgPool()
        self.fc = nnx.Linear(in_channels, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.pool(x)
        return self.fc(x.reshape(x.shape[0], -1))
