"""ResNet (He et al., 2016, arXiv:1512.03385, table 1 and figure 2): each block adds its input to its output.

Convolutions keep their bias, and the projection on the shortcut has no batch normalization.
"""

from __future__ import annotations

from common.reference.heads import Head, Stem
from common.reference.layers import BatchNorm2d, Conv2d, Module, ReLU, Sequential, Value, add

__all__ = ["ResNet", "Residual"]


class Projection(Sequential):
    """conv 1x1/s: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        self.conv = Conv2d(in_channels, channels, 1, stride)


class Residual(Module):
    """conv 3x3/s, bn, relu, conv 3x3, bn, add the input or its projection, relu.

    (N, C, H, W) -> (N, channels, H/s, W/s).
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, projection: bool = False) -> None:
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1)
        self.bn1 = BatchNorm2d(channels)
        self.relu1 = ReLU()
        self.conv2 = Conv2d(channels, channels, 3, padding=1)
        self.bn2 = BatchNorm2d(channels)
        self.shortcut = Projection(in_channels, channels, stride) if projection else None
        self.relu2 = ReLU()

    def forward(self, x: Value) -> Value:
        """Add the input, or its projection, to the output of the two convolutions."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(add(y, self.shortcut(x) if self.shortcut else x))


class ResNetStage(Sequential):
    """`blocks` residual blocks, the first with stride s: (N, C, H, W) -> (N, channels, H/s, W/s).

    The first shortcut is a projection if the block changes channels or resolution.
    """

    def __init__(self, in_channels: int, blocks: int, channels: int, stride: int) -> None:
        self.block1 = Residual(in_channels, channels, stride, projection=stride > 1 or in_channels != channels)
        for j in range(2, blocks + 1):
            self.add_module(f"block{j}", Residual(channels, channels))


class ResNet(Sequential):
    """Stem, a stage for each (blocks, channels) of `arch`, head: (N, C, H, W) -> (N, num_classes)."""

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
    ) -> None:
        self.stem = Stem(in_channels)
        channels = 64
        for i, (blocks, stage_channels) in enumerate(arch, start=1):
            self.add_module(f"stage{i}", ResNetStage(channels, blocks, stage_channels, stride=1 if i == 1 else 2))
            channels = stage_channels
        self.head = Head(channels, num_classes)
