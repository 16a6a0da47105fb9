"""DenseNet (Huang et al., 2017, arXiv:1608.06993, figure 2): each layer takes the outputs of all earlier ones.

A layer is bn, relu, conv 3x3, without the 1x1 bottleneck of table 1. Convolutions keep their bias.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_impl.heads import Stem
from jax_impl.layers import AvgPool, BatchNorm, Conv, GlobalAvgPool

__all__ = ["DenseBlock", "DenseNet", "Transition"]


class DenseLayer(nnx.Module):
    """bn, relu, conv 3x3, concatenated to the input: (N, H, W, C) -> (N, H, W, C + growth_rate)."""

    def __init__(self, in_channels: int, growth_rate: int, *, rngs: nnx.Rngs) -> None:
        self.bn = BatchNorm(in_channels, rngs=rngs)
        self.conv = Conv(in_channels, growth_rate, kernel_size=3, padding=1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([x, self.conv(nnx.relu(self.bn(x)))], axis=-1)


class DenseBlock(nnx.Module):
    """`num_layers` dense layers: (N, H, W, C) -> (N, H, W, C + num_layers * growth_rate)."""

    def __init__(self, in_channels: int, num_layers: int, growth_rate: int, *, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List()
        for _ in range(num_layers):
            self.blocks.append(DenseLayer(in_channels, growth_rate, rngs=rngs))
            in_channels += growth_rate

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x


class Transition(nnx.Module):
    """bn, relu, conv 1x1, avg-pool 2x2: (N, H, W, C) -> (N, H/2, W/2, channels)."""

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs) -> None:
        self.bn = BatchNorm(in_channels, rngs=rngs)
        self.conv = Conv(in_channels, channels, kernel_size=1, rngs=rngs)
        self.pool = AvgPool(2)

    def __call__(self, x: Array) -> Array:
        return self.pool(self.conv(nnx.relu(self.bn(x))))


class DenseHead(nnx.Module):
    """bn, relu, global average pool, dense: (N, H, W, C) -> (N, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.bn = BatchNorm(in_channels, rngs=rngs)
        self.pool = GlobalAvgPool()
        self.fc = nnx.Linear(in_channels, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.pool(nnx.relu(self.bn(x)))
        return self.fc(x.reshape(x.shape[0], -1))


class DenseNet(nnx.Module):
    """Stem, a dense block for each count of `arch` with transitions between, head.

    (N, H, W, C) -> (N, num_classes). Each transition halves the channels (rounding down) and the image.
    """

    def __init__(
        self,
        arch: tuple[int, ...] = (4, 4, 4, 4),
        growth_rate: int = 32,
        num_channels: int = 64,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = Stem(in_channels, num_channels, rngs=rngs)
        self.stages, self.transitions = nnx.List(), nnx.List()
        channels = num_channels
        for i, num_layers in enumerate(arch, start=1):
            self.stages.append(DenseBlock(channels, num_layers, growth_rate, rngs=rngs))
            channels += num_layers * growth_rate
            if i < len(arch):
                self.transitions.append(Transition(channels, channels // 2, rngs=rngs))
                channels //= 2
        self.head = DenseHead(channels, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i < len(self.transitions):
                x = self.transitions[i](x)
        return self.head(x)
