"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012, section 3.5) without local response normalization.

No convolution is grouped, since the network is not split over two GPUs. The first convolution is padded by 1.
"""

from __future__ import annotations

from torch import nn

from torch_impl.layers import Sequential, image_size

__all__ = ["AlexNet"]


class AlexNet(Sequential):
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
        self.conv1 = nn.Conv2d(in_channels, 96, kernel_size=11, stride=4, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(3, stride=2)
        self.conv2 = nn.Conv2d(96, 256, kernel_size=5, padding=2)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(3, stride=2)
        self.conv3 = nn.Conv2d(256, 384, kernel_size=3, padding=1)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(384, 384, kernel_size=3, padding=1)
        self.relu4 = nn.ReLU()
        self.conv5 = nn.Conv2d(384, 256, kernel_size=3, padding=1)
        self.relu5 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(3, stride=2)
        # The other convolutions keep the size.
        height, width = image_size(input_size, self.conv1, self.pool1, self.pool2, self.pool3)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(256 * height * width, 4096)
        self.relu6 = nn.ReLU()
        self.dropout1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(4096, 4096)
        self.relu7 = nn.ReLU()
        self.dropout2 = nn.Dropout(dropout)
        self.fc3 = nn.Linear(4096, num_classes)
