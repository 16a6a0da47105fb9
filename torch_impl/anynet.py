"""AnyNet (Radosavovic et al., 2020, arXiv:2003.13678, section 3.2), the design space that contains RegNetX.

Convolutions keep their bias.
"""

from __future__ import annotations

from torch import nn

from torch_impl.heads import Head
from torch_impl.layers import BatchNorm2d, Sequential
from torch_impl.resnext import ResNeXtStage

__all__ = ["AnyNet"]


class SmallStem(Sequential):
    """conv 3x3/2, bn, relu: (N, C, H, W) -> (N, channels, H/2, W/2)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=3, stride=2, padding=1)
        self.bn = BatchNorm2d(channels)
        self.relu = nn.ReLU()


class AnyNet(Sequential):
    """Stem, a stage with stride 2 for each (depth, channels, group_width, multiplier) of `arch`, head.

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
        self.stem = SmallStem(in_channels, stem_channels)
        channels = stem_channels
        for i, (depth, stage_channels, group_width, multiplier) in enumerate(arch, start=1):
            stage = ResNeXtStage(channels, depth, stage_channels, group_width, multiplier, stride=2)
            self.add_module(f"stage{i}", stage)
            channels = stage_channels
        self.head = Head(channels, num_classes)
