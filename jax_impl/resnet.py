"""ResNet (He et al., 2016, arXiv:1512.03385, table 1 and figure 2): each block adds its input to its output.

Convolutions keep their bias, and the projection on the shortcut has no batch normalization.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_impl.heads import Head, Stem
from jax_impl.layers import BatchNorm, Conv

__all__ = ["ResNet", "Residual"]


class Projection(nnx.Module):
    """conv 1x1/s: (N, H, W, C) -> (N, H/s, W/s, channels)."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.conv = Conv(in_channels, channels, kernel_size=1, stride=stride, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


class Residual(nnx.Module):
    """conv 3x3/s, bn, relu, conv 3x3, bn, add the input or its projection, relu.

    (N, H, W, C) -> (N, H/s, W/s, channels).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        projection: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = Conv(in_channels, channels, kernel_size=3, stride=stride, padding=1, rngs=rngs)
        self.bn1 = BatchNorm(channels, rngs=rngs)
        self.conv2 = Conv(channels, channels, kernel_size=3, padding=1, rngs=rngs)
        self.bn2 = BatchNorm(channels, rngs=rngs)
        self.shortcut = Projection(in_channels, channels, stride, rngs=rngs) if projection else nnx.identity

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + self.shortcut(x))


class ResNetStage(nnx.Module):
    """`num_blocks` residual blocks, the first with stride s: (N, H, W, C) -> (N, H/s, W/s, channels).

    The first block's shortcut is a projection where the block changes channels or resolution.
    """

    def __init__(self, in_channels: int, num_blocks: int, channels: int, stride: int, *, rngs: nnx.Rngs) -> None:
        projection = stride > 1 or in_channels != channels
        self.blocks = nnx.List([Residual(in_channels, channels, stride, projection, rngs=rngs)])
        for _ in range(num_blocks - 1):
            self.blocks.append(Residual(channels, channels, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x


class ResNet(nnx.Module):
    """Stem, a stage for each (num_blocks, channels) of `arch`, head.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = Stem(in_channels, rngs=rngs)
        self.stages = nnx.List()
        channels = 64
        for i, (num_blocks, stage_channels) in enumerate(arch):
            stride = 1 if i == 0 else 2
            self.stages.append(ResNetStage(channels, num_blocks, stage_channels, stride, rngs=rngs))
            channels = stage_channels
        self.head = Head(channels, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x)
