"""GoogLeNet (Szegedy et al., 2015, arXiv:1409.4842, table 1).

Without auxiliary classifiers, local response normalization and dropout.
"""

from __future__ import annotations

from types import ModuleType

from mxnet.gluon import HybridBlock, nn

from mxnet_impl.heads import Head
from mxnet_impl.layers import HybridSequential, Tensor

__all__ = ["GoogLeNet", "Inception"]


class PointwiseBranch(HybridSequential):
    """conv 1x1, relu: (N, C, H, W) -> (N, channels, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels, kernel_size=1)
        self.relu = nn.Activation("relu")


class Branch(HybridSequential):
    """conv 1x1, relu, conv `kernel_size`, relu: (N, C, H, W) -> (N, channels[1], H, W)."""

    def __init__(self, channels: tuple[int, int], kernel_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels[0], kernel_size=1)
        self.relu1 = nn.Activation("relu")
        self.conv2 = nn.Conv2D(channels[1], kernel_size, padding=kernel_size // 2)
        self.relu2 = nn.Activation("relu")


class PoolBranch(HybridSequential):
    """max-pool 3x3/1, conv 1x1, relu: (N, C, H, W) -> (N, channels, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2D(3, strides=1, padding=1)
        self.conv = nn.Conv2D(channels, kernel_size=1)
        self.relu = nn.Activation("relu")


class Inception(HybridBlock):
    """1x1 | 1x1, 3x3 | 1x1, 5x5 | max-pool, 1x1, concatenated.

    (N, C, H, W) -> (N, c1 + c2[1] + c3[1] + c4, H, W).
    """

    def __init__(self, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int) -> None:
        super().__init__()
        self.branch1 = PointwiseBranch(c1)
        self.branch2 = Branch(c2, kernel_size=3)
        self.branch3 = Branch(c3, kernel_size=5)
        self.branch4 = PoolBranch(c4)

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:  # noqa: N803 (Gluon's own name for it)
        return F.np.concatenate([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], axis=1)


class Stem(HybridSequential):
    """conv 7x7/2, max-pool 3x3/2, conv 1x1, conv 3x3, max-pool 3x3/2, relu after each conv.

    (N, C, H, W) -> (N, 192, H/8, W/8).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(64, kernel_size=7, strides=2, padding=3)
        self.relu1 = nn.Activation("relu")
        self.pool1 = nn.MaxPool2D(3, strides=2, padding=1)
        self.conv2 = nn.Conv2D(64, kernel_size=1)
        self.relu2 = nn.Activation("relu")
        self.conv3 = nn.Conv2D(192, kernel_size=3, padding=1)
        self.relu3 = nn.Activation("relu")
        self.pool2 = nn.MaxPool2D(3, strides=2, padding=1)


class Stage1(HybridSequential):
    """Two Inception blocks, max-pool 3x3/2: (N, 192, H, W) -> (N, 480, H/2, W/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = Inception(64, (96, 128), (16, 32), 32)
        self.block2 = Inception(128, (128, 192), (32, 96), 64)
        self.pool = nn.MaxPool2D(3, strides=2, padding=1)


class Stage2(HybridSequential):
    """Five Inception blocks, max-pool 3x3/2: (N, 480, H, W) -> (N, 832, H/2, W/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = Inception(192, (96, 208), (16, 48), 64)
        self.block2 = Inception(160, (112, 224), (24, 64), 64)
        self.block3 = Inception(128, (128, 256), (24, 64), 64)
        self.block4 = Inception(112, (144, 288), (32, 64), 64)
        self.block5 = Inception(256, (160, 320), (32, 128), 128)
        self.pool = nn.MaxPool2D(3, strides=2, padding=1)


class Stage3(HybridSequential):
    """Two Inception blocks: (N, 832, H, W) -> (N, 1024, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = Inception(256, (160, 320), (32, 128), 128)
        self.block2 = Inception(384, (192, 384), (48, 128), 128)


class GoogLeNet(HybridSequential):
    """Stem, nine Inception blocks in three stages, head.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (96, 96)) -> None:
        super().__init__()
        self.stem = Stem()
        self.stage1 = Stage1()
        self.stage2 = Stage2()
        self.stage3 = Stage3()
        self.head = Head(num_classes)
