"""Native parameters <-> canonical names: a walk over the attributes of Keras layers, and TensorFlow's layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common import layout, reference, weights
from common.layout import Tensor

__all__ = ["from_canonical", "load_weights", "named_layers", "save_weights", "to_canonical"]

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
    for name, child in vars(layer).items():
        if isinstance(child, keras.Layer):
            child_path = f"{path}.{name}" if path else name
            yield child_path, child
            yield from named_layers(child, child_path)


def _variables(model: keras.Model) -> Iterator[tuple[str, Tensor, keras.Variable]]:
    """Iterate over (canonical name, its entry in the manifest, the model's variable), in network order."""
    variables = {
        f"{path}.{leaf}": getattr(layer, native)
        for path, layer in named_layers(model)
        for native, leaf in _LEAVES.items()
        if isinstance(getattr(layer, native, None), keras.Variable)
    }
    for name, tensor in reference.describe(weights.network_of(model)).manifest.items():
        yield name, tensor, variables[name]


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


def to_canonical(model: keras.Model) -> dict[str, np.ndarray]:
    """Return copies of the weights by canonical name, in network order."""
    tensors = {}
    for name, tensor, variable in _variables(model):
        value = tf.convert_to_tensor(variable)
        array = np.empty(tensor.shape, variable.dtype)
        for slab in _slabs(tensor):
            array[slab] = layout.to_canonical(tensor, value[..., slab].numpy())
        tensors[name] = array
    return tensors


def from_canonical(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model, in the model's dtype."""
    for name, tensor, variable in _variables(model):
        array = _aligned(tuple(variable.shape), variable.dtype)
        for slab in _slabs(tensor):
            array[..., slab] = layout.to_channels_last(tensor, tensors[name][slab])
        # Assigning the array itself would copy it twice; this hands it over, and nothing else keeps it.
        variable.assign(tf.experimental.dlpack.from_dlpack(array.__dlpack__()))


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
