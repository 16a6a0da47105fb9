"""torchvision's networks, run eagerly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from benchmarks.plain.in_torch import Eager, EagerStep, set_threads
from common.catalog import Network
from common.errors import ConfigError

__all__ = ["count", "session", "set_threads", "training_step", "work"]

# The compiled operators of torchvision's wheel do not load with a CPU build of torch. Classifiers do not need them, but
# the import of torchvision fails unless these two operators are defined.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _operator in ("nms", "qnms"):
    _LIBRARY.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import models
from torchvision.models.regnet import BlockParams, RegNet


def build(network: Network) -> nn.Module:
    """Return torchvision's counterpart of a network. Raises ConfigError if there is none."""
    classes = network.config.num_classes
    match network.name:
        case "resnet18":
            model = models.resnet18(num_classes=classes)
        case "vgg11":
            model = models.vgg11(num_classes=classes)
        case "googlenet":
            model = models.GoogLeNet(num_classes=classes, aux_logits=False, init_weights=False)
        case "densenet":
            model = models.DenseNet(32, (4, 4, 4, 4), 64, num_classes=classes)
        case "regnetx32":
            model = RegNet(BlockParams([4, 6], [32, 80], [16, 16], [1.0, 1.0], [2, 2]), num_classes=classes)
        case _:
            raise ConfigError(f"torchvision has no counterpart of {network.name}")
    return _with_input_channels(model, network.config.in_channels)


def _with_input_channels(model: nn.Module, channels: int) -> nn.Module:
    """Replace the first convolution by one with `channels` input channels; torchvision's has three."""
    path, first = next((path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    parent, _, name = path.rpartition(".")
    bias = first.bias is not None
    replaced = nn.Conv2d(channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=bias)
    setattr(model.get_submodule(parent), name, replaced)
    return model


def count(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulates of convolutions and dense layers for one image (channels, height, width)."""
    total = 0

    def add(layer: nn.Conv2d | nn.Linear, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    with torch.inference_mode():
        model.eval()(torch.zeros((1, *shape)))
    return total


def work(network: Network) -> int:
    """Return the multiply-accumulates of the counterpart for one image."""
    return count(build(network), network.input_shape)


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> Eager:
    """Return the counterpart, ready for inference."""
    return Eager(build(network))


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> EagerStep:
    """Return an SGD training step of the counterpart."""
    return EagerStep(build(network), images, labels, learning_rate)
