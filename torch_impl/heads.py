"""The stem and the head that several networks share."""

from __future__ import annotations

from torch import nn

from torch_impl.layers import BatchNorm2d, Sequential

__all__ = ["Head", "Stem"]


class Stem(Sequential):
    """conv 7x7/2, bn, relu, max-pool 3x3/2: (N, C, H, W) -> (N, channels, H/4, W/4)."""

    def __init__(self, in_channels: int, channels: int = 64) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=7, stride=2, padding=3)
        self.bn = BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)


class Head(Sequential):
    """Global average pool, dense: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(in_channels, num_classes)
