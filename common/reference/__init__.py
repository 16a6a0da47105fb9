"""The reference networks in NumPy: what the ports are compared with, and the source of names, shapes and costs."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.catalog import Config, Network
from common.errors import ConfigError
from common.layout import Tensor
from common.reference import layers
from common.reference.alexnet import AlexNet
from common.reference.anynet import AnyNet
from common.reference.batch_norm import BNLeNet
from common.reference.densenet import DenseBlock, DenseNet, Transition
from common.reference.googlenet import GoogLeNet, Inception
from common.reference.layers import Field, Layer, Module, Sequential, Shape
from common.reference.lenet import LeNet
from common.reference.nin import NiN, NiNStage
from common.reference.resnet import Residual, ResNet
from common.reference.resnext import ResNeXt, ResNeXtBlock
from common.reference.vgg import VGG, VGGStage

__all__ = [
    "Call",
    "DenseBlock",
    "Description",
    "ExternalNetwork",
    "Field",
    "Inception",
    "NiNStage",
    "ResNeXtBlock",
    "Residual",
    "Transition",
    "VGGStage",
    "build",
    "calls",
    "describe",
    "load",
    "trace",
    "weights",
]

_NETWORKS: Mapping[str, type[Sequential]] = {
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg": VGG,
    "nin": NiN,
    "googlenet": GoogLeNet,
    "bn_lenet": BNLeNet,
    "bn_lenet_scratch": BNLeNet,
    "resnet": ResNet,
    "resnext": ResNeXt,
    "densenet": DenseNet,
    "anynet": AnyNet,
}


@dataclass(frozen=True)
class Call:
    """One call of a module: its path ("" for the network), class, output shape, parameters and multiply-accumulates.

    `kind` is the framework's class, `own` the port's class, "" for a function. `activations` is the size of a layer's
    output, 0 for a module with children; `fields` are the output's receptive fields along height and width. Only the
    reference sets costs and fields.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int = 0
    statistics: int = 0
    multiply_accumulates: int = 0
    own: str = ""
    activations: int = 0
    fields: tuple[Field, Field] | None = None


