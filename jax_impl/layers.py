"""What Flax does otherwise than the suite, or has no module for, put right in one place.

`nnx.Linear` and `nnx.Dropout` already mean what the suite means by them, and models use them as they are. Flax pads
convolutions with `'SAME'` unless told, which at stride 2 is not symmetric on even sizes; its batch normalisation keeps
0.99 of the old statistics and computes the variance in a way that loses digits. Its pools are functions; here they are
modules, so that they have a path.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar

import jax.numpy as jnp
from flax import nnx
from jax import Array

__all__ = [
    "BATCH_NORM_EPSILON",
    "BATCH_NORM_MOMENTUM",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "GlobalAvgPool",
    "MaxPool",
    "flatten",
    "image_size",
    "observer",
    "relu",
    "sigmoid",
]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step, which is what Flax means by it too."""

observer: ContextVar[Callable[[str, Array], None] | None] = ContextVar("observer", default=None)
"""What a running trace wants to be told of each activation: its function's name and its output."""


def _observed(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Have a running trace told of the function's calls; being no module, it could not be found by its path."""

    @functools.wraps(function)
    def call(x: Array) -> Array:
        y = function(x)
        observe = observer.get()
        if observe is not None:
            observe(function.__name__, y)
        return y

    return call


@_observed
def relu(x: Array) -> Array:
    """max(x, 0)."""
    return nnx.relu(x)


@_observed
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return nnx.sigmoid(x)


@_observed
def flatten(x: Array) -> Array:
    """(N, H, W, C) -> (N, H * W * C), in that order."""
    return x.reshape(len(x), -1)


class Conv(nnx.Conv):
    """Convolution with a bias, a square kernel and `padding` zeros on every side.

    (N, H, W, in_features) -> (N, H', W', out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        feature_group_count: int = 1,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            (kernel_size, kernel_size),
            stride,
            padding=padding,
            feature_group_count=feature_group_count,
            rngs=rngs,
        )


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation of (N, C) over the batch, or of (N, H, W, C) over batch, height and width."""

    def __init__(self, num_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(
            num_features,
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=BATCH_NORM_EPSILON,
            use_fast_variance=False,
            rngs=rngs,
        )


class MaxPool(nnx.Module):
    """The largest value of each square window: (N, H, W, C) -> (N, H', W', C). Padding is minus infinity."""

    def __init__(self, window: int, stride: int | None = None, padding: int = 0) -> None:
        self.window, self.stride, self.padding = window, stride or window, padding

    def __call__(self, x: Array) -> Array:
        sides = (self.padding, self.padding)
        return nnx.max_pool(x, (self.window, self.window), (self.stride, self.stride), padding=(sides, sides))


class AvgPool(nnx.Module):
    """The mean of each square window, side by side: (N, H, W, C) -> (N, H/window, W/window, C)."""

    def __init__(self, window: int) -> None:
        self.window, self.stride, self.padding = window, window, 0

    def __call__(self, x: Array) -> Array:
        return nnx.avg_pool(x, (self.window, self.window), (self.stride, self.stride), padding=((0, 0), (0, 0)))


class GlobalAvgPool(nnx.Module):
    """The mean of each channel, at any size: (N, H, W, C) -> (N, 1, 1, C)."""

    def __call__(self, x: Array) -> Array:
        return jnp.mean(x, axis=(1, 2), keepdims=True)


def image_size(size: tuple[int, int], *layers: Conv | MaxPool | AvgPool) -> tuple[int, int]:
    """Return the (height, width) that `layers`, square windows all, make of an image of `size`."""
    for layer in layers:
        if isinstance(layer, Conv):
            window, stride = layer.kernel_size[0], layer.strides
        else:
            window, stride = layer.window, layer.stride
        size = tuple((pixels + 2 * layer.padding - window) // stride + 1 for pixels in size)
    return size
