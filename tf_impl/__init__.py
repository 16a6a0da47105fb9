"""The networks in TensorFlow: Keras models in NHWC."""

from __future__ import annotations

from typing import Literal

import keras

from common import catalog, reference
from tf_impl.alexnet import AlexNet
from tf_impl.anynet import AnyNet
from tf_impl.batch_norm import BatchNorm, BNLeNet, BNLeNetScratch, batch_norm
from tf_impl.densenet import DenseBlock, DenseNet, Transition
from tf_impl.googlenet import GoogLeNet, Inception
from tf_impl.layers import Network
from tf_impl.lenet import LeNet
from tf_impl.nin import NiN, NiNStage
from tf_impl.resnet import Residual, ResNet
from tf_impl.resnext import ResNeXt, ResNeXtBlock
from tf_impl.vgg import VGG, VGGStage
from tf_impl.weights import load_weights, save_weights

__all__ = [
    "VGG",
    "AlexNet",
    "AnyNet",
    "BNLeNet",
    "BNLeNetScratch",
    "BatchNorm",
    "DenseBlock",
    "DenseNet",
    "GoogLeNet",
    "Inception",
    "LeNet",
    "NiN",
    "NiNStage",
    "ResNeXt",
    "ResNeXtBlock",
    "ResNet",
    "Residual",
    "Transition",
    "VGGStage",
    "batch_norm",
    "build",
    "load_weights",
    "save_weights",
]

_NETWORKS: dict[str, type[Network]] = {
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg": VGG,
    "nin": NiN,
    "googlenet": GoogLeNet,
    "bn_lenet": BNLeNet,
    "bn_lenet_scratch": BNLeNetScratch,
    "resnet": ResNet,
    "resnext": ResNeXt,
    "densenet": DenseNet,
    "anynet": AnyNet,
}


def build(name: str, *, dtype: Literal["float32", "float64"] = "float32", **config: object) -> keras.Model:
    """Return the network `name` of the catalog, with Keras's default initialization.

    `config` overrides fields of the catalog's configuration, such as `num_classes`, `in_channels` and `input_size`.
    Raises ConfigError for an unknown name, an invalid configuration, or an input too small for the network.
    """
    network = catalog.get(name, **config)
    reference.describe(network)
    return _NETWORKS[network.family](**network.settings(), name=network.name, dtype=dtype)
