"""Native parameters <-> canonical names: Gluon's own names, but for those of a batch norm's scale and shift."""

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
    """Iterate over (path, block) of all blocks below a block, in the order of assignment."""
    for name, child in block._children.items():
        yield prefix + name, child
        yield from named_blocks(child, f"{prefix}{name}.")


def canonical_parameters(model: HybridBlock) -> dict[str, Parameter]:
    """Return the model's own parameters by canonical name, in the order in which its layers were assigned."""
    parameters = {}
    for name, parameter in model._collect_params_with_prefix().items():
        path, dot, leaf = name.rpartition(".")
        parameters[path + dot + _LEAVES.get(leaf, leaf)] = parameter
    return parameters


def _shared(array: np.ndarray, dtype: str) -> mx.np.ndarray:
    """Return an MXNet array on the memory of `array`, or of a copy where it is not contiguous or of another dtype."""
    # MXNet forbids writing to the array that it is given: let it be another one than the caller's.
    return mx.nd.from_numpy(np.ascontiguousarray(array, dtype).view(), array_cls=mx.np.ndarray)


def to_canonical(model: HybridBlock) -> dict[str, np.ndarray]:
    """Return the weights by canonical name, in network order."""
    # Hybridized with static memory, MXNet does not make a reader wait for the running statistics to be moved.
    npx.waitall()
    return {name: parameter.data().asnumpy() for name, parameter in canonical_parameters(model).items()}


def from_canonical(model: HybridBlock, tensors: Mapping[str, np.ndarray], context: mx.Context | None = None) -> None:
    """Copy canonical weights into the model, in the model's dtype and on its device.

    `context` is the device where a model without memory takes it, if not the CPU.
    """
    arrays = {p.name: _shared(tensors[name], p.dtype) for name, p in canonical_parameters(model).items()}
    # Parameters without memory take it here, and are spared an initialization.
    model.collect_params().load_dict(arrays, ctx=context)
    # MXNet copies in the background, out of memory that is only lent to it.
    npx.waitall()


def load_weights(model: HybridBlock, path: Path | str) -> None:
    """Copy the weights of a file into a model that `build` made.

    Raises WeightsError where the file is not valid or is another network's; the model is then as it was.
    """
    from_canonical(model, weights.read_for(model, path).tensors)


def save_weights(model: HybridBlock, path: Path | str) -> None:
    """Write the weights of a model that `build` made to a file.

    Raises WeightsError where a weight is not finite, InputError where the file cannot be written.
    """
    weights.write(Path(path), weights.network_of(model), to_canonical(model))
