"""Network in network (Lin, Chen and Yan, 2013, arXiv:1312.4400, section 3): two 1x1 convolutions after each larger one.

The larger convolutions have AlexNet's kernel sizes and channels. Dropout is applied once, before the last stage.
"""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_impl.layers import Conv, GlobalAvgPool, MaxPool

__all__ = ["NiN", "NiNStage"]


class NiNStage(nnx.Module):
    """conv, relu, (conv 1x1, relu) twice.

    (N, H, W, C) -> (N, H', W', channels).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = Conv(in_channels, channels, kernel_size, stride, padding, rngs=rngs)
        self.conv2 = Conv(channels, channels, kernel_size=1, rngs=rngs)
        self.conv3 = Conv(channels, channels, kernel_size=1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.conv1(x))
        x = nnx.relu(self.conv2(x))
        return nnx.relu(self.conv3(x))


class NiN(nnx.Module):
    """Four stages with max-pools 3x3/2 between, global average pool.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stage1 = NiNStage(in_channels, 96, kernel_size=11, stride=4, rngs=rngs)
        self.pool1 = MaxPool(3, stride=2)
        self.stage2 = NiNStage(96, 256, kernel_size=5, padding=2, rngs=rngs)
        self.pool2 = MaxPool(3, stride=2)
        self.stage3 = NiNStage(256, 384, kernel_size=3, padding=1, rngs=rngs)
        self.pool3 = MaxPool(3, stride=2)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.stage4 = NiNStage(384, num_classes, kernel_size=3, padding=1, rngs=rngs)
        self.global_pool = GlobalAvgPool()

    def __call__(self, x: Array) -> Array:
        x = self.pool1(self.stage1(x))
        x = self.pool2(self.stage2(x))
        x = self.pool3(self.stage3(x))
        x = self.stage4(self.dropout(x))
        x = self.global_pool(x)
        return x.reshape(x.shape[0], -1)
