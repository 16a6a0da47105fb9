"""ResNet (He et al., 2016, arXiv:1512.03385, table 1 and figure 2): each block adds its input to its output.

Convolutions keep their bias, and the projection on the shortcut has no batch normalization.
"""

from __future__ import annotations

from types import ModuleType

from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.contrib.nn import Identity

from mxnet_impl.heads import Head, Stem
from mxnet_impl.layers import BatchNorm, HybridSequential, Tensor

__all__ = ["ResNet", "Residual"]


class Projection(HybridSequential):
    """conv 1x1/s: (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels, kernel_size=1, strides=stride)


class Residual(HybridBlock):
    """conv 3x3/s, bn, relu, conv 3x3, bn, add the input or its projection, relu.

    (N, C, H, W) -> (N, channels, H/s, W/s).
    """

    def __init__(self, channels: int, stride: int = 1, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, kernel_size=3, strides=stride, padding=1)
        self.bn1 = BatchNorm()
        self.relu1 = nn.Activation("relu")
        self.conv2 = nn.Conv2D(channels, kernel_size=3, padding=1)
        self.bn2 = BatchNorm()
        self.shortcut = Projection(channels, stride) if projection else Identity()
        self.relu2 = nn.Activation("relu")

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:  # noqa: N803 (Gluon's own name for it)
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))


class ResNetStage(HybridSequential):
    """`blocks` residual blocks, the first with stride s: (N, C, H, W) -> (N, channels, H/s, W/s).

    The first shortcut is a projection if the block changes channels or resolution.
    """

    def __init__(self, in_channels: int, blocks: int, channels: int, stride: int) -> None:
        super().__init__()
        self.block1 = Residual(channels, stride, projection=stride > 1 or in_channels != channels)
        for j in range(2, blocks + 1):
            self.register_child(Residual(channels), f"block{j}")


class ResNet(HybridSequential):
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
        self.stem = Stem()
        channels = 64
        for i, (blocks, stage_channels) in enumerate(arch, start=1):
            self.register_child(ResNetStage(channels, blocks, stage_channels, stride=1 if i == 1 else 2), f"stage{i}")
            channels = stage_channels
        self.head = Head(num_classes)
