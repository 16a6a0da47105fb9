"""ResNet (He et al., 2016, arXiv:1512.03385, table 1 and figure 2): each block adds its input to its output.

Convolutions keep their bias, and the projection on the shortcut has no batch normalization.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_impl.heads import Head, Stem
from jax_impl.layers import BatchNorm, Conv, relu

__all__ = ["ResNet", "Residual"]


class Projection(nnx.Module):
    """conv 1x1/s: (N, H, W, C) -> (N, H/s, W/s, channels)."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.conv = Conv(in_channels, channels, kernel_size=1, stride=stride, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


class Residual(nnx.Module):
    """conv 3x3/s, bn, relu, conv 3x3, bn, add the input or its projection, relu.

    (N, H, W, C) -> (N, H/s, W/s, channels).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        projection: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = Conv(in_channels, channels, kernel_size=3, stride=stride, padding=1, rngs=rngs)
        self.bn1 = BatchNorm(channels, rngs=rngs)
        self.conv2 = Conv(channels, channels, kernel_size=3, padding=1, rngs=rngs)
        self.bn2 = BatchNorm(channels, rngs=rngs)
        self.shortcut = Projection(in_channels, channels, stride, rngs=rngs) if projection else nnx.identity

    def __call__(self, x: Array) -> Array:
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu(y + self.shortcut(x))


class ResNetStage(nnx.Module):
    """`blocks` residual blocks, the first with stride s: (N, H, W, C) -> (N, H/s, W/s, channels).

    Its shortcut is a projection where it changes channels or resolution.
    """

    def __init__(self, in_channels: int, blocks: int, channels: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.num_blocks = blocks
        projection = stride > 1 or in_channels != channels
        self.block1 = Residual(in_channels, channels, stride, projection, rngs=rngs)
        for j in range(2, blocks + 1):
            setattr(self, f"block{j}", Residual(channels, channels, rngs=rngs))

    def __call__(self, x: Array) -> Array:
        for j in range(1, self.num_blocks + 1):
            x = getattr(self, f"block{j}")(x)
        return x


class ResNet(nnx.Module):
    """Stem, a stage for each (blocks, channels) of `arch`, head.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_stages = len(arch)
        self.stem = Stem(in_channels, rngs=rngs)
        channels = 64
        for i, (blocks, stage_channels) in enumerate(arch, start=1):
            stage = ResNetStage(channels, blocks, stage_channels, stride=1 if i == 1 else 2, rngs=rngs)
            setattr(self, f"stage{i}", stage)
            channels = stage_channels
        self.head = Head(channels, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for i in range(1, self.num_stages + 1):
            x = getattr(self, f"stage{i}")(x)
        return self.head(x)
