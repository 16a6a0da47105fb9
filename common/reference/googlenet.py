"""GoogLeNet (Szegedy et al., 2015, arXiv:1409.4842, table 1).

Without auxiliary classifiers, local response normalization and dropout.
"""

from __future__ import annotations

from common.reference.heads import Head
from common.reference.layers import (
    Conv2d,
    MaxPool2d,
    Module,
    ReLU,
    Sequential,
    Value,
    concatenate,
)

__all__ = ["GoogLeNet", "Inception"]


class Branch(Sequential):
    """conv 1x1, relu, conv `kernel`, relu: (N, C, H, W) -> (N, channels[1], H, W)."""

    def __init__(self, in_channels: int, channels: tuple[int, int], kernel: int) -> None:
        self.conv1 = Conv2d(in_channels, channels[0], 1)
        self.relu1 = ReLU()
        self.conv2 = Conv2d(channels[0], channels[1], kernel, padding=kernel // 2)
        self.relu2 = ReLU()


class PointwiseBranch(Sequential):
    """conv 1x1, relu: (N, C, H, W) -> (N, channels, H, W)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        self.conv = Conv2d(in_channels, channels, 1)
        self.relu = ReLU()


class PoolBranch(Sequential):
    """max-pool 3x3/1, conv 1x1, relu: (N, C, H, W) -> (N, channels, H, W)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        self.pool = MaxPool2d(3, stride=1, padding=1)
        self.conv = Conv2d(in_channels, channels, 1)
        self.relu = ReLU()


class Inception(Module):
    """1x1 | 1x1, 3x3 | 1x1, 5x5 | max-pool, 1x1, concatenated: (N, C, H, W) -> (N, c1 + c2[1] + c3[1] + c4, H, W)."""

    def __init__(self, in_channels: int, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int) -> None:
        self.branch1 = PointwiseBranch(in_channels, c1)
        self.branch2 = Branch(in_channels, c2, 3)
        self.branch3 = Branch(in_channels, c3, 5)
        self.branch4 = PoolBranch(in_channels, c4)

    def forward(self, x: Value) -> Value:
        """Run the four branches on the same input and concatenate their channels."""
        return concatenate([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)])


class Stem(Sequential):
    """conv 7x7/2, max-pool, conv 1x1, conv 3x3, max-pool: (N, C, H, W) -> (N, 192, H/8, W/8)."""

    def __init__(self, in_channels: int) -> None:
        self.conv1 = Conv2d(in_channels, 64, 7, stride=2, padding=3)
        self.relu1 = ReLU()
        self.pool1 = MaxPool2d(3, stride=2, padding=1)
        self.conv2 = Conv2d(64, 64, 1)
        self.relu2 = ReLU()
        self.conv3 = Conv2d(64, 192, 3, padding=1)
        self.relu3 = ReLU()
        self.pool2 = MaxPool2d(3, stride=2, padding=1)


class Stage1(Sequential):
    """Two Inception blocks, max-pool 3x3/2: (N, 192, H, W) -> (N, 480, H/2, W/2)."""

    def __init__(self) -> None:
        self.block1 = Inception(192, 64, (96, 128), (16, 32), 32)
        self.block2 = Inception(256, 128, (128, 192), (32, 96), 64)
        self.pool = MaxPool2d(3, stride=2, padding=1)


class Stage2(Sequential):
    """Five Inception blocks, max-pool 3x3/2: (N, 480, H, W) -> (N, 832, H/2, W/2)."""

    def __init__(self) -> None:
        self.block1 = Inception(480, 192, (96, 208), (16, 48), 64)
        self.block2 = Inception(512, 160, (112, 224), (24, 64), 64)
        self.block3 = Inception(512, 128, (128, 256), (24, 64), 64)
        self.block4 = Inception(512, 112, (144, 288), (32, 64), 64)
        self.block5 = Inception(528, 256, (160, 320), (32, 128), 128)
        self.pool = MaxPool2d(3, stride=2, padding=1)


class Stage3(Sequential):
    """Two Inception blocks: (N, 832, H, W) -> (N, 1024, H, W)."""

    def __init__(self) -> None:
        self.block1 = Inception(832, 256, (160, 320), (32, 128), 128)
        self.block2 = Inception(832, 384, (192, 384), (48, 128), 128)


class GoogLeNet(Sequential):
    """Stem, nine Inception blocks in three stages, head: (N, C, H, W) -> (N, num_classes)."""

    summary_expands = ("stem", "head")
    summary_ends = ("stem.pool1", "stem.pool2", "stage1", "stage2", "head.flatten", "head.fc")

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (96, 96)) -> None:
        self.stem = Stem(in_channels)
        self.stage1 = Stage1()
        self.stage2 = Stage2()
        self.stage3 = Stage3()
        self.head = Head(1024, num_classes)
