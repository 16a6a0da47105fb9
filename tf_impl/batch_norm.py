"""LeNet with batch normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167), from Keras's layer and from scratch."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_impl.layers import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, BatchNormalization, Conv2D, Network

__all__ = ["BNLeNet", "BNLeNetScratch", "BatchNorm", "batch_norm"]


def batch_norm(x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Normalize by `mean` and `variance`, scale by `weight`, shift by `bias`, all of shape (C,).

    (N, C) or (N, H, W, C) -> the same shape.
    """
    normalized = (x - mean) / tf.sqrt(variance + BATCH_NORM_EPSILON)
    return weight * normalized + bias


@keras.saving.register_keras_serializable(package="rosetta")
class BatchNorm(keras.layers.Layer):
    """Batch normalization from its definition: (N, C) or (N, H, W, C) -> the same shape.

    Statistics are over the batch, for images also over height and width. Training normalizes by the batch's mean and
    biased variance and moves the running ones toward them; evaluation normalizes by the running ones.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = input_shape[-1:]
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        self.moving_mean = self.add_weight(name="moving_mean", shape=shape, initializer="zeros", trainable=False)
        self.moving_variance = self.add_weight(name="moving_variance", shape=shape, initializer="ones", trainable=False)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return batch_norm(x, self.moving_mean, self.moving_variance, self.gamma, self.beta)
        axes = list(range(x.shape.rank - 1))
        mean = tf.reduce_mean(x, axes)
        variance = tf.reduce_mean(tf.square(x - mean), axes)
        self.moving_mean.assign(BATCH_NORM_MOMENTUM * self.moving_mean + (1 - BATCH_NORM_MOMENTUM) * mean)
        self.moving_variance.assign(BATCH_NORM_MOMENTUM * self.moving_variance + (1 - BATCH_NORM_MOMENTUM) * variance)
        return batch_norm(x, mean, variance, self.gamma, self.beta)


@keras.saving.register_keras_serializable(package="rosetta")
class BNLeNet(Network):
    """(conv 5x5, bn, sigmoid, avg-pool 2x2) twice, (dense, bn, sigmoid) of 120 and 84, dense.

    (N, H, W, C) -> (N, num_classes). The first convolution is not padded, unlike LeNet's.
    """

    family = "bn_lenet"
    norm: type[keras.layers.Layer] = BatchNormalization

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.conv1 = Conv2D(6, kernel_size=5)
        self.bn1 = self.norm()
        self.sigmoid1 = keras.layers.Activation("sigmoid")
        self.pool1 = keras.layers.AveragePooling2D(2)
        self.conv2 = Conv2D(16, kernel_size=5)
        self.bn2 = self.norm()
        self.sigmoid2 = keras.layers.Activation("sigmoid")
        self.pool2 = keras.layers.AveragePooling2D(2)
        self.flatten = keras.layers.Flatten()
        self.fc1 = keras.layers.Dense(120)
        self.bn3 = self.norm()
        self.sigmoid3 = keras.layers.Activation("sigmoid")
        self.fc2 = keras.layers.Dense(84)
        self.bn4 = self.norm()
        self.sigmoid4 = keras.layers.Activation("sigmoid")
        self.fc3 = keras.layers.Dense(num_classes)
        # The first call creates the weights.
        self(keras.Input((*input_size, in_channels)))

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self.pool1(self.sigmoid1(self.bn1(self.conv1(x), training=training)))
        x = self.pool2(self.sigmoid2(self.bn2(self.conv2(x), training=training)))
        x = self.flatten(x)
        x = self.sigmoid3(self.bn3(self.fc1(x), training=training))
        x = self.sigmoid4(self.bn4(self.fc2(x), training=training))
        return self.fc3(x)


@keras.saving.register_keras_serializable(package="rosetta")
class BNLeNetScratch(BNLeNet):
    """The same network with the batch normalization of this file: (N, H, W, C) -> (N, num_classes)."""

    family = "bn_lenet_scratch"
    norm = BatchNorm
