"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012, section 3.5) without local response normalization.

No convolution is grouped, since the network is not split over two GPUs. The first convolution is padded by 1.
"""

from __future__ import annotations

from common.reference.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential

__all__ = ["AlexNet"]


class AlexNet(Sequential):
    """Five convolutions with three max-pools 3x3/2, dense 4096, 4096, classes: (N, C, H, W) -> (N, num_classes)."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
    ) -> None:
        self.conv1 = Conv2d(in_channels, 96, 11, stride=4, padding=1)
        self.relu1 = ReLU()
        self.pool1 = MaxPool2d(3, stride=2)
        self.conv2 = Conv2d(96, 256, 5, padding=2)
        self.relu2 = ReLU()
        self.pool2 = MaxPool2d(3, stride=2)
        self.conv3 = Conv2d(256, 384, 3, padding=1)
        self.relu3 = ReLU()
        self.conv4 = Conv2d(384, 384, 3, padding=1)
        self.relu4 = ReLU()
        self.conv5 = Conv2d(384, 256, 3, padding=1)
        self.relu5 = ReLU()
        self.pool3 = MaxPool2d(3, stride=2)
        self.flatten = Flatten()
        self.fc1 = Linear(self.features(in_channels, input_size), 4096)
        self.relu6 = ReLU()
        self.dropout1 = Dropout(dropout)
        self.fc2 = Linear(4096, 4096)
        self.relu7 = ReLU()
        self.dropout2 = Dropout(dropout)
        self.fc3 = Linear(4096, num_classes)
