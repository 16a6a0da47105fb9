"""The stem and the head that several networks share."""

from __future__ import annotations

from common.reference.layers import (
    BatchNorm2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)

__all__ = ["Head", "Stem"]


class Stem(Sequential):
    """conv 7x7/2, bn, relu, max-pool 3x3/2: (N, C, H, W) -> (N, channels, H/4, W/4)."""

    def __init__(self, in_channels: int, channels: int = 64) -> None:
        self.conv = Conv2d(in_channels, channels, 7, stride=2, padding=3)
        self.bn = BatchNorm2d(channels)
        self.relu = ReLU()
        self.pool = MaxPool2d(3, stride=2, padding=1)


class Head(Sequential):
    """Global average pool, dense: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        self.pool = GlobalAvgPool2d()
        self.flatten = Flatten()
        self.fc = Linear(in_channels, num_classes)
