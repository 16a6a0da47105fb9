"""AnyNet (Radosavovic et al., 2020, arXiv:2003.13678, section 3.2), the design space that contains RegNetX.

Convolutions keep their bias.
"""

from __future__ import annotations

from common.reference.heads import Head
from common.reference.layers import BatchNorm2d, Conv2d, ReLU, Sequential
from common.reference.resnext import ResNeXtStage

__all__ = ["AnyNet"]


class SmallStem(Sequential):
    """conv 3x3/2, bn, relu: (N, C, H, W) -> (N, channels, H/2, W/2)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        self.conv = Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.bn = BatchNorm2d(channels)
        self.relu = ReLU()


class AnyNet(Sequential):
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
        self.stem = SmallStem(in_channels, stem_channels)
        channels = stem_channels
        for i, (depth, stage_channels, group_width, multiplier) in enumerate(arch, start=1):
            self.add_module(
                f"stage{i}", ResNeXtStage(channels, depth, stage_channels, group_width, multiplier, stride=2)
            )
            channels = stage_channels
        self.head = Head(channels, num_classes)
