"""VGG (Simonyan and Zisserman, 2014, arXiv:1409.1556, table 1): stages of 3x3 convolutions, each followed by a pool."""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_impl.layers import Conv, MaxPool

__all__ = ["VGG", "VGGStage"]


class VGGStage(nnx.Module):
    """(conv 3x3, relu) `num_convs` times, max-pool 2x2.

    (N, H, W, C) -> (N, H/2, W/2, channels).
    """

    def __init__(self, in_channels: int, num_convs: int, channels: int, *, rngs: nnx.Rngs) -> None:
        self.convs = nnx.List()
        for _ in range(num_convs):
            self.convs.append(Conv(in_channels, channels, kernel_size=3, padding=1, rngs=rngs))
            in_channels = channels
        self.pool = MaxPool(2)

    def __call__(self, x: Array) -> Array:
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.pool(x)


class VGGHead(nnx.Module):
    """Flatten, (dense 4096, relu, dropout) twice, dense.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(self, in_features: int, num_classes: int, dropout: float, *, rngs: nnx.Rngs) -> None:
        self.fc1 = nnx.Linear(in_features, 4096, rngs=rngs)
        self.dropout1 = nnx.Dropout(dropout, rngs=rngs)
        self.fc2 = nnx.Linear(4096, 4096, rngs=rngs)
        self.dropout2 = nnx.Dropout(dropout, rngs=rngs)
        self.fc3 = nnx.Linear(4096, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.dropout1(nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))
        x = self.dropout2(nnx.relu(self.fc2(x)))
        return self.fc3(x)


class VGG(nnx.Module):
    """A stage for each (num_convs, channels) of `arch`, then the head.

    (N, H, W, C) -> (N, num_classes).
    """

    def __init__(
        self,
        arch: tuple[tuple[int, int], ...],
        num_classes: int = 10,
        in_channels: int = 1,
        input_size: tuple[int, int] = (224, 224),
        dropout: float = 0.5,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stages = nnx.List()
        height, width = input_size
        channels = in_channels
        for num_convs, stage_channels in arch:
            self.stages.append(VGGStage(channels, num_convs, stage_channels, rngs=rngs))
            channels, height, width = stage_channels, height // 2, width // 2
        self.head = VGGHead(height * width * channels, num_classes, dropout, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for stage in self.stages:
            x = stage(x)
        return self.head(x)
