"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012, section 3.5) without local response normalization.

No convolution is grouped, since the network is not split over two GPUs. The first convolution is padded by 1.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_impl.layers import Conv, MaxPool, image_size

__all__ = ["AlexNet"]


class AlexNet(nnx.Module):
    """Five convolutions with three max-pools 3x3/2, dense 4096, 4096, classes.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = Conv(in_channels, 96, kernel_size=11, stride=4, padding=1, rngs=rngs)
        self.pool1 = MaxPool(3, stride=2)
        self.conv2 = Conv(96, 256, kernel_size=5, padding=2, rngs=rngs)
        self.pool2 = MaxPool(3, stride=2)
        self.conv3 = Conv(256, 384, kernel_size=3, padding=1, rngs=rngs)
        self.conv4 = Conv(384, 384, kernel_size=3, padding=1, rngs=rngs)
        self.conv5 = Conv(384, 256, kernel_size=3, padding=1, rngs=rngs)
        self.pool3 = MaxPool(3, stride=2)
        # The convolutions without a stride keep the size.
        height, width = image_size(input_size, self.conv1, self.pool1, self.pool2, self.pool3)
        self.fc1 = nnx.Linear(height * width * 256, 4096, rngs=rngs)
        self.dropout1 = nnx.Dropout(dropout, rngs=rngs)
        self.fc2 = nnx.Linear(4096, 4096, rngs=rngs)
        self.dropout2 = nnx.Dropout(dropout, rngs=rngs)
        self.fc3 = nnx.Linear(4096, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.pool1(nnx.relu(self.conv1(x)))
        x = self.pool2(nnx.relu(self.conv2(x)))
        x = nnx.relu(self.conv3(x))
        x = nnx.relu(self.conv4(x))
        x = self.pool3(nnx.relu(self.conv5(x)))
        x = self.dropout1(nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))
        x = self.dropout2(nnx.relu(self.fc2(x)))
        return self.fc3(x)
