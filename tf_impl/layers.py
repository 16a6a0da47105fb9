"""What Keras does otherwise than the suite, put right in one place.

`keras.layers.Dense`, `AveragePooling2D`, `Flatten`, activations and `Dropout` already mean what the suite means by
them, and models use them as they are. Convolution and max-pooling know only 'valid' and 'same', and 'same' pads
unevenly where it strides: here padding is a number of pixels, the same on all four sides. Batch normalization differs
in its constants. All is NHWC.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

__all__ = [
    "BATCH_NORM_EPSILON",
    "BATCH_NORM_MOMENTUM",
    "BatchNormalization",
    "Block",
    "Conv2D",
    "GlobalAvgPool2D",
    "MaxPool2D",
    "dtype_policy",
    "undefined_kernels",
]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step."""

Shape = tuple[int | None, ...]


def _pad(
    x: tf.Tensor, padding: int, window: tuple[int, int], strides: tuple[int, int], value: float | None = 0
) -> tuple[tf.Tensor, str]:
    """Return an image batch and the padding to ask TensorFlow for, so that all four sides are padded by `padding`.

    `value` is what to pad with, None for copies of the outermost pixels. TensorFlow's operations take numbers of pixels
    too, but their gradients are then half as fast or worse, and XLA and LiteRT have no such pooling.
    """
    if not padding:
        return x, "VALID"
    if max(strides) == 1 and set(window) == {2 * padding + 1}:
        return x, "SAME"
    if value is not None:
        return tf.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]], constant_values=value), "VALID"
    x = tf.concat([*[x[:, :1]] * padding, x, *[x[:, -1:]] * padding], axis=1)
    return tf.concat([*[x[:, :, :1]] * padding, x, *[x[:, :, -1:]] * padding], axis=2), "VALID"


def _padded(shape: Shape, padding: int) -> Shape:
    """Return the shape of an image batch once padded; a size that is not known yet stays unknown."""
    batch, *image, channels = shape
    return (batch, *(None if size is None else size + 2 * padding for size in image), channels)


class Block(keras.layers.Layer):
    """A layer made of layers, which are built as `call` reaches them.

    Without a `build` of its own, Keras would run `call` once more to build it, and so again for each level below.
    """

    def build(self, input_shape: Shape) -> None:
        """Make nothing: a block has no weights but those of its layers."""


class Conv2D(keras.layers.Conv2D):
    """Cross-correlation plus bias, padded by `padding` zeros on each side: (N, H, W, C) -> (N, H', W', filters).

    `groups` cuts the channels into groups that do not see one another. `differentiable` is to be made False where no
    gradient will be asked for: all groups are then one operation, twice as fast.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: int = 0,
        groups: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding="valid", groups=groups, **kwargs)
        self.pixels = padding
        self.differentiable = True

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        window = tuple((k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation_rate, strict=True))
        x, padding = _pad(inputs, self.pixels, window, self.strides)
        if self.groups == 1 or not self.differentiable:
            return tf.nn.conv2d(x, kernel, self.strides, padding, dilations=self.dilation_rate)
        # TensorFlow has no gradient of a grouped convolution on the CPU: it takes one convolution a group.
        groups = zip(tf.split(x, self.groups, axis=-1), tf.split(kernel, self.groups, axis=-1), strict=True)
        convolved = [tf.nn.conv2d(x, k, self.strides, padding, dilations=self.dilation_rate) for x, k in groups]
        return tf.concat(convolved, axis=-1)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.groups == 1 or self.differentiable:
            return super().call(inputs)
        # Keras's `BiasAdd` would be fused into an operation that knows no groups where oneDNN is not used.
        return self.activation(tf.add(self.convolution_op(inputs, self.kernel), self.bias))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return super().compute_output_shape(_padded(input_shape, self.pixels))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.pixels}


class MaxPool2D(keras.layers.MaxPooling2D):
    """The largest value of each window: (N, H, W, C) -> (N, H', W', C). Padding is minus infinity: it never wins.

    `repeats_edges` is to be made True where there is no infinity, as in whole numbers: padding then repeats a pixel
    that each of its windows holds already.
    """

    def __init__(
        self,
        pool_size: int | tuple[int, int],
        strides: int | tuple[int, int] | None = None,
        padding: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding="valid", **kwargs)
        self.pixels = padding
        self.repeats_edges = False

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        value = None if self.repeats_edges else -math.inf
        x, padding = _pad(inputs, self.pixels, self.pool_size, self.strides, value)
        return tf.nn.max_pool2d(x, self.pool_size, self.strides, padding)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return super().compute_output_shape(_padded(input_shape, self.pixels))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.pixels}


class GlobalAvgPool2D(keras.layers.GlobalAveragePooling2D):
    """The mean of each channel, at any size: (N, H, W, C) -> (N, 1, 1, C)."""

    def __init__(self, keepdims: bool = True, **kwargs: Any) -> None:
        super().__init__(keepdims=keepdims, **kwargs)


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization of (N, C) over the batch, of (N, H, W, C) over batch, height and width.

    Keras keeps the biased variance (divided by n), as the suite does; its own constants are 1e-3 and 0.99. It writes
    the formula out. In training, images in float32 go here through the one operation that TensorFlow has for it, which
    gives the unbiased variance: a step of ResNet-18 takes a sixth less time. In evaluation the formula is the faster.
    """

    def __init__(
        self, momentum: float = BATCH_NORM_MOMENTUM, epsilon: float = BATCH_NORM_EPSILON, **kwargs: Any
    ) -> None:
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        learns = training and self.trainable
        if not learns or inputs.shape.rank != 4 or inputs.dtype == tf.float64:
            return super().call(inputs, training=training)
        # `tf.compat.v1.nn.fused_batch_norm`, which wraps it, silently takes 1.001e-5 for a smaller epsilon.
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=self.gamma, offset=self.beta, mean=[], variance=[], epsilon=self.epsilon
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
        for statistic, now in ((self.moving_mean, mean), (self.moving_variance, variance * ((count - 1) / count))):
            statistic.assign(statistic * self.momentum + now * (1 - self.momentum))
        return y


@contextmanager
def dtype_policy(dtype: str) -> Iterator[None]:
    """Make the layers created inside hold and compute `dtype`; Keras has no other way to reach nested layers."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextmanager
def undefined_kernels() -> Iterator[None]:
    """Leave the kernels of layers built inside undefined, for weights that are about to be loaded.

    Random numbers for a network of the size of VGG take seconds. Every kernel here has Keras's default initializer.
    """

    def allocate(_: keras.initializers.GlorotUniform, shape: Shape, dtype: str) -> tf.Tensor:
        return tf.raw_ops.Empty(shape=shape, dtype=dtype)

    keras.initializers.GlorotUniform.__call__ = allocate
    try:
        yield
    finally:
        # The method is inherited; what is in the way of it here is only `allocate`.
        del keras.initializers.GlorotUniform.__call__
