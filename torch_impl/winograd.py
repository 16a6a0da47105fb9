"""Winograd's algorithm for 3x3 convolutions (Lavin and Gray, 2016, arXiv:1509.09308), as an `nn.Conv2d`.

It needs 2.25 to 4 times fewer multiplications than the definition but moves more data, so it is faster only with many
channels and with large batches or images.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

__all__ = ["WinogradConv2d"]

_Matrix = tuple[tuple[float, ...], ...]


class _Transforms(NamedTuple):
    """The matrices of F(m, 3), which computes m outputs from m + 2 pixels: A^T ((G kernel) * (B^T pixels)).

    `images` is B^T, `kernels` is G and `outputs` is A^T of section 4.1 of the paper.
    """

    images: _Matrix
    kernels: _Matrix
    outputs: _Matrix


_TRANSFORMS = {
    4: _Transforms(
        images=(
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        kernels=(
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        outputs=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
    2: _Transforms(
        images=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        kernels=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
}
"""The transforms by m, the side of a tile of outputs. 4 saves more products; 2 has a transformed kernel less than half
as large, which suits small images."""

_MIN_CHANNELS = 64
"""With fewer channels, transforming the tiles takes longer than the products that it saves."""

_MIN_TILES = 32
"""With fewer tiles, reading the transformed kernel takes longer than the products that it saves."""


def _transform(matrix: _Matrix, tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Stack `matrix @ tensors` along a new dimension; terms with a factor of zero are left out."""
    rows = ([factor * tensor for factor, tensor in zip(row, tensors, strict=True) if factor] for row in matrix)
    return torch.stack([functools.reduce(operator.add, terms) for terms in rows], dim)


def _compiled_once(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let layers of one shape share a function's compiled code, which saves most of the compilation time.

    An exported program cannot hold such a region, so there each layer has its own code.
    """
    shared = torch.compiler.nested_compile_region(function)

    @functools.wraps(function)
    def call(*args: Any) -> Tensor:
        return (function if torch.compiler.is_exporting() else shared)(*args)

    return call


@_compiled_once
def _transform_images(x: Tensor, side: int) -> Tensor:
    """Cut images into tiles of (side + 2)^2 pixels, overlapping by 2, and transform each tile.

    (N, C, H, W) -> (1, pixels * C, tiles, 1).
    """
    n, _, height, width = x.shape
    rows, columns = -(-height // side), -(-width // side)
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, side * columns + 1 - width, 1, side * rows + 1 - height))
    # One dimension after the other: (N, rows, columns, side + 2, side + 2, C).
    matrix, offsets = _TRANSFORMS[side].images, range(side + 2)
    x = _transform(matrix, [x[:, :, j : j + side * (columns - 1) + 1 : side] for j in offsets], dim=3)
    x = _transform(matrix, [x[:, i : i + side * (rows - 1) + 1 : side] for i in offsets], dim=3)
    return x.reshape(1, n * rows * columns, 1, -1).permute(0, 3, 1, 2)


@_compiled_once
def _transform_outputs(y: Tensor, side: int, n: int, height: int, width: int) -> Tensor:
    """Transform products to tiles of outputs, and join the tiles: (1, pixels * C, tiles, 1) -> (N, C, H, W)."""
    rows, columns = -(-height // side), -(-width // side)
    y = y.permute(0, 2, 3, 1).reshape(n, rows, columns, side + 2, side + 2, -1)
    # (N, rows, side, columns, side + 2, C), then (N, rows, side, columns, side, C), which is the image.
    y = _transform(_TRANSFORMS[side].outputs, y.unbind(3), dim=2)
    y = _transform(_TRANSFORMS[side].outputs, y.unbind(4), dim=4)
    return y.reshape(n, side * rows, side * columns, -1)[:, :height, :width].permute(0, 3, 1, 2)


class WinogradConv2d(nn.Conv2d):
    """conv 3x3 with padding 1 by Winograd's algorithm: (N, C, H, W) -> (N, out_channels, H, W).

    For each pair of channels, F(4x4, 3x3) computes a tile of 16 outputs with 36 products in place of 144, and
    F(2x2, 3x3) a tile of 4 outputs with 16 in place of 36. Inputs with too few tiles of either size are convolved
    directly. The kernel is transformed in float64: once if it is a constant of a compiled program, else at each call.
    Fastest with images in channels-last memory.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        # On the meta device, no random weights are drawn only to be replaced.
        super().__init__(conv.in_channels, conv.out_channels, kernel_size=3, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias

    @staticmethod
    def applies_to(conv: nn.Conv2d) -> bool:
        """Return whether `conv` is a 3x3 convolution that this class computes, with enough channels to be faster."""
        shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
        channels = min(conv.in_channels, conv.out_channels)
        return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and channels >= _MIN_CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        for side in _TRANSFORMS:
            if n * -(-height // side) * -(-width // side) >= _MIN_TILES:
                # Each pixel of a tile has its own matrix product: one group of a 1x1 convolution over the tiles.
                products = F.conv2d(_transform_images(x, side), self._kernel(side), groups=(side + 2) ** 2)
                return _transform_outputs(products, side, n, height, width) + self.bias[:, None, None]
        return super().forward(x)

    def _kernel(self, side: int) -> Tensor:
        """Return the transformed kernel, (pixels * out_channels, in_channels, 1, 1)."""
        transform = torch.tensor(_TRANSFORMS[side].kernels, dtype=torch.float64, device=self.weight.device)
        kernel = torch.einsum("ai,ocij,bj->aboc", transform, self.weight.double(), transform)
        return kernel.reshape(-1, self.in_channels, 1, 1).to(self.weight.dtype)
