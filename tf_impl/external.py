"""Adapters for user-defined Keras models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

from common import layout
from common.layout import Tensor, nchw_to_nhwc
from common.reference.layer_specs import Specification, batch_norm, convolution, dense, pool
from common.weights import DTypeName
from tf_impl.layers import Conv2D, MaxPool2D
from tf_impl.weights import all_variables, named_layers

__all__ = ["adopt", "manifest", "specifications"]


def adopt(make: Callable[[], keras.Model], dtype: DTypeName, image: tuple[int, ...]) -> keras.Model:
    """Return a new model of `dtype`, built for images of shape (C, H, W) given as (H, W, C), with dropout off."""
    # Restart the numbering of automatic layer names, so that they are the same in each new model.
    keras.utils.clear_session(free_memory=False)
    with _default_dtype(dtype):
        model = make()
        model(tf.convert_to_tensor(nchw_to_nhwc(np.zeros((1, *image), dtype))), training=False)
    for _, layer in named_layers(model):
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return model


@contextmanager
def _default_dtype(dtype: DTypeName) -> Iterator[None]:
    """Set the dtype of new layers, and of `keras.Input`, which takes it from `floatx` whatever the dtype policy is."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_dtype_policy(dtype)
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def manifest(model: keras.Model) -> dict[str, Tensor]:
    """Return the model's tensors by canonical name, in canonical shapes."""
    layers = dict(named_layers(model))
    kinds = {keras.layers.Conv2D: "conv", keras.layers.Dense: "dense"}
    found = {}
    for name, variable in all_variables(model).items():
        path, _, leaf = name.rpartition(".")
        weight, shape = leaf == "weight", tuple(variable.shape)
        kind = next((kind for cls, kind in kinds.items() if weight and isinstance(layers[path], cls)), "vector")
        found[name] = Tensor(layout.to_canonical(Tensor(shape, kind), np.empty(shape, np.uint8)).shape, kind)
    return found


def specifications(model: keras.Model) -> dict[str, Specification]:
    """Return the equivalent layer of the reference by path, for the layers that have one."""
    found = {path: _specification(layer) for path, layer in named_layers(model)}
    return {path: specification for path, specification in found.items() if specification is not None}


def _specification(layer: keras.Layer) -> Specification | None:
    match layer:
        case keras.layers.Conv2D():
            padding = _padding(layer, layer.kernel_size, layer.strides)
            if padding is None:
                return None
            channels = (layer.kernel.shape[2] * layer.groups, layer.filters)
            return convolution(*channels, layer.kernel_size, layer.strides, padding, layer.groups, layer.dilation_rate)
        case keras.layers.Dense():
            return dense(*layer.kernel.shape)
        case keras.layers.BatchNormalization():
            return batch_norm(layer.moving_mean.shape[0], layer.epsilon, layer.momentum)
        case keras.layers.MaxPooling2D() | keras.layers.AveragePooling2D():
            padding = _padding(layer, layer.pool_size, layer.strides)
            kind = "MaxPool2d" if isinstance(layer, keras.layers.MaxPooling2D) else "AvgPool2d"
            return None if padding is None else pool(kind, layer.pool_size, layer.strides, padding)
        case keras.layers.ReLU():
            return Specification("ReLU")
        case keras.layers.Activation():
            known = {"relu": Specification("ReLU"), "sigmoid": Specification("Sigmoid")}
            return known.get(keras.activations.serialize(layer.activation))
    return None


def _padding(layer: keras.Layer, window: tuple[int, int], strides: tuple[int, int]) -> int | None:
    """Return the number of pixels added to each side; None if the sides differ."""
    if isinstance(layer, (Conv2D, MaxPool2D)):
        return layer.pixels
    if layer.padding == "valid":
        return 0
    # With a stride, 'same' depends on the size of the image and may be uneven.
    even = set(strides) == {1} and len(set(window)) == 1 and window[0] % 2
    return window[0] // 2 if layer.padding == "same" and even else None
