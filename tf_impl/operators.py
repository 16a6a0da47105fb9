"""Cross-correlation, pooling and a kernel learned by gradient descent, from their definitions.

Source: Zhang, Lipton, Li and Smola, Dive into Deep Learning, chapter 7. As there, no array has a batch axis: an image
is (H, W) or (C, H, W), a kernel (h, w), (C, h, w) or (O, C, h, w). A stride, a padding or a size is one number for
both axes or a pair, (vertical, horizontal). An invalid argument raises ValueError.

The operators loop over the h * w positions of a window, not over the windows: the pixels at one position of all
windows are a strided slice of X of the output's size. `tf.GradientTape` can differentiate the loop and `tf.function`
unrolls it; shapes must be known when it traces.
"""

# ruff: noqa: N803 (X, Y and K are the source's names)

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, Literal

import keras
import tensorflow as tf

__all__ = [
    "Conv2D",
    "corr2d",
    "corr2d_multi_in",
    "corr2d_multi_in_out",
    "corr2d_multi_in_out_1x1",
    "learn_kernel",
    "pool2d",
]

Pair = int | tuple[int, int]


def _pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"`{name}` (={value}) must be {least} or more, for both axes or as a pair")
    return pair


def _check_axes(name: str, x: tf.Tensor, *axes: str) -> None:
    fits = x.shape.is_fully_defined() and x.shape.rank in [each.count(",") + 1 for each in axes]
    if not fits or 0 in x.shape:
        raise ValueError(f"`{name}` must be {' or '.join(axes)}, known and not empty, and has shape {x.shape}")


def _cuts(x: tf.Tensor, size: Pair, stride: Pair, padding: Pair, fill: float) -> Iterator[tuple[int, int, tf.Tensor]]:
    """Iterate over the places (i, j) in a window, each with the pixels there of all windows: (..., H', W')."""
    (height, width), (down, right) = _pair("size", size, 1), _pair("stride", stride, 1)
    above, left = _pair("padding", padding, 0)
    if above or left:
        sides = [(0, 0)] * (x.shape.rank - 2) + [(above, above), (left, left)]
        x = tf.pad(x, sides, constant_values=fill)
    rows, columns = (x.shape[-2] - height) // down + 1, (x.shape[-1] - width) // right + 1
    if rows < 1 or columns < 1:
        padded = f"{x.shape[-2]}x{x.shape[-1]}"
        raise ValueError(f"a {height}x{width} window must fit into the image, which is {padded} with its padding")
    for i in range(height):
        for j in range(width):
            yield i, j, x[..., i : i + rows * down : down, j : j + columns * right : right]


def corr2d(X: tf.Tensor, K: tf.Tensor, *, stride: Pair = 1, padding: Pair = 0) -> tf.Tensor:
    """Sum the products of the kernel, which is not flipped, and each window of the image, padded with zeros.

    (H, W), (h, w) -> (H', W') of H' = floor((H + 2 padding - h) / stride) + 1, W' alike.
    """
    _check_axes("X", X, "(H, W)")
    _check_axes("K", K, "(h, w)")
    return sum(K[i, j] * pixels for i, j, pixels in _cuts(X, K.shape, stride, padding, 0.0))


