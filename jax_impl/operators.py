"""Cross-correlation, pooling, and a kernel learned by gradient descent, from their definitions.

Source: Zhang, Lipton, Li and Smola, Dive into Deep Learning, chapter 7. As there, arrays have no batch axis: an image
is (H, W) or (C, H, W), a kernel (h, w), (C, h, w) or (O, C, h, w). Strides, paddings and sizes are one number for both
axes or a pair, (vertical, horizontal). All functions raise ValueError for an invalid argument.

The operators loop over the h * w positions in a window, not over the windows. The pixels at one position of all windows
form an image of the output's size, a strided slice of X. `jax.grad` differentiates the loop and `jax.jit` unrolls it;
sizes, strides and paddings must be static.
"""

# ruff: noqa: N803 (X, Y and K are the source's names)

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

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


def _check_axes(name: str, x: Array, *axes: str) -> None:
    if x.ndim not in [each.count(",") + 1 for each in axes] or 0 in x.shape:
        raise ValueError(f"`{name}` must be {' or '.join(axes)} and not empty, and has shape {x.shape}")


def _cuts(x: Array, size: Pair, stride: Pair, padding: Pair, fill: float) -> Iterator[tuple[int, int, Array]]:
    """Iterate over the positions (i, j) in a window, with the pixels at that position of all windows: (..., H', W')."""
    (height, width), (down, right) = _pair("size", size, 1), _pair("stride", stride, 1)
    above, left = _pair("padding", padding, 0)
    if above or left:
        sides = [(0, 0)] * (x.ndim - 2) + [(above, above), (left, left)]
        x = jnp.pad(x, sides, constant_values=fill)
    rows, columns = (x.shape[-2] - height) // down + 1, (x.shape[-1] - width) // right + 1
    if rows < 1 or columns < 1:
        padded = f"{x.shape[-2]}x{x.shape[-1]}"
        raise ValueError(f"a {height}x{width} window must fit into the image, which is {padded} with its padding")
    for i in range(height):
        for j in range(width):
            yield i, j, x[..., i : i + rows * down : down, j : j + columns * right : right]


def corr2d(X: Array, K: Array, *, stride: Pair = 1, padding: Pair = 0) -> Array:
    """Cross-correlate an image, padded with zeros, with a kernel: (H, W), (h, w) -> (H', W').

    H' = floor((H + 2 padding - h) / stride) + 1, and W' likewise. The kernel is not flipped.
    """
    _check_axes("X", X, "(H, W)")
    _check_axes("K", K, "(h, w)")
    return sum(K[i, j] * pixels for i, j, pixels in _cuts(X, K.shape, stride, padding, 0.0))


class Conv2D(nnx.Module):
    """Cross-correlation with one kernel, plus one bias: (H, W) -> (H - h + 1, W - w + 1)."""

    def __init__(self, kernel_size: tuple[int, int], *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), kernel_size, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(1, jnp.float32))

    def __call__(self, x: Array) -> Array:
        return corr2d(x, self.kernel[...]) + self.bias[...]


def corr2d_multi_in(X: Array, K: Array, *, stride: Pair = 1, padding: Pair = 0) -> Array:
    """Cross-correlate each channel with its own kernel and sum the results: (C, H, W), (C, h, w) -> (H', W')."""
    _check_axes("X", X, "(C, H, W)")
    _check_axes("K", K, "(C, h, w)")
    if len(X) != len(K):
        raise ValueError(f"`X` and `K` must have the same channels, and have {len(X)} and {len(K)}")
    return sum(corr2d(x, k, stride=stride, padding=padding) for x, k in zip(X, K, strict=True))


def corr2d_multi_in_out(X: Array, K: Array, *, stride: Pair = 1, padding: Pair = 0) -> Array:
    """Compute each output channel with its own kernel: (C, H, W), (O, C, h, w) -> (O, H', W')."""
    _check_axes("K", K, "(O, C, h, w)")
    return jnp.stack([corr2d_multi_in(X, k, stride=stride, padding=padding) for k in K])


def corr2d_multi_in_out_1x1(X: Array, K: Array) -> Array:
    """Multiply the channels of each pixel by the matrix K: (C, H, W), (O, C, 1, 1) -> (O, H, W)."""
    _check_axes("X", X, "(C, H, W)")
    if K.shape[1:] != (len(X), 1, 1):
        raise ValueError(f"`K` must be (O, {len(X)}, 1, 1) for {len(X)} channels, and has shape {K.shape}")
    return (K.reshape(len(K), len(X)) @ X.reshape(len(X), -1)).reshape(len(K), *X.shape[1:])


def pool2d(X: Array, size: Pair, mode: Literal["max", "avg"], *, stride: Pair = 1, padding: Pair = 0) -> Array:
    """Compute the maximum or mean of each window: (H, W) -> (H', W') or (C, H, W) -> (C, H', W').

    Only 'max' takes padding. It must be smaller than the window, and X floating-point: the padding is minus infinity.
    """
    _check_axes("X", X, "(H, W)", "(C, H, W)")
    if mode not in ("max", "avg"):
        raise ValueError(f"`mode` (={mode!r}) must be 'max' or 'avg'")
    limits = _pair("size", size, 1) if mode == "max" else (1, 1)
    if any(beyond >= limit for beyond, limit in zip(_pair("padding", padding, 0), limits, strict=True)):
        raise ValueError(f"`padding` (={padding}) must be less than the window (={size}) of 'max', and 0 for 'avg'")
    pixels = [pixels for _, _, pixels in _cuts(X, size, stride, padding, -jnp.inf)]
    return functools.reduce(jnp.maximum, pixels) if mode == "max" else sum(pixels) / len(pixels)


def learn_kernel(
    X: Array, Y: Array, kernel: Array, *, learning_rate: float = 0.03, steps: int = 10
) -> tuple[Array, list[Array]]:
    """Minimize the sum of (corr2d(X, kernel) - Y)^2 by gradient descent, starting at `kernel`.

    (H, W), (H', W'), (h, w) -> (h, w) and the loss before each step.
    """
    if Y.shape != (expected := corr2d(X, kernel).shape):
        raise ValueError(f"`Y` must have the shape of corr2d(X, kernel), {expected}; its shape is {Y.shape}")

    def squared_error(kernel: Array) -> Array:
        return jnp.sum((corr2d(X, kernel) - Y) ** 2)

    losses = []
    for _ in range(steps):
        loss, gradient = jax.value_and_grad(squared_error)(kernel)
        kernel = kernel - learning_rate * gradient
        losses.append(loss)
    return kernel, losses
