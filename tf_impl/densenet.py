"""DenseNet (Huang et al., 2017, arXiv:1608.06993, figure 2): each layer takes the outputs of all earlier ones.

A layer is bn, relu, conv 3x3, without the 1x1 bottleneck of table 1. Convolutions keep their bias.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.heads import Stem
from tf_impl.layers import BatchNormalization, Block, Conv2D, GlobalAvgPool2D, Network

__all__ = ["DenseBlock", "DenseNet", "Transition"]


@keras.saving.register_keras_serializable(package="rosetta")
class DenseLayer(Block):
    """bn, relu, conv 3x3, concatenated to the input: (N, H, W, C) -> (N, H, W, C + growth_rate)."""

    def __init__(self, growth_rate: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bn = BatchNormalization()
        self.relu = keras.layers.ReLU()
        self.conv = Conv2D(growth_rate, kernel_size=3, padding=1)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.concat([x, self.conv(self.relu(self.bn(x, training=training)))], axis=-1)


@keras.saving.register_keras_serializable(package="rosetta")
class DenseBlock(Block):
    """`num_layers` dense layers: (N, H, W, C) -> (N, H, W, C + num_layers * growth_rate)."""

    def __init__(self, num_layers: int, growth_rate: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.blocks = [DenseLayer(growth_rate) for _ in range(num_layers)]

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        for block in self.blocks:
            x = block(x, training=training)
        return x


@keras.saving.register_keras_serializable(package="rosetta")
class Transition(Block):
    """bn, relu, conv 1x1, avg-pool 2x2: (N, H, W, C) -> (N, H/2, W/2, channels)."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bn = BatchNormalization()
        self.relu = keras.layers.ReLU()
        self.conv = Conv2D(channels, kernel_size=1)
        self.pool = keras.layers.AveragePooling2D(2)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.pool(self.conv(self.relu(self.bn(x, training=training))))


@keras.saving.register_keras_serializable(package="rosetta")
class DenseHead(Block):
    """bn, relu, global average pool, dense: (N, H, W, C) -> (N, num_classes)."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bn = BatchNormalization()
        self.relu = keras.layers.ReLU()
        self.pool = GlobalAvgPool2D()
        self.flatten = keras.layers.Flatten()
        self.fc = keras.layers.Dense(num_classes)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.relu(self.bn(x, training=training))
        return self.fc(self.flatten(self.pool(x)))


@keras.saving.register_keras_serializable(package="rosetta")
class DenseNet(Network):
    """Stem, a dense block for each count of `arch` with transitions between, head.

    (N, H, W, C) -> (N, num_classes). Each transition halves the channels (rounding down) and the image.
    """

    family = "densenet"

    def __init__(
        self,
        arch: tuple[int, ...] = (4, 4, 4, 4),
        growth_rate: int = 32,
        num_channels: int = 64,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stem = Stem(num_channels)
        self.stages, self.transitions = [], []
        channels = num_channels
        for i, num_layers in enumerate(arch, start=1):
            self.stages.append(DenseBlock(num_layers, growth_rate))
            channels += num_layers * growth_rate
            if i < len(arch):
                self.transitions.append(Transition(channels // 2))
                channels //= 2
        self.head = DenseHead(num_classes)
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.stem(x, training=training)
        for i, stage in enumerate(self.stages):
            x = stage(x, training=training)
            if i < len(self.transitions):
                x = self.transitions[i](x, training=training)
        return self.head(x, training=training)
