"""Inference and training sessions for benchmarks: batch norm folded, weights frozen, optimized by Grappler or XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from common.catalog import Network
from common.deploy.export.fold_batch_norm import fold, folded_layers
from common.errors import ConfigError, unknown
from common.layout import nchw_to_nhwc
from common.optimizers import OptimizerConfig
from tf_impl.backend import Backend
from tf_impl.layers import Conv2D
from tf_impl.training import make_optimizer, train_step
from tf_impl.weights import named_layers

__all__ = ["deployed", "frozen", "session", "set_threads", "training_step"]

_PATHS = ("tf-eager", "tf-function", "tf-xla")
"""The execution paths that run this package's code."""

_LARGEST_GRAPH = 2**31
"""Limit in bytes of a protobuf message, and so of a graph with its constants."""


def set_threads(count: int) -> None:
    """Use `count` threads, one operation at a time. Raises RuntimeError after TensorFlow was initialized."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _built(network: Network, tensors: Mapping[str, np.ndarray], device: str) -> keras.Model:
    """Return the port's model with these weights, in their dtype, and turn Grappler on for compiled functions."""
    backend = Backend(device)
    model = backend.build(network, next(iter(tensors.values())).dtype.name)
    backend.load(model, tensors)
    # The trainer of a Backend turns it off.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    return model


def deployed(network: Network, tensors: Mapping[str, np.ndarray], device: str = "cpu") -> keras.Model:
    """Return the port's model for evaluation, without gradients; folded normalizations return their input unchanged.

    Raises BackendError if TensorFlow does not see the device.
    """
    model = _built(network, fold(network, tensors), device)
    folded = folded_layers(network)
    for path, layer in named_layers(model):
        if path in folded:
            # Keras does not let a built model replace a layer, but an attribute of a layer can replace its `call`.
            layer.call = lambda inputs, **_: inputs
        if isinstance(layer, Conv2D):
            layer.differentiable = False
    return model


def frozen(
    model: keras.Model, batch: int | None, size: tuple[int | None, int | None]
) -> Callable[..., list[tf.Tensor]]:
    """Return a function (N, H, W, C) -> [(N, num_classes)] whose weights are constants.

    With constants, Grappler fuses each convolution with its bias and ReLU, and oneDNN reorders its kernel only once.
    The function is a `ConcreteFunction` whose input is named `images`. Raises ConfigError if the weights are too large
    for a graph.
    """
    nbytes = model.count_params() * tf.as_dtype(model.compute_dtype).size
    if nbytes >= _LARGEST_GRAPH:
        raise ConfigError(
            f"a TensorFlow graph holds constants of less than {_LARGEST_GRAPH:,} bytes, and {model.network.name}'s "
            f"weights have {nbytes:,}; take fewer channels, or float32 for float64"
        )
    spec = tf.TensorSpec((batch, *size, model.network.config.in_channels), model.compute_dtype, "images")
    # There is no Python control flow on tensors, for which AutoGraph would be needed.
    function = tf.function(functools.partial(model, training=False), input_signature=[spec], autograph=False)
    return convert_variables_to_constants_v2(function.get_concrete_function())


class _Session:
    """A compiled function as a `common.backends.sessions.Session`."""

    def __init__(self, dtype: str, function: Callable[[tf.Tensor], tf.Tensor]) -> None:
        self._dtype = dtype
        self._function = function

    def prepare(self, x: np.ndarray) -> tf.Tensor:
        return tf.convert_to_tensor(nchw_to_nhwc(x).astype(self._dtype, copy=False))

    def run(self, prepared: tf.Tensor) -> np.ndarray:
        # On a GPU, `numpy` waits for the result and copies it; on a CPU it copies nothing.
        return self._function(prepared).numpy()

    def logits(self, answer: np.ndarray) -> np.ndarray:
        return answer


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> _Session:
    """Return a session; see `common.backends.sessions`.

    Raises ConfigError for a path of another package, BackendError without the device.
    """
    if path not in _PATHS:
        raise unknown("execution path of TensorFlow's own", path, _PATHS)
    if path == "tf-eager":
        model = _built(network, tensors, device)
        return _Session(model.compute_dtype, functools.partial(model, training=False))
    model = deployed(network, tensors, device)

    @functools.cache
    def of_shape(shape: tuple[int, ...]) -> Callable[[tf.Tensor], list[tf.Tensor]]:
        function = frozen(model, shape[0], shape[1:3])
        return tf.function(function, jit_compile=True, autograph=False) if path == "tf-xla" else function

    return _Session(model.compute_dtype, lambda images: of_shape(tuple(images.shape))(images)[0])


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> Callable[[], float]:
    """Return a training step; see `common.backends.sessions`. Raises the errors of `session`."""
    if path not in _PATHS:
        raise unknown("execution path of TensorFlow's own", path, _PATHS)
    model = _built(network, tensors, device)
    optimizer = make_optimizer(OptimizerConfig("sgd"), model)
    optimizer.learning_rate.assign(learning_rate)
    step = functools.partial(train_step, model, optimizer)
    if path != "tf-eager":
        step = tf.function(step, jit_compile=path == "tf-xla", autograph=False)
    x = tf.convert_to_tensor(nchw_to_nhwc(images).astype(model.compute_dtype, copy=False))
    y = tf.convert_to_tensor(labels)
    return lambda: float(step(x, y)[0])
