"""Modules that rosetta did not build, made ready for this package's Backend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from common.layout import Tensor
from common.reference.layer_specs import Specification, batch_norm, convolution, dense, pool
from common.weights import DTypeName

__all__ = ["adopt", "manifest", "specifications"]


def adopt(make: Callable[[], nn.Module], dtype: DTypeName, image: tuple[int, ...]) -> nn.Module:
    """Return a new module of `dtype` in evaluation mode, its lazy layers made for an image (C, H, W), dropout off."""
    model = make().to(getattr(torch, dtype)).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    with torch.no_grad():
        model(torch.zeros((1, *image), dtype=getattr(torch, dtype)))
    return model


def manifest(model: nn.Module) -> dict[str, Tensor]:
    """Return the module's tensors by name, in the order of assignment."""
    kinds = {nn.Conv2d: "conv", nn.Linear: "dense"}
    found = {}
    for name, tensor in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        if leaf != "num_batches_tracked":
            layer = model.get_submodule(path)
            kind = next((kind for cls, kind in kinds.items() if isinstance(layer, cls) and leaf == "weight"), "vector")
            found[name] = Tensor(tuple(tensor.shape), kind)
    return found


def specifications(model: nn.Module) -> dict[str, Specification]:
    """Return by path what each layer is in the reference's terms, where the reference has one like it."""
    found = {path: _specification(module) for path, module in model.named_modules()}
    return {path: specification for path, specification in found.items() if specification is not None}


def _specification(module: nn.Module) -> Specification | None:
    match module:
        case nn.Conv2d() if module.padding_mode == "zeros" and isinstance(module.padding, tuple):
            channels = (module.in_channels, module.out_channels)
            window = (module.kernel_size, module.stride, module.padding)
            return convolution(*channels, *window, module.groups, module.dilation)
        case nn.Linear():
            return dense(module.in_features, module.out_features)
        case nn.BatchNorm1d() | nn.BatchNorm2d() if module.momentum is not None:
            # torch keeps the variance divided by n - 1.
            return batch_norm(module.num_features, module.eps, 1 - module.momentum, unbiased=True)
        case nn.MaxPool2d() if not module.ceil_mode:
            return pool("MaxPool2d", module.kernel_size, module.stride, module.padding, module.dilation)
        case nn.AvgPool2d() if not module.ceil_mode and module.divisor_override is None:
            return pool("AvgPool2d", module.kernel_size, module.stride, module.padding)
        case nn.ReLU():
            return Specification("ReLU")
        case nn.Sigmoid():
            return Specification("Sigmoid")
    return None
