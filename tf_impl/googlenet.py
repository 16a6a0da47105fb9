"""GoogLeNet (Szegedy et al., 2015, arXiv:1409.4842, table 1).

Without auxiliary classifiers, local response normalization and dropout.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.heads import Head
from tf_impl.layers import Block, Conv2D, MaxPool2D, Network

__all__ = ["GoogLeNet", "Inception"]


@keras.saving.register_keras_serializable(package="rosetta")
class PointwiseBranch(Block):
    """conv 1x1, relu: (N, H, W, C) -> (N, H, W, channels)."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv = Conv2D(channels, kernel_size=1)
        self.relu = keras.layers.ReLU()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.relu(self.conv(x))


@keras.saving.register_keras_serializable(package="rosetta")
class Branch(Block):
    """conv 1x1, relu, conv `kernel_size`, relu: (N, H, W, C) -> (N, H, W, channels[1])."""

    def __init__(self, channels: tuple[int, int], kernel_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv1 = Conv2D(channels[0], kernel_size=1)
        self.relu1 = keras.layers.ReLU()
        self.conv2 = Conv2D(channels[1], kernel_size, padding=kernel_size // 2)
        self.relu2 = keras.layers.ReLU()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = self.relu1(self.conv1(x))
        return self.relu2(self.conv2(x))


@keras.saving.register_keras_serializable(package="rosetta")
class PoolBranch(Block):
    """max-pool 3x3/1, conv 1x1, relu: (N, H, W, C) -> (N, H, W, channels)."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool = MaxPool2D(3, strides=1, padding=1)
        self.conv = Conv2D(channels, kernel_size=1)
        self.relu = keras.layers.ReLU()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.relu(self.conv(self.pool(x)))


@keras.saving.register_keras_serializable(package="rosetta")
class Inception(Block):
    """1x1 | 1x1, 3x3 | 1x1, 5x5 | max-pool, 1x1, concatenated.

    (N, H, W, C) -> (N, H, W, c1 + c2[1] + c3[1] + c4).
    """

    def __init__(self, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branch1 = PointwiseBranch(c1)
        self.branch2 = Branch(c2, kernel_size=3)
        self.branch3 = Branch(c3, kernel_size=5)
        self.branch4 = PoolBranch(c4)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.concat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], axis=-1)


@keras.saving.register_keras_serializable(package="rosetta", name="GoogLeNetStem")
class Stem(Block):
    """conv 7x7/2, max-pool 3x3/2, conv 1x1, conv 3x3, max-pool 3x3/2, relu after each conv.

    (N, H, W, C) -> (N, H/8, W/8, 192).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv1 = Conv2D(64, kernel_size=7, strides=2, padding=3)
        self.relu1 = keras.layers.ReLU()
        self.pool1 = MaxPool2D(3, strides=2, padding=1)
        self.conv2 = Conv2D(64, kernel_size=1)
        self.relu2 = keras.layers.ReLU()
        self.conv3 = Conv2D(192, kernel_size=3, padding=1)
        self.relu3 = keras.layers.ReLU()
        self.pool2 = MaxPool2D(3, strides=2, padding=1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.relu2(self.conv2(x))
        return self.pool2(self.relu3(self.conv3(x)))


@keras.saving.register_keras_serializable(package="rosetta")
class Stage1(Block):
    """Two Inception blocks, max-pool 3x3/2: (N, H, W, 192) -> (N, H/2, W/2, 480)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block1 = Inception(64, (96, 128), (16, 32), 32)
        self.block2 = Inception(128, (128, 192), (32, 96), 64)
        self.pool = MaxPool2D(3, strides=2, padding=1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.pool(self.block2(self.block1(x)))


@keras.saving.register_keras_serializable(package="rosetta")
class Stage2(Block):
    """Five Inception blocks, max-pool 3x3/2: (N, H, W, 480) -> (N, H/2, W/2, 832)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block1 = Inception(192, (96, 208), (16, 48), 64)
        self.block2 = Inception(160, (112, 224), (24, 64), 64)
        self.block3 = Inception(128, (128, 256), (24, 64), 64)
        self.block4 = Inception(112, (144, 288), (32, 64), 64)
        self.block5 = Inception(256, (160, 320), (32, 128), 128)
        self.pool = MaxPool2D(3, strides=2, padding=1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = self.block2(self.block1(x))
        x = self.block4(self.block3(x))
        return self.pool(self.block5(x))


@keras.saving.register_keras_serializable(package="rosetta")
class Stage3(Block):
    """Two Inception blocks: (N, H, W, 832) -> (N, H, W, 1024)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block1 = Inception(256, (160, 320), (32, 128), 128)
        self.block2 = Inception(384, (192, 384), (48, 128), 128)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.block2(self.block1(x))


@keras.saving.register_keras_serializable(package="rosetta")
class GoogLeNet(Network):
    """Stem, nine Inception blocks in three stages, head.

    (N, H, W, C) -> (N, num_classes).
    """

    family = "googlenet"

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (96, 96), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.stem = Stem()
        self.stage1 = Stage1()
        self.stage2 = Stage2()
        self.stage3 = Stage3()
        self.head = Head(num_classes)
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = self.stem(x)
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.head(x)
