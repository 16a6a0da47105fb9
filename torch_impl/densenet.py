"""DenseNet (Huang et al., 2017, arXiv:1608.06993, figure 2): each layer takes the outputs of all earlier ones.

A layer is bn, relu, conv 3x3, without the 1x1 bottleneck of table 1. Convolutions keep their bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torch_impl.heads import Stem
from torch_impl.layers import BatchNorm2d, Sequential

__all__ = ["DenseBlock", "DenseNet", "Transition"]


class DenseLayer(nn.Module):
    """bn, relu, conv 3x3, concatenated to the input: (N, C, H, W) -> (N, C + growth_rate, H, W)."""

    def __init__(self, in_channels: int, growth_rate: int) -> None:
        super().__init__()
        self.bn = BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, growth_rate, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.relu(self.bn(x)))], dim=1)


class DenseBlock(Sequential):
    """`num_layers` dense layers: (N, C, H, W) -> (N, C + num_layers * growth_rate, H, W)."""

    def __init__(self, in_channels: int, num_layers: int, growth_rate: int) -> None:
        super().__init__()
        for j in range(1, num_layers + 1):
            self.add_module(f"block{j}", DenseLayer(in_channels, growth_rate))
            in_channels += growth_rate


class Transition(Sequential):
    """bn, relu, conv 1x1, avg-pool 2x2: (N, C, H, W) -> (N, channels, H/2, W/2)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.bn = BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=1)
        self.pool = nn.AvgPool2d(2)


class DenseHead(Sequential):
    """bn, relu, global average pool, dense: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.bn = BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(in_channels, num_classes)


class DenseNet(Sequential):
    """Stem, a dense block of each number of layers in `arch`, a transition between two blocks, head.

    (N, C, H, W) -> (N, num_classes). Each transition halves the channels (rounded down), the height and the width.
    """

    def __init__(
        self,
        arch: tuple[int, ...] = (4, 4, 4, 4),
        growth_rate: int = 32,
        num_channels: int = 64,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
    ) -> None:
        super().__init__()
        self.stem = Stem(in_channels, num_channels)
        channels = num_channels
        for i, num_layers in enumerate(arch, start=1):
            self.add_module(f"stage{i}", DenseBlock(channels, num_layers, growth_rate))
            channels += num_layers * growth_rate
            if i < len(arch):
                self.add_module(f"transition{i}", Transition(channels, channels // 2))
                channels //= 2
        self.head = DenseHead(channels, num_classes)
