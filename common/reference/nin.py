"""Network in network (Lin, Chen and Yan, 2013, arXiv:1312.4400, section 3): two 1x1 convolutions after each larger one.

The larger convolutions have AlexNet's kernel sizes and channels. Dropout is applied once, before the last stage.
"""

from __future__ import annotations

from common.reference.layers import Conv2d, Dropout, Flatten, GlobalAvgPool2d, MaxPool2d, ReLU, Sequential

__all__ = ["NiN", "NiNStage"]


class NiNStage(Sequential):
    """conv, relu, (conv 1x1, relu) twice: (N, C, H, W) -> (N, channels, H', W')."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        self.conv1 = Conv2d(in_channels, channels, kernel, stride, padding)
        self.relu1 = ReLU()
        self.conv2 = Conv2d(channels, channels, 1)
        self.relu2 = ReLU()
        self.conv3 = Conv2d(channels, channels, 1)
        self.relu3 = ReLU()


class NiN(Sequential):
    """Four stages with max-pools 3x3/2 between, global average pool: (N, C, H, W) -> (N, num_classes)."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
    ) -> None:
        self.stage1 = NiNStage(in_channels, 96, 11, stride=4)
        self.pool1 = MaxPool2d(3, stride=2)
        self.stage2 = NiNStage(96, 256, 5, padding=2)
        self.pool2 = MaxPool2d(3, stride=2)
        self.stage3 = NiNStage(256, 384, 3, padding=1)
        self.pool3 = MaxPool2d(3, stride=2)
        self.dropout = Dropout(dropout)
        self.stage4 = NiNStage(384, num_classes, 3, padding=1)
        self.global_pool = GlobalAvgPool2d()
        self.flatten = Flatten()
