"""ResNeXt (Xie et al., 2017, arXiv:1611.05431, figure 3c): bottleneck blocks with a grouped convolution.

`group_width` is the number of channels in a group. Convolutions keep their bias.
"""

from __future__ import annotations

from common.catalog import bottleneck_width
from common.reference.heads import Head, Stem
from common.reference.layers import BatchNorm2d, Conv2d, Module, ReLU, Sequential, Value, add

__all__ = ["ResNeXt", "ResNeXtBlock"]


class NormedProjection(Sequential):
    """conv 1x1/s, bn: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        self.conv = Conv2d(in_channels, channels, 1, stride)
        self.bn = BatchNorm2d(channels)


class ResNeXtBlock(Module):
    """conv 1x1, bn, relu, grouped conv 3x3/s, bn, relu, conv 1x1, bn, add the input or its projection, relu.

    (N, C, H, W) -> (N, channels, H/s, W/s). Raises ConfigError if the bottleneck does not divide into groups.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        group_width: int,
        multiplier: float,
        stride: int = 1,
        projection: bool = False,
    ) -> None:
        width = bottleneck_width(channels, group_width, multiplier)
        self.conv1 = Conv2d(in_channels, width, 1)
        self.bn1 = BatchNorm2d(width)
        self.relu1 = ReLU()
        self.conv2 = Conv2d(width, width, 3, stride, padding=1, groups=width // group_width)
        self.bn2 = BatchNorm2d(width)
        self.relu2 = ReLU()
        self.conv3 = Conv2d(width, channels, 1)
        self.bn3 = BatchNorm2d(channels)
        self.shortcut = NormedProjection(in_channels, channels, stride) if projection else None
        self.relu3 = ReLU()

    def forward(self, x: Value) -> Value:
        """Add the input, or its projection, to the output of the three convolutions."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(add(y, self.shortcut(x) if self.shortcut else x))


class ResNeXtStage(Sequential):
    """`blocks` ResNeXt blocks, the first projecting with stride s: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(
        self, in_channels: int, blocks: int, channels: int, group_width: int, multiplier: float, stride: int
    ) -> None:
        self.block1 = ResNeXtBlock(in_channels, channels, group_width, multiplier, stride, projection=True)
        for j in range(2, blocks + 1):
            self.add_module(f"block{j}", ResNeXtBlock(channels, channels, group_width, multiplier))


class ResNeXt(Sequential):
    """Stem, a stage for each (blocks, channels, group_width, multiplier) of `arch`, head.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int, int, float], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
    ) -> None:
        self.stem = Stem(in_channels)
        channels = 64
        for i, (blocks, stage_channels, group_width, multiplier) in enumerate(arch, start=1):
            stride = 1 if i == 1 else 2
            self.add_module(
                f"stage{i}", ResNeXtStage(channels, blocks, stage_channels, group_width, multiplier, stride)
            )
            channels = stage_channels
        self.head = Head(channels, num_classes)
