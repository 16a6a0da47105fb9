"""Cross-correlation, pooling and a kernel learned by gradient descent, from their definitions.

Source: Zhang, Lipton, Li and Smola, Dive into Deep Learning, chapter 7. As there, no array has a batch axis: an image
is (H, W) or (C, H, W), a kernel (h, w), (C, h, w) or (O, C, h, w). A stride, a padding or a size is one number for
both axes or a pair (vertical, horizontal). An invalid argument raises ValueError.

The operators loop over the h * w positions in a window instead of over the windows. The pixels at one position of all
windows are a strided slice of X, as large as the output, so each iteration is one operation on whole images.
"""

# ruff: noqa: N803 (X, Y and K are the source's names)

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

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
        raise ValueError(f"`{name}` (={value}) must be {minimum} or more, for both axes or as a pair")
    return pair


def _check_axes(name: str, x: Tensor, *axes: str) -> None:
    if x.ndim not in [each.count(",") + 1 for each in axes] or 0 in x.shape:
        raise ValueError(f"`{name}` must be {' or '.join(axes)} and not empty, and has shape {tuple(x.shape)}")


def _cuts(x: Tensor, size: Pair, stride: Pair, padding: Pair, fill: float) -> Iterator[tuple[int, int, Tensor]]:
    """Iterate over the positions (i, j) in a window, with the pixels at each of all windows: (..., H', W')."""
    (height, width), (down, right) = _pair("size", size, 1), _pair("stride", stride, 1)
    above, left = _pair("padding", padding, 0)
    if above or left:
        x = F.pad(x, (left, left, above, above), value=fill)
    rows, columns = (x.shape[-2] - height) // down + 1, (x.shape[-1] - width) // right + 1
    if rows < 1 or columns < 1:
        padded = f"{x.shape[-2]}x{x.shape[-1]}"
        raise ValueError(f"a {height}x{width} window must fit into the image, which is {padded} with its padding")
    for i in range(height):
        for j in range(width):
            yield i, j, x[..., i : i + rows * down : down, j : j + columns * right : right]


def corr2d(X: Tensor, K: Tensor, *, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """Cross-correlate an image, padded with zeros, with a kernel: each output is the sum of a window times the kernel.

    (H, W), (h, w) -> (H', W'), where H' = floor((H + 2 padding - h) / stride) + 1, and W' likewise.
    """
    _check_axes("X", X, "(H, W)")
    _check_axes("K", K, "(h, w)")
    return sum(K[i, j] * pixels for i, j, pixels in _cuts(X, K.shape, stride, padding, 0.0))


class Conv2D(nn.Module):
    """Cross-correlation with one kernel, plus a bias: (H, W) -> (H - h + 1, W - w + 1)."""

    def __init__(self, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(kernel_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return corr2d(x, self.weight) + self.bias


def corr2d_multi_in(X: Tensor, K: Tensor, *, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """Cross-correlate each channel with its own kernel, and sum the channels: (C, H, W), (C, h, w) -> (H', W')."""
    _check_axes("X", X, "(C, H, W)")
    _check_axes("K", K, "(C, h, w)")
    if len(X) != len(K):
        raise ValueError(f"`X` and `K` must have the same channels, and have {len(X)} and {len(K)}")
    return sum(corr2d(x, k, stride=stride, padding=padding) for x, k in zip(X, K, strict=True))


def corr2d_multi_in_out(X: Tensor, K: Tensor, *, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """Compute each output channel with its own kernel: (C, H, W), (O, C, h, w) -> (O, H', W')."""
    _check_axes("K", K, "(O, C, h, w)")
    return torch.stack([corr2d_multi_in(X, k, stride=stride, padding=padding) for k in K])


def corr2d_multi_in_out_1x1(X: Tensor, K: Tensor) -> Tensor:
    """Multiply the channels of every pixel by the matrix K: (C, H, W), (O, C, 1, 1) -> (O, H, W)."""
    _check_axes("X", X, "(C, H, W)")
    if tuple(K.shape)[1:] != (len(X), 1, 1):
        raise ValueError(f"`K` must be (O, {len(X)}, 1, 1) for {len(X)} channels, and has shape {tuple(K.shape)}")
    return (K.reshape(len(K), len(X)) @ X.reshape(len(X), -1)).reshape(len(K), *X.shape[1:])


def pool2d(X: Tensor, size: Pair, mode: Literal["max", "avg"], *, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """Take the largest value or the mean of each window: (H, W) -> (H', W') or (C, H, W) -> (C, H', W').

    The default stride is 1, not the size. Only 'max' takes padding, which is minus infinity, needs a floating-point X
    and must be smaller than the window, so that no window lies in the padding.
    """
    _check_axes("X", X, "(H, W)", "(C, H, W)")
    if mode not in ("max", "avg"):
        raise ValueError(f"`mode` (={mode!r}) must be 'max' or 'avg'")
    limits = _pair("size", size, 1) if mode == "max" else (1, 1)
    if any(beyond >= limit for beyond, limit in zip(_pair("padding", padding, 0), limits, strict=True)):
        raise ValueError(f"`padding` (={padding}) must be less than the window (={size}) of 'max', and 0 for 'avg'")
    pixels = [pixels for _, _, pixels in _cuts(X, size, stride, padding, -torch.inf)]
    return functools.reduce(torch.maximum, pixels) if mode == "max" else sum(pixels) / len(pixels)


def learn_kernel(
    X: Tensor, Y: Tensor, kernel: Tensor, *, learning_rate: float = 0.03, steps: int = 10
) -> tuple[Tensor, list[Tensor]]:
    """Minimize the sum of (corr2d(X, kernel) - Y)^2 by gradient descent from `kernel`.

    (H, W), (H', W'), (h, w) -> the learned kernel (h, w), and the loss before each step.
    """
    if Y.shape != (expected := corr2d(X, kernel).shape):
        raise ValueError(f"`Y` must be {tuple(expected)} as corr2d(X, kernel) is, and has shape {tuple(Y.shape)}")
    kernel = kernel.detach().clone().requires_grad_()
    losses = []
    for _ in range(steps):
        loss = ((corr2d(X, kernel) - Y) ** 2).sum()
        loss.backward()
        with torch.no_grad():
            kernel -= learning_rate * kernel.grad
        # backward() adds to an existing gradient.
        kernel.grad = None
        losses.append(loss.detach())
    return kernel.detach(), losses
