"""GoogLeNet (Szegedy et al., 2015, arXiv:1409.4842, table 1).

Without auxiliary classifiers, local response normalization and dropout.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_impl.heads import Head
from jax_impl.layers import Conv, MaxPool

__all__ = ["GoogLeNet", "Inception"]


class PointwiseBranch(nnx.Module):
    """conv 1x1, relu: (N, H, W, C) -> (N, H, W, channels)."""

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs) -> None:
        self.conv = Conv(in_channels, channels, kernel_size=1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.conv(x))


class Branch(nnx.Module):
    """conv 1x1, relu, conv `kernel_size`, relu: (N, H, W, C) -> (N, H, W, channels[1])."""

    def __init__(self, in_channels: int, channels: tuple[int, int], kernel_size: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = Conv(in_channels, channels[0], kernel_size=1, rngs=rngs)
        self.conv2 = Conv(channels[0], channels[1], kernel_size, padding=kernel_size // 2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.conv2(nnx.relu(self.conv1(x))))


class PoolBranch(nnx.Module):
    """max-pool 3x3/1, conv 1x1, relu: (N, H, W, C) -> (N, H, W, channels)."""

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs) -> None:
        self.pool = MaxPool(3, stride=1, padding=1)
        self.conv = Conv(in_channels, channels, kernel_size=1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.conv(self.pool(x)))


class Inception(nnx.Module):
    """1x1 | 1x1, 3x3 | 1x1, 5x5 | max-pool, 1x1, concatenated.

    (N, H, W, C) -> (N, H, W, c1 + c2[1] + c3[1] + c4).
    """

    def __init__(
        self,
        in_channels: int,
        c1: int,
        c2: tuple[int, int],
        c3: tuple[int, int],
        c4: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.branch1 = PointwiseBranch(in_channels, c1, rngs=rngs)
        self.branch2 = Branch(in_channels, c2, kernel_size=3, rngs=rngs)
        self.branch3 = Branch(in_channels, c3, kernel_size=5, rngs=rngs)
        self.branch4 = PoolBranch(in_channels, c4, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], axis=-1)


class Stem(nnx.Module):
    """conv 7x7/2, max-pool 3x3/2, conv 1x1, conv 3x3, max-pool 3x3/2, relu after each conv.

    (N, H, W, C) -> (N, H/8, W/8, 192).
    """

    def __init__(self, in_channels: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = Conv(in_channels, 64, kernel_size=7, stride=2, padding=3, rngs=rngs)
        self.pool1 = MaxPool(3, stride=2, padding=1)
        self.conv2 = Conv(64, 64, kernel_size=1, rngs=rngs)
        self.conv3 = Conv(64, 192, kernel_size=3, padding=1, rngs=rngs)
        self.pool2 = MaxPool(3, stride=2, padding=1)

    def __call__(self, x: Array) -> Array:
        x = self.pool1(nnx.relu(self.conv1(x)))
        x = nnx.relu(self.conv2(x))
        return self.pool2(nnx.relu(self.conv3(x)))


class Stage1(nnx.Module):
    """Two Inception blocks, max-pool 3x3/2: (N, H, W, 192) -> (N, H/2, W/2, 480)."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.block1 = Inception(192, 64, (96, 128), (16, 32), 32, rngs=rngs)
        self.block2 = Inception(256, 128, (128, 192), (32, 96), 64, rngs=rngs)
        self.pool = MaxPool(3, stride=2, padding=1)

    def __call__(self, x: Array) -> Array:
        return self.pool(self.block2(self.block1(x)))


class Stage2(nnx.Module):
    """Five Inception blocks, max-pool 3x3/2: (N, H, W, 480) -> (N, H/2, W/2, 832)."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.block1 = Inception(480, 192, (96, 208), (16, 48), 64, rngs=rngs)
        self.block2 = Inception(512, 160, (112, 224), (24, 64), 64, rngs=rngs)
        self.block3 = Inception(512, 128, (128, 256), (24, 64), 64, rngs=rngs)
        self.block4 = Inception(512, 112, (144, 288), (32, 64), 64, rngs=rngs)
        self.block5 = Inception(528, 256, (160, 320), (32, 128), 128, rngs=rngs)
        self.pool = MaxPool(3, stride=2, padding=1)

    def __call__(self, x: Array) -> Array:
        x = self.block2(self.block1(x))
        x = self.block4(self.block3(x))
        return self.pool(self.block5(x))


class Stage3(nnx.Module):
    """Two Inception blocks: (N, H, W, 832) -> (N, H, W, 1024)."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.block1 = Inception(832, 256, (160, 320), (32, 128), 128, rngs=rngs)
        self.block2 = Inception(832, 384, (192, 384), (48, 128), 128, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.block2(self.block1(x))


class GoogLeNet(nnx.Module):
    """Stem, nine Inception blocks in three stages, head.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = Stem(in_channels, rngs=rngs)
        self.stage1 = Stage1(rngs=rngs)
        self.stage2 = Stage2(rngs=rngs)
        self.stage3 = Stage3(rngs=rngs)
        self.head = Head(1024, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stage1(self.stem(x))
        x = self.stage3(self.stage2(x))
        return self.head(x)