@dataclass(frozen=True)
class Description:
    """Names, shapes and costs of a network, found without computing it.

    `manifest`: canonical name -> tensor, in network order. `taps`: canonical name -> shape for a batch of 1, in order
    of computation. `calls`: every module, in order of completion.
    """

    manifest: Mapping[str, Tensor]
    taps: Mapping[str, tuple[int, ...]]
    calls: tuple[Call, ...]
    summary_expands: tuple[str, ...]
    summary_ends: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Number of trainable parameters, without running statistics."""
        return sum(call.parameters for call in self.calls)

    @property
    def statistics(self) -> int:
        """Number of running means and variances."""
        return sum(call.statistics for call in self.calls)

    @property
    def multiply_accumulates(self) -> int:
        """Multiply-accumulates of the convolutions and dense layers for one image."""
        return sum(call.multiply_accumulates for call in self.calls)

    @property
    def activations(self) -> int:
        """Total size of all layer outputs for one image."""
        return sum(call.activations for call in self.calls)


class ExternalNetwork(Network):
    """A network that is not in the catalog; its description is read from its model.

    `image`: shape of one example, (channels, height, width) or any other. `about` takes the place of the paper.
    """

    description: Description
    image: tuple[int, ...]

    def __init__(self, name: str, image: Sequence[int], description: Description, about: str = "") -> None:
        super().__init__(name, "", Config(), about, "", 0.0)
        object.__setattr__(self, "image", tuple(image))
        object.__setattr__(self, "description", description)

    # Compared by identity: JAX compiles once per network, and equal names do not make two networks equal.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]  # inputs other than images have other ranks
        return self.image

    def settings(self) -> dict[str, Any]:
        return {}

    def configured(self, /, **overrides: object) -> Network:
        raise ConfigError(f"{self.name} is not in the catalog and has no settings")


def _construct(network: Network) -> Sequential:
    module = _NETWORKS[network.family](**network.settings())
    module.name_paths()
    return module


def _smallest_input(network: Network) -> int | None:
    """Return the side of the smallest square image that `network` accepts, or None if it exceeds 1024 pixels."""

    def fits(size: int) -> bool:
        candidate = network.configured(input_size=(size, size))
        try:
            _construct(candidate)(Shape((1, *candidate.input_shape)))
        except ConfigError:
            return False
        return True

    sizes = range(1, 1025)
    index = bisect.bisect_left(sizes, True, key=fits)
    return sizes[index] if index < len(sizes) else None


def describe(network: Network) -> Description:
    """Return manifest, taps, shapes and costs of `network` in milliseconds, without its weights.

    Raises ConfigError if the input is too small; the message names the layer that runs out of pixels.
    """
    return network.description if isinstance(network, ExternalNetwork) else _describe(network)


@functools.lru_cache(maxsize=64)
def _describe(network: Network) -> Description:
    calls: list[Call] = []
    taps: dict[str, tuple[int, ...]] = {}
    manifest: dict[str, Tensor] = {}

    def record(module: Module, _: np.ndarray | Shape, output: np.ndarray | Shape) -> None:
        if not isinstance(output, Shape):
            raise TypeError(f"a description is computed on shapes, but {module.path} returned an array")
        tensors = module.tensors() if isinstance(module, Layer) else {}
        sizes = {leaf: math.prod(tensor.shape) for leaf, tensor in tensors.items()}
        statistics = sum(size for leaf, size in sizes.items() if leaf.startswith("running_"))
        calls.append(
            Call(
                module.path,
                _kind(module),
                tuple(output),
                sum(sizes.values()) - statistics,
                statistics,
                module.multiply_accumulates(output) if isinstance(module, Layer) else 0,
                type(module).__name__,
                math.prod(output) if isinstance(module, Layer) else 0,
                output.fields,
            )
        )
        if _is_tap(module):
            taps[module.path] = tuple(output)

    try:
        module = _construct(network)
        module.observe(record)
        logits = module(Shape((1, *network.input_shape)))
    except ConfigError as error:
        height, width = network.config.input_size
        smallest = _smallest_input(network)
        hint = (
            f"{network.name} needs at least {smallest}x{smallest}"
            if smallest
            else "no image of up to 1024x1024 is large enough"
        )
        raise ConfigError(
            f"`input_size` (={height}x{width}) is too small for {network.name}: {error}; {hint}"
        ) from None
    for layer in module.modules():
        if isinstance(layer, Layer):
            for leaf, tensor in layer.tensors().items():
                manifest[f"{layer.path}.{leaf}"] = tensor
    taps["logits"] = tuple(logits)
    return Description(manifest, taps, tuple(calls), module.summary_expands, module.summary_ends)


def _kind(module: Module) -> str:
    """Return the name of the nearest class of `layers` that a module derives from, or else of its own class."""
    for base in type(module).__mro__:
        if base.__module__ == layers.__name__ and base not in (Layer, Module):
            return base.__name__
    return type(module).__name__


def _is_tap(module: Module) -> bool:
    """True if a module is a tap: a layer with weights, a pool, a block or a stage."""
    if isinstance(module, Layer):
        return bool(module.tensors()) or "Pool" in _kind(module)
    return module.path.rpartition(".")[2].startswith(("block", "stage"))


def build(network: Network) -> Sequential:
    """Return the network without weights; `load` sets them.

    Raises ConfigError if the input is too small.
    """
    describe(network)
    module = _construct(network)
    module.network = network
    return module


def load(module: Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Set the network's weights by canonical name, converted to float64."""
    for layer in module.modules():
        if isinstance(layer, Layer):
            for leaf in layer.tensors():
                setattr(layer, leaf, np.asarray(tensors[f"{layer.path}.{leaf}"], dtype=np.float64))


def weights(module: Module) -> dict[str, np.ndarray]:
    """Return the network's weights by canonical name, in network order."""
    return {
        f"{layer.path}.{leaf}": getattr(layer, leaf)
        for layer in module.modules()
        if isinstance(layer, Layer)
        for leaf in layer.tensors()
    }


def trace(module: Module, x: np.ndarray, given: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Run the network on (N, C, H, W) and return every tap by canonical name, in the order of computation.

    An array in `given` replaces the output of the module at that path for the rest of the network. The trace still
    holds the output that the module computed.
    """
    taps: dict[str, np.ndarray] = {}

    def record(module: Module, _: np.ndarray | Shape, output: np.ndarray | Shape) -> np.ndarray | None:
        if _is_tap(module):
            taps[module.path] = np.asarray(output)
        return given.get(module.path) if given else None

    module.observe(record)
    try:
        taps["logits"] = module(np.asarray(x, dtype=np.float64))
    finally:
        module.observe(None)
    return taps


def calls(module: Module, x: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Run the network on (N, C, H, W) and return the input and output of each layer and block by path."""
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def record(module: Module, module_input: np.ndarray | Shape, output: np.ndarray | Shape) -> None:
        arrays[module.path] = (np.asarray(module_input), np.asarray(output))

    module.observe(record)
    try:
        module(np.asarray(x, dtype=np.float64))
    finally:
        module.observe(None)
    return arrays
