"""The networks in MXNet as a tutorial of Gluon would write them: blocks of default layers, hybridized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, npx
from mxnet.gluon import HybridBlock, nn

from benchmarks.plain import arguments
from benchmarks.plain.weights import Layers
from common.catalog import Network

__all__ = ["Inference", "Step", "build", "load", "session", "set_threads", "training_step"]
IMPERATIVE = "plain-mxnet-imperative"
"""The path without `hybridize`."""


def sequential(*layers: HybridBlock) -> nn.HybridSequential:
    container = nn.HybridSequential()
    container.add(*layers)
    return container


def stem() -> list[HybridBlock]:
    return [
        nn.Conv2D(64, 7, strides=2, padding=3),
        nn.BatchNorm(),
        nn.Activation("relu"),
        nn.MaxPool2D(3, strides=2, padding=1),
    ]


def head(num_classes: int) -> list[HybridBlock]:
    return [nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(num_classes)]


class Residual(HybridBlock):
    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, 3, strides=stride, padding=1)
        self.bn1 = nn.BatchNorm()
        self.conv2 = nn.Conv2D(channels, 3, padding=1)
        self.bn2 = nn.BatchNorm()
        self.shortcut = nn.Conv2D(channels, 1, strides=stride) if stride > 1 else None

    def hybrid_forward(self, F: ModuleType, x: mx.np.ndarray) -> mx.np.ndarray:  # noqa: N803 (Gluon's own name for it)
        y = F.npx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.npx.relu(y + (self.shortcut(x) if self.shortcut else x))


def resnet18(num_classes: int) -> HybridBlock:
    blocks = [
        Residual(channels, 2 if block == 0 and channels > 64 else 1)
        for channels in (64, 128, 256, 512)
        for block in range(2)
    ]
    return sequential(*stem(), *blocks, *head(num_classes))


def vgg11(num_classes: int, dropout: float = 0.5) -> HybridBlock:
    layers: list[HybridBlock] = []
    for convs, channels in ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512)):
        layers += [nn.Conv2D(channels, 3, padding=1, activation="relu") for _ in range(convs)]
        layers.append(nn.MaxPool2D(2))
    for _ in range(2):
        layers += [nn.Dense(4096, activation="relu"), nn.Dropout(dropout)]
    return sequential(*layers, nn.Dense(num_classes))


class Inception(HybridBlock):
    def __init__(self, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(c1, 1, activation="relu")
        self.conv2a = nn.Conv2D(c2[0], 1, activation="relu")
        self.conv2b = nn.Conv2D(c2[1], 3, padding=1, activation="relu")
        self.conv3a = nn.Conv2D(c3[0], 1, activation="relu")
        self.conv3b = nn.Conv2D(c3[1], 5, padding=2, activation="relu")
        self.pool = nn.MaxPool2D(3, strides=1, padding=1)
        self.conv4 = nn.Conv2D(c4, 1, activation="relu")

    def hybrid_forward(self, F: ModuleType, x: mx.np.ndarray) -> mx.np.ndarray:  # noqa: N803 (Gluon's own name for it)
        y1 = self.conv1(x)
        y2 = self.conv2b(self.conv2a(x))
        y3 = self.conv3b(self.conv3a(x))
        y4 = self.conv4(self.pool(x))
        return F.np.concatenate([y1, y2, y3, y4], axis=1)


def googlenet(num_classes: int) -> HybridBlock:
    return sequential(
        nn.Conv2D(64, 7, strides=2, padding=3, activation="relu"),
        nn.MaxPool2D(3, strides=2, padding=1),
        nn.Conv2D(64, 1, activation="relu"),
        nn.Conv2D(192, 3, padding=1, activation="relu"),
        nn.MaxPool2D(3, strides=2, padding=1),
        Inception(64, (96, 128), (16, 32), 32),
        Inception(128, (128, 192), (32, 96), 64),
        nn.MaxPool2D(3, strides=2, padding=1),
        Inception(192, (96, 208), (16, 48), 64),
        Inception(160, (112, 224), (24, 64), 64),
        Inception(128, (128, 256), (24, 64), 64),
        Inception(112, (144, 288), (32, 64), 64),
        Inception(256, (160, 320), (32, 128), 128),
        nn.MaxPool2D(3, strides=2, padding=1),
        Inception(256, (160, 320), (32, 128), 128),
        Inception(384, (192, 384), (48, 128), 128),
        *head(num_classes),
    )


class DenseLayer(HybridBlock):
    def __init__(self, growth_rate: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm()
        self.conv = nn.Conv2D(growth_rate, 3, padding=1)

    def hybrid_forward(self, F: ModuleType, x: mx.np.ndarray) -> mx.np.ndarray:  # noqa: N803 (Gluon's own name for it)
        return F.np.concatenate([x, self.conv(F.npx.relu(self.bn(x)))], axis=1)


def densenet(num_classes: int) -> HybridBlock:
    layers = stem()
    channels, growth_rate = 64, 32
    for stage in range(4):
        if stage > 0:
            channels //= 2
            layers += [nn.BatchNorm(), nn.Activation("relu"), nn.Conv2D(channels, 1), nn.AvgPool2D(2)]
        layers += [DenseLayer(growth_rate) for _ in range(4)]
        channels += 4 * growth_rate
    return sequential(*layers, nn.BatchNorm(), nn.Activation("relu"), *head(num_classes))


class Bottleneck(HybridBlock):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, 1)
        self.bn1 = nn.BatchNorm()
        self.conv2 = nn.Conv2D(channels, 3, strides=stride, padding=1, groups=channels // 16)
        self.bn2 = nn.BatchNorm()
        self.conv3 = nn.Conv2D(channels, 1)
        self.bn3 = nn.BatchNorm()
        self.shortcut = sequential(nn.Conv2D(channels, 1, strides=stride), nn.BatchNorm()) if stride > 1 else None

    def hybrid_forward(self, F: ModuleType, x: mx.np.ndarray) -> mx.np.ndarray:  # noqa: N803 (Gluon's own name for it)
        y = F.npx.relu(self.bn1(self.conv1(x)))
        y = F.npx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.npx.relu(y + (self.shortcut(x) if self.shortcut else x))


def regnetx32(num_classes: int) -> HybridBlock:
    blocks = [
        Bottleneck(channels, 2 if block == 0 else 1) for depth, channels in ((4, 32), (6, 80)) for block in range(depth)
    ]
    layers = [nn.Conv2D(32, 3, strides=2, padding=1), nn.BatchNorm(), nn.Activation("relu")]
    return sequential(*layers, *blocks, *head(num_classes))


NETWORKS: Mapping[str, Callable[..., HybridBlock]] = {
    "resnet18": resnet18,
    "vgg11": vgg11,
    "googlenet": googlenet,
    "densenet": densenet,
    "regnetx32": regnetx32,
}


def build(network: Network) -> HybridBlock:
    """Return the network with Gluon's default initialization, for `mx.np` arrays."""
    # Gluon's layers check this switch at every call: without it they compute on MXNet's older arrays.
    npx.set_np()
    settings = arguments(network)
    del settings["in_channels"]  # Gluon infers input channels
    model = NETWORKS[network.name](**settings)
    model.initialize()
    model(mx.np.zeros((1, *network.input_shape)))
    return model


