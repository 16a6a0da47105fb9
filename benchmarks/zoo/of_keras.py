"""keras.applications, under `tf.function`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

# The functions behind keras.applications accept other depths, but are not public.
from keras.src.applications.densenet import DenseNet
from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

from benchmarks.plain.in_tf import Compiled, CompiledStep, set_threads
from common.catalog import Network
from common.errors import ConfigError

__all__ = ["session", "set_threads", "training_step", "work"]


def _stages(x: tf.Tensor) -> tf.Tensor:
    for i, channels in enumerate((64, 128, 256, 512), start=1):
        x = stack_residual_blocks_v1(x, channels, 2, stride1=1 if i == 1 else 2, name=f"stage{i}")
    return x


def build(network: Network) -> keras.Model:
    """Return the counterpart of a network in keras.applications. Raises ConfigError if there is none."""
    options = {
        "weights": None,
        "input_shape": (*network.config.input_size, network.config.in_channels),
        "classes": network.config.num_classes,
        "classifier_activation": None,
    }
    match network.name:
        case "resnet18":
            return ResNet(_stages, preact=False, use_bias=True, **options)
        case "vgg11":
            return keras.applications.VGG16(**options)
        case "densenet":
            return DenseNet([4, 4, 4, 4], **options)
        case _:
            raise ConfigError(f"keras.applications has no counterpart of {network.name}")


def work(network: Network) -> int:
    """Return the multiply-accumulates of the counterpart for one image."""
    layers = [layer for layer in build(network).layers if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)]
    # The kernel's last axis is the output channels, so only the output's height and width are counted in addition.
    return sum(math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1]) for layer in layers)


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> Compiled:
    """Return the counterpart, ready for inference."""
    return Compiled(build(network))


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> CompiledStep:
    """Return an SGD training step of the counterpart."""
    return CompiledStep(build(network), images, labels, learning_rate)
