"""Native parameters <-> canonical names: a walk over the attributes of Keras layers, and TensorFlow's layouts."""

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
"""Canonical leaf by the name that Keras gives it."""

_SLAB = 1 << 19
"""Numbers transposed at a time: as many as a processor's cache holds twice."""


def named_layers(layer: keras.Layer, path: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Iterate over (attribute path, layer) of all layers below `layer`, in the order of assignment."""
    for name, child in named_children(layer):
        child_path = f"{path}.{name}" if path else name
        yield child_path, child
        yield from named_layers(child, child_path)


def all_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return every layer's variables by canonical name; those of random generators belong to no layer."""
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
    """Return those of the model's variables that are learned, by canonical name, in network order."""
    return {name: variable for name, variable in variables(model).items() if variable.trainable}


def _slabs(tensor: Tensor) -> list[slice]:
    """Cut a tensor's outputs, its first axis and the last one here, into slabs: a large one transposes faster so."""
    outputs, *rest = tensor.shape
    step = max(_SLAB // math.prod(rest), 1)
    return [slice(start, start + step) for start in range(0, outputs, step)]


def _aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a new array at a multiple of 64 bytes, where TensorFlow's own memory begins: it aborts on any other."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def values_to_canonical(network: Network, values: Mapping[str, keras.Variable | tf.Tensor]) -> dict[str, np.ndarray]:
    """Return canonical copies of what has the shape of a weight, by that weight's name: itself, a gradient, a slot."""
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
    """Copy canonical tensors into variables of the shapes of the weights of the same names, in the variables' dtype."""
    manifest = reference.describe(network).manifest
    for name, variable in targets.items():
        tensor, array = manifest[name], _aligned(tuple(variable.shape), variable.dtype)
        for slab in _slabs(tensor):
            array[..., slab] = layout.to_channels_last(tensor, tensors[name][slab])
        # Assigning the array itself would copy it twice; this hands it over, and nothing else keeps it.
        variable.assign(tf.experimental.dlpack.from_dlpack(array.__dlpack__()))


def to_canonical(model: keras.Model) -> dict[str, np.ndarray]:
    """Return copies of the weights by canonical name, in network order."""
    return values_to_canonical(weights.network_of(model), variables(model))


def from_canonical(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model, in the model's dtype."""
    assign_canonical(weights.network_of(model), variables(model), tensors)


def load_weights(model: keras.Model, path: Path | str) -> None:
    """Copy the weights of a file into a model that `build` made.

    Raises WeightsError where the file is not valid or is another network's; the model is then as it was.
    """
    from_canonical(model, weights.read_for(model, path).tensors)


def save_weights(model: keras.Model, path: Path | str) -> None:
    """Write the weights of a model that `build` made to a file.

    Raises WeightsError where a weight is not finite, InputError where the file cannot be written.
    """
    weights.write(Path(path), weights.network_of(model), to_canonical(model))
