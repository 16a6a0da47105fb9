"""ResNet (He et al., 2016, arXiv:1512.03385, table 1 and figure 2): each block adds its input to its output.

Convolutions keep their bias, and the projection on the shortcut has no batch normalization.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.heads import Head, Stem
from tf_impl.layers import BatchNormalization, Block, Conv2D, Network

__all__ = ["ResNet", "Residual"]


@keras.saving.register_keras_serializable(package="rosetta")
class Projection(Block):
    """conv 1x1/s: (N, H, W, C) -> (N, H/s, W/s, channels)."""

    def __init__(self, channels: int, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv = Conv2D(channels, kernel_size=1, strides=stride)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.conv(x)


@keras.saving.register_keras_serializable(package="rosetta")
class Residual(Block):
    """conv 3x3/s, bn, relu, conv 3x3, bn, add the input or its projection, relu.

    (N, H, W, C) -> (N, H/s, W/s, channels).
    """

    def __init__(self, channels: int, stride: int = 1, projection: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv1 = Conv2D(channels, kernel_size=3, strides=stride, padding=1)
        self.bn1 = BatchNormalization()
        self.relu1 = keras.layers.ReLU()
        self.conv2 = Conv2D(channels, kernel_size=3, padding=1)
        self.bn2 = BatchNormalization()
        self.shortcut = Projection(channels, stride) if projection else keras.layers.Identity()
        self.relu2 = keras.layers.ReLU()

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        y = self.relu1(self.bn1(self.conv1(x), training=training))
        y = self.bn2(self.conv2(y), training=training)
        return self.relu2(y + self.shortcut(x))


@keras.saving.register_keras_serializable(package="rosetta")
class ResNetStage(Block):
    """`num_blocks` residual blocks, the first with stride s: (N, H, W, C) -> (N, H/s, W/s, channels).

    The first block's shortcut is a projection where the block changes channels or resolution.
    """

    def __init__(self, in_channels: int, num_blocks: int, channels: int, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        projection = stride > 1 or in_channels != channels
        self.blocks = [Residual(channels, stride, projection)]
        for _ in range(num_blocks - 1):
            self.blocks.append(Residual(channels))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        for block in self.blocks:
            x = block(x, training=training)
        return x


@keras.saving.register_keras_serializable(package="rosetta")
class ResNet(Network):
    """Stem, a stage for each (num_blocks, channels) of `arch`, head.

    (N, H, W, C) -> (N, num_classes).
    """

    family = "resnet"

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stem = Stem()
        self.stages = []
        channels = 64
        for i, (num_blocks, stage_channels) in enumerate(arch):
            self.stages.append(ResNetStage(channels, num_blocks, stage_channels, stride=1 if i == 0 else 2))
            channels = stage_channels
        self.head = Head(num_classes)
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.stem(x, training=training)
        for stage in self.stages:
            x = stage(x, training=training)
        return self.head(x)
