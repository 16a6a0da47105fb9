"""What Keras does otherwise than the suite, put right in one place.

`keras.layers.Dense`, `AveragePooling2D`, `Flatten`, activations and `Dropout` already mean what the suite means by
them, and models use them as they are. Convolution and max-pooling know only 'valid' and 'same', and 'same' pads
unevenly where it strides: here padding is a number of pixels, the same on all four sides. Batch normalisation differs
in its constants. All is NHWC.
"""

from __future__ import annotations

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


def _explicit(padding: int) -> list[list[int]]:
    """Return the padding list that TensorFlow's own operations take: (before, after) for each axis of NHWC."""
    return [[0, 0], [padding, padding], [padding, padding], [0, 0]]


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

    `groups` cuts the channels into groups that do not see one another.
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

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if self.groups == 1:
            return self._convolve(inputs, kernel)
        # TensorFlow has no gradient of a grouped convolution on the CPU: it takes one convolution a group.
        groups = zip(tf.split(inputs, self.groups, axis=-1), tf.split(kernel, self.groups, axis=-1), strict=True)
        return tf.concat([self._convolve(x, k) for x, k in groups], axis=-1)

    def _convolve(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(x, kernel, self.strides, _explicit(self.pixels), dilations=self.dilation_rate)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return super().compute_output_shape(_padded(input_shape, self.pixels))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.pixels}


class MaxPool2D(keras.layers.MaxPooling2D):
    """The largest value of each window: (N, H, W, C) -> (N, H', W', C). Padding is minus infinity: it never wins."""

    def __init__(
        self,
        pool_size: int | tuple[int, int],
        strides: int | tuple[int, int] | None = None,
        padding: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding="valid", **kwargs)
        self.pixels = padding

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.max_pool2d(inputs, self.pool_size, self.strides, _explicit(self.pixels))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return super().compute_output_shape(_padded(input_shape, self.pixels))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.pixels}


class GlobalAvgPool2D(keras.layers.GlobalAveragePooling2D):
    """The mean of each channel, at any size: (N, H, W, C) -> (N, 1, 1, C)."""

    def __init__(self, keepdims: bool = True, **kwargs: Any) -> None:
        super().__init__(keepdims=keepdims, **kwargs)


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation of (N, C) over the batch, of (N, H, W, C) over batch, height and width.

    Keras keeps the biased variance (divided by n), as the suite does; its own constants are 1e-3 and 0.99.
    """

    def __init__(
        self, momentum: float = BATCH_NORM_MOMENTUM, epsilon: float = BATCH_NORM_EPSILON, **kwargs: Any
    ) -> None:
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)


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

    Random numbers for a network of the size of VGG take seconds. Every kernel here has Keras's default initialiser.
    """

    def allocate(_: keras.initializers.GlorotUniform, shape: Shape, dtype: str) -> tf.Tensor:
        return tf.raw_ops.Empty(shape=shape, dtype=dtype)

    keras.initializers.GlorotUniform.__call__ = allocate
    try:
        yield
    finally:
        # The method is inherited; what is in the way of it here is only `allocate`.
        del keras.initializers.GlorotUniform.__call__
