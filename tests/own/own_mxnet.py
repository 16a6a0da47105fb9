"""A user-defined network in Gluon: layers in containers without names, activations inside layers."""

from mxnet import npx
from mxnet.gluon import HybridBlock, nn

npx.set_np()


def make(epsilon: float = 1e-3, keep: float = 0.8, rectified: bool = True) -> HybridBlock:
    stem = nn.HybridSequential()
    stem.add(nn.Conv2D(4, 3, strides=2, padding=1), nn.BatchNorm(epsilon=epsilon, momentum=keep))
    net = nn.HybridSequential()
    net.add(
        stem,
        nn.Activation("relu"),
        nn.Conv2D(8, 3, padding=1, groups=2, in_channels=4, activation="relu"),
        nn.AvgPool2D(2),
        nn.Flatten(),
        nn.Dense(6, activation="relu" if rectified else None),
        nn.Dropout(0.5),
        nn.Dense(5),
    )
    return net


NAMES = {"0.0": "conv1", "0.1": "bn1", "2": "conv2", "3": "pool", "5": "fc1", "7": "fc2"}
