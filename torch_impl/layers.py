"""What PyTorch does otherwise than the suite, put right in one place.

`nn.Conv2d`, `nn.Linear`, the pools, activations and `nn.Dropout` already mean what the suite means by them: symmetric
padding, minus infinity around a max-pool, floored sizes, kept activations scaled by 1 / (1 - p). Models use them as
they are. Batch normalisation differs in the statistics that it keeps. On a processor torch multiplies every convolution
out; `WinogradConv2d` is one that takes fewer products.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

__all__ = ["BATCH_NORM_EPSILON", "BATCH_NORM_MOMENTUM", "BatchNorm1d", "BatchNorm2d", "WinogradConv2d", "image_size"]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step; torch's own `momentum` is the rest."""


class _BiasedStatistics(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation whose running variance is the biased one (divided by n), as in the other frameworks.

    torch normalises by the biased variance too, but keeps the unbiased one: n / (n - 1) times as large.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=BATCH_NORM_EPSILON, momentum=1 - BATCH_NORM_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        self.num_batches_tracked.add_(1)
        # torch adds its share of the unbiased variance to zero; what the biased one's would have been of it is added.
        # It must not be to the statistic itself: autograd refuses a backward pass where what it was given has changed.
        share = torch.zeros_like(self.running_var)
        y = F.batch_norm(x, self.running_mean, share, self.weight, self.bias, True, self.momentum, self.eps)
        count = x.numel() // x.shape[1]
        self.running_var.mul_(BATCH_NORM_MOMENTUM).add_(share, alpha=(count - 1) / count)
        return y


class BatchNorm1d(_BiasedStatistics, nn.BatchNorm1d):
    """Batch normalisation of (N, C) over the batch."""


class BatchNorm2d(_BiasedStatistics, nn.BatchNorm2d):
    """Batch normalisation of (N, C, H, W) over batch, height and width."""


_OF_IMAGES = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OF_KERNELS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OF_OUTPUTS = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
"""Winograd's F(4, 3): with n pixels and a kernel, `of_outputs @ ((of_images @ pixels) * (of_kernels @ kernel))`."""

_LEAST_CHANNELS = 64
_LEAST_TILES = 32
"""With fewer channels, carrying tiles to and fro takes longer than the products that it saves; with fewer tiles,
reading kernels four times as large does."""


def _transformed(matrix: tuple[tuple[float, ...], ...], tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Stack `matrix @ tensors` along a new dimension; what is multiplied by zero is left out, not added."""
    rows = ([factor * tensor for factor, tensor in zip(row, tensors, strict=True) if factor] for row in matrix)
    return torch.stack([functools.reduce(operator.add, terms) for terms in rows], dim)


class WinogradConv2d(nn.Conv2d):
    """conv 3x3 by Winograd's algorithm: (N, C, H, W) -> (N, out_channels, H, W), fastest in channels last.

    Lavin and Gray, 2016, arXiv:1509.09308, section 4: F(4x4, 3x3) makes a tile of 16 pixels from one of 36 by 36
    products for each pair of channels, where the definition takes 144. Few and small images it multiplies out as torch
    does. It answers alone: the kernel is transformed once, in float64, and does not learn. Compiled, on two cores with
    AVX-512, VGG-11 takes 0.78 of the time at batch 1 and 0.68 at batch 8, ResNet-18 0.90 and 0.76.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        # No random numbers are drawn for weights that are there already.
        super().__init__(conv.in_channels, conv.out_channels, kernel_size=3, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        transform = torch.tensor(_OF_KERNELS, dtype=torch.float64, device=conv.weight.device)
        kernel = torch.einsum("ai,ocij,bj->aboc", transform, conv.weight.detach().double(), transform)
        kernel = kernel.reshape(-1, self.in_channels, 1, 1).to(conv.weight.dtype)
        self.register_buffer("kernel", kernel, persistent=False)

    @staticmethod
    def suits(conv: nn.Conv2d) -> bool:
        """Return whether a convolution is one that this computes, and wide enough for it to be the faster."""
        shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
        return (
            shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
        )

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        rows, columns = -(-height // 4), -(-width // 4)
        if n * rows * columns < _LEAST_TILES:
            return super().forward(x)
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 4 * columns + 1 - width, 1, 4 * rows + 1 - height))
        # Tiles of 6x6 pixels begin at every fourth: (n, rows, columns, 6, 6, channels), one dimension after the other.
        x = _transformed(_OF_IMAGES, [x[:, :, j : j + 4 * columns - 3 : 4] for j in range(6)], dim=3)
        x = _transformed(_OF_IMAGES, [x[:, i : i + 4 * rows - 3 : 4] for i in range(6)], dim=3)
        # Each of the 36 has a product of matrices of its own: a convolution 1x1 in 36 groups, whose pixels are tiles.
        tiles = x.reshape(1, n * rows * columns, 1, -1).permute(0, 3, 1, 2)
        products = F.conv2d(tiles, self.kernel, groups=36)
        y = products.permute(0, 2, 3, 1).reshape(n, rows, columns, 6, 6, self.out_channels)
        # (n, rows, 4, columns, 6, channels), then (n, rows, 4, columns, 4, channels), which is the image.
        y = _transformed(_OF_OUTPUTS, y.unbind(3), dim=2)
        y = _transformed(_OF_OUTPUTS, y.unbind(4), dim=4)
        y = y.reshape(n, 4 * rows, 4 * columns, self.out_channels)
        return (y[:, :height, :width] + self.bias).permute(0, 3, 1, 2)


def image_size(size: tuple[int, int], *layers: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> tuple[int, int]:
    """Return the (height, width) that `layers`, square windows all, make of an image of `size`."""
    for layer in layers:
        kernel, stride, padding = (
            value[0] if isinstance(value, tuple) else value
            for value in (layer.kernel_size, layer.stride, layer.padding)
        )
        size = tuple((pixels + 2 * padding - kernel) // stride + 1 for pixels in size)
    return size