@keras.saving.register_keras_serializable(package="rosetta", name="SingleKernelConv2D")
class Conv2D(keras.layers.Layer):
    """Cross-correlation with one kernel, plus one bias: (H, W) -> (H - h + 1, W - w + 1)."""

    def __init__(self, kernel_size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_size = kernel_size

    def build(self, input_shape: tuple[int, int]) -> None:
        uniform = keras.initializers.RandomUniform(0.0, 1.0)
        self.kernel = self.add_weight(name="kernel", shape=self.kernel_size, initializer=uniform)
        self.bias = self.add_weight(name="bias", shape=(1,), initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        # A Keras variable has no TensorShape, which `corr2d` asks for.
        return corr2d(x, tf.convert_to_tensor(self.kernel)) + self.bias


def corr2d_multi_in(X: tf.Tensor, K: tf.Tensor, *, stride: Pair = 1, padding: Pair = 0) -> tf.Tensor:
    """Correlate each channel with its own kernel and sum over the channels: (C, H, W), (C, h, w) -> (H', W')."""
    _check_axes("X", X, "(C, H, W)")
    _check_axes("K", K, "(C, h, w)")
    if X.shape[0] != K.shape[0]:
        raise ValueError(f"`X` and `K` must have the same channels, and have {X.shape[0]} and {K.shape[0]}")
    return sum(corr2d(x, k, stride=stride, padding=padding) for x, k in zip(tf.unstack(X), tf.unstack(K), strict=True))


def corr2d_multi_in_out(X: tf.Tensor, K: tf.Tensor, *, stride: Pair = 1, padding: Pair = 0) -> tf.Tensor:
    """Make each output channel with a kernel of its own: (C, H, W), (O, C, h, w) -> (O, H', W')."""
    _check_axes("K", K, "(O, C, h, w)")
    return tf.stack([corr2d_multi_in(X, k, stride=stride, padding=padding) for k in tf.unstack(K)])


def corr2d_multi_in_out_1x1(X: tf.Tensor, K: tf.Tensor) -> tf.Tensor:
    """Multiply the channels of every pixel by the matrix K: (C, H, W), (O, C, 1, 1) -> (O, H, W)."""
    _check_axes("X", X, "(C, H, W)")
    channels, *image = X.shape
    if tuple(K.shape)[1:] != (channels, 1, 1):
        raise ValueError(f"`K` must be (O, {channels}, 1, 1) for {channels} channels, and has shape {K.shape}")
    return tf.reshape(tf.reshape(K, (-1, channels)) @ tf.reshape(X, (channels, -1)), (-1, *image))


def pool2d(X: tf.Tensor, size: Pair, mode: Literal["max", "avg"], *, stride: Pair = 1, padding: Pair = 0) -> tf.Tensor:
    """Take the largest value or the mean of each window: (H, W) -> (H', W') or (C, H, W) -> (C, H', W').

    The stride is 1 unless given, whatever the size. Only 'max' takes padding: minus infinity, for floating-point X, and
    less of it than the window is long, so that it never wins.
    """
    _check_axes("X", X, "(H, W)", "(C, H, W)")
    if mode not in ("max", "avg"):
        raise ValueError(f"`mode` (={mode!r}) must be 'max' or 'avg'")
    limits = _pair("size", size, 1) if mode == "max" else (1, 1)
    if any(beyond >= limit for beyond, limit in zip(_pair("padding", padding, 0), limits, strict=True)):
        raise ValueError(f"`padding` (={padding}) must be less than the window (={size}) of 'max', and 0 for 'avg'")
    pixels = [pixels for _, _, pixels in _cuts(X, size, stride, padding, -math.inf)]
    return functools.reduce(tf.maximum, pixels) if mode == "max" else sum(pixels) / len(pixels)


def learn_kernel(
    X: tf.Tensor, Y: tf.Tensor, kernel: tf.Tensor, *, learning_rate: float = 0.03, steps: int = 10
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Descend from `kernel` along the gradient of the sum of (corr2d(X, kernel) - Y)^2.

    (H, W), (H', W'), (h, w) -> (h, w), and the loss before each step.
    """
    if Y.shape != (made := corr2d(X, kernel).shape):
        raise ValueError(f"`Y` must be {tuple(made)} as corr2d(X, kernel) is, and has shape {tuple(Y.shape)}")
    losses = []
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            loss = tf.reduce_sum((corr2d(X, kernel) - Y) ** 2)
        kernel = kernel - learning_rate * tape.gradient(loss, kernel)
        losses.append(loss)
    return kernel, losses
