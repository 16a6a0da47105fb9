"""Keras layers with the suite's semantics, and the base classes of its blocks and networks. All is NHWC.

`keras.layers.Dense`, `AveragePooling2D`, `Flatten`, `Dropout` and the activations are used as they are. Keras's
convolution and max-pooling only take the padding 'valid' or 'same', and 'same' pads unevenly where the stride is not 1;
here `padding` is a number of pixels, the same on all four sides. Batch normalization has other constants.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Self

import keras
import tensorflow as tf

from common import catalog

__all__ = [
    "BATCH_NORM_EPSILON",
    "BATCH_NORM_MOMENTUM",
    "BatchNormalization",
    "Block",
    "Conv2D",
    "GlobalAvgPool2D",
    "MaxPool2D",
    "Network",
    "named_children",
]

BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9
"""Fraction of the old running statistic kept at each training step."""

Shape = tuple[int | None, ...]


def _pad(
    x: tf.Tensor, padding: int, window: tuple[int, int], strides: tuple[int, int], value: float | None = 0
) -> tuple[tf.Tensor, str]:
    """Pad all four sides of an image batch by `padding` pixels; return it and the padding left to the operation.

    `value` fills the padding; None repeats the outermost pixels. TensorFlow's operations also take numbers of pixels,
    but then their gradients take at least twice as long, and XLA and LiteRT do not support such pooling.
    """
    if not padding:
        return x, "VALID"
    if max(strides) == 1 and set(window) == {2 * padding + 1}:
        return x, "SAME"
    if value is not None:
        return tf.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]], constant_values=value), "VALID"
    x = tf.concat([*[x[:, :1]] * padding, x, *[x[:, -1:]] * padding], axis=1)
    return tf.concat([*[x[:, :, :1]] * padding, x, *[x[:, :, -1:]] * padding], axis=2), "VALID"


def _padded(shape: Shape, padding: int) -> Shape:
    """Return the shape of a padded image batch; an unknown size stays None."""
    batch, *image, channels = shape
    return (batch, *(None if size is None else size + 2 * padding for size in image), channels)


def named_children(layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    """Iterate over (name, layer) of the layers that are attributes of `layer`, elements of its lists, or its graph.

    The second element of `stages` is `stage2` in a block or network of this package, `stages.1` in any other layer.
    """
    if isinstance(layer, keras.Sequential) or hasattr(layer, "operations"):  # as a functional model has
        yield from ((child.name, child) for child in layer.layers)
        return
    for name, value in vars(layer).items():
        if isinstance(value, keras.Layer):
            yield name, value
        elif isinstance(value, (list, tuple)) and not name.startswith("_"):  # Keras's own lists of the same layers
            for i, child in enumerate(value):
                if isinstance(child, keras.Layer):
                    own = isinstance(layer, Block | Network)
                    yield f"{name.removesuffix('s')}{i + 1}" if own else f"{name}.{i}", child


def _share_dtype_policy(layer: keras.Layer) -> None:
    """Give the layers of a block or network its own dtype policy; they have the global one until then."""
    for _, child in named_children(layer):
        child.dtype_policy = layer.dtype_policy


class Block(keras.Layer):
    """A layer that is composed of layers, in its own dtype.

    A constructor hands `**kwargs` (`name`, `dtype`, `trainable`) to this class. Keras derives `get_config` from the
    constructor's arguments, which must be numbers, strings, booleans or lists of them.
    """

    def build(self, input_shape: Shape) -> None:
        """Create the weights of all layers in the block."""
        _share_dtype_policy(self)
        # Inside a graph, the caller runs `call` next, which builds the layers as it reaches them. To run it here too
        # would take twice as long on each level of nested blocks.
        if not tf.inside_function():
            self.compute_output_shape(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape that `call` gives a symbolic input."""
        return keras.Operation.compute_output_spec(self, keras.KerasTensor(input_shape, self.compute_dtype)).shape


class Network(keras.Model):
    """A network of the catalog, in its own dtype: (N, H, W, C) -> (N, num_classes).

    The constructor takes the fields of the catalog's configuration and hands `**kwargs` to this class, as in a Block.
    """

    family: str
    """Name of the network's family in the catalog."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the constructor's arguments for `get_config`: `keras.Model.__new__` does not hand them on."""
        return super(keras.Model, cls).__new__(cls, *args, **kwargs)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        entry = catalog.NETWORKS.get(self.name)
        if entry is None or entry.family != self.family:
            entry = catalog.get(self.family)
        config = self.get_config()
        self.network = entry.configured(**{each.name: config[each.name] for each in dataclasses.fields(entry.config)})

    def build(self, input_shape: Shape) -> None:
        """Prepare the layers, which create their weights as `call` reaches them."""
        _share_dtype_policy(self)


