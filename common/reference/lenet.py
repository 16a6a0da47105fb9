"""LeNet-5 (LeCun et al., 1998, figure 2).

Activations are sigmoids, pools are plain averages, the second convolution reads all maps of the first pool, and the
last layer is dense. The paper has scaled tanh, trained pools, a sparse second convolution and Gaussian outputs.
"""

from __future__ import annotations

from common.reference.layers import AvgPool2d, Conv2d, Flatten, Linear, Sequential, Sigmoid

__all__ = ["LeNet"]


class LeNet(Sequential):
    """(conv 5x5, sigmoid, avg-pool 2x2) twice, dense 120, 84, classes: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)) -> None:
        self.conv1 = Conv2d(in_channels, 6, 5, padding=2)
        self.sigmoid1 = Sigmoid()
        self.pool1 = AvgPool2d(2)
        self.conv2 = Conv2d(6, 16, 5)
        self.sigmoid2 = Sigmoid()
        self.pool2 = AvgPool2d(2)
        self.flatten = Flatten()
        self.fc1 = Linear(self.features(in_channels, input_size), 120)
        self.sigmoid3 = Sigmoid()
        self.fc2 = Linear(120, 84)
        self.sigmoid4 = Sigmoid()
        self.fc3 = Linear(84, num_classes)
