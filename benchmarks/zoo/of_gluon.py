"""Gluon's model zoo, hybridized."""

from __future__ import annotations

from collections.abc import Mapping

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.model_zoo import vision

from benchmarks.plain.in_mxnet import Inference, Step, set_threads
from common.catalog import Network
from common.errors import ConfigError

__all__ = ["session", "set_threads", "training_step", "work"]


def build(network: Network) -> HybridBlock:
    """Return the counterpart of a network in Gluon's model zoo, for arrays of MXNet's older interface.

    Raises ConfigError if there is none.
    """
    classes = network.config.num_classes
    match network.name:
        case "resnet18":
            model = vision.resnet18_v1(classes=classes)
        case "vgg11":
            model = vision.vgg11(classes=classes)
        case "densenet":
            model = _any_size(vision.DenseNet(64, 32, [4, 4, 4, 4], classes=classes))
        case _:
            raise ConfigError(f"Gluon's model zoo has no counterpart of {network.name}")
    model.initialize()
    model.hybridize()
    model(mx.nd.zeros((1, *network.input_shape)))
    return model


def _any_size(model: HybridBlock) -> HybridBlock:
    """Make the last pool global: that of Gluon's DenseNet is 7x7, for images of 224x224 pixels."""
    children = model.features._children
    (last,) = (name for name, layer in children.items() if isinstance(layer, nn.AvgPool2D))
    children[last] = nn.GlobalAvgPool2D()
    return model


def work(network: Network) -> int:
    """Return the multiply-accumulates of the counterpart for one image."""
    model = build(network)
    model.hybridize(active=False)  # a hybridized model does not call its layers
    total = 0

    def add(layer: HybridBlock, _: object, output: mx.nd.NDArray) -> None:
        nonlocal total
        total += output.size * layer.weight.data()[0].size

    def watch(layer: HybridBlock) -> None:
        if isinstance(layer, nn.Conv2D | nn.Dense):
            layer.register_forward_hook(add)

    model.apply(watch)
    model(mx.nd.zeros((1, *network.input_shape)))
    return total


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> Inference:
    """Return the counterpart, ready for inference."""
    return Inference(build(network), mx.nd.array)


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> Step:
    """Return an SGD training step of the counterpart."""
    return Step(build(network), images, labels, learning_rate, mx.nd.array)