@keras.saving.register_keras_serializable(package="rosetta")
class Conv2D(keras.layers.Conv2D):
    """Cross-correlation plus bias, padded by `padding` zeros on each side: (N, H, W, C) -> (N, H', W', filters).

    `groups` divides the channels into groups that are convolved separately. Set `differentiable` to False where no
    gradient is needed: all groups are then one operation, which is twice as fast.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: int = 0,
        groups: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding="valid", groups=groups, **kwargs)
        self.pixels = padding
        self.differentiable = True

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        window = tuple((k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation_rate, strict=True))
        x, padding = _pad(inputs, self.pixels, window, self.strides)
        if self.groups == 1 or not self.differentiable:
            return tf.nn.conv2d(x, kernel, self.strides, padding, dilations=self.dilation_rate)
        # TensorFlow has no gradient of a grouped convolution on the CPU, so each group is a convolution of its own.
        groups = zip(tf.split(x, self.groups, axis=-1), tf.split(kernel, self.groups, axis=-1), strict=True)
        convolved = [tf.nn.conv2d(x, k, self.strides, padding, dilations=self.dilation_rate) for x, k in groups]
        return tf.concat(convolved, axis=-1)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.groups == 1 or self.differentiable:
            return super().call(inputs)
        # Without oneDNN, Keras's `BiasAdd` would be fused into an operation that does not support groups.
        return self.activation(tf.add(self.convolution_op(inputs, self.kernel), self.bias))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return super().compute_output_shape(_padded(input_shape, self.pixels))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.pixels}


@keras.saving.register_keras_serializable(package="rosetta")
class MaxPool2D(keras.layers.MaxPooling2D):
    """The largest value of each window: (N, H, W, C) -> (N, H', W', C). The padding is minus infinity.

    Set `repeats_edges` to True for integers, which have no infinity: the padding then repeats the outermost pixels,
    which the same windows contain anyway.
    """

    def __init__(
        self,
        pool_size: int | tuple[int, int],
        strides: int | tuple[int, int] | None = None,
        padding: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding="valid", **kwargs)
        self.pixels = padding
        self.repeats_edges = False

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        value = None if self.repeats_edges else -math.inf
        x, padding = _pad(inputs, self.pixels, self.pool_size, self.strides, value)
        return tf.nn.max_pool2d(x, self.pool_size, self.strides, padding)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return super().compute_output_shape(_padded(input_shape, self.pixels))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.pixels}


@keras.saving.register_keras_serializable(package="rosetta")
class GlobalAvgPool2D(keras.layers.GlobalAveragePooling2D):
    """The mean of each channel, at any size: (N, H, W, C) -> (N, 1, 1, C)."""

    def __init__(self, keepdims: bool = True, **kwargs: Any) -> None:
        super().__init__(keepdims=keepdims, **kwargs)


@keras.saving.register_keras_serializable(package="rosetta")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization of (N, C) over the batch, of (N, H, W, C) over batch, height and width.

    Like the suite, Keras keeps the biased variance (divided by n); its default constants are 1e-3 and 0.99. Keras
    composes the formula from several operations. For training on float32 images this class uses TensorFlow's fused
    operation, which saves a sixth of a ResNet-18 step; the unbiased variance that it returns is converted. In
    evaluation the formula is faster.
    """

    def __init__(
        self, momentum: float = BATCH_NORM_MOMENTUM, epsilon: float = BATCH_NORM_EPSILON, **kwargs: Any
    ) -> None:
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not (training and self.trainable) or inputs.shape.rank != 4 or inputs.dtype == tf.float64:
            return super().call(inputs, training=training)
        # The wrapper `tf.compat.v1.nn.fused_batch_norm` silently raises a smaller epsilon to 1.001e-5.
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=self.gamma, offset=self.beta, mean=[], variance=[], epsilon=self.epsilon
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
        biased_variance = variance * ((count - 1) / count)
        for running, current in ((self.moving_mean, mean), (self.moving_variance, biased_variance)):
            running.assign(running * self.momentum + current * (1 - self.momentum))
        return y
