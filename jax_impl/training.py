"""Training in JAX: gradients, optimizers from optax, and training steps as pure functions of the split model.

optax's transformations compute what `common.optimizers` defines, clipping included. Weight decay before Adam's
transformation gives adam, after it adamw. Two things differ:

- optax takes the learning rate, or a schedule, when an optimizer is made. Here it is an argument of the step, so that
  one compiled program serves every schedule.
- optax computes Adam's 1 - beta^t in JAX's default precision. With 64-bit mode off, the first steps of Adam are
  accurate to 2e-5 only. The Backend turns it on.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from common import layout
from common.optimizers import OptimizerConfig
from common.randomness import step_seed
from jax_impl.compilation import RUN_ONCE
from jax_impl.weights import state_from_canonical, state_to_canonical

__all__ = ["Trainer", "clip_gradients", "few_loops_gradients", "gradients", "make_optimizer", "train_step"]

_SLOTS = {"velocity": "trace", "mean": "mu", "square": "nu"}
"""optax's names for an optimizer's slots."""


# `train_step` is compiled again for each new object; the cache returns the same one for the same configuration.
@functools.cache
def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Return the optimizer as a chain of optax's transformations, without the learning rate."""
    clip, decay = clip_gradients(config.clip_norm), optax.add_decayed_weights(config.weight_decay)
    match config.name:
        case "sgd":
            return optax.chain(clip, decay)
        case "momentum" | "nesterov":
            return optax.chain(clip, decay, optax.trace(config.momentum, nesterov=config.name == "nesterov"))
        case "adam" | "adamw":
            adam = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
            return optax.chain(clip, decay, adam) if config.name == "adam" else optax.chain(clip, adam, decay)


def clip_gradients(norm: float | None) -> optax.GradientTransformation:
    """Return the transformation that scales all gradients to a global norm of at most `norm`; None changes nothing."""
    return optax.identity() if norm is None else optax.clip_by_global_norm(norm)


def _loss(
    params: nnx.State, images: Array, graphdef: nnx.GraphDef, rest: nnx.State, labels: Array, seed: int | None = None
) -> tuple[Array, tuple[Array, nnx.State]]:
    """Return the mean cross-entropy in training mode, the logits, and the new statistics and random state."""
    # A function that JAX differentiates must not change variables made outside it, so it copies them.
    model = nnx.merge(graphdef, params, rest, copy=True)
    if seed is not None:
        nnx.reseed(model, default=jax.random.key(seed))
    logits = model(images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, (logits, nnx.state(model, nnx.Not(nnx.Param)))


# Optimization takes most of the time of a program that runs once: googlenet would take 14 s in place of 4 s.
@functools.partial(jax.jit, static_argnums=0, compiler_options=RUN_ONCE)
def gradients(
    graphdef: nnx.GraphDef, params: nnx.State, rest: nnx.State, images: Array, labels: Array
) -> tuple[Array, nnx.State, Array, nnx.State]:
    """Return the loss in training mode, its gradients by parameters and images, and the new non-parameter state."""
    differentiate = jax.value_and_grad(_loss, argnums=(0, 1), has_aux=True)
    (loss, (_, rest)), (by_params, by_images) = differentiate(params, images, graphdef, rest, labels)
    return loss, by_params, by_images, rest


few_loops_gradients = jax.jit(
    gradients.__wrapped__, static_argnums=0, compiler_options={**RUN_ONCE, "xla_backend_optimization_level": "1"}
)
"""`gradients` for a few large convolutions in float64.

XLA computes the gradient of such a kernel with generated loops, not a library. Compilation included, nin takes 2.3 s in
place of 9.3 s, but googlenet, which has many small kernels, would take 8.7 s in place of 3.8 s.
"""


# A step reuses the memory of the arrays that it replaces, except where they share it with a NumPy array.
@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3, 4))
def train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    params: nnx.State,
    rest: nnx.State,
    slots: optax.OptState,
    images: Array,
    labels: Array,
    learning_rate: float,
    seed: int,
) -> tuple[nnx.State, nnx.State, optax.OptState, Array, Array]:
    """Take one training step on images (N, H, W, C) and labels (N,).

    Returns the new `params`, `rest` and `slots`, and from before the update the mean cross-entropy and the number of
    correct predictions. `seed` seeds dropout.
    """
    differentiate = jax.value_and_grad(_loss, has_aux=True)
    (loss, (logits, rest)), grads = differentiate(params, images, graphdef, rest, labels, seed)
    updates, slots = optimizer.update(grads, slots, params)
    params = optax.apply_updates(params, optax.tree.scale(-learning_rate, updates))
    return params, rest, slots, loss, jnp.sum(logits.argmax(axis=1) == labels)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef: nnx.GraphDef, params: nnx.State, rest: nnx.State, images: Array) -> Array:
    """Run the model: (N, H, W, C) -> (N, num_classes)."""
    return nnx.merge(graphdef, params, rest)(images)


class Trainer:
    """Trains a model with an optimizer; see `common.backends.protocol.Trainer`."""

    def __init__(self, model: nnx.Module, config: OptimizerConfig, seed: int = 0) -> None:
        self.model = model
        self.config = config
        self.seed = seed
        self.steps = 0
        self._optimizer = make_optimizer(config)
        model.train()
        # These states hold the model's own variables, so they always have its current values.
        self._training, self._params, self._rest = nnx.split(model, nnx.Param, ...)
        model.eval()
        self._evaluation = nnx.graphdef(model)
        self._slots = jax.jit(self._optimizer.init)(self._params)
        self._dtype = jax.tree.leaves(self._params)[0].dtype

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        params, rest, self._slots, loss, correct = train_step(
            self._training,
            self._optimizer,
            self._params,
            self._rest,
            self._slots,
            self._input(images),
            labels,
            float(learning_rate),
            step_seed(self.seed, self.steps),
        )
        nnx.update(self.model, params, rest)
        self.steps += 1
        return float(loss), int(correct)

    def logits(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(_logits(self._evaluation, self._params, self._rest, self._input(images)))

    def state(self) -> dict[str, np.ndarray]:
        return {
            f"{slot}.{name}": array
            for slot in self.config.slots
            for name, array in state_to_canonical(self.model.network, self._slot(slot)).items()
        }

    def load_state(self, slots: Mapping[str, np.ndarray], steps: int) -> None:
        self.steps = steps
        for slot in self.config.slots:
            tensors = {name.removeprefix(f"{slot}."): array for name, array in slots.items()}
            state_from_canonical(self.model.network, self._slot(slot), tensors)
        if "mean" in self.config.slots:
            self._slots = optax.tree.set(self._slots, count=jnp.asarray(steps, jnp.int32))

    def _slot(self, name: str) -> nnx.State:
        return optax.tree.get(self._slots, _SLOTS[name])

    def _input(self, images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(layout.nchw_to_nhwc(images), dtype=self._dtype)
