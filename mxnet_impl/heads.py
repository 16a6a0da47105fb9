"""The stem and the head that several networks share."""

from __future__ import annotations

from mxnet.gluon import nn

from mxnet_impl.layers import BatchNorm, HybridSequential

__all__ = ["Head", "Stem"]


class Stem(HybridSequential):
    """conv 7x7/2, bn, relu, max-pool 3x3/2: (N, C, H, W) -> (N, channels, H/4, W/4)."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels, kernel_size=7, strides=2, padding=3)
        self.bn = BatchNorm()
        self.relu = nn.Activation("relu")
        self.pool = nn.MaxPool2D(3, strides=2, padding=1)


class Head(HybridSequential):
    """Global average pool, dense: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.pool = nn.GlobalAvgPool2D()
        self.flatten = nn.Flatten()
        self.fc = nn.Dense(num_classes)
