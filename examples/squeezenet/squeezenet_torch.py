"""A small SqueezeNet (Iandola et al., 2016, arXiv:1602.07360, section 3) in PyTorch: the original of the ports."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Fire(nn.Module):
    """conv 1x1, relu, then conv 1x1 and conv 3x3 concatenated, relu: (N, C, H, W) -> (N, 2e, H, W)."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, kernel_size=1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


class SqueezeNet(nn.Module):
    """conv 3x3/2, pool, two fires, pool, a fire, dropout, conv 1x1, mean: (N, 3, H, W) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, stride=2, padding=1)
        self.pool1 = nn.MaxPool2d(2)
        self.fire2 = Fire(16, squeeze=8, expand=16)
        self.fire3 = Fire(32, squeeze=8, expand=16)
        self.pool3 = nn.MaxPool2d(2)
        self.fire4 = Fire(32, squeeze=12, expand=24)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2d(48, 10, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(torch.relu(self.conv1(x)))
        x = self.pool3(self.fire3(self.fire2(x)))
        x = self.dropout(self.fire4(x))
        return torch.relu(self.classifier(x)).mean(dim=(2, 3))
