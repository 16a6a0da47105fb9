"""DenseNet (Huang et al., 2017, arXiv:1608.06993, figure 2): each layer takes the outputs of all earlier ones.

A layer is bn, relu, conv 3x3, without the 1x1 bottleneck of table 1. Convolutions keep their bias.
"""

from __future__ import annotations

from types import ModuleType

from mxnet.gluon import HybridBlock, nn

from mxnet_impl.heads import Stem
from mxnet_impl.layers import BatchNorm, HybridSequential, NamedChildren, Tensor

__all__ = ["DenseBlock", "DenseNet", "Transition"]


class DenseLayer(HybridBlock):
    """bn, relu, conv 3x3, concatenated to the input: (N, C, H, W) -> (N, C + growth_rate, H, W)."""

    def __init__(self, growth_rate: int) -> None:
        super().__init__()
        self.bn = BatchNorm()
        self.relu = nn.Activation("relu")
        self.conv = nn.Conv2D(growth_rate, kernel_size=3, padding=1)

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:  # noqa: N803 (Gluon's own name for it)
        return F.np.concatenate([x, self.conv(self.relu(self.bn(x)))], axis=1)


class DenseBlock(NamedChildren):
    """`num_layers` dense layers: (N, C, H, W) -> (N, C + num_layers * growth_rate, H, W)."""

    def __init__(self, num_layers: int, growth_rate: int) -> None:
        super().__init__()
        for j in range(1, num_layers + 1):
            self.register_child(DenseLayer(growth_rate), f"block{j}")

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:  # noqa: N803 (Gluon's own name for it)
        for block in self._children.values():
            x = block(x)
        return x


class Transition(HybridSequential):
    """bn, relu, conv 1x1, avg-pool 2x2: (N, C, H, W) -> (N, channels, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = BatchNorm()
        self.relu = nn.Activation("relu")
        self.conv = nn.Conv2D(channels, kernel_size=1)
        self.pool = nn.AvgPool2D(2)


class DenseHead(HybridSequential):
    """bn, relu, global average pool, dense: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.bn = BatchNorm()
        self.relu = nn.Activation("relu")
        self.pool = nn.GlobalAvgPool2D()
        self.flatten = nn.Flatten()
        self.fc = nn.Dense(num_classes)


class DenseNet(HybridSequential):
    """Stem, a dense block for each count of `arch` with transitions between, head.

    (N, C, H, W) -> (N, num_classes). Each transition halves the channels (rounding down) and the image.
    """

    def __init__(
        self,
        arch: tuple[int, ...] = (4, 4, 4, 4),
        growth_rate: int = 32,
        num_channels: int = 64,
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (96, 96),
    ) -> None:
        super().__init__()
        self.stem = Stem(num_channels)
        channels = num_channels
        for i, num_layers in enumerate(arch, start=1):
            self.register_child(DenseBlock(num_layers, growth_rate), f"stage{i}")
            channels += num_layers * growth_rate
            if i < len(arch):
                self.register_child(Transition(channels // 2), f"transition{i}")
                channels //= 2
        self.head = DenseHead(num_classes)
