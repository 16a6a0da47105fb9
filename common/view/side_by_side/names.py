"""Names for the same thing in different implementations, and what an implementation has no source of its own for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from common.backends.registry import BACKENDS

__all__ = ["ABSENT", "FRAMEWORKS_OWN", "LEAVES", "display", "normal"]

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "moving_mean": "running_mean",
    "var": "running_var",
    "moving_variance": "running_var",
}
"""What Flax and Keras call the weights that a layer makes."""

FRAMEWORKS_OWN = {
    "conv": {"torch": "nn.Conv2d", "mxnet": "nn.Conv2D"},
    "max_pool": {"torch": "nn.MaxPool2d", "mxnet": "nn.MaxPool2D"},
    "avg_pool": {"torch": "nn.AvgPool2d", "tf": "keras.layers.AveragePooling2D", "mxnet": "nn.AvgPool2D"},
    "global_avg_pool": {"torch": "nn.AdaptiveAvgPool2d", "mxnet": "nn.GlobalAvgPool2D"},
    "linear": {"torch": "nn.Linear", "jax": "nnx.Linear", "tf": "keras.layers.Dense", "mxnet": "nn.Dense"},
    "flatten": {"torch": "nn.Flatten", "jax": "reshape", "tf": "keras.layers.Flatten", "mxnet": "nn.Flatten"},
    "relu": {"torch": "nn.ReLU", "jax": "nnx.relu", "tf": "keras.layers.ReLU", "mxnet": "nn.Activation"},
    "sigmoid": {
        "torch": "nn.Sigmoid",
        "jax": "nnx.sigmoid",
        "tf": "keras.layers.Activation",
        "mxnet": "nn.Activation",
    },
    "dropout": {"torch": "nn.Dropout", "jax": "nnx.Dropout", "tf": "keras.layers.Dropout", "mxnet": "nn.Dropout"},
}
"""Layers that a framework has in the suite's sense, so that its port needs none of its own."""

_PORTS = tuple(name for name in BACKENDS if name != "numpy")
_NO_TRAINING = "the reference runs forward only; what its ports train by is defined in common/optimizers.py"
_TRAINING = ("Trainer", "clip_gradients", "gradients", "make_optimizer", "train_step")
_OWN_MODULES = "the framework brings its own"


def _all_but(*having: str) -> tuple[str, ...]:
    return tuple(name for name in BACKENDS if name not in having)


ABSENT: Mapping[tuple[str, str], str] = {
    **{
        (f"layers.{layer}", backend): f"{own} already means it, and models use it as it is"
        for layer, names in FRAMEWORKS_OWN.items()
        for backend, own in names.items()
    },
    **{
        (part, backend): reason
        for part, backends, reason in (
            ("layers.module", _PORTS, _OWN_MODULES),
            ("layers.sequential", tuple(name for name in _PORTS if name != "torch"), _OWN_MODULES),
            ("layers.layer", _PORTS, _OWN_MODULES),
            ("layers.shape", _PORTS, "only the reference is run on a shape in place of an array"),
            ("layers.field", _PORTS, "only the reference is asked what of the image a layer sees"),
            ("layers.output_size", _PORTS, "the framework computes it"),
            ("layers.add", _PORTS, "arrays are added with +; the reference's may be shapes"),
            ("layers.concatenate", _PORTS, "the framework has a function for it; the reference joins shapes too"),
            ("layers.hybrid_sequential", _all_but("mxnet"), "only Gluon has two kinds of containers"),
            ("layers.named_children", _all_but("mxnet"), "children are attributes in any case"),
            ("layers.image_size", ("numpy",), "a network there is run on a shape to learn its features"),
            ("layers.image_size", ("tf", "mxnet"), "the framework learns a layer's input size from its first input"),
            ("layers.block", _all_but("tf"), "only Keras needs a base class to build and save a layer made of layers"),
            ("layers.network", _all_but("tf"), "only Keras needs a base class to save and load a whole model"),
            ("layers.named_children", _all_but("tf"), "the framework names a layer's layers itself"),
            ("layers.exact_statistics", _all_but("mxnet"), "the momentum keeps the precision of its statistics"),
            *((f"training.{name}", ("numpy",), _NO_TRAINING) for name in _TRAINING),
        )
        for backend in backends
    },
}
"""Why an implementation has no source of its own for a part of a file, where it has none."""


def normal(name: str) -> str:
    """Return what the names of the same thing have in common: BatchNorm2d and BatchNormalization are batchnorm."""
    # Keras spells it out; some frameworks tell 1d from 2d, some do not, and JAX has functions for classes.
    return re.sub(r"[12]d$", "", name.lower().replace("_", "")).replace("normalization", "norm")


def display(file_name: str, name: str) -> str:
    """Return what a definition is called here: layers go by no framework's name, MaxPool2d is max_pool."""
    if file_name != "layers":
        return name
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", re.sub(r"[12][dD]$", "", name)).lower()
