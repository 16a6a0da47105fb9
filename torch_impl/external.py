"""Adapters that let this package's Backend run an external `nn.Module`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from common.layout import Tensor
from common.reference.layer_specs import Specification, batch_norm, convolution, dense, pool
from common.weights import DTypeName

__all__ = ["adopt", "manifest", "specifications"]


def adopt(make: Callable[[], nn.Module], dtype: DTypeName, image: tuple[int, ...]) -> nn.Module:
    """Return a new module of `dtype` in evaluation mode, its lazy layers initialized by an image (C, H, W).

    Dropout is turned off in training mode too.
    """
    model = make().to(getattr(torch, dtype)).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    with torch.no_grad():
        model(torch.zeros((1, *image), dtype=getattr(torch, dtype)))
    return model


def manifest(model: nn.Module) -> dict[str, Tensor]:
    """Return the shape and kind of the module's tensors by name, in the order of its state dict."""
    kinds = {nn.Conv2d: "conv", nn.Linear: "dense"}
    tensors = {}
    for name, tensor in model.state_dict().items():
        path, _, leaf = name.rpartition(".")
        if leaf != "num_batches_tracked":
            layer = model.get_submodule(path)
            kind = next((kind for cls, kind in kinds.items() if isinstance(layer, cls) and leaf == "weight"), "vector")
            tensors[name] = Tensor(tuple(tensor.shape), kind)
    return tensors


def specifications(model: nn.Module) -> dict[str, Specification]:
    """Return the layers of the reference that correspond to the module's, by path; others are left out."""
    every = {path: _specification(module) for path, module in model.named_modules()}
    return {path: specification for path, specification in every.items() if specification is not None}


def _specification(module: nn.Module) -> Specification | None:
    match module:
        case nn.Conv2d() if module.padding_mode == "zeros" and isinstance(module.padding, tuple):
            channels = (module.in_channels, module.out_channels)
            window = (module.kernel_size, module.stride, module.padding)
            return convolution(*channels, *window, module.groups, module.dilation)
        case nn.Linear():
            return dense(module.in_features, module.out_features)
        case nn.BatchNorm1d() | nn.BatchNorm2d() if module.momentum is not None:
            # torch keeps the running variance divided by n - 1.
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
