"""The Backend protocol for TensorFlow."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common import reference
from common.backends.protocol import Calls, Gradients, check_all_ran, kind_of
from common.catalog import Network
from common.errors import no_device
from common.layout import canonical_input, nchw_to_nhwc, nhwc_to_nchw
from common.optimizers import OptimizerConfig
from common.reference import Call
from common.weights import DTypeName
from tf_impl import build
from tf_impl.training import Trainer, gradients
from tf_impl.weights import from_canonical, named_layers, to_canonical, values_to_canonical

__all__ = ["Backend"]

_WITH_ACTIVATION = (keras.layers.Conv2D, keras.layers.Dense)
"""Layers that may apply an activation of their own. They are observed before it, as in the other frameworks."""

_LARGE = 1 << 24
"""Number of parameters from which a garbage collection, some tenths of a second, is worth its time."""

Observer = Callable[[str, keras.Layer, tf.Tensor, tf.Tensor], tf.Tensor | None]


def _uninitialized(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
    """Allocate a weight that is about to be loaded; random numbers for a network of the size of VGG take seconds.

    Within a scope of custom objects, it stands in for Keras's default initializer of kernels, `glorot_uniform`.
    """
    return tf.raw_ops.Empty(shape=shape, dtype=dtype)


def _observed(model: keras.Model, x: tf.Tensor, training: bool, observe: Observer) -> tf.Tensor:
    """Run the model eagerly and call `observe(path, layer, input, output)` after each layer.

    A tensor that `observe` returns replaces the output. Layers that have several inputs or outputs are not observed.
    """
    layers = {id(layer): (path, layer) for path, layer in named_layers(model)}  # a shared layer has several paths
    with contextlib.ExitStack() as stack:
        for path, layer in layers.values():
            stack.enter_context(_observed_calls(path, layer, observe))
        return model(x, training=training)


@contextlib.contextmanager
def _observed_calls(path: str, layer: keras.Layer, observe: Observer) -> Iterator[None]:
    """Call `observe` after each call of one layer.

    Keras has no hooks on layers, but a layer's `__call__` runs `self.call`, and so an attribute of that name.
    """
    call = layer.call
    activation = layer.activation if isinstance(layer, _WITH_ACTIVATION) else keras.activations.linear

    def observed_call(*args: Any, **kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        if len(args) == 1 and isinstance(args[0], tf.Tensor) and isinstance(output, tf.Tensor):
            replacement = observe(path, layer, args[0], output)
            output = output if replacement is None else replacement
        return activation(output)

    before = {name: value for name, value in vars(layer).items() if name in ("call", "activation")}
    layer.call = observed_call
    if activation is not keras.activations.linear:
        layer.activation = keras.activations.linear
    try:
        yield
    finally:
        del layer.call
        for name, value in before.items():
            setattr(layer, name, value)


class Backend:
    """TensorFlow; see `common.backends.protocol.Backend`."""

    container = "Sequential"

    def __init__(self, device: str = "cpu") -> None:
        gpus = tf.config.list_physical_devices("GPU")
        if device == "gpu" and not gpus:
            raise no_device("TensorFlow")
        if device == "cpu" and gpus:
            # TensorFlow would use any visible GPU.
            tf.config.set_visible_devices([], "GPU")
        tf.config.experimental.enable_tensor_float_32_execution(False)

    def build(self, network: Network, dtype: DTypeName) -> keras.Model:
        if reference.describe(network).parameters > _LARGE:
            # Keras layers contain reference cycles, so earlier models keep their memory until they are collected.
            gc.collect()
        with keras.saving.custom_object_scope({"glorot_uniform": _uninitialized}):
            return build(network.name, dtype=dtype, **network.settings())

    def initial(self, network: Network, dtype: DTypeName, seed: int) -> dict[str, np.ndarray]:
        keras.utils.set_random_seed(seed)
        return to_canonical(build(network.name, dtype=dtype, **network.settings()))

    def load(self, model: keras.Model, tensors: Mapping[str, np.ndarray]) -> None:
        from_canonical(model, tensors)

    def weights(self, model: keras.Model) -> dict[str, np.ndarray]:
        return to_canonical(model)

    def run(self, model: keras.Model, x: np.ndarray, training: bool = False) -> np.ndarray:
        return model(self._input(model, x), training=training).numpy()

    def trace(
        self, model: keras.Model, x: np.ndarray, training: bool = False, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        outputs: dict[str, tf.Tensor] = {}

        def observe(path: str, _: keras.Layer, __: tf.Tensor, output: tf.Tensor) -> tf.Tensor | None:
            outputs[path] = output
            return self._input(model, given[path]) if given and path in given else None

        outputs["logits"] = _observed(model, self._input(model, x), training, observe)
        check_all_ran(model.network, (path for path, _ in named_layers(model)), outputs)
        taps = reference.describe(model.network).taps
        return {tap: np.ascontiguousarray(nhwc_to_nchw(outputs[tap].numpy())) for tap in taps}

    def calls(self, model: keras.Model, x: np.ndarray, training: bool = False) -> Calls:
        found: Calls = {}

        manifest = reference.describe(model.network).manifest

        def observe(path: str, _: keras.Layer, given: tf.Tensor, output: tf.Tensor) -> None:
            x, y = nhwc_to_nchw(given.numpy()), nhwc_to_nchw(output.numpy())
            found[path] = canonical_input(manifest.get(f"{path}.weight"), x), y

        _observed(model, self._input(model, x), training, observe)
        return found

    def summary(self, model: keras.Model) -> list[Call]:
        calls: list[Call] = []

        def observe(path: str, layer: keras.Layer, _: tf.Tensor, output: tf.Tensor) -> None:
            kind = kind_of(layer, "tf_impl", (keras.Layer,))
            calls.append(Call(path, kind, tuple(output.shape), own=type(layer).__name__))

        image = np.zeros((1, *model.network.input_shape))
        _observed(model, self._input(model, image), False, observe)
        return calls

    def gradients(self, model: keras.Model, x: np.ndarray, labels: np.ndarray) -> Gradients:
        loss, by_parameter, by_images = gradients(model, self._input(model, x), tf.convert_to_tensor(labels))
        arrays = values_to_canonical(model.network, by_parameter)
        return Gradients(float(loss), arrays, np.ascontiguousarray(nhwc_to_nchw(by_images.numpy())))

    def trainer(self, model: keras.Model, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        # Without Grappler, a compiled step gives the same bits as the same operations run one by one.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        return Trainer(model, optimizer, seed)

    @staticmethod
    def _input(model: keras.Model, x: np.ndarray) -> tf.Tensor:
        return tf.convert_to_tensor(nchw_to_nhwc(x).astype(model.compute_dtype, copy=False))
