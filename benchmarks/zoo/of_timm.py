"""timm's networks, run eagerly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

# First, since timm imports torchvision, which needs the preparation in that module.
from benchmarks.zoo.of_torchvision import Eager, EagerStep, count, set_threads  # isort: skip
import timm
from timm.models.densenet import DenseNet

from common.catalog import Network
from common.errors import ConfigError

__all__ = ["session", "set_threads", "training_step", "work"]


def build(network: Network) -> nn.Module:
    """Return timm's counterpart of a network. Raises ConfigError if there is none."""
    sizes = {"num_classes": network.config.num_classes, "in_chans": network.config.in_channels}
    match network.name:
        case "resnet18" | "vgg11":
            return timm.create_model(network.name, **sizes)
        case "densenet":
            return DenseNet(32, (4, 4, 4, 4), **sizes)
        case "regnetx32":
            return timm.create_model("regnetx_002", **sizes)
        case _:
            raise ConfigError(f"timm has no counterpart of {network.name}")


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
