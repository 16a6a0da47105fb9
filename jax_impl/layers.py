"""What Flax does otherwise than the suite, or has no module for, put right in one place.

`nnx.Linear` and `nnx.Dropout` already mean what the suite means by them, and models use them as they are. Flax pads
convolutions with `'SAME'` unless told, which at stride 2 is not symmetric on even sizes; its batch normalization keeps
0.99 of the old statistics and computes the variance in a way that loses digits. Its pools are functions; here they are
modules, so that they have a path. XLA has no fast grouped convolution on a processor: `grouped_convolution` is one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

__all__ = [
    "BATCH_NORM_EPSILON",
    "BATCH_NORM_MOMENTUM",
    "RUN_ONCE",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "GlobalAvgPool",
    "MaxPool",
    "flatten",
    "grouped_convolution",
    "image_size",
    "observer",
    "relu",
    "sigmoid",
]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step, which is what Flax means by it too."""

RUN_ONCE: dict[str, str | bool | int | float] = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": "1",
}
"""How XLA is to compile what runs once: nothing optimized, and by the quicker of its two generators of CPU code.

Compiling it takes longer than running it: traces of eight networks, each in two dtypes, 5 s in place of 14 s with the
other generator, their gradients 31 s in place of 62 s.
"""

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
    # `len` is a number, which the batch of an exported program need not be.
    return x.reshape(x.shape[0], -1)


_DENSE_CHANNELS = 32
"""Input channels that one ungrouped convolution takes: fewer leave the processor's vectors idle, more are mostly 0."""


def grouped_convolution(
    x: Array, kernel: Array, strides: tuple[int, int], padding: object, *, feature_group_count: int, **options: Any
) -> Array:
    """`lax.conv_general_dilated` with groups: (N, H, W, C), (h, w, C / groups, D) -> (N, H', W', D).

    On a GPU it is that. XLA's CPU backend computes the gradient by a grouped kernel with plain loops, so there it is
    ungrouped convolutions of a few groups each, side by side, whose kernels are zero between groups: the same numbers
    but for rounding, as long as they are finite. Times as fractions of the plain form's, two threads, float32:

                                               batch 8: inference  step    batch 1: inference  step
        regnetx32, a convolution for each group              0.98  0.18                  1.03  0.25
        regnetx32, one convolution, zero elsewhere           0.87  0.18                  1.00  0.19
        regnetx32, this                                      0.69  0.16                  0.82  0.17
    """
    plain = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    in_width = kernel.shape[2]
    together = max(1, _DENSE_CHANNELS // in_width)

    def dense(x: Array, kernel: Array) -> Array:
        kernels = jnp.split(kernel, feature_group_count, axis=3)
        parts = []
        for first in range(0, feature_group_count, together):
            own = kernels[first : first + together]
            places = [(i * in_width, (len(own) - 1 - i) * in_width) for i in range(len(own))]
            block_diagonal = [
                jnp.pad(each, ((0, 0), (0, 0), place, (0, 0))) for each, place in zip(own, places, strict=True)
            ]
            channels = lax.slice_in_dim(x, first * in_width, (first + len(own)) * in_width, axis=3)
            parts.append(plain(channels, jnp.concatenate(block_diagonal, axis=3)))
        return jnp.concatenate(parts, axis=3)

    return lax.platform_dependent(
        x, kernel, cpu=dense, default=functools.partial(plain, feature_group_count=feature_group_count)
    )


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
            conv_general_dilated=lax.conv_general_dilated if feature_group_count == 1 else grouped_convolution,
            rngs=rngs,
        )


class BatchNorm(nnx.BatchNorm):
    """Batch normalization of (N, C) over the batch, or of (N, H, W, C) over batch, height and width."""

    def __init__(self, num_features: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(
            num_features,
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=BATCH_NORM_EPSILON,
            use_fast_variance=False,
            rngs=rngs,
        )


class MaxPool(nnx.Module):
    """The largest value of each square window: (N, H, W, C) -> (N, H', W', C). Padding is minus infinity.

    `repeats_edges` is to be made True where there is no infinity, as in whole numbers: padding then repeats a pixel
    that each of its windows holds already.
    """

    def __init__(self, window: int, stride: int | None = None, padding: int = 0) -> None:
        self.window, self.stride, self.padding = window, stride or window, padding
        self.repeats_edges = False

    def __call__(self, x: Array) -> Array:
        sides = (self.padding, self.padding)
        if self.repeats_edges:
            x, sides = jnp.pad(x, ((0, 0), sides, sides, (0, 0)), mode="edge"), (0, 0)
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
