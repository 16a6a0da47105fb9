"""LeNet with batch normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167): Gluon's layer, and one from scratch."""

from __future__ import annotations

from types import ModuleType
from typing import TypeAlias

import mxnet as mx
from mxnet import np
from mxnet.gluon import HybridBlock, nn

from mxnet_impl import layers
from mxnet_impl.layers import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, HybridSequential, Tensor

__all__ = ["BNLeNet", "BNLeNetScratch", "BatchNorm", "batch_norm"]

Arrays: TypeAlias = list[np.ndarray]


def batch_norm(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalize by `mean` and `variance`, scale by `weight`, shift by `bias`, all of shape (C,).

    (N, C) or (N, C, H, W) -> the same shape.
    """
    # A symbol does not know its rank. With the channels last, shape (C,) broadcasts over them at any rank.
    normalized = (x.swapaxes(1, -1) - mean) / (variance + BATCH_NORM_EPSILON) ** 0.5
    return (weight * normalized + bias).swapaxes(1, -1)


class _ChooseStatistics(mx.operator.CustomOp):
    """Training returns the batch's statistics and updates the running ones; evaluation returns the running ones."""

    def forward(self, is_train: bool, req: list[str], in_data: Arrays, out_data: Arrays, aux: Arrays) -> None:
        self.training = is_train
        for batch, running, output, request in zip(in_data, aux, out_data, req, strict=True):
            if is_train:
                running[:] = BATCH_NORM_MOMENTUM * running + (1 - BATCH_NORM_MOMENTUM) * batch
            self.assign(output, request, batch if is_train else running)

    def backward(
        self, req: list[str], out_grad: Arrays, in_data: Arrays, out_data: Arrays, in_grad: Arrays, aux: Arrays
    ) -> None:
        for output, batch, request in zip(out_grad, in_grad, req, strict=True):
            self.assign(batch, request, output if self.training else np.zeros_like(output))


@mx.operator.register("choose_statistics")
class _ChooseStatisticsProperties(mx.operator.CustomOpProp):
    """(C,) mean, (C,) variance -> the same shapes; the running statistics are auxiliary states."""

    def list_arguments(self) -> list[str]:
        return ["mean", "variance"]

    def list_outputs(self) -> list[str]:
        return ["mean", "variance"]

    def list_auxiliary_states(self) -> list[str]:
        return ["running_mean", "running_var"]

    def infer_shape(self, in_shape: list[list[int]]) -> tuple[list[list[int]], ...]:
        return in_shape, in_shape, in_shape

    def create_operator(self, ctx: str, in_shapes: list[list[int]], in_dtypes: list[type]) -> _ChooseStatistics:
        return _ChooseStatistics()


class BatchNorm(HybridBlock):
    """Batch normalization from its definition: (N, C) or (N, C, H, W) -> the same shape.

    Statistics are over the batch, and over height and width of images. Training normalizes by the batch's mean and
    biased variance and updates the running statistics; evaluation normalizes by the running statistics.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = self.params.get("weight", shape=num_features, init="ones")
        self.bias = self.params.get("bias", shape=num_features, init="zeros")
        self.running_mean = self.params.get("running_mean", shape=num_features, init="zeros", differentiable=False)
        self.running_var = self.params.get("running_var", shape=num_features, init="ones", differentiable=False)

    def hybrid_forward(
        self,
        F: ModuleType,  # noqa: N803 (Gluon's own name for it)
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
    ) -> Tensor:
        channels = F.npx.batch_flatten(x.swapaxes(0, 1))
        mean = channels.mean(axis=1)
        # Written out because the gradient of MXNet's `np.var` is zero.
        variance = F.np.square(channels - mean.reshape(-1, 1)).mean(axis=1)
        # The recorded graph of a hybridized network runs without Python code, which therefore can neither read the mode
        # nor update the statistics. An operator receives the mode at every run and may write to its auxiliary states.
        # MXNet has custom operators in its older interface only.
        statistics = (each.as_nd_ndarray() for each in (mean, variance, running_mean, running_var))
        mean, variance = F.Custom(*statistics, op_type="choose_statistics")
        return batch_norm(x, mean.as_np_ndarray(), variance.as_np_ndarray(), weight, bias)


class BNLeNet(HybridSequential):
    """(conv 5x5, bn, sigmoid, avg-pool 2x2) twice, (dense, bn, sigmoid) of 120 and 84, dense.

    (N, C, H, W) -> (N, num_classes). The first convolution is not padded, unlike LeNet's.
    """

    norm: type[HybridBlock] = layers.BatchNorm

    def __init__(self, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(6, kernel_size=5)
        self.bn1 = self.norm(6)
        self.sigmoid1 = nn.Activation("sigmoid")
        self.pool1 = nn.AvgPool2D(2)
        self.conv2 = nn.Conv2D(16, kernel_size=5)
        self.bn2 = self.norm(16)
        self.sigmoid2 = nn.Activation("sigmoid")
        self.pool2 = nn.AvgPool2D(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Dense(120)
        self.bn3 = self.norm(120)
        self.sigmoid3 = nn.Activation("sigmoid")
        self.fc2 = nn.Dense(84)
        self.bn4 = self.norm(84)
        self.sigmoid4 = nn.Activation("sigmoid")
        self.fc3 = nn.Dense(num_classes)


class BNLeNetScratch(BNLeNet):
    """The same network with the batch normalization of this file: (N, C, H, W) -> (N, num_classes)."""

    norm = BatchNorm
