"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012, section 3.5) without local response normalization.

No convolution is grouped, since the network is not split over two GPUs. The first convolution is padded by 1.
"""

from __future__ import annotations

from mxnet.gluon import nn

from mxnet_impl.layers import HybridSequential

__all__ = ["AlexNet"]


class AlexNet(HybridSequential):
    """Five convolutions with three max-pools 3x3/2, dense 4096, 4096, classes.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(96, kernel_size=11, strides=4, padding=1)
        self.relu1 = nn.Activation("relu")
        self.pool1 = nn.MaxPool2D(3, strides=2)
        self.conv2 = nn.Conv2D(256, kernel_size=5, padding=2)
        self.relu2 = nn.Activation("relu")
        self.pool2 = nn.MaxPool2D(3, strides=2)
        self.conv3 = nn.Conv2D(384, kernel_size=3, padding=1)
        self.relu3 = nn.Activation("relu")
        self.conv4 = nn.Conv2D(384, kernel_size=3, padding=1)
        self.relu4 = nn.Activation("relu")
        self.conv5 = nn.Conv2D(256, kernel_size=3, padding=1)
        self.relu5 = nn.Activation("relu")
        self.pool3 = nn.MaxPool2D(3, strides=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Dense(4096)
        self.relu6 = nn.Activation("relu")
        self.dropout1 = nn.Dropout(dropout)
        self.fc2 = nn.Dense(4096)
        self.relu7 = nn.Activation("relu")
        self.dropout2 = nn.Dropout(dropout)
        self.fc3 = nn.Dense(num_classes)
