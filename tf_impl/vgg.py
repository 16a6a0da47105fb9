"""VGG (Simonyan and Zisserman, 2014, arXiv:1409.1556, table 1): stages of 3x3 convolutions, each followed by a pool."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.layers import Block, Conv2D, MaxPool2D, Network

__all__ = ["VGG", "VGGStage"]


@keras.saving.register_keras_serializable(package="rosetta")
class VGGStage(Block):
    """(conv 3x3, relu) `num_convs` times, max-pool 2x2.

    (N, H, W, C) -> (N, H/2, W/2, channels).
    """

    def __init__(self, num_convs: int, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.convs, self.relus = [], []
        for _ in range(num_convs):
            self.convs.append(Conv2D(channels, kernel_size=3, padding=1))
            self.relus.append(keras.layers.ReLU())
        self.pool = MaxPool2D(2)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        for conv, relu in zip(self.convs, self.relus, strict=True):
            x = relu(conv(x))
        return self.pool(x)


@keras.saving.register_keras_serializable(package="rosetta")
class VGGHead(Block):
    """Flatten, (dense 4096, relu, dropout) twice, dense.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(self, num_classes: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flatten = keras.layers.Flatten()
        self.fc1 = keras.layers.Dense(4096)
        self.relu1 = keras.layers.ReLU()
        self.dropout1 = keras.layers.Dropout(dropout)
        self.fc2 = keras.layers.Dense(4096)
        self.relu2 = keras.layers.ReLU()
        self.dropout2 = keras.layers.Dropout(dropout)
        self.fc3 = keras.layers.Dense(num_classes)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.flatten(x)
        x = self.dropout1(self.relu1(self.fc1(x)), training=training)
        x = self.dropout2(self.relu2(self.fc2(x)), training=training)
        return self.fc3(x)


@keras.saving.register_keras_serializable(package="rosetta")
class VGG(Network):
    """A stage for each (num_convs, channels) of `arch`, then the head.

    (N, H, W, C) -> (N, num_classes).
    """

    family = "vgg"

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stages = [VGGStage(num_convs, channels) for num_convs, channels in arch]
        self.head = VGGHead(num_classes, dropout)
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(x, training=training)
