"""Training in Gluon: record the forward pass, backward, `gluon.Trainer.step`.

MXNet's optimizers mean other things than the suite does (`common.optimizers`): velocity has the learning rate
in it, Adam's epsilon is added before the bias correction of the square, AdamW there is none, and clipping adds 1e-8 to
the norm. They also round every constant to float32, in a network of any dtype. The suite's are therefore written here,
as an `mx.optimizer.Optimizer` of `mx.np`'s arithmetic, which does not round them; MXNet's own `SGD` serves where it is
the same: in float32.
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

_cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()  # one loss for each example
_cross_entropy.hybridize()


class SuiteOptimizer(mx.optimizer.Optimizer):
    """The suite's optimizers, `steps` steps on.

    `slots` holds what they keep beside each parameter, in the order of `parameters`, as `gluon.Trainer` counts them.
    """

    def __init__(self, config: OptimizerConfig, parameters: list[gluon.Parameter], steps: int = 0) -> None:
        super().__init__(learning_rate=0.0, wd=config.weight_decay, begin_num_update=steps)
        self.config = config
        self.slots = [tuple(mx.np.zeros_like(each.data()) for _ in config.slots) for each in parameters]

    def create_state(self, index: int, weight: mx.nd.NDArray) -> Slots:
        return self.slots[index]

    def update(self, index: int, weight: mx.nd.NDArray, grad: mx.nd.NDArray, state: Slots) -> None:
        # Gluon gives optimizers MXNet's older arrays, whatever the model computes on; these lie on the same memory.
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
                # The corrections are factors because MXNet takes several times as long to divide.
                root = mx.np.sqrt(square) * (1 - config.beta2**step) ** -0.5
                change = mean / (root + config.epsilon) * (1 - config.beta1**step) ** -1
        if self.wd and config.name == "adamw":
            change = change + self.wd * w
        w -= self.learning_rate * change


def _learned(model: HybridBlock) -> dict[str, gluon.Parameter]:
    """Return the parameters that have a gradient, by canonical name."""
    return {name: each for name, each in canonical_parameters(model).items() if each.grad_req != "null"}


def make_optimizer(config: OptimizerConfig, model: HybridBlock, steps: int = 0) -> gluon.Trainer:
    """Return Gluon's trainer of the model's parameters, `steps` steps on; `set_learning_rate` before each step.

    The model keeps a gradient beside each parameter from then on.
    """
    # Running statistics stay without: Gluon knows them as not differentiable.
    model.collect_params().setattr("grad_req", "write")
    parameters = list(_learned(model).values())
    if config.name == "sgd" and parameters[0].dtype == "float32":
        # MXNet updates several at once, in as long as if each were as large as the largest.
        by_size = sorted(parameters, key=lambda each: each.data().size)
        return gluon.Trainer(by_size, mx.optimizer.SGD(learning_rate=0.0, wd=config.weight_decay))
    return gluon.Trainer(parameters, SuiteOptimizer(config, parameters, steps))


def clip_gradients(model: HybridBlock, norm: float) -> None:
    """Scale all gradients down together so that their norm is at most `norm`."""
    grads = [parameter.grad() for parameter in _learned(model).values()]
    total = mx.np.sqrt(sum(mx.np.square(grad).sum() for grad in grads))
    scale = mx.np.minimum(norm / total, 1.0)
    for grad in grads:
        grad[:] = grad * scale


def _backward(model: HybridBlock, images: Array, labels: Array) -> tuple[Array, Array]:
    """Leave the gradients beside the parameters: (N, C, H, W), (N,) -> mean cross-entropy and number right."""
    with exact_statistics(model):
        with autograd.record():
            logits = model(images)
            loss = _cross_entropy(logits, labels).mean()
        # Whoever reads the count waits for all that was asked for before it, so it is asked for before the way back.
        right = (logits.argmax(axis=1) == labels).sum()
        loss.backward()
    return loss, right


def gradients(model: HybridBlock, images: Array, labels: Array) -> tuple[Array, dict[str, Array], Array]:
    """Return the loss in training mode, its gradient by every parameter, by canonical name, and by the images."""
    images.attach_grad()
    before = {parameter: parameter.grad_req for parameter in model.collect_params().values()}
    model.collect_params().setattr("grad_req", "write")
    try:
        loss, _ = _backward(model, images, labels)
        return loss, {name: parameter.grad() for name, parameter in _learned(model).items()}, images.grad
    finally:
        # A model that kept no gradients is not to keep them from now on, which would double its memory.
        for parameter, grad_req in before.items():
            parameter.grad_req = grad_req


def train_step(
    model: HybridBlock, optimizer: gluon.Trainer, images: Array, labels: Array, clip_norm: float | None = None
) -> tuple[Array, Array]:
    """Take one step: (N, C, H, W), (N,) -> mean cross-entropy and number right, both from before the update."""
    loss, right = _backward(model, images, labels)
    if clip_norm is not None:
        clip_gradients(model, clip_norm)
    # Gluon would divide the gradients by this number, rounded to float32; the mean is the loss's instead.
    optimizer.step(1)
    return loss, right


def _drops(block: Block) -> bool:
    return (isinstance(block, nn.Dropout) and block._rate > 0) or any(map(_drops, block._children.values()))


class Trainer:
    """A model, its optimizer and its random state; see `common.backends.registry.Trainer`."""

    def __init__(self, model: HybridBlock, config: OptimizerConfig, seed: int = 0) -> None:
        self.model = model
        self.config = config
        self.seed = seed
        self.steps = 0
        self._optimizer = make_optimizer(config, model)
        self._parameters = _learned(model)
        self._drops = _drops(model)
        # Memory is planned once, and again where the shape of the batch changes.
        model.hybridize(static_alloc=True, static_shape=True)

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> tuple[float, int]:
        if self._drops:
            mx.random.seed(step_seed(self.seed, self.steps))
        self._optimizer.set_learning_rate(learning_rate)
        x = self._array(images)
        y = mx.np.array(labels, ctx=x.ctx)
        loss, right = train_step(self.model, self._optimizer, x, y, self.config.clip_norm)
        self.steps += 1
        return loss.item(), int(right)

    def logits(self, images: np.ndarray) -> np.ndarray:
        # A graph with static memory does not wait for the running statistics to be moved.
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
