"""Training in TensorFlow: a gradient tape and a Keras optimizer in one `tf.function`.

Only Keras's SGD without momentum and weight decay follows the suite's definitions (`common.optimizers`). Keras's
velocity contains the learning rate, so a change of the rate takes effect late; its Adam adds epsilon before the bias
correction ("epsilon hat" in the paper); and its `weight_decay` is always decoupled. The others are defined here as
subclasses of `keras.optimizers.Optimizer`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from common.layout import nchw_to_nhwc
from common.optimizers import OptimizerConfig
from common.randomness import step_seed
from tf_impl.weights import assign_canonical, named_layers, parameters, values_to_canonical

__all__ = ["Trainer", "clip_gradients", "gradients", "make_optimizer", "train_step"]


class Optimizer(keras.optimizers.Optimizer):
    """SGD with weight decay: w <- w - learning_rate * `change`, here the gradient. `slots` are the state variables."""

    def __init__(self, learning_rate: keras.Variable, config: OptimizerConfig) -> None:
        super().__init__(lambda: learning_rate)
        self.config = config

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        self.slots = {slot: self.add_optimizer_variables(variables, slot) for slot in self.config.slots}

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: keras.Variable) -> None:
        decay, decoupled = self.config.weight_decay, self.config.name == "adamw"
        if decay and not decoupled:
            gradient += decay * variable
        index = self._get_variable_index(variable)
        change = self.change(gradient, *(of_slot[index] for of_slot in self.slots.values()))
        if decay and decoupled:
            # Keras's own `weight_decay` is float32 whatever the dtype of the variable.
            change += decay * variable
        self.assign_sub(variable, learning_rate * change)

    def change(self, gradient: tf.Tensor, *slots: keras.Variable) -> tf.Tensor:
        """Return the update before it is scaled by the learning rate, and update the slots."""
        return gradient


class Momentum(Optimizer):
    """Polyak or Nesterov momentum; the velocity does not contain the learning rate."""

    def change(self, gradient: tf.Tensor, velocity: keras.Variable) -> tf.Tensor:
        moved = self.config.momentum * velocity + gradient
        self.assign(velocity, moved)
        return gradient + self.config.momentum * moved if self.config.name == "nesterov" else moved


class Adam(Optimizer):
    """Adam; epsilon is added to the square root of the bias-corrected second moment."""

    def change(self, gradient: tf.Tensor, mean: keras.Variable, square: keras.Variable) -> tf.Tensor:
        beta1, beta2 = self.config.beta1, self.config.beta2
        moved_mean = beta1 * mean + (1 - beta1) * gradient
        moved_square = beta2 * square + (1 - beta2) * tf.square(gradient)
        self.assign(mean, moved_mean)
        self.assign(square, moved_square)
        # In float32, 1 - 0.999 would lose four digits.
        step = tf.cast(self.iterations + 1, "float64")
        mean_share, square_share = (tf.cast(1 - beta**step, gradient.dtype) for beta in (beta1, beta2))
        return (moved_mean / mean_share) / (tf.sqrt(moved_square / square_share) + self.config.epsilon)


def make_optimizer(config: OptimizerConfig, model: keras.Model) -> keras.optimizers.Optimizer:
    """Return an optimizer of the model's parameters, in network order; its `learning_rate` is a variable to assign."""
    # Keras would create a float32 variable.
    learning_rate = keras.Variable(0.0, dtype=model.dtype, trainable=False, name="learning_rate")
    match config.name:
        case "sgd":
            plain = not config.weight_decay
            optimizer = keras.optimizers.SGD(lambda: learning_rate) if plain else Optimizer(learning_rate, config)
        case "momentum" | "nesterov":
            optimizer = Momentum(learning_rate, config)
        case "adam" | "adamw":
            optimizer = Adam(learning_rate, config)
    optimizer.build(list(parameters(model).values()))
    return optimizer


