"""Winograd's convolution: 3x3 kernels with fewer multiplications (Lavin and Gray, 2016, arXiv 1509.09308)."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

_Matrix = tuple[tuple[float, ...], ...]


class _Winograd(NamedTuple):
    """Winograd's F(m, 3): m outputs of n = m + 2 pixels, `outputs @ ((images @ pixels) * (kernels @ kernel))`."""

    images: _Matrix
    kernels: _Matrix
    outputs: _Matrix


_WINOGRAD = {
    4: _Winograd(
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
    2: _Winograd(
        images=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        kernels=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
}
"""By the side of a tile of outputs; the first saves more products, the second reads kernels less than half as large."""

_LEAST_CHANNELS = 64

_LEAST_TILES = 32
"""With fewer channels, carrying tiles to and fro takes longer than the products that it saves; with fewer tiles,
reading the kernels does."""


def _transformed(matrix: _Matrix, tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Stack `matrix @ tensors` along a new dimension; what is multiplied by zero is left out, not added."""
    rows = ([factor * tensor for factor, tensor in zip(row, tensors, strict=True) if factor] for row in matrix)
    return torch.stack([functools.reduce(operator.add, terms) for terms in rows], dim)


def _compiled_once(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Have layers of one shape share what a function compiles to; of the transforms, that is most of what compiles.

    A program that is exported has no such parts, and holds each layer's own.
    """
    shared = torch.compiler.nested_compile_region(function)

    @functools.wraps(function)
    def chosen(*args: Any) -> Tensor:
        return (function if torch.compiler.is_exporting() else shared)(*args)

    return chosen


@_compiled_once
def _tiles_of_images(x: Tensor, side: int) -> Tensor:
    """(N, C, H, W) -> (1, pixels C, tiles, 1), transformed: a tile has side + 2 pixels each way, of which 2 overlap."""
    n, _, height, width = x.shape
    rows, columns = -(-height // side), -(-width // side)
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, side * columns + 1 - width, 1, side * rows + 1 - height))
    # One dimension after the other: (N, rows, columns, side + 2, side + 2, C).
    matrix, offsets = _WINOGRAD[side].images, range(side + 2)
    x = _transformed(matrix, [x[:, :, j : j + side * (columns - 1) + 1 : side] for j in offsets], dim=3)
    x = _transformed(matrix, [x[:, i : i + side * (rows - 1) + 1 : side] for i in offsets], dim=3)
    return x.reshape(1, n * rows * columns, 1, -1).permute(0, 3, 1, 2)


@_compiled_once
def _images_of_products(y: Tensor, side: int, n: int, height: int, width: int) -> Tensor:
    """(1, pixels C, tiles, 1) -> (N, C, H, W)."""
    rows, columns = -(-height // side), -(-width // side)
    y = y.permute(0, 2, 3, 1).reshape(n, rows, columns, side + 2, side + 2, -1)
    # (N, rows, side, columns, side + 2, C), then (N, rows, side, columns, side, C), which is the image.
    y = _transformed(_WINOGRAD[side].outputs, y.unbind(3), dim=2)
    y = _transformed(_WINOGRAD[side].outputs, y.unbind(4), dim=4)
    return y.reshape(n, side * rows, side * columns, -1)[:, :height, :width].permute(0, 3, 1, 2)


class WinogradConv2d(nn.Conv2d):
    """conv 3x3 by Winograd's algorithm: (N, C, H, W) -> (N, out_channels, H, W), fastest in channels last.

    Lavin and Gray, 2016, arXiv:1509.09308, section 4: F(4x4, 3x3) makes a tile of 16 pixels from one of 36 by 36
    products for each pair of channels, where the definition takes 144, and F(2x2, 3x3) four pixels by 16 for 36. Images
    of too few tiles of either kind are multiplied out. The kernel is transformed in float64, once if it is a constant
    of what is compiled, and otherwise at each call.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        # No random numbers are drawn for weights that are there already.
        super().__init__(conv.in_channels, conv.out_channels, kernel_size=3, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias

    @staticmethod
    def suits(conv: nn.Conv2d) -> bool:
        """Return whether a convolution is one that this computes, and wide enough for it to be the faster."""
        shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
        return (
            shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
        )

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        for side in _WINOGRAD:
            if n * -(-height // side) * -(-width // side) >= _LEAST_TILES:
                # Each pixel of a tile has a product of matrices of its own: a 1x1 convolution whose pixels are tiles.
                products = F.conv2d(_tiles_of_images(x, side), self._kernel(side), groups=(side + 2) ** 2)
                return _images_of_products(products, side, n, height, width) + self.bias[:, None, None]
        return super().forward(x)

    def _kernel(self, side: int) -> Tensor:
        """Return the transformed kernel, (pixels out_channels, in_channels, 1, 1)."""
        transform = torch.tensor(_WINOGRAD[side].kernels, dtype=torch.float64, device=self.weight.device)
        kernel = torch.einsum("ai,ocij,bj->aboc", transform, self.weight.double(), transform)
        return kernel.reshape(-1, self.in_channels, 1, 1).to(self.weight.dtype)
