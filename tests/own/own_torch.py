"""A user's network in PyTorch: layers in unnamed containers, in-place activations."""

from torch import nn


def make(epsilon: float = 1e-3, keep: float = 0.8, rectified: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4, eps=epsilon, momentum=1 - keep)),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(6),
        nn.ReLU(inplace=True) if rectified else nn.Identity(),
        nn.Dropout(0.5),
        nn.Linear(6, 5),
    )


NAMES = {"0.0": "conv1", "0.1": "bn1", "2": "conv2", "4": "pool", "6": "fc1", "9": "fc2"}