def clip_gradients(grads: list[tf.Tensor], norm: float) -> list[tf.Tensor]:
    """Scale all gradients down together so that their norm is at most `norm`."""
    # TensorFlow and Keras scale by norm * (1 / norm), which may differ from 1, even if nothing is to be clipped.
    scale = tf.minimum(norm / tf.linalg.global_norm(grads), 1)
    return [gradient * scale for gradient in grads]


def _loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross-entropy averaged over the batch; Keras's loss classes compute in float32."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def gradients(
    model: keras.Model, images: tf.Tensor, labels: tf.Tensor
) -> tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor]:
    """Return the loss in training mode, its gradient by every parameter, by name, and by the images."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = _loss(model(images, training=True), labels)
    return loss, *tape.gradient(loss, (parameters(model), images))


def train_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    images: tf.Tensor,
    labels: tf.Tensor,
    clip_norm: float | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Take one step: (N, H, W, C), (N,) -> mean cross-entropy and number right, both from before the update."""
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = _loss(logits, labels)
    learned = list(parameters(model).values())
    grads = tape.gradient(loss, learned)
    if clip_norm is not None:
        grads = clip_gradients(grads, clip_norm)
    # `optimizer.apply` first sums the gradients of all replicas, by an operation with a custom gradient. TensorFlow
    # never frees that gradient, nor the graph and the memory of the model that it refers to.
    for gradient, parameter in zip(grads, learned, strict=True):
        optimizer.update_step(gradient, parameter, optimizer.learning_rate)
    optimizer.iterations.assign_add(1)
    return loss, tf.math.count_nonzero(tf.argmax(logits, axis=1) == labels)


class Trainer:
    """A model, its optimizer and its random state; see `common.backends.registry.Trainer`."""

    def __init__(self, model: keras.Model, config: OptimizerConfig, seed: int = 0) -> None:
        self.model = model
        self.config = config
        self.seed = seed
        self.steps = 0
        self._optimizer = make_optimizer(config, model)
        self._dropouts = [
            layer for _, layer in named_layers(model) if isinstance(layer, keras.layers.Dropout) and layer.rate > 0
        ]
        # Each trainer compiles its own functions, since a compiled function keeps the variables that it changes.
        # AutoGraph would take half a second to look for Python control flow on tensors; there is none.
        step = functools.partial(train_step, model, self._optimizer, clip_norm=config.clip_norm)
        self._step = tf.function(step, autograph=False)
        self._logits = tf.function(functools.partial(model, training=False), autograph=False)

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        for number, dropout in enumerate(self._dropouts):
            dropout.seed_generator.state.assign([step_seed(self.seed, self.steps), number])
        self._optimizer.learning_rate.assign(learning_rate)
        loss, right = self._step(self._tensor(images), tf.convert_to_tensor(labels))
        self.steps += 1
        return float(loss), int(right)

    def logits(self, images: np.ndarray) -> np.ndarray:
        return self._logits(self._tensor(images)).numpy()

    def state(self) -> dict[str, np.ndarray]:
        return {
            f"{slot}.{name}": array
            for slot in self.config.slots
            for name, array in values_to_canonical(self.model.network, self._slot(slot)).items()
        }

    def load_state(self, slots: Mapping[str, np.ndarray], steps: int) -> None:
        self.steps = steps
        self._optimizer.iterations.assign(steps)
        for slot in self.config.slots:
            of_slot = {name.removeprefix(f"{slot}."): array for name, array in slots.items()}
            assign_canonical(self.model.network, self._slot(slot), of_slot)

    def _slot(self, slot: str) -> dict[str, keras.Variable]:
        return dict(zip(parameters(self.model), self._optimizer.slots[slot], strict=True))

    def _tensor(self, images: np.ndarray) -> tf.Tensor:
        return tf.convert_to_tensor(nchw_to_nhwc(images).astype(self.model.compute_dtype, copy=False))
