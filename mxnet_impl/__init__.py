"""The networks in MXNet: Gluon `HybridBlock`s in NCHW that train, print, hybridize and export as any other.

Gluon works out the sizes of a layer's inputs when it sees the first ones, so no layer is told them. `build` shows a
network its input without computing anything.
"""

from __future__ import annotations

from typing import Literal

from mxnet import np
from mxnet.gluon import HybridBlock

from common import catalog, reference
from common.catalog import Network
from mxnet_impl.alexnet import AlexNet
from mxnet_impl.anynet import AnyNet
from mxnet_impl.batch_norm import BatchNorm, BNLeNet, BNLeNetScratch, batch_norm
from mxnet_impl.densenet import DenseBlock, DenseNet, Transition
from mxnet_impl.googlenet import GoogLeNet, Inception
from mxnet_impl.lenet import LeNet
from mxnet_impl.nin import NiN, NiNStage
from mxnet_impl.resnet import Residual, ResNet
from mxnet_impl.resnext import ResNeXt, ResNeXtBlock
from mxnet_impl.vgg import VGG, VGGStage
from mxnet_impl.weights import load_weights, save_weights

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

_NETWORKS: dict[str, type[HybridBlock]] = {
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


def build(name: str, *, dtype: Literal["float32", "float64"] = "float32", **config: object) -> HybridBlock:
    """Return the network `name` of the catalog, with Gluon's own initialization.

    `config` overrides the catalog: `num_classes`, `in_channels`, `input_size`, and what the network has besides.
    Raises ConfigError for an unknown name, a wrong configuration, or an input too small for the network.
    """
    model = uninitialized(catalog.get(name, **config))
    model.initialize()
    # Only now, since Gluon's initializers cannot draw float64 numbers.
    model.cast(dtype)
    return model


def uninitialized(network: Network) -> HybridBlock:
    """Return the network with all its shapes known and no memory taken for its weights.

    Raises ConfigError where the input is too small.
    """
    reference.describe(network)
    model = _NETWORKS[network.family](**network.settings())
    model.infer_shape(np.zeros((1, *network.input_shape)))
    model.network = network
    return model
