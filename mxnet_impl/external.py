"""Blocks that rosetta did not build, made ready for this package's Backend."""

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
    """Return a new block of `dtype`, its shapes inferred from an image (C, H, W), dropout off."""
    model = make()
    with warnings.catch_warnings():
        # Gluon warns of each parameter that the block has initialized itself.
        warnings.simplefilter("ignore")
        model.initialize()
    for _, block in named_blocks(model):
        if isinstance(block, nn.Dropout):
            block._rate = 0.0
    # Gluon draws float32 numbers alone for what waits for its shape.
    model(mx.np.zeros((1, *image), dtype="float32"))
    model.cast(dtype)
    return model


def manifest(model: HybridBlock) -> dict[str, Tensor]:
    """Return the block's tensors by canonical name, in the order of assignment."""
    blocks = dict(named_blocks(model))
    kinds = {nn.Conv2D: "conv", nn.Dense: "dense"}
    found = {}
    for name, parameter in canonical_parameters(model).items():
        path, _, leaf = name.rpartition(".")
        weight = leaf == "weight"
        kind = next((kind for cls, kind in kinds.items() if weight and isinstance(blocks.get(path), cls)), "vector")
        found[name] = Tensor(tuple(parameter.shape), kind)
    return found


def specifications(model: HybridBlock) -> dict[str, Specification]:
    """Return by path what each layer is in the reference's terms, where the reference has one like it."""
    found = {path: _specification(block) for path, block in named_blocks(model)}
    return {path: specification for path, specification in found.items() if specification is not None}


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
            floors = kwargs["pooling_convention"] == "valid"
            return pool(kind, kwargs["kernel"], kwargs["stride"], kwargs["pad"]) if floors else None
        case nn.Activation() if block._act_type in ("relu", "sigmoid"):
            return Specification("ReLU" if block._act_type == "relu" else "Sigmoid")
    return None
