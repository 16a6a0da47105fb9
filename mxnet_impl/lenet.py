"""LeNet-5 (LeCun et al., 1998, figure 2).

Activations are sigmoids, pools are plain averages, the second convolution reads all maps of the first pool, and the
last layer is dense. The paper has scaled tanh, trained pools, a sparse second convolution and Gaussian outputs.
"""

from __future__ import annotations

from mxnet.gluon import nn

from mxnet_impl.layers import HybridSequential

__all__ = ["LeNet"]


class LeNet(HybridSequential):
    """(conv 5x5, sigmoid, avg-pool 2x2) twice, dense 120, 84, classes.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(6, kernel_size=5, padding=2)
        self.sigmoid1 = nn.Activation("sigmoid")
        self.pool1 = nn.AvgPool2D(2)
        self.conv2 = nn.Conv2D(16, kernel_size=5)
        self.sigmoid2 = nn.Activation("sigmoid")
        self.pool2 = nn.AvgPool2D(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Dense(120)
        self.sigmoid3 = nn.Activation("sigmoid")
        self.fc2 = nn.Dense(84)
        self.sigmoid4 = nn.Activation("sigmoid")
        self.fc3 = nn.Dense(num_classes)
