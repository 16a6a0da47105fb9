"""Network in network (Lin, Chen and Yan, 2013, arXiv:1312.4400, section 3): two 1x1 convolutions after each larger one.

The larger convolutions have AlexNet's kernel sizes and channels. Dropout is applied once, before the last stage.
"""

from __future__ import annotations

from mxnet.gluon import nn

from mxnet_impl.layers import HybridSequential

__all__ = ["NiN", "NiNStage"]


class NiNStage(HybridSequential):
    """conv, relu, (conv 1x1, relu) twice.

    (N, C, H, W) -> (N, channels, H', W').
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, kernel_size, stride, padding)
        self.relu1 = nn.Activation("relu")
        self.conv2 = nn.Conv2D(channels, kernel_size=1)
        self.relu2 = nn.Activation("relu")
        self.conv3 = nn.Conv2D(channels, kernel_size=1)
        self.relu3 = nn.Activation("relu")


class NiN(HybridSequential):
    """Four stages with max-pools 3x3/2 between, global average pool.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.stage1 = NiNStage(96, kernel_size=11, stride=4)
        self.pool1 = nn.MaxPool2D(3, strides=2)
        self.stage2 = NiNStage(256, kernel_size=5, padding=2)
        self.pool2 = nn.MaxPool2D(3, strides=2)
        self.stage3 = NiNStage(384, kernel_size=3, padding=1)
        self.pool3 = nn.MaxPool2D(3, strides=2)
        self.dropout = nn.Dropout(dropout)
        self.stage4 = NiNStage(num_classes, kernel_size=3, padding=1)
        self.global_pool = nn.GlobalAvgPool2D()
        self.flatten = nn.Flatten()
