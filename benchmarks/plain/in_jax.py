"""The networks in JAX as a tutorial of Flax NNX would write them: modules of default layers, `nnx.jit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from benchmarks.plain import arguments
from benchmarks.plain.weights import Layers
from common.catalog import Network

__all__ = ["build", "load", "session", "set_threads", "training_step"]


def conv(in_channels: int, channels: int, kernel: int, rngs: nnx.Rngs, stride: int = 1, groups: int = 1) -> nnx.Conv:
    size = (kernel, kernel)
    return nnx.Conv(in_channels, channels, size, stride, padding=kernel // 2, feature_group_count=groups, rngs=rngs)


def norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)


def max_pool(x: Array, window: int = 3, stride: int = 2, padding: int = 1) -> Array:
    sides = ((padding, padding), (padding, padding))
    return nnx.max_pool(x, (window, window), (stride, stride), padding=sides)


class Stem(nnx.Module):
    def __init__(self, in_channels: int, rngs: nnx.Rngs) -> None:
        self.conv = conv(in_channels, 64, 7, rngs, stride=2)
        self.bn = norm(64, rngs)

    def __call__(self, x: Array) -> Array:
        return max_pool(nnx.relu(self.bn(self.conv(x))))


class Residual(nnx.Module):
    def __init__(self, in_channels: int, channels: int, rngs: nnx.Rngs, stride: int = 1) -> None:
        self.conv1 = conv(in_channels, channels, 3, rngs, stride)
        self.bn1 = norm(channels, rngs)
        self.conv2 = conv(channels, channels, 3, rngs)
        self.bn2 = norm(channels, rngs)
        self.shortcut = conv(in_channels, channels, 1, rngs, stride) if stride > 1 else None

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet18(nnx.Module):
    def __init__(self, in_channels: int, num_classes: int, rngs: nnx.Rngs) -> None:
        self.stem = Stem(in_channels, rngs)
        blocks = []
        before = 64
        for channels in (64, 128, 256, 512):
            blocks.append(Residual(before, channels, rngs, 1 if before == channels else 2))
            blocks.append(Residual(channels, channels, rngs))
            before = channels
        self.blocks = nnx.List(blocks)
        self.fc = nnx.Linear(512, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(jnp.mean(x, axis=(1, 2)))


class VGG11(nnx.Module):
    def __init__(self, in_channels: int, num_classes: int, rngs: nnx.Rngs, dropout: float = 0.5) -> None:
        convs = []
        for channels in (64, 128, 256, 256, 512, 512, 512, 512):
            convs.append(conv(in_channels, channels, 3, rngs))
            in_channels = channels
        self.convs = nnx.List(convs)
        self.fc1 = nnx.Linear(7 * 7 * 512, 4096, rngs=rngs)
        self.dropout1 = nnx.Dropout(dropout, rngs=rngs)
        self.fc2 = nnx.Linear(4096, 4096, rngs=rngs)
        self.dropout2 = nnx.Dropout(dropout, rngs=rngs)
        self.fc3 = nnx.Linear(4096, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for i, convolution in enumerate(self.convs):
            x = nnx.relu(convolution(x))
            if i in (0, 1, 3, 5, 7):
                x = max_pool(x, 2, 2, 0)
        x = x.reshape(len(x), -1)
        x = self.dropout1(nnx.relu(self.fc1(x)))
        x = self.dropout2(nnx.relu(self.fc2(x)))
        return self.fc3(x)


class Inception(nnx.Module):
    def __init__(
        self, in_channels: int, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int, rngs: nnx.Rngs
    ) -> None:
        self.conv1 = conv(in_channels, c1, 1, rngs)
        self.conv2a = conv(in_channels, c2[0], 1, rngs)
        self.conv2b = conv(c2[0], c2[1], 3, rngs)
        self.conv3a = conv(in_channels, c3[0], 1, rngs)
        self.conv3b = conv(c3[0], c3[1], 5, rngs)
        self.conv4 = conv(in_channels, c4, 1, rngs)

    def __call__(self, x: Array) -> Array:
        y1 = nnx.relu(self.conv1(x))
        y2 = nnx.relu(self.conv2b(nnx.relu(self.conv2a(x))))
        y3 = nnx.relu(self.conv3b(nnx.relu(self.conv3a(x))))
        y4 = nnx.relu(self.conv4(max_pool(x, 3, 1, 1)))
        return jnp.concatenate([y1, y2, y3, y4], axis=-1)


class GoogLeNet(nnx.Module):
    def __init__(self, in_channels: int, num_classes: int, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(in_channels, 64, 7, rngs, stride=2)
        self.conv2 = conv(64, 64, 1, rngs)
        self.conv3 = conv(64, 192, 3, rngs)
        self.block3a = Inception(192, 64, (96, 128), (16, 32), 32, rngs)
        self.block3b = Inception(256, 128, (128, 192), (32, 96), 64, rngs)
        self.block4a = Inception(480, 192, (96, 208), (16, 48), 64, rngs)
        self.block4b = Inception(512, 160, (112, 224), (24, 64), 64, rngs)
        self.block4c = Inception(512, 128, (128, 256), (24, 64), 64, rngs)
        self.block4d = Inception(512, 112, (144, 288), (32, 64), 64, rngs)
        self.block4e = Inception(528, 256, (160, 320), (32, 128), 128, rngs)
        self.block5a = Inception(832, 256, (160, 320), (32, 128), 128, rngs)
        self.block5b = Inception(832, 384, (192, 384), (48, 128), 128, rngs)
        self.fc = nnx.Linear(1024, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = max_pool(nnx.relu(self.conv1(x)))
        x = max_pool(nnx.relu(self.conv3(nnx.relu(self.conv2(x)))))
        x = max_pool(self.block3b(self.block3a(x)))
        x = self.block4c(self.block4b(self.block4a(x)))
        x = max_pool(self.block4e(self.block4d(x)))
        x = self.block5b(self.block5a(x))
        return self.fc(jnp.mean(x, axis=(1, 2)))


class DenseLayer(nnx.Module):
    def __init__(self, in_channels: int, growth_rate: int, rngs: nnx.Rngs) -> None:
        self.bn = norm(in_channels, rngs)
        self.conv = conv(in_channels, growth_rate, 3, rngs)

    def __call__(self, x: Array) -> Array:
        return jnp.concatenate([x, self.conv(nnx.relu(self.bn(x)))], axis=-1)


class Transition(nnx.Module):
    def __init__(self, in_channels: int, rngs: nnx.Rngs) -> None:
        self.bn = norm(in_channels, rngs)
        self.conv = conv(in_channels, in_channels // 2, 1, rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.avg_pool(self.conv(nnx.relu(self.bn(x))), (2, 2), (2, 2))


class DenseNet(nnx.Module):
    def __init__(self, in_channels: int, num_classes: int, rngs: nnx.Rngs) -> None:
        self.stem = Stem(in_channels, rngs)
        blocks: list[nnx.Module] = []
        channels, growth_rate = 64, 32
        for stage in range(4):
            if stage > 0:
                blocks.append(Transition(channels, rngs))
                channels //= 2
            for _ in range(4):
                blocks.append(DenseLayer(channels, growth_rate, rngs))
                channels += growth_rate
        self.blocks = nnx.List(blocks)
        self.bn = norm(channels, rngs)
        self.fc = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(jnp.mean(nnx.relu(self.bn(x)), axis=(1, 2)))


class Bottleneck(nnx.Module):
    def __init__(self, in_channels: int, channels: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(in_channels, channels, 1, rngs)
        self.bn1 = norm(channels, rngs)
        self.conv2 = conv(channels, channels, 3, rngs, stride, groups=channels // 16)
        self.bn2 = norm(channels, rngs)
        self.conv3 = conv(channels, channels, 1, rngs)
        self.bn3 = norm(channels, rngs)
        self.project = stride > 1
        if self.project:
            self.conv4 = conv(in_channels, channels, 1, rngs, stride)
            self.bn4 = norm(channels, rngs)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return nnx.relu(y + (self.bn4(self.conv4(x)) if self.project else x))


class RegNetX32(nnx.Module):
    def __init__(self, in_channels: int, num_classes: int, rngs: nnx.Rngs) -> None:
        self.conv = conv(in_channels, 32, 3, rngs, stride=2)
        self.bn = norm(32, rngs)
        blocks = []
        before = 32
        for depth, channels in ((4, 32), (6, 80)):
            for block in range(depth):
                blocks.append(Bottleneck(before, channels, 2 if block == 0 else 1, rngs))
                before = channels
        self.blocks = nnx.List(blocks)
        self.fc = nnx.Linear(80, num_classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.bn(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc(jnp.mean(x, axis=(1, 2)))


NETWORKS: Mapping[str, Callable[..., nnx.Module]] = {
    "resnet18": ResNet18,
    "vgg11": VGG11,
    "googlenet": GoogLeNet,
    "densenet": DenseNet,
    "regnetx32": RegNetX32,
}


def build(network: Network) -> nnx.Module:
    """Return the network with Flax's default initialization."""
    return NETWORKS[network.name](**arguments(network), rngs=nnx.Rngs(0))


