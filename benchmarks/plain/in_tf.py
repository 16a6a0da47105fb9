"""The networks in TensorFlow as a Keras tutorial would write them: functional models, default layers, `tf.function`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.plain import arguments
from benchmarks.plain.weights import Layers
from common.catalog import Network

__all__ = ["Compiled", "CompiledStep", "Lite", "build", "load", "session", "set_threads", "training_step"]

COMPILED = {"plain-tf-eager": None, "plain-tf": False, "plain-tf-xla": True}
"""True if XLA compiles each path; None for eager execution."""
LITE = "plain-litert"
"""The path through TensorFlow Lite, for inference only."""


def conv(x: tf.Tensor, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> tf.Tensor:
    if stride > 1 and kernel > 1:
        # 'same' pads asymmetrically for strides above 1.
        x = layers.ZeroPadding2D(kernel // 2)(x)
    padding = "same" if stride == 1 else "valid"
    return layers.Conv2D(channels, kernel, strides=stride, padding=padding, groups=groups)(x)


def norm(x: tf.Tensor) -> tf.Tensor:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def relu(x: tf.Tensor) -> tf.Tensor:
    return layers.ReLU()(x)


def max_pool(x: tf.Tensor) -> tf.Tensor:
    # Zero padding is correct here because the input comes from a ReLU.
    return layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))


def stem(x: tf.Tensor) -> tf.Tensor:
    return max_pool(relu(norm(conv(x, 64, 7, stride=2))))


def head(x: tf.Tensor, num_classes: int) -> tf.Tensor:
    return layers.Dense(num_classes)(layers.GlobalAveragePooling2D()(x))


def residual(x: tf.Tensor, channels: int, stride: int) -> tf.Tensor:
    y = relu(norm(conv(x, channels, 3, stride)))
    y = norm(conv(y, channels, 3))
    if stride > 1:
        x = conv(x, channels, 1, stride)
    return relu(layers.Add()([y, x]))


def resnet18(x: tf.Tensor, num_classes: int) -> tf.Tensor:
    x = stem(x)
    for channels in (64, 128, 256, 512):
        x = residual(x, channels, 1 if channels == 64 else 2)
        x = residual(x, channels, 1)
    return head(x, num_classes)


def vgg11(x: tf.Tensor, num_classes: int, dropout: float = 0.5) -> tf.Tensor:
    for convs, channels in ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512)):
        for _ in range(convs):
            x = relu(conv(x, channels, 3))
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(dropout)(relu(layers.Dense(4096)(x)))
    return layers.Dense(num_classes)(x)


def inception(x: tf.Tensor, c1: int, c2: tuple[int, int], c3: tuple[int, int], c4: int) -> tf.Tensor:
    y1 = relu(conv(x, c1, 1))
    y2 = relu(conv(relu(conv(x, c2[0], 1)), c2[1], 3))
    y3 = relu(conv(relu(conv(x, c3[0], 1)), c3[1], 5))
    y4 = relu(conv(layers.MaxPooling2D(3, strides=1, padding="same")(x), c4, 1))
    return layers.Concatenate()([y1, y2, y3, y4])


def googlenet(x: tf.Tensor, num_classes: int) -> tf.Tensor:
    x = max_pool(relu(conv(x, 64, 7, stride=2)))
    x = relu(conv(x, 64, 1))
    x = max_pool(relu(conv(x, 192, 3)))
    x = inception(x, 64, (96, 128), (16, 32), 32)
    x = max_pool(inception(x, 128, (128, 192), (32, 96), 64))
    x = inception(x, 192, (96, 208), (16, 48), 64)
    x = inception(x, 160, (112, 224), (24, 64), 64)
    x = inception(x, 128, (128, 256), (24, 64), 64)
    x = inception(x, 112, (144, 288), (32, 64), 64)
    x = max_pool(inception(x, 256, (160, 320), (32, 128), 128))
    x = inception(x, 256, (160, 320), (32, 128), 128)
    x = inception(x, 384, (192, 384), (48, 128), 128)
    return head(x, num_classes)


def densenet(x: tf.Tensor, num_classes: int) -> tf.Tensor:
    x = stem(x)
    for stage in range(4):
        if stage > 0:
            x = layers.AveragePooling2D(2)(conv(relu(norm(x)), x.shape[-1] // 2, 1))
        for _ in range(4):
            x = layers.Concatenate()([x, conv(relu(norm(x)), 32, 3)])
    return head(relu(norm(x)), num_classes)


def bottleneck(x: tf.Tensor, channels: int, stride: int) -> tf.Tensor:
    y = relu(norm(conv(x, channels, 1)))
    y = relu(norm(conv(y, channels, 3, stride, groups=channels // 16)))
    y = norm(conv(y, channels, 1))
    if stride > 1:
        x = norm(conv(x, channels, 1, stride))
    return relu(layers.Add()([y, x]))


def regnetx32(x: tf.Tensor, num_classes: int) -> tf.Tensor:
    x = relu(norm(conv(x, 32, 3, stride=2)))
    for depth, channels in ((4, 32), (6, 80)):
        for block in range(depth):
            x = bottleneck(x, channels, 2 if block == 0 else 1)
    return head(x, num_classes)


NETWORKS: Mapping[str, Callable[..., tf.Tensor]] = {
    "resnet18": resnet18,
    "vgg11": vgg11,
    "googlenet": googlenet,
    "densenet": densenet,
    "regnetx32": regnetx32,
}


def build(network: Network) -> keras.Model:
    """Return the network with Keras's default initialization."""
    settings = arguments(network)
    inputs = keras.Input((*network.config.input_size, settings.pop("in_channels")))
    return keras.Model(inputs, NETWORKS[network.name](inputs, **settings))


