"""LeNet-5 (LeCun et al., 1998, figure 2).

Activations are sigmoids, pools are plain averages, the second convolution reads all maps of the first pool, and the
last layer is dense. The paper has scaled tanh, trained pools, a sparse second convolution and Gaussian outputs.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_impl.layers import AvgPool, Conv, image_size

__all__ = ["LeNet"]


class LeNet(nnx.Module):
    """(conv 5x5, sigmoid, avg-pool 2x2) twice, dense 120, 84, classes.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (28, 28),
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = Conv(in_channels, 6, kernel_size=5, padding=2, rngs=rngs)
        self.pool1 = AvgPool(2)
        self.conv2 = Conv(6, 16, kernel_size=5, rngs=rngs)
        self.pool2 = AvgPool(2)
        height, width = image_size(input_size, self.conv1, self.pool1, self.conv2, self.pool2)
        self.fc1 = nnx.Linear(height * width * 16, 120, rngs=rngs)
        self.fc2 = nnx.Linear(120, 84, rngs=rngs)
        self.fc3 = nnx.Linear(84, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.pool1(nnx.sigmoid(self.conv1(x)))
        x = self.pool2(nnx.sigmoid(self.conv2(x)))
        x = nnx.sigmoid(self.fc1(x.reshape(x.shape[0], -1)))
        x = nnx.sigmoid(self.fc2(x))
        return self.fc3(x)
