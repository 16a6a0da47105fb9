"""Training in Gluon: record the forward pass, backward, `gluon.Trainer.step`.

MXNet's optimizers differ from the suite's (`common.optimizers`): the velocity includes the learning rate, Adam adds
epsilon before it corrects the bias of the second moment, there is no AdamW, and clipping adds 1e-8 to the norm. They
also round every constant to float32, whatever the dtype of the network. The suite's optimizers are therefore written
here, as an `mx.optimizer.Optimizer` that computes with `mx.np`, which does not round constants. MXNet's own `SGD` is
used in float32, where it is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, npx
from mxnet.gluon import Block, HybridBlock, nn

from common.optimizers import OptimizerConfig
from common.randomness import step_seed
from mxnet_impl.layers import exact_statistics
from mxnet_impl.weights import canonical_parameters

__all__ = ["Trainer", "clip_gradients", "gradients", "make_optimizer", "train_step"]

Array: TypeAlias = mx.np.ndarray
Slots: TypeAlias = tuple[Array, ...]

_cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()  # returns one loss per example
_cross_entropy.hybridize()


class SuiteOptimizer(mx.optimizer.Optimizer):
    """The suite's optimizers after `steps` steps.

    `slots` holds the optimizer state of each parameter, in the order of `parameters`, as in `gluon.Trainer`.
    """

    def __init__(self, config: OptimizerConfig, parameters: list[gluon.Parameter], steps: int = 0) -> None:
        super().__init__(learning_rate=0.0, wd=config.weight_decay, begin_num_update=steps)
        self.config = config
        self.slots = [tuple(mx.np.zeros_like(each.data()) for _ in config.slots) for each in parameters]

    def create_state(self, index: int, weight: mx.nd.NDArray) -> Slots:
        return self.slots[index]

    def update(self, index: int, weight: mx.nd.NDArray, grad: mx.nd.NDArray, state: Slots) -> None:
        # Gluon passes arrays of MXNet's older interface to optimizers; these NumPy arrays share their memory.
        w, g, config = weight.as_np_ndarray(), grad.as_np_ndarray(), self.config
        self._update_count(index)
        step = self._index_update_count[index]
        if self.wd and config.name != "adamw":
            g = g + self.wd * w
        match config.name:
            case "sgd":
                change = g
            case "momentum" | "nesterov":
                (velocity,) = state
                velocity *= config.momentum
                velocity += g
                change = velocity if config.name == "momentum" else g + config.momentum * velocity
            case "adam" | "adamw":
                mean, square = state
                mean *= config.beta1
                mean += (1 - config.beta1) * g
                square *= config.beta2
                square += (1 - config.beta2) * mx.np.square(g)
                # The corrections are factors because division is several times slower in MXNet.
                root = mx.np.sqrt(square) * (1 - config.beta2**step) ** -0.5
                change = mean / (root + config.epsilon) * (1 - config.beta1**step) ** -1
        if self.wd and config.name == "adamw":
            change = change + self.wd * w
        w -= self.learning_rate * change


def _trainable(model: HybridBlock) -> dict[str, gluon.Parameter]:
    """Return the parameters with gradients by canonical name."""
    return {name: each for name, each in canonical_parameters(model).items() if each.grad_req != "null"}


def make_optimizer(config: OptimizerConfig, model: HybridBlock, steps: int = 0) -> gluon.Trainer:
    """Return a Gluon trainer after `steps` steps. Call its `set_learning_rate` before each step.

    This allocates a gradient for each parameter of the model.
    """
    # Gluon skips running statistics, which are not differentiable.
    model.collect_params().setattr("grad_req", "write")
    parameters = list(_trainable(model).values())
    if config.name == "sgd" and parameters[0].dtype == "float32":
        # MXNet updates several parameters at once, as slowly as if each were as large as the largest of them.
        by_size = sorted(parameters, key=lambda each: each.data().size)
        return gluon.Trainer(by_size, mx.optimizer.SGD(learning_rate=0.0, wd=config.weight_decay))
    return gluon.Trainer(parameters, SuiteOptimizer(config, parameters, steps))


def clip_gradients(model: HybridBlock, norm: float) -> None:
    """Scale all gradients by one factor so that their norm is at most `norm`."""
    grads = [parameter.grad() for parameter in _trainable(model).values()]
    total = mx.np.sqrt(sum(mx.np.square(grad).sum() for grad in grads))
    scale = mx.np.minimum(norm / total, 1.0)
    for grad in grads:
        grad[:] = grad * scale


def _backward(model: HybridBlock, images: Array, labels: Array) -> tuple[Array, Array]:
    """Compute the gradients: (N, C, H, W), (N,) -> mean cross-entropy and number of correct predictions."""
    with exact_statistics(model):
        with autograd.record():
            logits = model(images)
            loss = _cross_entropy(logits, labels).mean()
        # Reading the count waits for all operations queued before it, so it is queued before the backward pass.
        correct = (logits.argmax(axis=1) == labels).sum()
        loss.backward()
    return loss, correct


def gradients(model: HybridBlock, images: Array, labels: Array) -> tuple[Array, dict[str, Array], Array]:
    """Return the loss in training mode and its gradients: of the parameters, by canonical name, and of the images."""
    images.attach_grad()
    before = {parameter: parameter.grad_req for parameter in model.collect_params().values()}
    model.collect_params().setattr("grad_req", "write")
    try:
        loss, _ = _backward(model, images, labels)
        return loss, {name: parameter.grad() for name, parameter in _trainable(model).items()}, images.grad
    finally:
        # Gradients that stay allocated would double the memory of the model.
        for parameter, grad_req in before.items():
            parameter.grad_req = grad_req


def train_step(
    model: HybridBlock, optimizer: gluon.Trainer, images: Array, labels: Array, clip_norm: float | None = None
) -> tuple[Array, Array]:
    """Take one step: (N, C, H, W), (N,) -> mean cross-entropy and number of correct predictions, before the update."""
    loss, correct = _backward(model, images, labels)
    if clip_norm is not None:
        clip_gradients(model, clip_norm)
    # Gluon divides the gradients by this batch size, rounded to float32. Here the loss takes the mean.
    optimizer.step(1)
    return loss, correct


def _has_dropout(block: Block) -> bool:
    return (isinstance(block, nn.Dropout) and block._rate > 0) or any(map(_has_dropout, block._children.values()))


class Trainer:
    """A model, its optimizer and its random state; see `common.backends.protocol.Trainer`."""

    def __init__(self, model: HybridBlock, config: OptimizerConfig, seed: int = 0) -> None:
        self.model = model
        self.config = config
        self.seed = seed
        self.steps = 0
        self._optimizer = make_optimizer(config, model)
        self._parameters = _trainable(model)
        self._has_dropout = _has_dropout(model)
        # MXNet plans memory once, and again when the shape of the batch changes.
        model.hybridize(static_alloc=True, static_shape=True)

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        if self._has_dropout:
            mx.random.seed(step_seed(self.seed, self.steps))
        self._optimizer.set_learning_rate(learning_rate)
        x = self._array(images)
        y = mx.np.array(labels, ctx=x.ctx)
        loss, correct = train_step(self.model, self._optimizer, x, y, self.config.clip_norm)
        self.steps += 1
        return loss.item(), int(correct)

    def logits(self, images: np.ndarray) -> np.ndarray:
        # A graph with static memory does not wait for the update of the running statistics.
        npx.waitall()
        return self.model(self._array(images)).asnumpy()

    def state(self) -> dict[str, np.ndarray]:
        return {
            f"{slot}.{name}": self._optimizer.optimizer.slots[i][j].asnumpy()
            for j, slot in enumerate(self.config.slots)
            for i, name in enumerate(self._parameters)
        }

    def load_state(self, slots: Mapping[str, np.ndarray], steps: int) -> None:
        self.steps = steps
        self._optimizer = make_optimizer(self.config, self.model, steps)
        for j, slot in enumerate(self.config.slots):
            for i, name in enumerate(self._parameters):
                self._optimizer.optimizer.slots[i][j][:] = self._array(slots[f"{slot}.{name}"])

    def _array(self, array: np.ndarray) -> Array:
        weight = next(iter(self._parameters.values())).data()
        return mx.np.array(array, dtype=weight.dtype, ctx=weight.ctx)
