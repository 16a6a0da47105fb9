"""ResNeXt (Xie et al., 2017, arXiv:1611.05431, figure 3c): bottleneck blocks with a grouped convolution.

`group_width` is the number of channels in a group. Convolutions keep their bias.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from common.catalog import bottleneck_width
from tf_impl.heads import Head, Stem
from tf_impl.layers import BatchNormalization, Block, Conv2D, Network

__all__ = ["ResNeXt", "ResNeXtBlock", "ResNeXtStage"]


@keras.saving.register_keras_serializable(package="rosetta")
class NormedProjection(Block):
    """conv 1x1/s, bn: (N, H, W, C) -> (N, H/s, W/s, channels)."""

    def __init__(self, channels: int, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv = Conv2D(channels, kernel_size=1, strides=stride)
        self.bn = BatchNormalization()

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.bn(self.conv(x), training=training)


@keras.saving.register_keras_serializable(package="rosetta")
class ResNeXtBlock(Block):
    """conv 1x1, bn, relu, grouped conv 3x3/s, bn, relu, conv 1x1, bn, add the input or its projection, relu.

    (N, H, W, C) -> (N, H/s, W/s, channels). Raises ConfigError if the bottleneck does not divide into groups.
    """

    def __init__(
        self,
        channels: int,
        group_width: int,
        multiplier: float,
        stride: int = 1,
        projection: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        width = bottleneck_width(channels, group_width, multiplier)
        self.conv1 = Conv2D(width, kernel_size=1)
        self.bn1 = BatchNormalization()
        self.relu1 = keras.layers.ReLU()
        self.conv2 = Conv2D(width, kernel_size=3, strides=stride, padding=1, groups=width // group_width)
        self.bn2 = BatchNormalization()
        self.relu2 = keras.layers.ReLU()
        self.conv3 = Conv2D(channels, kernel_size=1)
        self.bn3 = BatchNormalization()
        self.shortcut = NormedProjection(channels, stride) if projection else keras.layers.Identity()
        self.relu3 = keras.layers.ReLU()

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        y = self.relu1(self.bn1(self.conv1(x), training=training))
        y = self.relu2(self.bn2(self.conv2(y), training=training))
        y = self.bn3(self.conv3(y), training=training)
        return self.relu3(y + self.shortcut(x, training=training))


@keras.saving.register_keras_serializable(package="rosetta")
class ResNeXtStage(Block):
    """`num_blocks` ResNeXt blocks, the first projecting with stride s: (N, H, W, C) -> (N, H/s, W/s, channels)."""

    def __init__(
        self, num_blocks: int, channels: int, group_width: int, multiplier: float, stride: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.blocks = [ResNeXtBlock(channels, group_width, multiplier, stride, projection=True)]
        for _ in range(num_blocks - 1):
            self.blocks.append(ResNeXtBlock(channels, group_width, multiplier))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        for block in self.blocks:
            x = block(x, training=training)
        return x


@keras.saving.register_keras_serializable(package="rosetta")
class ResNeXt(Network):
    """Stem, a stage for each (num_blocks, channels, group_width, multiplier) of `arch`, head.

    (N, H, W, C) -> (N, num_classes).
    """

    family = "resnext"

    def __init__(
        self,
        arch: tuple[tuple[int, int, int, float], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stem = Stem()
        self.stages = []
        for i, (num_blocks, channels, group_width, multiplier) in enumerate(arch):
            stride = 1 if i == 0 else 2
            self.stages.append(ResNeXtStage(num_blocks, channels, group_width, multiplier, stride))
        self.head = Head(num_classes)
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.stem(x, training=training)
        for stage in self.stages:
            x = stage(x, training=training)
        return self.head(x)
