"""What PyTorch does otherwise than the suite, put right in one place.

`nn.Conv2d`, `nn.Linear`, the pools, activations and `nn.Dropout` already mean what the suite means by them: symmetric
padding, minus infinity around a max-pool, floored sizes, kept activations scaled by 1 / (1 - p). Models use them as
they are. Batch normalization differs in the statistics that it keeps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

__all__ = ["BATCH_NORM_EPSILON", "BATCH_NORM_MOMENTUM", "BatchNorm1d", "BatchNorm2d", "image_size"]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step; torch's own `momentum` is the rest."""


class _BiasedStatistics(nn.modules.batchnorm._BatchNorm):
    """Batch normalization whose running variance is the biased one (divided by n), as in the other frameworks.

    torch normalizes by the biased variance too, but keeps the unbiased one: n / (n - 1) times as large.
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
    """Batch normalization of (N, C) over the batch."""


class BatchNorm2d(_BiasedStatistics, nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W) over batch, height and width."""


def image_size(size: tuple[int, int], *layers: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> tuple[int, int]:
    """Return the (height, width) that `layers`, square windows all, make of an image of `size`."""
    for layer in layers:
        kernel, stride, padding = (
            value[0] if isinstance(value, tuple) else value
            for value in (layer.kernel_size, layer.stride, layer.padding)
        )
        size = tuple((pixels + 2 * padding - kernel) // stride + 1 for pixels in size)
    return size
