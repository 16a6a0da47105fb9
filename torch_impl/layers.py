"""Layers that PyTorch defines differently from the suite, and a `Sequential` that subclasses can slice.

`nn.Conv2d`, `nn.Linear`, the pools, the activations and `nn.Dropout` need no change, so models use them directly: they
pad symmetrically, pad a max-pool with minus infinity, round output sizes down, and scale kept activations by
1 / (1 - p). Batch normalization differs in the running variance that it keeps.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

__all__ = ["BATCH_NORM_EPSILON", "BATCH_NORM_MOMENTUM", "BatchNorm1d", "BatchNorm2d", "Sequential", "image_size"]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step; torch's own `momentum` is the rest."""


class Sequential(nn.Sequential):
    """Layers run one after another; a slice is a plain `nn.Sequential` of the same layers under the same names.

    torch builds a slice by calling the constructor of the subclass with the layers. The constructors of networks take
    a configuration instead.
    """

    def __getitem__(self, index: int | slice) -> nn.Module:
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self.named_children())[index]))
        return super().__getitem__(index)


@torch.fx.wrap  # One call in a symbolic trace: traced operation by operation, `share` would become a constant.
def _normalize_by_batch(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalize by the batch's mean and biased variance, and move the running statistics toward them."""
    # From zeros, torch computes its share of the unbiased variance, which is rescaled to that of the biased one.
    # `running_var` cannot be passed instead: autograd refuses a backward pass after an operand has changed.
    share = torch.zeros_like(running_var)
    y = F.batch_norm(x, running_mean, share, weight, bias, training=True, momentum=momentum, eps=eps)
    count = x.numel() // x.shape[1]
    running_var.mul_(1 - momentum).add_(share, alpha=(count - 1) / count)
    num_batches_tracked.add_(1)
    return y


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization that keeps the biased running variance (divided by n), as the other frameworks do.

    torch normalizes by the biased variance too, but keeps the unbiased one, which is n / (n - 1) times as large.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=BATCH_NORM_EPSILON, momentum=1 - BATCH_NORM_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):  # A symbolic trace passes a proxy, which has no rank.
            self._check_input_dim(x)
        statistics = self.running_mean, self.running_var
        if not self.training:
            return F.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)
        return _normalize_by_batch(
            x, *statistics, self.num_batches_tracked, self.weight, self.bias, self.momentum, self.eps
        )


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch normalization of (N, C) over the batch."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W) over batch, height and width."""


def image_size(size: tuple[int, int], *layers: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> tuple[int, int]:
    """Return the (height, width) of an image of `size` after `layers`, all of which have square windows."""
    for layer in layers:
        kernel, stride, padding = (
            value[0] if isinstance(value, tuple) else value
            for value in (layer.kernel_size, layer.stride, layer.padding)
        )
        size = tuple((pixels + 2 * padding - kernel) // stride + 1 for pixels in size)
    return size
