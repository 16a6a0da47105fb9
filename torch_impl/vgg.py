"""VGG (Simonyan and Zisserman, 2014, arXiv:1409.1556, table 1): stages of 3x3 convolutions, each followed by a pool."""

from __future__ import annotations

from torch import nn

from torch_impl.layers import Sequential

__all__ = ["VGG", "VGGStage"]


class VGGStage(Sequential):
    """(conv 3x3, relu) `num_convs` times, max-pool 2x2.

    (N, C, H, W) -> (N, channels, H/2, W/2).
    """

    def __init__(self, in_channels: int, num_convs: int, channels: int) -> None:
        super().__init__()
        for j in range(1, num_convs + 1):
            self.add_module(f"conv{j}", nn.Conv2d(in_channels, channels, kernel_size=3, padding=1))
            self.add_module(f"relu{j}", nn.ReLU())
            in_channels = channels
        self.pool = nn.MaxPool2d(2)


class VGGHead(Sequential):
    """Flatten, (dense 4096, relu, dropout) twice, dense.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, in_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(in_features, 4096)
        self.relu1 = nn.ReLU()
        self.dropout1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(4096, 4096)
        self.relu2 = nn.ReLU()
        self.dropout2 = nn.Dropout(dropout)
        self.fc3 = nn.Linear(4096, num_classes)


class VGG(Sequential):
    """A stage for each (num_convs, channels) of `arch`, then the head.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        height, width = input_size
        channels = in_channels
        for i, (num_convs, stage_channels) in enumerate(arch, start=1):
            self.add_module(f"stage{i}", VGGStage(channels, num_convs, stage_channels))
            channels, height, width = stage_channels, height // 2, width // 2
        self.head = VGGHead(channels * height * width, num_classes, dropout)
