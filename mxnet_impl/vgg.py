"""VGG (Simonyan and Zisserman, 2014, arXiv:1409.1556, table 1): stages of 3x3 convolutions, each followed by a pool."""

from __future__ import annotations

from mxnet.gluon import nn

from mxnet_impl.layers import HybridSequential

__all__ = ["VGG", "VGGStage"]


class VGGStage(HybridSequential):
    """(conv 3x3, relu) `num_convs` times, max-pool 2x2.

    (N, C, H, W) -> (N, channels, H/2, W/2).
    """

    def __init__(self, num_convs: int, channels: int) -> None:
        super().__init__()
        for j in range(1, num_convs + 1):
            self.register_child(nn.Conv2D(channels, kernel_size=3, padding=1), f"conv{j}")
            self.register_child(nn.Activation("relu"), f"relu{j}")
        self.pool = nn.MaxPool2D(2)


class VGGHead(HybridSequential):
    """Flatten, (dense 4096, relu, dropout) twice, dense.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Dense(4096)
        self.relu1 = nn.Activation("relu")
        self.dropout1 = nn.Dropout(dropout)
        self.fc2 = nn.Dense(4096)
        self.relu2 = nn.Activation("relu")
        self.dropout2 = nn.Dropout(dropout)
        self.fc3 = nn.Dense(num_classes)


class VGG(HybridSequential):
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
        for i, (num_convs, channels) in enumerate(arch, start=1):
            self.register_child(VGGStage(num_convs, channels), f"stage{i}")
        self.head = VGGHead(num_classes, dropout)
