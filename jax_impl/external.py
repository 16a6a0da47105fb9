"""Adapters for user-defined Flax modules, so that this package's Backend can run them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from common import layout
from common.layout import Tensor, nchw_to_nhwc
from common.reference.layer_specs import Specification, batch_norm, convolution, dense
from common.weights import DTypeName
from jax_impl.weights import weight_name

__all__ = ["adopt", "manifest", "specifications"]


def adopt(make: Callable[[], nnx.Module], dtype: DTypeName, image: tuple[int, ...]) -> nnx.Module:
    """Return a new module in `dtype`, in evaluation mode and without dropout.

    `image` is the shape (C, H, W) of an input, which the module takes as (H, W, C).
    """
    model = make()
    weights = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda array: array.astype(dtype), weights))
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Dropout):
            module.rate = 0.0
    model.eval()
    nnx.eval_shape(lambda model, x: model(x), model, nchw_to_nhwc(np.zeros((1, *image), dtype)))
    return model


def manifest(model: nnx.Module) -> dict[str, Tensor]:
    """Return the module's tensors by canonical name, in canonical shapes."""
    modules = dict(nnx.iter_modules(model))
    tensors = {}
    for (*path, leaf), variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        kernel = leaf == "kernel"
        layer = modules.get(tuple(path))
        kind = "conv" if kernel and isinstance(layer, nnx.Conv) and len(variable.shape) == 4 else "vector"
        kind = "dense" if kernel and isinstance(layer, nnx.Linear) else kind
        shape = layout.to_canonical(Tensor(variable.shape, kind), np.empty(variable.shape, np.uint8)).shape
        tensors[weight_name(".".join(map(str, path)), leaf)] = Tensor(shape, kind)
    return tensors


def specifications(model: nnx.Module) -> dict[str, Specification]:
    """Return the reference's specification of each layer, by path; layers that the reference lacks are left out."""
    by_path = {".".join(map(str, path)): _specification(module) for path, module in nnx.iter_modules(model)}
    return {path: specification for path, specification in by_path.items() if specification is not None}


def _specification(module: nnx.Module) -> Specification | None:
    match module:
        case nnx.Conv() if len(module.kernel_size) == 2:
            padding = _padding(module.padding, module.kernel_size, module.strides)
            if padding is None or module.input_dilation not in (1, None):
                return None
            channels = (module.in_features, module.out_features)
            window = (module.kernel_size, module.strides or 1, padding)
            return convolution(*channels, *window, module.feature_group_count, module.kernel_dilation or 1)
        case nnx.Linear():
            return dense(module.in_features, module.out_features)
        case nnx.BatchNorm():
            return batch_norm(module.num_features, module.epsilon, module.momentum)
    return None


def _padding(padding: object, kernel: tuple[int, ...], strides: object) -> int | None:
    """Return the number of pixels added on every side; None if the sides differ."""
    if padding == "VALID":
        return 0
    if padding == "SAME":
        # With a stride the padding depends on the image's size, and can be uneven.
        even = {int(size) for size in np.ravel(np.asarray(strides or 1))} == {1} and len(set(kernel)) == 1
        return kernel[0] // 2 if even and kernel[0] % 2 else None
    sides = {int(side) for side in np.ravel(np.asarray(padding))} if not isinstance(padding, str) else set()
    return sides.pop() if len(sides) == 1 else None
