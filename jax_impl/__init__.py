"""The networks in JAX with Flax NNX: `nnx.Module`s for images in NHWC."""

from __future__ import annotations

from typing import Literal

import jax
from flax import nnx

from common import catalog, reference
from common.catalog import Network
from common.errors import ConfigError
from jax_impl.alexnet import AlexNet
from jax_impl.anynet import AnyNet
from jax_impl.batch_norm import BatchNorm, BNLeNet, BNLeNetScratch, batch_norm
from jax_impl.compilation import RUN_ONCE
from jax_impl.densenet import DenseBlock, DenseNet, Transition
from jax_impl.googlenet import GoogLeNet, Inception
from jax_impl.lenet import LeNet
from jax_impl.nin import NiN, NiNStage
from jax_impl.resnet import Residual, ResNet
from jax_impl.resnext import ResNeXt, ResNeXtBlock
from jax_impl.vgg import VGG, VGGStage
from jax_impl.weights import load_weights, save_weights

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

_NETWORKS: dict[str, type[nnx.Module]] = {
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


def build(
    name: str, *, dtype: Literal["float32", "float64"] = "float32", seed: int = 0, **config: object
) -> nnx.Module:
    """Return the network `name` of the catalog in training mode, with Flax's default initialization.

    `seed` seeds the initializers and dropout. `config` overrides the catalog's settings: `num_classes`, `in_channels`,
    `input_size` and those of the network's family.
    Raises ConfigError for an unknown name, an invalid setting, an input too small for the network, or float64 if JAX's
    64-bit mode is off.
    """
    network = catalog.get(name, **config)
    graphdef, _ = nnx.split(uninitialized(network, dtype))
    # One program for all initializers, compiled without optimization: run one by one, XLA would compile a program for
    # each shape, which takes 8 s for lenet and a minute for googlenet.
    initialize = jax.jit(lambda: nnx.state(_construct(network, dtype, seed)), compiler_options=RUN_ONCE)
    return nnx.merge(graphdef, initialize())


def uninitialized(network: Network, dtype: str) -> nnx.Module:
    """Return the network with a `jax.ShapeDtypeStruct` in place of each array.

    Raises ConfigError if the input is too small, or for float64 if JAX's 64-bit mode is off.
    """
    reference.describe(network)  # raises ConfigError
    # Without 64-bit mode JAX would silently use float32.
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise ConfigError(
            '`dtype` (="float64") needs JAX\'s 64-bit mode, which is off; call '
            'jax.config.update("jax_enable_x64", True) first'
        )
    return nnx.eval_shape(lambda: _construct(network, dtype, seed=0))


def _construct(network: Network, dtype: str, seed: int) -> nnx.Module:
    model = _NETWORKS[network.family](**network.settings(), rngs=nnx.Rngs(seed))
    weights = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda array: array.astype(dtype), weights))
    model.network = network
    return model
