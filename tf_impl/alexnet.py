"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012, section 3.5) without local response normalization.

No convolution is grouped, since the network is not split over two GPUs. The first convolution is padded by 1.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.layers import Conv2D, MaxPool2D, Network

__all__ = ["AlexNet"]


@keras.saving.register_keras_serializable(package="rosetta")
class AlexNet(Network):
    """Five convolutions with three max-pools 3x3/2, dense 4096, 4096, classes.

    (N, H, W, C) -> (N, num_classes).
    """

    family = "alexnet"

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conv1 = Conv2D(96, kernel_size=11, strides=4, padding=1)
        self.relu1 = keras.layers.ReLU()
        self.pool1 = MaxPool2D(3, strides=2)
        self.conv2 = Conv2D(256, kernel_size=5, padding=2)
        self.relu2 = keras.layers.ReLU()
        self.pool2 = MaxPool2D(3, strides=2)
        self.conv3 = Conv2D(384, kernel_size=3, padding=1)
        self.relu3 = keras.layers.ReLU()
        self.conv4 = Conv2D(384, kernel_size=3, padding=1)
        self.relu4 = keras.layers.ReLU()
        self.conv5 = Conv2D(256, kernel_size=3, padding=1)
        self.relu5 = keras.layers.ReLU()
        self.pool3 = MaxPool2D(3, strides=2)
        self.flatten = keras.layers.Flatten()
        self.fc1 = keras.layers.Dense(4096)
        self.relu6 = keras.layers.ReLU()
        self.dropout1 = keras.layers.Dropout(dropout)
        self.fc2 = keras.layers.Dense(4096)
        self.relu7 = keras.layers.ReLU()
        self.dropout2 = keras.layers.Dropout(dropout)
        self.fc3 = keras.layers.Dense(num_classes)
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.conv3(x))
        x = self.relu4(self.conv4(x))
        x = self.pool3(self.relu5(self.conv5(x)))
        x = self.flatten(x)
        x = self.dropout1(self.relu6(self.fc1(x)), training=training)
        x = self.dropout2(self.relu7(self.fc2(x)), training=training)
        return self.fc3(x)
