"""Layers that Flax lacks, or whose defaults differ from those of the other ports.

Models use `nnx.Linear` and `nnx.Dropout` as they are. The others need a class here:

- Convolutions: Flax pads with `'SAME'` by default, which is asymmetric for even sizes at stride 2. XLA has no fast
  grouped convolution for CPUs, so those are computed by `grouped_convolution`.
- Batch normalization: Flax keeps 0.99 of the running statistics by default, and its fast variance loses digits.
- Pooling: Flax has functions; as modules they have a path.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from jax_impl.grouped_convolution import grouped_convolution

__all__ = [
    "BATCH_NORM_EPSILON",
    "BATCH_NORM_MOMENTUM",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "GlobalAvgPool",
    "MaxPool",
    "image_size",
]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic that a training step keeps. Flax defines its `momentum` the same way."""


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
    """Maximum of each square window: (N, H, W, C) -> (N, H', W', C). Padding is minus infinity.

    Integers have no infinity. Set `repeats_edges` to True for them: padding then repeats the pixels at the border,
    which are in the same windows already.
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
    """Mean of each square window, without overlap: (N, H, W, C) -> (N, H/window, W/window, C)."""

    def __init__(self, window: int) -> None:
        self.window, self.stride, self.padding = window, window, 0

    def __call__(self, x: Array) -> Array:
        return nnx.avg_pool(x, (self.window, self.window), (self.stride, self.stride), padding=((0, 0), (0, 0)))


class GlobalAvgPool(nnx.Module):
    """Mean of each channel, for images of any size: (N, H, W, C) -> (N, 1, 1, C)."""

    def __call__(self, x: Array) -> Array:
        return jnp.mean(x, axis=(1, 2), keepdims=True)


def image_size(size: tuple[int, int], *layers: Conv | MaxPool | AvgPool) -> tuple[int, int]:
    """Return the (height, width) of an image of `size` after `layers`, all with square windows."""
    for layer in layers:
        if isinstance(layer, Conv):
            window, stride = layer.kernel_size[0], layer.strides
        else:
            window, stride = layer.window, layer.stride
        size = tuple((pixels + 2 * layer.padding - window) // stride + 1 for pixels in size)
    return size
