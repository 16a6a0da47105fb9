"""LeNet-5 (LeCun et al., 1998, figure 2).

Activations are sigmoids, pools are plain averages, the second convolution reads all maps of the first pool, and the
last layer is dense. The paper has scaled tanh, trained pools, a sparse second convolution and Gaussian outputs.
"""

from __future__ import annotations

from torch import nn

from torch_impl.layers import Sequential, image_size

__all__ = ["LeNet"]


class LeNet(Sequential):
    """(conv 5x5, sigmoid, avg-pool 2x2) twice, dense 120, 84, classes.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5, padding=2)
        self.sigmoid1 = nn.Sigmoid()
        self.pool1 = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.sigmoid2 = nn.Sigmoid()
        self.pool2 = nn.AvgPool2d(2)
        height, width = image_size(input_size, self.conv1, self.pool1, self.conv2, self.pool2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.sigmoid3 = nn.Sigmoid()
        self.fc2 = nn.Linear(120, 84)
        self.sigmoid4 = nn.Sigmoid()
        self.fc3 = nn.Linear(84, num_classes)
