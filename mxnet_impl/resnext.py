"""ResNeXt (Xie et al., 2017, arXiv:1611.05431, figure 3c): bottleneck blocks with a grouped convolution.

`group_width` is the number of channels in a group. Convolutions keep their bias.
"""

from __future__ import annotations

from types import ModuleType

from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.contrib.nn import Identity

from common.catalog import bottleneck_width
from mxnet_impl.heads import Head, Stem
from mxnet_impl.layers import BatchNorm, HybridSequential, Tensor

__all__ = ["ResNeXt", "ResNeXtBlock", "ResNeXtStage"]


class NormedProjection(HybridSequential):
    """conv 1x1/s, bn: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels, kernel_size=1, strides=stride)
        self.bn = BatchNorm()


class ResNeXtBlock(HybridBlock):
    """conv 1x1, bn, relu, grouped conv 3x3/s, bn, relu, conv 1x1, bn, add the input or its projection, relu.

    (N, C, H, W) -> (N, channels, H/s, W/s). Raises ConfigError if the bottleneck does not divide into groups.
    """

    def __init__(
        self,
        channels: int,
        group_width: int,
        multiplier: float,
        stride: int = 1,
        projection: bool = False,
    ) -> None:
        super().__init__()
        width = bottleneck_width(channels, group_width, multiplier)
        self.conv1 = nn.Conv2D(width, kernel_size=1)
        self.bn1 = BatchNorm()
        self.relu1 = nn.Activation("relu")
        self.conv2 = nn.Conv2D(width, kernel_size=3, strides=stride, padding=1, groups=width // group_width)
        self.bn2 = BatchNorm()
        self.relu2 = nn.Activation("relu")
        self.conv3 = nn.Conv2D(channels, kernel_size=1)
        self.bn3 = BatchNorm()
        self.shortcut = NormedProjection(channels, stride) if projection else Identity()
        self.relu3 = nn.Activation("relu")

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:  # noqa: N803 (Gluon's own name for it)
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + self.shortcut(x))


class ResNeXtStage(HybridSequential):
    """`blocks` ResNeXt blocks, the first projecting with stride s: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(self, blocks: int, channels: int, group_width: int, multiplier: float, stride: int) -> None:
        super().__init__()
        self.block1 = ResNeXtBlock(channels, group_width, multiplier, stride, projection=True)
        for j in range(2, blocks + 1):
            self.register_child(ResNeXtBlock(channels, group_width, multiplier), f"block{j}")


class ResNeXt(HybridSequential):
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
        self.stem = Stem()
        for i, (blocks, channels, group_width, multiplier) in enumerate(arch, start=1):
            stage = ResNeXtStage(blocks, channels, group_width, multiplier, stride=1 if i == 1 else 2)
            self.register_child(stage, f"stage{i}")
        self.head = Head(num_classes)
