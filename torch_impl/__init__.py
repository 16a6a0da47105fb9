"""The networks in PyTorch: `nn.Module`s that take images (N, C, H, W) and return logits (N, num_classes)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from common import catalog, reference
from torch_impl.alexnet import AlexNet
from torch_impl.anynet import AnyNet
from torch_impl.batch_norm import BatchNorm, BNLeNet, BNLeNetScratch, batch_norm
from torch_impl.densenet import DenseBlock, DenseNet, Transition
from torch_impl.googlenet import GoogLeNet, Inception
from torch_impl.lenet import LeNet
from torch_impl.nin import NiN, NiNStage
from torch_impl.resnet import Residual, ResNet
from torch_impl.resnext import ResNeXt, ResNeXtBlock
from torch_impl.vgg import VGG, VGGStage
from torch_impl.weights import load_weights, save_weights

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

_NETWORKS: dict[str, type[nn.Module]] = {
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


def build(name: str, *, dtype: Literal["float32", "float64"] = "float32", **config: object) -> nn.Module:
    """Return the network `name` of the catalog, initialized by torch and in training mode, as torch's modules are.

    `config` overrides the network's settings: `num_classes`, `in_channels`, `input_size` and those of its own, such as
    `arch`. Raises ConfigError for an unknown name, an invalid setting, or an input too small for the network.
    """
    network = catalog.get(name, **config)
    reference.describe(network)
    model = _NETWORKS[network.family](**network.settings()).to(getattr(torch, dtype))
    model.network = network
    return model