def _in_order(block: HybridBlock) -> Iterator[HybridBlock]:
    """Yield a block and its descendants in order of registration."""
    yield block
    for child in block._children.values():
        yield from _in_order(child)


def load(model: HybridBlock, layers: Layers) -> None:
    """Copy canonical weights into the model."""
    for block in _in_order(model):
        if isinstance(block, nn.Conv2D | nn.Dense):
            arrays = layers.next("conv" if isinstance(block, nn.Conv2D) else "dense")
            own = {"weight": "weight", "bias": "bias"}
        elif isinstance(block, nn.BatchNorm):
            arrays = layers.next("norm")
            own = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
        else:
            continue
        for name, leaf in own.items():
            getattr(block, name).set_data(mx.np.array(arrays[leaf], dtype=arrays[leaf].dtype))
    layers.finish()


class Inference:
    """A model in evaluation mode. `array` creates its input: MXNet has two kinds of arrays."""

    def __init__(self, model: HybridBlock, array: Callable[..., Any] = mx.np.array) -> None:
        self.model, self.array = model, array

    def prepare(self, x: np.ndarray) -> mx.np.ndarray:
        return self.array(x, dtype=x.dtype)

    def run(self, prepared: mx.np.ndarray) -> mx.np.ndarray:
        answer = self.model(prepared)
        answer.wait_to_read()
        return answer

    def logits(self, answer: mx.np.ndarray) -> np.ndarray:
        return answer.asnumpy()


class Step:
    """SGD on one batch: images (N, C, H, W), labels (N,)."""

    def __init__(
        self,
        model: HybridBlock,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        array: Callable[..., Any] = mx.np.array,
    ) -> None:
        self.model = model
        self.trainer = gluon.Trainer(model.collect_params(), "sgd", {"learning_rate": learning_rate})
        self.loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
        self.images, self.labels = array(images, dtype=images.dtype), array(labels)

    def __call__(self) -> float:
        with autograd.record():
            loss = self.loss_of(self.model(self.images), self.labels)
        loss.backward()
        self.trainer.step(len(self.labels))
        value = float(loss.asnumpy().mean())
        mx.nd.waitall()  # for the update of the weights
        return value


def _loaded(network: Network, tensors: Mapping[str, np.ndarray], path: str) -> HybridBlock:
    model = build(network)
    if path != IMPERATIVE:
        model.hybridize()
    model.cast(next(iter(tensors.values())).dtype.name)
    load(model, Layers(network, tensors))
    return model


def set_threads(count: int) -> None:
    """Do nothing: MXNet reads the number of threads from `OMP_NUM_THREADS` when it is imported."""


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> Inference:
    """Return the network with these weights, ready for inference."""
    return Inference(_loaded(network, tensors, path))


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> Step:
    """Return an SGD training step that starts from these weights."""
    return Step(_loaded(network, tensors, path), images, labels, learning_rate)
