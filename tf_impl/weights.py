"""Conversion between Keras variables and canonical weights: names and layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common import layout, reference, weights
from common.catalog import Network
from common.layout import Tensor
from tf_impl.layers import named_children

__all__ = [
    "all_variables",
    "assign_canonical",
    "from_canonical",
    "load_weights",
    "named_layers",
    "parameters",
    "save_weights",
    "to_canonical",
    "values_to_canonical",
    "variables",
]

_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Canonical names of variables, by Keras's names."""

_SLAB = 1 << 19
"""How many numbers are transposed at a time; a processor's cache holds two such slabs."""


def named_layers(layer: keras.Layer, path: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Iterate over (attribute path, layer) of all layers below `layer`, in the order of assignment."""
    for name, child in named_children(layer):
        child_path = f"{path}.{name}" if path else name
        yield child_path, child
        yield from named_layers(child, child_path)


def all_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the variables of all layers by canonical name, without the state of random generators."""
    return {
        f"{path}.{_LEAVES.get(name, name)}": value
        for path, layer in named_layers(model)
        for name, value in ((attribute.lstrip("_"), value) for attribute, value in vars(layer).items())
        if isinstance(value, keras.Variable)
    }


def variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the model's variables by canonical name, in network order."""
    found = all_variables(model)
    return {name: found[name] for name in reference.describe(weights.network_of(model)).manifest}


def parameters(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the model's trainable variables by canonical name, in network order."""
    return {name: variable for name, variable in variables(model).items() if variable.trainable}


def _slabs(tensor: Tensor) -> list[slice]:
    """Cut the output axis, the first in the canonical layout and the last here, into slabs, which transpose faster."""
    outputs, *rest = tensor.shape
    step = max(_SLAB // math.prod(rest), 1)
    return [slice(start, start + step) for start in range(0, outputs, step)]


def _aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a new array aligned to 64 bytes: TensorFlow aborts if DLPack hands it any other memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def values_to_canonical(network: Network, values: Mapping[str, keras.Variable | tf.Tensor]) -> dict[str, np.ndarray]:
    """Return canonical copies of weights, gradients or optimizer slots, by the name of the weight they belong to."""
    manifest = reference.describe(network).manifest
    tensors = {}
    for name, variable in values.items():
        tensor, value = manifest[name], tf.convert_to_tensor(variable)
        array = np.empty(tensor.shape, value.dtype.as_numpy_dtype)
        for slab in _slabs(tensor):
            array[slab] = layout.to_canonical(tensor, value[..., slab].numpy())
        tensors[name] = array
    return tensors


def assign_canonical(
    network: Network, targets: Mapping[str, keras.Variable], tensors: Mapping[str, np.ndarray]
) -> None:
    """Copy canonical tensors into weights or optimizer slots of the same names, in the variables' dtype."""
    manifest = reference.describe(network).manifest
    for name, variable in targets.items():
        tensor, array = manifest[name], _aligned(tuple(variable.shape), variable.dtype)
        for slab in _slabs(tensor):
            array[..., slab] = layout.to_channels_last(tensor, tensors[name][slab])
        # Assigning the array would copy it twice. DLPack shares its memory, which is not used again here.
        variable.assign(tf.experimental.dlpack.from_dlpack(array.__dlpack__()))


def to_canonical(model: keras.Model) -> dict[str, np.ndarray]:
    """Return copies of the weights by canonical name, in network order."""
    return values_to_canonical(weights.network_of(model), variables(model))


def from_canonical(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model, in the model's dtype."""
    assign_canonical(weights.network_of(model), variables(model), tensors)


def load_weights(model: keras.Model, path: Path | str) -> None:
    """Load a weights file into a network of the catalog.

    Raises WeightsError if the file is invalid or of another network; the model is then unchanged.
    """
    from_canonical(model, weights.read_for(model, path).tensors)


def save_weights(model: keras.Model, path: Path | str) -> None:
    """Write the weights of a network of the catalog to a file.

    Raises WeightsError if a weight is not finite, InputError if the file cannot be written.
    """
    weights.write(Path(path), weights.network_of(model), to_canonical(model))