def _in_order(module: nnx.Module, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of a module and its descendants in order of assignment; Flax sorts them by name."""
    yield path
    for name, value in vars(module).items():
        children = (
            {(name, i): child for i, child in enumerate(value)} if isinstance(value, nnx.List) else {(name,): value}
        )
        for below, child in children.items():
            if isinstance(child, nnx.Module):
                yield from _in_order(child, (*path, *below))


def load(network: Network, layers: Layers) -> nnx.Module:
    """Return the network with canonical weights, in their dtype."""
    order: list[tuple[str | int, ...]] = []

    def make() -> nnx.Module:
        model = build(network)
        order.extend(_in_order(model))
        return model

    # Only shapes: drawing initial weights would compile many operations, and the weights are replaced anyway.
    model = nnx.eval_shape(make)
    nnx.reseed(model, default=0)
    modules = dict(nnx.iter_modules(model))
    for path in order:
        module = modules[path]
        if isinstance(module, nnx.Conv | nnx.Linear):
            arrays = layers.next("conv" if isinstance(module, nnx.Conv) else "dense")
            own = {"kernel": "weight", "bias": "bias"}
        elif isinstance(module, nnx.BatchNorm):
            arrays = layers.next("norm")
            own = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        else:
            continue
        for name, leaf in own.items():
            getattr(module, name).set_value(jnp.asarray(arrays[leaf]))
    layers.finish()
    return model


@nnx.jit
def predict(model: nnx.Module, x: Array) -> Array:
    return model(x)


@nnx.jit
def train_step(model: nnx.Module, optimizer: nnx.Optimizer, x: Array, y: Array) -> Array:
    def loss_of(model: nnx.Module) -> Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


class Jitted:
    """A model in evaluation mode, compiled."""

    def __init__(self, model: nnx.Module) -> None:
        self.model = model
        model.eval()

    def prepare(self, x: np.ndarray) -> Array:
        return jax.device_put(x.transpose(0, 2, 3, 1))

    def run(self, prepared: Array) -> Array:
        return predict(self.model, prepared).block_until_ready()

    def logits(self, answer: Array) -> np.ndarray:
        return np.asarray(answer)


class JittedStep:
    """SGD on one batch: images (N, C, H, W), labels (N,)."""

    def __init__(self, model: nnx.Module, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> None:
        self.model = model
        model.train()
        self.optimizer = nnx.Optimizer(model, optax.sgd(learning_rate), wrt=nnx.Param)
        self.images = jax.device_put(images.transpose(0, 2, 3, 1))
        self.labels = jax.device_put(labels)

    def __call__(self) -> float:
        loss = train_step(self.model, self.optimizer, self.images, self.labels)
        jax.block_until_ready(nnx.state(self.model))
        return float(loss)


def _loaded(network: Network, tensors: Mapping[str, np.ndarray]) -> nnx.Module:
    return load(network, Layers(network, tensors, channels_last=True))


def set_threads(count: int) -> None:
    """Do nothing: XLA's CPU client uses as many threads as the process has processors."""


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> Jitted:
    """Return the network with these weights, ready for inference."""
    return Jitted(_loaded(network, tensors))


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> JittedStep:
    """Return an SGD training step that starts from these weights."""
    return JittedStep(_loaded(network, tensors), images, labels, learning_rate)
