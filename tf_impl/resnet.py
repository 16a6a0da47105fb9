"""ResNet (He et al., 2016, arXiv:1512.03385, table 1 and figure 2): each block adds its input to its output.

Convolutions keep their bias, and the projection on the shortcut has no batch normalization.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tf_impl.heads import Head, Stem
from tf_impl.layers import BatchNormalization, Block, Conv2D

__all__ = ["ResNet", "Residual"]


class Projection(Block):
    """conv 1x1/s: (N, H, W, C) -> (N, H/s, W/s, channels)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = Conv2D(channels, kernel_size=1, strides=stride)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.conv(x)


class Residual(Block):
    """conv 3x3/s, bn, relu, conv 3x3, bn, add the input or its projection, relu.

    (N, H, W, C) -> (N, H/s, W/s, channels).
    """

    def __init__(self, channels: int, stride: int = 1, projection: bool = False) -> None:
        super().__init__()
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


class ResNetStage(Block):
    """`blocks` residual blocks, the first with stride s: (N, H, W, C) -> (N, H/s, W/s, channels).

    Its shortcut is a projection where it changes channels or resolution.
    """

    def __init__(self, in_channels: int, blocks: int, channels: int, stride: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.block1 = Residual(channels, stride, projection=stride > 1 or in_channels != channels)
        for j in range(2, blocks + 1):
            setattr(self, f"block{j}", Residual(channels))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        for j in range(1, self.blocks + 1):
            x = getattr(self, f"block{j}")(x, training=training)
        return x


class ResNet(keras.Model):
    """Stem, a stage for each (blocks, channels) of `arch`, head.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
    ) -> None:
        super().__init__()
        self.num_stages = len(arch)
        self.stem = Stem()
        channels = 64
        for i, (blocks, stage_channels) in enumerate(arch, start=1):
            setattr(self, f"stage{i}", ResNetStage(channels, blocks, stage_channels, stride=1 if i == 1 else 2))
            channels = stage_channels
        self.head = Head(num_classes)
        # Keras makes the weights at the first call.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.stem(x, training=training)
        for i in range(1, self.num_stages + 1):
            x = getattr(self, f"stage{i}")(x, training=training)
        return self.head(x)
