"""DenseNet (Huang et al., 2017, arXiv:1608.06993, figure 2): each layer takes the outputs of all earlier ones.

A layer is bn, relu, conv 3x3, without the 1x1 bottleneck of table 1. Convolutions keep their bias.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_impl.heads import Stem
from tf_impl.layers import BatchNormalization, Block, Conv2D, GlobalAvgPool2D

__all__ = ["DenseBlock", "DenseNet", "Transition"]


class DenseLayer(Block):
    """bn, relu, conv 3x3, joined behind the input: (N, H, W, C) -> (N, H, W, C + growth_rate)."""

    def __init__(self, growth_rate: int) -> None:
        super().__init__()
        self.bn = BatchNormalization()
        self.relu = keras.layers.ReLU()
        self.conv = Conv2D(growth_rate, kernel_size=3, padding=1)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.concat([x, self.conv(self.relu(self.bn(x, training=training)))], axis=-1)


class DenseBlock(Block):
    """`num_layers` dense layers: (N, H, W, C) -> (N, H, W, C + num_layers * growth_rate)."""

    def __init__(self, num_layers: int, growth_rate: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        for j in range(1, num_layers + 1):
            setattr(self, f"block{j}", DenseLayer(growth_rate))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        for j in range(1, self.num_layers + 1):
            x = getattr(self, f"block{j}")(x, training=training)
        return x


class Transition(Block):
    """bn, relu, conv 1x1, avg-pool 2x2: (N, H, W, C) -> (N, H/2, W/2, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = BatchNormalization()
        self.relu = keras.layers.ReLU()
        self.conv = Conv2D(channels, kernel_size=1)
        self.pool = keras.layers.AveragePooling2D(2)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.pool(self.conv(self.relu(self.bn(x, training=training))))


class DenseHead(Block):
    """bn, relu, global average pool, dense: (N, H, W, C) -> (N, num_classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.bn = BatchNormalization()
        self.relu = keras.layers.ReLU()
        self.pool = GlobalAvgPool2D()
        self.flatten = keras.layers.Flatten()
        self.fc = keras.layers.Dense(num_classes)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.relu(self.bn(x, training=training))
        return self.fc(self.flatten(self.pool(x)))


class DenseNet(keras.Model):
    """Stem, a dense block for each count of `arch` with transitions between, head.

    (N, H, W, C) -> (N, num_classes). Each transition halves the channels (rounding down) and the image.
    """

    def __init__(
        self,
        arch: tuple[int, ...] = (4, 4, 4, 4),
        growth_rate: int = 32,
        num_channels: int = 64,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
    ) -> None:
        super().__init__()
        self.num_stages = len(arch)
        self.stem = Stem(num_channels)
        channels = num_channels
        for i, num_layers in enumerate(arch, start=1):
            setattr(self, f"stage{i}", DenseBlock(num_layers, growth_rate))
            channels += num_layers * growth_rate
            if i < len(arch):
                setattr(self, f"transition{i}", Transition(channels // 2))
                channels //= 2
        self.head = DenseHead(num_classes)
        # Keras makes the weights at the first call.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.stem(x, training=training)
        for i in range(1, self.num_stages + 1):
            x = getattr(self, f"stage{i}")(x, training=training)
            if i < self.num_stages:
                x = getattr(self, f"transition{i}")(x, training=training)
        return self.head(x, training=training)
