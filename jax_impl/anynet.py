"""AnyNet (Radosavovic et al., 2020, arXiv:2003.13678, section 3.2), the design space that contains RegNetX.

Convolutions keep their bias.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_impl.heads import Head
from jax_impl.layers import BatchNorm, Conv
from jax_impl.resnext import ResNeXtStage

__all__ = ["AnyNet"]


class SmallStem(nnx.Module):
    """conv 3x3/2, bn, relu: (N, H, W, C) -> (N, H/2, W/2, channels)."""

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs) -> None:
        self.conv = Conv(in_channels, channels, kernel_size=3, stride=2, padding=1, rngs=rngs)
        self.bn = BatchNorm(channels, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.bn(self.conv(x)))


class AnyNet(nnx.Module):
    """Stem, a stride-2 stage for each (depth, channels, group_width, multiplier) of `arch`, head.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int, int, float], ...],
        stem_channels: int = 32,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = SmallStem(in_channels, stem_channels, rngs=rngs)
        self.stages = nnx.List()
        channels = stem_channels
        for depth, stage_channels, group_width, multiplier in arch:
            stage = ResNeXtStage(channels, depth, stage_channels, group_width, multiplier, stride=2, rngs=rngs)
            self.stages.append(stage)
            channels = stage_channels
        self.head = Head(channels, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x)
