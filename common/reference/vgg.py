"""VGG (Simonyan and Zisserman, 2014, arXiv:1409.1556, table 1): stages of 3x3 convolutions, each followed by a pool."""

from __future__ import annotations

from common.reference.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential

__all__ = ["VGG", "VGGStage"]


class VGGStage(Sequential):
    """(conv 3x3, relu) `num_convs` times, max-pool 2x2: (N, C, H, W) -> (N, channels, H/2, W/2)."""

    def __init__(self, in_channels: int, num_convs: int, channels: int) -> None:
        for j in range(1, num_convs + 1):
            self.add_module(f"conv{j}", Conv2d(in_channels if j == 1 else channels, channels, 3, padding=1))
            self.add_module(f"relu{j}", ReLU())
        self.pool = MaxPool2d(2)


class VGGHead(Sequential):
    """Flatten, (dense 4096, relu, dropout) twice, dense: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, in_features: int, num_classes: int, dropout: float) -> None:
        self.flatten = Flatten()
        self.fc1 = Linear(in_features, 4096)
        self.relu1 = ReLU()
        self.dropout1 = Dropout(dropout)
        self.fc2 = Linear(4096, 4096)
        self.relu2 = ReLU()
        self.dropout2 = Dropout(dropout)
        self.fc3 = Linear(4096, num_classes)


class VGG(Sequential):
    """A stage for each (num_convs, channels) of `arch`, then the head: (N, C, H, W) -> (N, num_classes)."""

    summary_expands = ("head",)

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
    ) -> None:
        channels = in_channels
        for i, (num_convs, stage_channels) in enumerate(arch, start=1):
            self.add_module(f"stage{i}", VGGStage(channels, num_convs, stage_channels))
            channels = stage_channels
        self.head = VGGHead(self.features(in_channels, input_size), num_classes, dropout)
