"""What PyTorch does otherwise than the suite, put right in one place.

`nn.Conv2d`, `nn.Linear`, the pools, activations and `nn.Dropout` already mean what the suite means by them: symmetric
padding, minus infinity around a max-pool, floored sizes, kept activations scaled by 1 / (1 - p). Models use them as
they are. Batch normalisation differs in the statistics that it keeps. On a processor torch multiplies every convolution
out; `WinogradConv2d` is one that takes fewer products.
"""

from __future__ import annotations

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

_LEAST_CHANNELS = 128
_LEAST_TILES = 32
"""With fewer of either, carrying tiles to and fro takes longer than the products that it saves."""


class WinogradConv2d(nn.Conv2d):
    """conv 3x3 by Winograd's algorithm: (N, C, H, W) -> (N, out_channels, H, W), fastest in channels last.

    Lavin and Gray, 2016, arXiv:1509.09308, section 4: F(4x4, 3x3) makes a tile of 16 pixels from one of 36 by 36
    products for each pair of channels, where the definition takes 144. Few and small images it multiplies out as torch
    does. It answers alone: the kernel is transformed once, in float64, and does not learn. Compiled, at batch 8, on two
    cores with AVX2, ResNet-18 takes 0.80 of the time; at batch 1 few of its layers have tiles enough: nothing is won.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        # No random numbers are drawn for weights that are there already.
        super().__init__(conv.in_channels, conv.out_channels, kernel_size=3, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        images, kernels, outputs = (
            torch.tensor(rows, dtype=torch.float64, device=conv.weight.device)
            for rows in (_OF_IMAGES, _OF_KERNELS, _OF_OUTPUTS)
        )
        kernel = torch.einsum("ai,ocij,bj->abco", kernels, conv.weight.detach().double(), kernels).flatten(0, 1)
        for name, values in (
            ("of_images", torch.kron(images, images)),
            ("kernel", kernel),
            ("of_outputs", torch.kron(outputs, outputs)),
        ):
            self.register_buffer(name, values.to(conv.weight.dtype).contiguous(), persistent=False)

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
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 4 * columns + 1 - width, 1, 4 * rows + 1 - height))
        # The pixels of a tile come first: each transform is one product of matrices, and so is each pixel's.
        tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
        products = torch.bmm((self.of_images @ tiles).view(36, -1, self.in_channels), self.kernel)
        made = (self.of_outputs @ products.view(36, -1)).view(4, 4, n, rows, columns, self.out_channels)
        y = made.permute(2, 3, 0, 4, 1, 5).reshape(n, 4 * rows, 4 * columns, self.out_channels)
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
