"""The networks in PyTorch as a tutorial would write them: modules of default layers, run eagerly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from benchmarks.plain import arguments
from benchmarks.plain.weights import Layers
from common.catalog import Network

__all__ = ["Eager", "EagerStep", "build", "load", "session", "set_threads", "training_step"]


class Residual(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


def stem(in_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, 64, 7, stride=2, padding=3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]


def head(channels: int, num_classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]


def resnet18(in_channels: int, num_classes: int) -> nn.Module:
    blocks: list[nn.Module] = []
    before = 64
    for channels in (64, 128, 256, 512):
        blocks += [Residual(before, channels, 1 if before == channels else 2), Residual(channels, channels)]
        before = channels
    return nn.Sequential(*stem(in_channels), *blocks, *head(512, num_classes))


def vgg11(in_channels: int, num_classes: int, dropout: float = 0.5) -> nn.Module:
    layers: list[nn.Module] = []
    for convs, channels in ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512)):
        for _ in range(convs):
            layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()]
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    for features in (512 * 7 * 7, 4096):
        layers += [nn.Linear(features, 4096), nn.ReLU(), nn.Dropout(dropout)]
    convolutions, dense = layers[:-6], layers[-6:]
    return nn.Sequential(*convolutions, nn.Flatten(), *dense, nn.Linear(4096, num_classes))


class Inception(nn.Module):
    def __init__(self, in_channels: int, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, c1, 1)
        self.conv2a = nn.Conv2d(in_channels, c2[0], 1)
        self.conv2b = nn.Conv2d(c2[0], c2[1], 3, padding=1)
        self.conv3a = nn.Conv2d(in_channels, c3[0], 1)
        self.conv3b = nn.Conv2d(c3[0], c3[1], 5, padding=2)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.conv4 = nn.Conv2d(in_channels, c4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y1 = F.relu(self.conv1(x))
        y2 = F.relu(self.conv2b(F.relu(self.conv2a(x))))
        y3 = F.relu(self.conv3b(F.relu(self.conv3a(x))))
        y4 = F.relu(self.conv4(self.pool(x)))
        return torch.cat([y1, y2, y3, y4], dim=1)


def googlenet(in_channels: int, num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 64, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(64, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 192, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        Inception(192, 64, (96, 128), (16, 32), 32),
        Inception(256, 128, (128, 192), (32, 96), 64),
        nn.MaxPool2d(3, stride=2, padding=1),
        Inception(480, 192, (96, 208), (16, 48), 64),
        Inception(512, 160, (112, 224), (24, 64), 64),
        Inception(512, 128, (128, 256), (24, 64), 64),
        Inception(512, 112, (144, 288), (32, 64), 64),
        Inception(528, 256, (160, 320), (32, 128), 128),
        nn.MaxPool2d(3, stride=2, padding=1),
        Inception(832, 256, (160, 320), (32, 128), 128),
        Inception(832, 384, (192, 384), (48, 128), 128),
        *head(1024, num_classes),
    )


class DenseLayer(nn.Module):
    def __init__(self, in_channels: int, growth_rate: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth_rate, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], dim=1)


def densenet(in_channels: int, num_classes: int) -> nn.Module:
    layers = stem(in_channels)
    channels, growth_rate = 64, 32
    for stage in range(4):
        if stage > 0:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(4):
            layers.append(DenseLayer(channels, growth_rate))
            channels += growth_rate
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *head(channels, num_classes))


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels // 16)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=stride), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.shortcut(x))


def regnetx32(in_channels: int, num_classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    before = 32
    for depth, channels in ((4, 32), (6, 80)):
        for block in range(depth):
            layers.append(Bottleneck(before, channels, 2 if block == 0 else 1))
            before = channels
    return nn.Sequential(*layers, *head(80, num_classes))


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "vgg11": vgg11,
    "googlenet": googlenet,
    "densenet": densenet,
    "regnetx32": regnetx32,
}


def build(network: Network) -> nn.Module:
    """Return the network with torch's default initialization."""
    return NETWORKS[network.name](**arguments(network))


def load(model: nn.Module, layers: Layers) -> None:
    """Copy canonical weights into the model, in their dtype."""
    kinds = {nn.Conv2d: "conv", nn.Linear: "dense", nn.BatchNorm2d: "norm"}
    for module in model.modules():
        if type(module) in kinds:
            arrays = layers.next(kinds[type(module)])
            module.load_state_dict({leaf: torch.from_numpy(array) for leaf, array in arrays.items()}, strict=False)
    layers.finish()


class Eager:
    """An eager model in evaluation mode."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    def prepare(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(next(self.model.parameters()).dtype)

    def run(self, prepared: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.model(prepared)

    def logits(self, answer: Tensor) -> np.ndarray:
        return answer.numpy()


class EagerStep:
    """SGD on one batch: images (N, C, H, W), labels (N,)."""

    def __init__(self, model: nn.Module, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
        self.images = torch.from_numpy(np.ascontiguousarray(images)).to(next(model.parameters()).dtype)
        self.labels = torch.from_numpy(np.asarray(labels, np.int64))

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def _loaded(network: Network, tensors: Mapping[str, np.ndarray]) -> nn.Module:
    dtype = torch.from_numpy(next(iter(tensors.values()))).dtype
    model = build(network).to(dtype)
    load(model, Layers(network, tensors))
    return model


def set_threads(count: int) -> None:
    """Use `count` threads."""
    torch.set_num_threads(count)


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> Eager:
    """Return the network with these weights, ready for inference."""
    return Eager(_loaded(network, tensors))


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> EagerStep:
    """Return an SGD training step that starts from these weights."""
    return EagerStep(_loaded(network, tensors), images, labels, learning_rate)
