"""LeNet with batch normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167), torch's layer and one from scratch.

Unlike LeNet's, the first convolution is not padded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torch_impl.layers import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, BatchNorm1d, BatchNorm2d, Sequential, image_size

__all__ = ["BNLeNet", "BNLeNetScratch", "BatchNorm", "batch_norm"]


@torch.fx.wrap  # A symbolic trace would otherwise compute the root of `variance` once and keep it as a constant.
def batch_norm(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalize by `mean` and `variance`, scale by `weight` and shift by `bias`, each of shape (C,).

    (N, C) or (N, C, H, W) -> the same shape.
    """
    across = (1, -1) + (1,) * (x.dim() - 2)
    normalized = (x - mean.view(across)) / torch.sqrt(variance.view(across) + BATCH_NORM_EPSILON)
    return weight.view(across) * normalized + bias.view(across)


class BatchNorm(nn.Module):
    """Batch normalization from its definition: (N, C) or (N, C, H, W) -> the same shape.

    The statistics of a channel are over the batch and, for images, over height and width. Training normalizes by the
    batch's mean and biased variance, and moves the running statistics toward them. Evaluation normalizes by the
    running statistics.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
        # (C, N) or (C, N * H * W): each row holds all values of one channel.
        values = x.transpose(0, 1).flatten(1)
        mean, variance = values.mean(1), values.var(1, correction=0)
        self.running_mean.lerp_(mean.detach(), 1 - BATCH_NORM_MOMENTUM)
        self.running_var.lerp_(variance.detach(), 1 - BATCH_NORM_MOMENTUM)
        return batch_norm(x, mean, variance, self.weight, self.bias)


class BNLeNet(Sequential):
    """(conv 5x5, bn, sigmoid, avg-pool 2x2) twice, (dense, bn, sigmoid) of 120 and 84, dense.

    (N, C, H, W) -> (N, num_classes).
    """

    norm1d: type[nn.Module] = BatchNorm1d
    norm2d: type[nn.Module] = BatchNorm2d

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.bn1 = self.norm2d(6)
        self.sigmoid1 = nn.Sigmoid()
        self.pool1 = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.bn2 = self.norm2d(16)
        self.sigmoid2 = nn.Sigmoid()
        self.pool2 = nn.AvgPool2d(2)
        height, width = image_size(input_size, self.conv1, self.pool1, self.conv2, self.pool2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.bn3 = self.norm1d(120)
        self.sigmoid3 = nn.Sigmoid()
        self.fc2 = nn.Linear(120, 84)
        self.bn4 = self.norm1d(84)
        self.sigmoid4 = nn.Sigmoid()
        self.fc3 = nn.Linear(84, num_classes)


class BNLeNetScratch(BNLeNet):
    """The same network with `BatchNorm` of this file: (N, C, H, W) -> (N, num_classes)."""

    norm1d = BatchNorm
    norm2d = BatchNorm
