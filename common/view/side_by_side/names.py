"""Corresponding names in the implementations, and reasons why an implementation lacks a part."""

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
"""Canonical names of parameters and statistics, by their names in Flax, Keras and Gluon."""

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
"""Layers of a framework that already have the suite's semantics, so that its port does not define its own."""

_PORTS = tuple(name for name in BACKENDS if name != "numpy")
_NO_TRAINING = "the reference runs forward only; common/optimizers.py defines the optimizers of the ports"
_TRAINING = ("Trainer", "clip_gradients", "gradients", "make_optimizer", "train_step")
_OWN_MODULES = "the framework has its own"


def _all_but(*having: str) -> tuple[str, ...]:
    return tuple(name for name in BACKENDS if name not in having)


ABSENT: Mapping[tuple[str, str], str] = {
    **{
        (f"layers.{layer}", backend): f"models use {own}, which has the same semantics"
        for layer, names in FRAMEWORKS_OWN.items()
        for backend, own in names.items()
    },
    **{
        (part, backend): reason
        for part, backends, reason in (
            ("layers.module", _PORTS, _OWN_MODULES),
            ("layers.sequential", tuple(name for name in _PORTS if name != "torch"), _OWN_MODULES),
            ("layers.layer", _PORTS, _OWN_MODULES),
            ("layers.shape", _PORTS, "only the reference runs on shapes instead of arrays"),
            ("layers.field", _PORTS, "only the reference computes receptive fields"),
            ("layers.output_size", _PORTS, "the framework computes it"),
            ("layers.add", _PORTS, "arrays are added with +; the reference also adds shapes"),
            ("layers.concatenate", _PORTS, "the framework has a function; the reference also concatenates shapes"),
            ("layers.hybrid_sequential", _all_but("mxnet"), "only Gluon has two kinds of containers"),
            ("layers.named_children", ("numpy", "torch", "jax"), "the framework names a layer's children itself"),
            ("layers.image_size", ("numpy",), "the reference runs a network on a shape to find the number of features"),
            ("layers.image_size", ("tf", "mxnet"), "the framework infers a layer's input size from its first input"),
            ("layers.block", _all_but("tf"), "only Keras needs a base class to build and save a layer made of layers"),
            ("layers.network", _all_but("tf"), "only Keras needs a base class to save and load a whole model"),
            ("layers.exact_statistics", _all_but("mxnet"), "running statistics keep their precision"),
            *((f"training.{name}", ("numpy",), _NO_TRAINING) for name in _TRAINING),
        )
        for backend in backends
    },
}
"""Why an implementation has no source for a part of a file, by part and implementation."""


def normal(name: str) -> str:
    """Return a key that is equal for corresponding names: BatchNorm2d and BatchNormalization become batchnorm."""
    # Frameworks differ in 1d and 2d suffixes, in abbreviations, and in functions instead of classes.
    return re.sub(r"[12]d$", "", name.lower().replace("_", "")).replace("normalization", "norm")


def display(file_name: str, name: str) -> str:
    """Return the displayed name of a definition. Layers get a neutral name: MaxPool2d becomes max_pool."""
    if file_name != "layers":
        return name
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", re.sub(r"[12][dD]$", "", name)).lower()
