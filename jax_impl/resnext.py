"""ResNeXt (Xie et al., 2017, arXiv:1611.05431, figure 3c): bottleneck blocks with a grouped convolution.

`group_width` is the number of channels in a group. Convolutions keep their bias.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from common.catalog import bottleneck_width
from jax_impl.heads import Head, Stem
from jax_impl.layers import BatchNorm, Conv

__all__ = ["ResNeXt", "ResNeXtBlock", "ResNeXtStage"]


class NormedProjection(nnx.Module):
    """conv 1x1/s, bn: (N, H, W, C) -> (N, H/s, W/s, channels)."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.conv = Conv(in_channels, channels, kernel_size=1, stride=stride, rngs=rngs)
        self.bn = BatchNorm(channels, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.bn(self.conv(x))


class ResNeXtBlock(nnx.Module):
    """conv 1x1, bn, relu, grouped conv 3x3/s, bn, relu, conv 1x1, bn, add the input or its projection, relu.

    (N, H, W, C) -> (N, H/s, W/s, channels). Raises ConfigError if the bottleneck does not divide into groups.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        group_width: int,
        multiplier: float,
        stride: int = 1,
        projection: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        width = bottleneck_width(channels, group_width, multiplier)
        groups = width // group_width
        self.conv1 = Conv(in_channels, width, kernel_size=1, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = Conv(width, width, kernel_size=3, stride=stride, padding=1, feature_group_count=groups, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.conv3 = Conv(width, channels, kernel_size=1, rngs=rngs)
        self.bn3 = BatchNorm(channels, rngs=rngs)
        self.shortcut = NormedProjection(in_channels, channels, stride, rngs=rngs) if projection else nnx.identity

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return nnx.relu(y + self.shortcut(x))


class ResNeXtStage(nnx.Module):
    """`num_blocks` ResNeXt blocks, the first projecting with stride s: (N, H, W, C) -> (N, H/s, W/s, channels)."""

    def __init__(
        self,
        in_channels: int,
        num_blocks: int,
        channels: int,
        group_width: int,
        multiplier: float,
        stride: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        first = ResNeXtBlock(in_channels, channels, group_width, multiplier, stride, projection=True, rngs=rngs)
        self.blocks = nnx.List([first])
        for _ in range(num_blocks - 1):
            self.blocks.append(ResNeXtBlock(channels, channels, group_width, multiplier, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = block(x)
        return x


class ResNeXt(nnx.Module):
    """Stem, a stage for each (num_blocks, channels, group_width, multiplier) of `arch`, head.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int, int, float], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = Stem(in_channels, rngs=rngs)
        self.stages = nnx.List()
        channels = 64
        for i, (num_blocks, stage_channels, group_width, multiplier) in enumerate(arch):
            stride = 1 if i == 0 else 2
            stage = ResNeXtStage(channels, num_blocks, stage_channels, group_width, multiplier, stride, rngs=rngs)
            self.stages.append(stage)
            channels = stage_channels
        self.head = Head(channels, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x)
