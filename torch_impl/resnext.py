"""ResNeXt (Xie et al., 2017, arXiv:1611.05431, figure 3c): bottleneck blocks with a grouped convolution.

`group_width` is the number of channels in a group. Convolutions keep their bias.
"""

from __future__ import annotations

from torch import Tensor, nn

from common.catalog import bottleneck_width
from torch_impl.heads import Head, Stem
from torch_impl.layers import BatchNorm2d, Sequential

__all__ = ["ResNeXt", "ResNeXtBlock", "ResNeXtStage"]


class NormedProjection(Sequential):
    """conv 1x1/s, bn: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride)
        self.bn = BatchNorm2d(channels)


class ResNeXtBlock(nn.Module):
    """conv 1x1, bn, relu, grouped conv 3x3/s, bn, relu, conv 1x1, bn, add the input or its projection, relu.

    (N, C, H, W) -> (N, channels, H/s, W/s). Raises ConfigError if the groups do not divide the bottleneck.
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
        super().__init__()
        width = bottleneck_width(channels, group_width, multiplier)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1)
        self.bn1 = BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, groups=width // group_width)
        self.bn2 = BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, channels, kernel_size=1)
        self.bn3 = BatchNorm2d(channels)
        self.shortcut = NormedProjection(in_channels, channels, stride) if projection else nn.Identity()
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + self.shortcut(x))


class ResNeXtStage(Sequential):
    """`blocks` ResNeXt blocks, the first projecting with stride s: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(
        self, in_channels: int, blocks: int, channels: int, group_width: int, multiplier: float, stride: int
    ) -> None:
        super().__init__()
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
        super().__init__()
        self.stem = Stem(in_channels)
        channels = 64
        for i, (blocks, stage_channels, group_width, multiplier) in enumerate(arch, start=1):
            stage = ResNeXtStage(channels, blocks, stage_channels, group_width, multiplier, stride=1 if i == 1 else 2)
            self.add_module(f"stage{i}", stage)
            channels = stage_channels
        self.head = Head(channels, num_classes)
