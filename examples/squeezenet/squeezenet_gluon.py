"""The small SqueezeNet in Gluon."""

from __future__ import annotations

from mxnet import np, npx
from mxnet.gluon import HybridBlock, nn

npx.set_np()


class Fire(HybridBlock):
    """conv 1x1, relu, then conv 1x1 and conv 3x3 concatenated, relu: (N, C, H, W) -> (N, 2e, H, W)."""

    def __init__(self, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2D(squeeze, kernel_size=1, activation="relu")
        self.expand1x1 = nn.Conv2D(expand, kernel_size=1, activation="relu")
        self.expand3x3 = nn.Conv2D(expand, kernel_size=3, padding=1, activation="relu")

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.squeeze(x)
        return np.concatenate([self.expand1x1(x), self.expand3x3(x)], axis=1)


class SqueezeNet(HybridBlock):
    """conv 3x3/2, pool, two fires, pool, a fire, dropout, conv 1x1, mean: (N, 3, H, W) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(16, kernel_size=3, strides=2, padding=1, activation="relu")
        self.pool1 = nn.MaxPool2D(2)
        self.fire2 = Fire(squeeze=8, expand=16)
        self.fire3 = Fire(squeeze=8, expand=16)
        self.pool3 = nn.MaxPool2D(2)
        self.fire4 = Fire(squeeze=12, expand=24)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2D(10, kernel_size=1, activation="relu")

    def forward(self, x: np.ndarray) -> np.ndarray:
        x = self.pool1(self.conv1(x))
        x = self.pool3(self.fire3(self.fire2(x)))
        x = self.dropout(self.fire4(x))
        return self.classifier(x).mean(axis=(2, 3))
