"""AnyNet (Radosavovic et al., 2020, arXiv:2003.13678, section 3.2), the design space that contains RegNetX.

Convolutions keep their bias.
"""

from __future__ import annotations

from mxnet.gluon import nn

from mxnet_impl.heads import Head
from mxnet_impl.layers import BatchNorm, HybridSequential
from mxnet_impl.resnext import ResNeXtStage

__all__ = ["AnyNet"]


class SmallStem(HybridSequential):
    """conv 3x3/2, bn, relu: (N, C, H, W) -> (N, channels, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels, kernel_size=3, strides=2, padding=1)
        self.bn = BatchNorm()
        self.relu = nn.Activation("relu")


class AnyNet(HybridSequential):
    """Stem, a stride-2 stage for each (depth, channels, group_width, multiplier) of `arch`, head.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int, int, float], ...],
        stem_channels: int = 32,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
    ) -> None:
        super().__init__()
        self.stem = SmallStem(stem_channels)
        for i, (depth, channels, group_width, multiplier) in enumerate(arch, start=1):
            self.register_child(ResNeXtStage(depth, channels, group_width, multiplier, stride=2), f"stage{i}")
        self.head = Head(num_classes)
