"""LeNet with batch normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167) before each sigmoid.

The reference implements batch normalization from its definition, so both catalog entries use this class.
"""

from __future__ import annotations

from common.reference.layers import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    Sequential,
    Sigmoid,
)

__all__ = ["BNLeNet"]


class BNLeNet(Sequential):
    """(conv 5x5, bn, sigmoid, avg-pool 2x2) twice, (dense, bn, sigmoid) of 120 and 84, dense.

    (N, C, H, W) -> (N, num_classes). The first convolution is not padded, unlike LeNet's.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)) -> None:
        self.conv1 = Conv2d(in_channels, 6, 5)
        self.bn1 = BatchNorm2d(6)
        self.sigmoid1 = Sigmoid()
        self.pool1 = AvgPool2d(2)
        self.conv2 = Conv2d(6, 16, 5)
        self.bn2 = BatchNorm2d(16)
        self.sigmoid2 = Sigmoid()
        self.pool2 = AvgPool2d(2)
        self.flatten = Flatten()
        self.fc1 = Linear(self.features(in_channels, input_size), 120)
        self.bn3 = BatchNorm1d(120)
        self.sigmoid3 = Sigmoid()
        self.fc2 = Linear(120, 84)
        self.bn4 = BatchNorm1d(84)
        self.sigmoid4 = Sigmoid()
        self.fc3 = Linear(84, num_classes)
