"""The stem and the head that several networks share."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.layers import BatchNormalization, Block, Conv2D, GlobalAvgPool2D, MaxPool2D

__all__ = ["Head", "Stem"]


@keras.saving.register_keras_serializable(package="rosetta")
class Stem(Block):
    """conv 7x7/2, bn, relu, max-pool 3x3/2: (N, H, W, C) -> (N, H/4, W/4, channels)."""

    def __init__(self, channels: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv = Conv2D(channels, kernel_size=7, strides=2, padding=3)
        self.bn = BatchNormalization()
        self.relu = keras.layers.ReLU()
        self.pool = MaxPool2D(3, strides=2, padding=1)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.pool(self.relu(self.bn(self.conv(x), training=training)))


@keras.saving.register_keras_serializable(package="rosetta")
class Head(Block):
    """Global average pool, dense: (N, H, W, C) -> (N, num_classes)."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool = GlobalAvgPool2D()
        self.flatten = keras.layers.Flatten()
        self.fc = keras.layers.Dense(num_classes)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.fc(self.flatten(self.pool(x)))
