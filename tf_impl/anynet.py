"""AnyNet (Radosavovic et al., 2020, arXiv:2003.13678, section 3.2), the design space that contains RegNetX.

Convolutions keep their bias.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.heads import Head
from tf_impl.layers import BatchNormalization, Block, Conv2D, Network
from tf_impl.resnext import ResNeXtStage

__all__ = ["AnyNet"]


@keras.saving.register_keras_serializable(package="rosetta")
class SmallStem(Block):
    """conv 3x3/2, bn, relu: (N, H, W, C) -> (N, H/2, W/2, channels)."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv = Conv2D(channels, kernel_size=3, strides=2, padding=1)
        self.bn = BatchNormalization()
        self.relu = keras.layers.ReLU()

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.relu(self.bn(self.conv(x), training=training))


@keras.saving.register_keras_serializable(package="rosetta")
class AnyNet(Network):
    """Stem, a stride-2 stage for each (depth, channels, group_width, multiplier) of `arch`, head.

    (N, H, W, C) -> (N, num_classes).
    """

    family = "anynet"

    def __init__(
        self,
        arch: tuple[tuple[int, int, int, float], ...],
        stem_channels: int = 32,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stem = SmallStem(stem_channels)
        self.stages = [
            ResNeXtStage(depth, channels, group_width, multiplier, stride=2)
            for depth, channels, group_width, multiplier in arch
        ]
        self.head = Head(num_classes)
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.stem(x, training=training)
        for stage in self.stages:
            x = stage(x, training=training)
        return self.head(x)
