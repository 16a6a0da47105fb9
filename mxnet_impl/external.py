"""Adapters for user-defined Gluon blocks."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

from common.layout import Tensor
from common.reference.layer_specs import Specification, batch_norm, convolution, dense, pool
from common.weights import DTypeName
from mxnet_impl.weights import canonical_parameters, named_blocks

__all__ = ["adopt", "manifest", "specifications"]


def adopt(make: Callable[[], HybridBlock], dtype: DTypeName, image: tuple[int, ...]) -> HybridBlock:
    """Return a new block in `dtype` without dropout, its shapes inferred from an image (C, H, W)."""
    model = make()
    with warnings.catch_warnings():
        # Gluon warns about each parameter that the block has initialized already.
        warnings.simplefilter("ignore")
        model.initialize()
    for _, block in named_blocks(model):
        if isinstance(block, nn.Dropout):
            block._rate = 0.0
    # Gluon initializes parameters of unknown shape at the first call, and only in float32.
    model(mx.np.zeros((1, *image), dtype="float32"))
    model.cast(dtype)
    return model


def manifest(model: HybridBlock) -> dict[str, Tensor]:
    """Return the block's tensors by canonical name, in the order of assignment."""
    blocks = dict(named_blocks(model))
    kinds = {nn.Conv2D: "conv", nn.Dense: "dense"}
    tensors = {}
    for name, parameter in canonical_parameters(model).items():
        path, _, leaf = name.rpartition(".")
        weight = leaf == "weight"
        kind = next((kind for cls, kind in kinds.items() if weight and isinstance(blocks.get(path), cls)), "vector")
        tensors[name] = Tensor(tuple(parameter.shape), kind)
    return tensors


def specifications(model: HybridBlock) -> dict[str, Specification]:
    """Return the equivalent reference layer of each block by path; blocks without one are left out."""
    layers = {path: _specification(block) for path, block in named_blocks(model)}
    return {path: specification for path, specification in layers.items() if specification is not None}


def _specification(block: HybridBlock) -> Specification | None:
    match block:
        case nn.Conv2D():
            kwargs = block._kwargs
            channels = (block.weight.shape[1] * kwargs["num_group"], block.weight.shape[0])
            window = (kwargs["kernel"], kwargs["stride"], kwargs["pad"])
            return convolution(*channels, *window, kwargs["num_group"], kwargs["dilate"])
        case nn.Dense():
            return dense(*reversed(block.weight.shape))
        case nn.BatchNorm():
            return batch_norm(block.gamma.shape[0], block._kwargs["eps"], block._kwargs["momentum"])
        case nn.MaxPool2D() | nn.AvgPool2D():
            kwargs = block._kwargs
            kind = "MaxPool2d" if isinstance(block, nn.MaxPool2D) else "AvgPool2d"
            rounds_down = kwargs["pooling_convention"] == "valid"
            return pool(kind, kwargs["kernel"], kwargs["stride"], kwargs["pad"]) if rounds_down else None
        case nn.Activation() if block._act_type in ("relu", "sigmoid"):
            return Specification("ReLU" if block._act_type == "relu" else "Sigmoid")
    return None
