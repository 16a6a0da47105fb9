"""Network in network (Lin, Chen and Yan, 2013, arXiv:1312.4400, section 3): two 1x1 convolutions after each larger one.

The larger convolutions have AlexNet's kernel sizes and channels. Dropout is applied once, before the last stage.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.layers import Block, Conv2D, GlobalAvgPool2D, MaxPool2D, Network

__all__ = ["NiN", "NiNStage"]


@keras.saving.register_keras_serializable(package="rosetta")
class NiNStage(Block):
    """conv, relu, (conv 1x1, relu) twice.

    (N, H, W, C) -> (N, H', W', channels).
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1, padding: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv1 = Conv2D(channels, kernel_size, stride, padding)
        self.relu1 = keras.layers.ReLU()
        self.conv2 = Conv2D(channels, kernel_size=1)
        self.relu2 = keras.layers.ReLU()
        self.conv3 = Conv2D(channels, kernel_size=1)
        self.relu3 = keras.layers.ReLU()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(x))
        return self.relu3(self.conv3(x))


@keras.saving.register_keras_serializable(package="rosetta")
class NiN(Network):
    """Four stages with max-pools 3x3/2 between, global average pool.

    (N, H, W, C) -> (N, num_classes).
    """

    family = "nin"

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stage1 = NiNStage(96, kernel_size=11, stride=4)
        self.pool1 = MaxPool2D(3, strides=2)
        self.stage2 = NiNStage(256, kernel_size=5, padding=2)
        self.pool2 = MaxPool2D(3, strides=2)
        self.stage3 = NiNStage(384, kernel_size=3, padding=1)
        self.pool3 = MaxPool2D(3, strides=2)
        self.dropout = keras.layers.Dropout(dropout)
        self.stage4 = NiNStage(num_classes, kernel_size=3, padding=1)
        self.global_pool = GlobalAvgPool2D()
        self.flatten = keras.layers.Flatten()
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.pool1(self.stage1(x))
        x = self.pool2(self.stage2(x))
        x = self.pool3(self.stage3(x))
        x = self.stage4(self.dropout(x, training=training))
        return self.flatten(self.global_pool(x))
