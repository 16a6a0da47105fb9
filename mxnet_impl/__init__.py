"""The networks in MXNet: Gluon `HybridBlock`s in NCHW layout.

Gluon infers the input channels of each layer from the network's input, so no layer is given them. `build` infers them
without computing anything.
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
    """Return the network `name` of the catalog, with Gluon's default initialization.

    `config` overrides the catalog: `num_classes`, `in_channels`, `input_size` and the network's other settings.
    Raises ConfigError for an unknown name, an invalid configuration, or an input too small for the network.
    """
    model = uninitialized(catalog.get(name, **config))
    model.initialize()
    # After initialization, since Gluon's initializers cannot draw float64 numbers.
    model.cast(dtype)
    return model


def uninitialized(network: Network) -> HybridBlock:
    """Return the network with all shapes inferred and no memory allocated for its weights.

    Raises ConfigError if the input is too small.
    """
    reference.describe(network)
    model = _NETWORKS[network.family](**network.settings())
    model.infer_shape(np.zeros((1, *network.input_shape)))
    model.network = network
    return model
