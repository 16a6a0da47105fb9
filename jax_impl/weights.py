"""Canonical names and layouts of the weights of a Flax model, and weights files.

One rule names the modules of every network of the catalog: element 0 of a list `stages` is `stage1`, so that
`model.stages[1].blocks[0].conv1.kernel` has the canonical name `stage2.block1.conv1.weight`.
"""

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
from common.reference import ExternalNetwork

__all__ = [
    "from_canonical",
    "load_weights",
    "module_path",
    "modules_by_path",
    "save_weights",
    "state_from_canonical",
    "state_to_canonical",
    "to_canonical",
    "weight_name",
]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
"""Canonical names of Flax's variables."""

_ALIGNMENT = 64
"""Bytes. JAX on the CPU uses the memory of an array that starts at a multiple of this, and copies any other array."""

_ROWS = 16
"""Output channels transposed at a time: as many as fill a cache line."""


def module_path(network: Network, path: Iterable[str | int]) -> str:
    """Return the canonical path of a module: ("stages", 1, "conv") -> "stage2.conv" for a network of the catalog.

    The module of an external network keeps its own path, "stages.1.conv".
    """
    if isinstance(network, ExternalNetwork):
        return ".".join(map(str, path))
    names: list[str] = []
    for part in path:
        if isinstance(part, int):
            names[-1] = f"{names[-1].removesuffix('s')}{part + 1}"
        else:
            names.append(part)
    return ".".join(names)


def modules_by_path(model: nnx.Module) -> dict[str, nnx.Module]:
    """Return the modules of a model by canonical path, "" for the model itself; for the catalog, without the lists."""
    network = weights.network_of(model)
    return {
        module_path(network, path): module
        for path, module in nnx.iter_modules(model)
        if isinstance(network, ExternalNetwork) or not isinstance(module, nnx.List)
    }


def weight_name(path: str, leaf: str) -> str:
    """Return the canonical name of a variable, given its module's path and Flax's name for the variable."""
    return f"{path}.{_LEAVES.get(leaf, leaf)}".lstrip(".")


def _variables(network: Network, state: nnx.State) -> dict[str, nnx.Variable]:
    """Return a state's variables by canonical name, in network order."""
    by_name = {
        weight_name(module_path(network, path), leaf): variable for (*path, leaf), variable in nnx.to_flat_state(state)
    }
    # Flax sorts attributes by name, so that `bn1` comes before `conv1`.
    return {name: by_name[name] for name in reference.describe(network).manifest if name in by_name}


def _channels_last(tensor: Tensor, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """Return a canonical array as a JAX array in the layout of Flax.

    It is copied in pieces: transposing a large matrix at once misses the processor's cache at every element.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    native = memory[start : start + size].view(dtype).reshape(shape)
    for row in range(0, len(array), _ROWS):
        native[..., row : row + _ROWS] = layout.to_channels_last(tensor, array[row : row + _ROWS])
    return jax.device_put(native, may_alias=True)


def state_to_canonical(network: Network, state: nnx.State) -> dict[str, np.ndarray]:
    """Return a state's arrays by canonical name, in network order and canonical layout.

    The state may hold weights, gradients or an optimizer's slots.
    """
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
    """Return the weights by canonical name, in network order. Arrays that share the model's memory are read-only."""
    return state_to_canonical(weights.network_of(model), nnx.state(model, (nnx.Param, nnx.BatchStat)))


def from_canonical(model: nnx.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model, in the model's dtype."""
    state_from_canonical(weights.network_of(model), nnx.state(model, (nnx.Param, nnx.BatchStat)), tensors)


def load_weights(model: nnx.Module, path: Path | str) -> None:
    """Load a weights file into a model made by `build`.

    Raises WeightsError, and leaves the model as it was, if the file is invalid or of another network.
    """
    from_canonical(model, weights.read_for(model, path).tensors)


def save_weights(model: nnx.Module, path: Path | str) -> None:
    """Write the weights of a model made by `build` to a file.

    Raises WeightsError if a weight is not finite, InputError if the file cannot be written.
    """
    weights.write(Path(path), weights.network_of(model), to_canonical(model))
