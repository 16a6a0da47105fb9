"""Cross-correlation, pooling and a kernel learned by gradient descent, from their definitions.

Source: Zhang, Lipton, Li and Smola, Dive into Deep Learning, chapter 7. As there, no array has a batch axis: an image
is (H, W) or (C, H, W), a kernel (h, w), (C, h, w) or (O, C, h, w). A stride, a padding or a size is one number for
both axes or a pair, (vertical, horizontal). An invalid argument raises ValueError.

The operators loop over the h * w positions in a window, not over the windows. The pixels at one position of all windows
are a strided slice of X, an image of the output's size.
"""

# ruff: noqa: N803 (X, Y and K are the source's names)

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

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


def _pair(name: str, value: Pair, minimum: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < minimum:
        raise ValueError(f"`{name}` (={value}) must be a number or a pair of numbers, each at least {minimum}")
    return pair


def _check_axes(name: str, x: np.ndarray, *axes: str) -> None:
    if x.ndim not in [each.count(",") + 1 for each in axes] or 0 in x.shape:
        raise ValueError(f"`{name}` must have axes {' or '.join(axes)} and not be empty; its shape is {x.shape}")


def _slices(
    x: np.ndarray, size: Pair, stride: Pair, padding: Pair, fill: float
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Iterate over the positions (i, j) in a window, each with the pixels there of all windows: (..., H', W')."""
    (height, width), (down, right) = _pair("size", size, 1), _pair("stride", stride, 1)
    above, left = _pair("padding", padding, 0)
    if above or left:
        sides = [(0, 0)] * (x.ndim - 2) + [(above, above), (left, left)]
        x = np.pad(x, sides, constant_values=fill)
    rows, columns = (x.shape[-2] - height) // down + 1, (x.shape[-1] - width) // right + 1
    if rows < 1 or columns < 1:
        padded = f"{x.shape[-2]}x{x.shape[-1]}"
        raise ValueError(f"a {height}x{width} window must fit into the image, which is {padded} after padding")
    for i in range(height):
        for j in range(width):
            yield i, j, x[..., i : i + rows * down : down, j : j + columns * right : right]


def corr2d(X: np.ndarray, K: np.ndarray, *, stride: Pair = 1, padding: Pair = 0) -> np.ndarray:
    """Multiply each window of the zero-padded image by the kernel, not flipped, and sum the products.

    (H, W), (h, w) -> (H', W'), where H' = floor((H + 2 padding - h) / stride) + 1 and W' likewise.
    """
    _check_axes("X", X, "(H, W)")
    _check_axes("K", K, "(h, w)")
    return np.sum([K[i, j] * pixels for i, j, pixels in _slices(X, K.shape, stride, padding, 0.0)], axis=0)


class Conv2D:
    """Cross-correlation with one kernel, plus one bias: (H, W) -> (H - h + 1, W - w + 1)."""

    def __init__(self, kernel_size: tuple[int, int], *, generator: np.random.Generator) -> None:
        self.weight = generator.random(kernel_size)
        self.bias = np.zeros(1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return corr2d(x, self.weight) + self.bias


def corr2d_multi_in(X: np.ndarray, K: np.ndarray, *, stride: Pair = 1, padding: Pair = 0) -> np.ndarray:
    """Correlate each channel with its own kernel and sum over the channels: (C, H, W), (C, h, w) -> (H', W')."""
    _check_axes("X", X, "(C, H, W)")
    _check_axes("K", K, "(C, h, w)")
    if len(X) != len(K):
        raise ValueError(f"`X` and `K` must have the same number of channels; they have {len(X)} and {len(K)}")
    return np.sum([corr2d(x, k, stride=stride, padding=padding) for x, k in zip(X, K, strict=True)], axis=0)


def corr2d_multi_in_out(X: np.ndarray, K: np.ndarray, *, stride: Pair = 1, padding: Pair = 0) -> np.ndarray:
    """Correlate with one kernel per output channel: (C, H, W), (O, C, h, w) -> (O, H', W')."""
    _check_axes("K", K, "(O, C, h, w)")
    return np.stack([corr2d_multi_in(X, k, stride=stride, padding=padding) for k in K])


def corr2d_multi_in_out_1x1(X: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Multiply the channels of every pixel by the matrix K: (C, H, W), (O, C, 1, 1) -> (O, H, W)."""
    _check_axes("X", X, "(C, H, W)")
    if K.shape[1:] != (len(X), 1, 1):
        raise ValueError(f"`K` must have shape (O, {len(X)}, 1, 1) for {len(X)} channels; its shape is {K.shape}")
    return (K.reshape(len(K), len(X)) @ X.reshape(len(X), -1)).reshape(len(K), *X.shape[1:])


def pool2d(
    X: np.ndarray, size: Pair, mode: Literal["max", "avg"], *, stride: Pair = 1, padding: Pair = 0
) -> np.ndarray:
    """Return the maximum or the mean of each window: (H, W) -> (H', W') or (C, H, W) -> (C, H', W').

    The default stride is 1, not the window size. Only 'max' allows padding, with minus infinity, for floating-point X.
    The padding must be smaller than the window, so that each window holds a pixel of the image.
    """
    _check_axes("X", X, "(H, W)", "(C, H, W)")
    if mode not in ("max", "avg"):
        raise ValueError(f"`mode` (={mode!r}) must be 'max' or 'avg'")
    limits = _pair("size", size, 1) if mode == "max" else (1, 1)
    if any(beyond >= limit for beyond, limit in zip(_pair("padding", padding, 0), limits, strict=True)):
        raise ValueError(f"`padding` (={padding}) must be smaller than the window (={size}) for 'max', and 0 for 'avg'")
    pixels = [pixels for _, _, pixels in _slices(X, size, stride, padding, -np.inf)]
    return np.max(pixels, axis=0) if mode == "max" else np.mean(pixels, axis=0)


def learn_kernel(
    X: np.ndarray, Y: np.ndarray, kernel: np.ndarray, *, learning_rate: float = 0.03, steps: int = 10
) -> tuple[np.ndarray, list[float]]:
    """Learn a kernel by gradient descent from `kernel` on the sum of (corr2d(X, kernel) - Y)^2.

    (H, W), (H', W'), (h, w) -> (h, w), and the loss before each step.
    """
    if Y.shape != (shape := corr2d(X, kernel).shape):
        raise ValueError(f"`Y` must have the shape of corr2d(X, kernel), {shape}; its shape is {Y.shape}")
    losses = []
    for _ in range(steps):
        error = corr2d(X, kernel) - Y
        # The derivative of an output by kernel[i, j] is the pixel at (i, j) of its window. Summed over all outputs,
        # each times its error, that is X correlated with the error.
        gradient = 2 * corr2d(X, error)
        kernel = kernel - learning_rate * gradient
        losses.append(float((error**2).sum()))
    return kernel, losses
