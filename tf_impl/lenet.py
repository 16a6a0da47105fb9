"""LeNet-5 (LeCun et al., 1998, figure 2).

Activations are sigmoids, pools are plain averages, the second convolution reads all maps of the first pool, and the
last layer is dense. The paper has scaled tanh, trained pools, a sparse second convolution and Gaussian outputs.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.layers import Conv2D, Network

__all__ = ["LeNet"]


@keras.saving.register_keras_serializable(package="rosetta")
class LeNet(Network):
    """(conv 5x5, sigmoid, avg-pool 2x2) twice, dense 120, 84, classes.

    (N, H, W, C) -> (N, num_classes).
    """

    family = "lenet"

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.conv1 = Conv2D(6, kernel_size=5, padding=2)
        self.sigmoid1 = keras.layers.Activation("sigmoid")
        self.pool1 = keras.layers.AveragePooling2D(2)
        self.conv2 = Conv2D(16, kernel_size=5)
        self.sigmoid2 = keras.layers.Activation("sigmoid")
        self.pool2 = keras.layers.AveragePooling2D(2)
        self.flatten = keras.layers.Flatten()
        self.fc1 = keras.layers.Dense(120)
        self.sigmoid3 = keras.layers.Activation("sigmoid")
        self.fc2 = keras.layers.Dense(84)
        self.sigmoid4 = keras.layers.Activation("sigmoid")
        self.fc3 = keras.layers.Dense(num_classes)
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = self.pool1(self.sigmoid1(self.conv1(x)))
        x = self.pool2(self.sigmoid2(self.conv2(x)))
        x = self.flatten(x)
        x = self.sigmoid3(self.fc1(x))
        x = self.sigmoid4(self.fc2(x))
        return self.fc3(x)
