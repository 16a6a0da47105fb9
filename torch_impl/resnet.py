"""ResNet (He et al., 2016, arXiv:1512.03385, table 1 and figure 2): each block adds its input to its output.

Convolutions keep their bias, and the projection on the shortcut has no batch normalization.
"""

from __future__ import annotations

from torch import Tensor, nn

from torch_impl.heads import Head, Stem
from torch_impl.layers import BatchNorm2d, Sequential

__all__ = ["ResNet", "Residual"]


class Projection(Sequential):
    """conv 1x1/s: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride)


class Residual(nn.Module):
    """conv 3x3/s, bn, relu, conv 3x3, bn, add the input or its projection, relu.

    (N, C, H, W) -> (N, channels, H/s, W/s).
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1)
        self.bn1 = BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.bn2 = BatchNorm2d(channels)
        self.shortcut = Projection(in_channels, channels, stride) if projection else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


class ResNetStage(Sequential):
    """`blocks` residual blocks, the first with stride s: (N, C, H, W) -> (N, channels, H/s, W/s).

    The first block has a projection if it changes the channels or the resolution.
    """

    def __init__(self, in_channels: int, blocks: int, channels: int, stride: int) -> None:
        super().__init__()
        self.block1 = Residual(in_channels, channels, stride, projection=stride > 1 or in_channels != channels)
        for j in range(2, blocks + 1):
            self.add_module(f"block{j}", Residual(channels, channels))


class ResNet(Sequential):
    """Stem, a stage for each (blocks, channels) of `arch`, head.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
    ) -> None:
        super().__init__()
        self.stem = Stem(in_channels)
        channels = 64
        for i, (blocks, stage_channels) in enumerate(arch, start=1):
            self.add_module(f"stage{i}", ResNetStage(channels, blocks, stage_channels, stride=1 if i == 1 else 2))
            channels = stage_channels
        self.head = Head(channels, num_classes)