def _creation_order(layer: keras.Layer) -> int:
    """Return the number of earlier layers of the same class, read from the name; Keras orders layers by depth."""
    numbered = re.search(r"_(\d+)$", layer.name)
    return int(numbered[1]) if numbered else 0


def load(model: keras.Model, weights: Layers) -> None:
    """Copy canonical weights into the model, in its dtype."""
    for layer in sorted(model.layers, key=_creation_order):
        if isinstance(layer, layers.Conv2D | layers.Dense):
            arrays = weights.next("conv" if isinstance(layer, layers.Conv2D) else "dense")
            layer.set_weights([arrays["weight"], arrays["bias"]])
        elif isinstance(layer, layers.BatchNormalization):
            arrays = weights.next("norm")
            layer.set_weights([arrays[leaf] for leaf in ("weight", "bias", "running_mean", "running_var")])
    weights.finish()


class Compiled:
    """A model in evaluation mode under `tf.function`, with or without XLA, or eager if `xla` is None."""

    def __init__(self, model: keras.Model, xla: bool | None = False) -> None:
        def predict(x: tf.Tensor) -> tf.Tensor:
            return model(x, training=False)

        self.predict = predict if xla is None else tf.function(predict, jit_compile=xla)

    def prepare(self, x: np.ndarray) -> tf.Tensor:
        return tf.constant(x.transpose(0, 2, 3, 1))

    def run(self, prepared: tf.Tensor) -> tf.Tensor:
        answer = self.predict(prepared)
        answer.numpy()
        return answer

    def logits(self, answer: tf.Tensor) -> np.ndarray:
        return answer.numpy()


class Lite:
    """A model converted to TensorFlow Lite with the default options."""

    def __init__(self, model: keras.Model, threads: int | None) -> None:
        content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        with warnings.catch_warnings():
            # The interpreter moves to the package ai-edge-litert, which rosetta uses to serve artifacts.
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
            self.interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[0]["index"]

    def prepare(self, x: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        self.interpreter.resize_tensor_input(self.input, images.shape)
        self.interpreter.allocate_tensors()
        return images

    def run(self, prepared: np.ndarray) -> np.ndarray:
        self.interpreter.set_tensor(self.input, prepared)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output)

    def logits(self, answer: np.ndarray) -> np.ndarray:
        return answer


class CompiledStep:
    """SGD on one batch: images (N, C, H, W), labels (N,). `xla` is as in `Compiled`."""

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        xla: bool | None = False,
    ) -> None:
        optimizer = keras.optimizers.SGD(learning_rate)
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        x, y = tf.constant(images.transpose(0, 2, 3, 1)), tf.constant(labels)
        optimizer.build(model.trainable_variables)

        def step() -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

        self.step = step if xla is None else tf.function(step, jit_compile=xla)

    def __call__(self) -> float:
        return float(self.step())


def _loaded(network: Network, tensors: Mapping[str, np.ndarray]) -> keras.Model:
    keras.config.set_floatx(next(iter(tensors.values())).dtype.name)
    model = build(network)
    load(model, Layers(network, tensors, channels_last=True))
    return model


def set_threads(count: int) -> None:
    """Use `count` threads within an operation and run one operation at a time, as the port does."""
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> Compiled | Lite:
    """Return the network with these weights, ready for inference."""
    if path == LITE:
        return Lite(_loaded(network, tensors), tf.config.threading.get_intra_op_parallelism_threads() or None)
    return Compiled(_loaded(network, tensors), COMPILED[path])


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> CompiledStep:
    """Return an SGD training step that starts from these weights."""
    return CompiledStep(_loaded(network, tensors), images, labels, learning_rate, COMPILED[path])
