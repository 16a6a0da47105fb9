"""Native parameters <-> canonical names: Flax's own leaves and channels-last layouts, whatever the architecture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from common import layout, reference, weights
from common.catalog import Network
from common.layout import Tensor

__all__ = [
    "canonical_name",
    "from_canonical",
    "load_weights",
    "save_weights",
    "state_from_canonical",
    "state_to_canonical",
    "to_canonical",
]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_ALIGNMENT = 64
"""Bytes; JAX on the CPU takes over an array that begins at a multiple of this, and copies any other."""
_ROWS = 16
"""Outputs transposed at a time: as many as fill a line of the processor's cache."""


def canonical_name(layer: Iterable[str | int], leaf: str) -> str:
    """Return what is shared of a variable's name, given the parts of its layer's path and what Flax calls it there."""
    return ".".join([*map(str, layer), _LEAVES.get(leaf, leaf)])


def _variables(network: Network, state: nnx.State) -> dict[str, nnx.Variable]:
    """Return a state's variables by canonical name, in network order."""
    found = {canonical_name(layer, leaf): variable for (*layer, leaf), variable in nnx.to_flat_state(state)}
    # Flax sorts attributes by name, so that `block10` comes before `block2`.
    return {name: found[name] for name in reference.describe(network).manifest if name in found}


def _channels_last(tensor: Tensor, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """Copy a canonical array into a JAX one of the native layout.

    In pieces, since to transpose a large matrix in one go is to miss the processor's cache at every number.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    native = memory[start : start + size].view(dtype).reshape(shape)
    for row in range(0, len(array), _ROWS):
        native[..., row : row + _ROWS] = layout.to_channels_last(tensor, array[row : row + _ROWS])
    return jax.device_put(native, may_alias=True)


def state_to_canonical(network: Network, state: nnx.State) -> dict[str, np.ndarray]:
    """Return by canonical name, in network order, what a state has for each parameter: itself, a gradient, a slot."""
    manifest = reference.describe(network).manifest
    return {
        name: np.ascontiguousarray(layout.to_canonical(manifest[name], np.asarray(variable[...])))
        for name, variable in _variables(network, state).items()
    }


def state_from_canonical(network: Network, state: nnx.State, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy canonical tensors into the state's variables, in their dtype."""
    manifest = reference.describe(network).manifest
    for name, variable in _variables(network, state).items():
        variable.set_value(_channels_last(manifest[name], tensors[name], variable.shape, np.dtype(variable.dtype)))


def to_canonical(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return the weights by canonical name, in network order; read-only where they share the model's memory."""
    return state_to_canonical(weights.network_of(model), nnx.state(model, (nnx.Param, nnx.BatchStat)))


def from_canonical(model: nnx.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model, in the model's dtype."""
    state_from_canonical(weights.network_of(model), nnx.state(model, (nnx.Param, nnx.BatchStat)), tensors)


def load_weights(model: nnx.Module, path: Path | str) -> None:
    """Copy the weights of a file into a model that `build` made.

    Raises WeightsError where the file is not valid or is another network's; the model is then as it was.
    """
    from_canonical(model, weights.read_for(model, path).tensors)


def save_weights(model: nnx.Module, path: Path | str) -> None:
    """Write the weights of a model that `build` made to a file.

    Raises WeightsError where a weight is not finite, InputError where the file cannot be written.
    """
    weights.write(Path(path), weights.network_of(model), to_canonical(model))
