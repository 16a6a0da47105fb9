"""Convert parameters between Gluon and canonical weights: only batch norm's gamma and beta have other names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import npx
from mxnet.gluon import HybridBlock, Parameter

from common import weights

__all__ = ["canonical_parameters", "from_canonical", "load_weights", "named_blocks", "save_weights", "to_canonical"]

_LEAVES = {"gamma": "weight", "beta": "bias"}


def named_blocks(block: HybridBlock, prefix: str = "") -> Iterator[tuple[str, HybridBlock]]:
    """Iterate over (path, block) of all descendants of a block, in the order of assignment."""
    for name, child in block._children.items():
        yield prefix + name, child
        yield from named_blocks(child, f"{prefix}{name}.")


def canonical_parameters(model: HybridBlock) -> dict[str, Parameter]:
    """Return the model's Gluon parameters by canonical name, in the order of assignment."""
    parameters = {}
    for name, parameter in model._collect_params_with_prefix().items():
        path, dot, leaf = name.rpartition(".")
        parameters[path + dot + _LEAVES.get(leaf, leaf)] = parameter
    return parameters


def _as_mxnet(array: np.ndarray, dtype: str) -> mx.np.ndarray:
    """Return an MXNet array that shares the memory of `array`, or of a contiguous copy of `dtype` if that differs."""
    # MXNet makes the NumPy array that it is given read-only, so it gets a view of the caller's.
    return mx.nd.from_numpy(np.ascontiguousarray(array, dtype).view(), array_cls=mx.np.ndarray)


def to_canonical(model: HybridBlock) -> dict[str, np.ndarray]:
    """Return the weights by canonical name, in network order."""
    # Reading a running statistic does not wait for its update in a graph with static memory.
    npx.waitall()
    return {name: parameter.data().asnumpy() for name, parameter in canonical_parameters(model).items()}


def from_canonical(model: HybridBlock, tensors: Mapping[str, np.ndarray], context: mx.Context | None = None) -> None:
    """Copy canonical weights into the model, in the model's dtype and on its device.

    `context` is the device for parameters that have no memory yet, by default the CPU.
    """
    arrays = {p.name: _as_mxnet(tensors[name], p.dtype) for name, p in canonical_parameters(model).items()}
    # This also allocates parameters that have no memory yet, without initializing them first.
    model.collect_params().load_dict(arrays, ctx=context)
    # MXNet copies in the background, from memory that belongs to the caller.
    npx.waitall()


def load_weights(model: HybridBlock, path: Path | str) -> None:
    """Copy the weights of a file into a model from `build`.

    Raises WeightsError if the file is invalid or of another network; the model is then unchanged.
    """
    from_canonical(model, weights.read_for(model, path).tensors)


def save_weights(model: HybridBlock, path: Path | str) -> None:
    """Write the weights of a model from `build` to a file.

    Raises WeightsError if a weight is not finite, InputError if the file cannot be written.
    """
    weights.write(Path(path), weights.network_of(model), to_canonical(model))
