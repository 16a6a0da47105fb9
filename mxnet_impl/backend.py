"""The Backend protocol implemented with MXNet."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping

import mxnet as mx
import numpy as np
from mxnet import autograd, npx
from mxnet.gluon import Block, HybridBlock

from common import reference
from common.backends.protocol import Calls, Gradients, check_all_ran, kind_of
from common.catalog import Network
from common.errors import no_device
from common.optimizers import OptimizerConfig
from common.reference import Call
from common.weights import DTypeName
from mxnet_impl import build, uninitialized
from mxnet_impl.layers import exact_statistics
from mxnet_impl.training import Trainer, gradients
from mxnet_impl.weights import from_canonical, named_blocks, to_canonical

__all__ = ["Backend"]

Observer = Callable[[str, HybridBlock, mx.np.ndarray, mx.np.ndarray], mx.np.ndarray | None]


def _run(model: HybridBlock, x: mx.np.ndarray, training: bool) -> mx.np.ndarray:
    """Return the logits; in training mode, also update the running statistics."""
    if not training:
        return model(x)
    # MXNet updates the running statistics in the backward pass, which needs an array to differentiate by.
    x.attach_grad()
    with exact_statistics(model):
        with autograd.record():
            logits = model(x)
        logits.backward()
    # Reading a running statistic does not wait for its update in a graph with static memory.
    npx.waitall()
    return logits


def _observed(
    model: HybridBlock, x: mx.np.ndarray, training: bool, observe: Observer, update_statistics: bool = True
) -> mx.np.ndarray:
    """Run the model and call `observe(path, block, input, output)` after each of its blocks.

    An array that `observe` returns replaces the block's output. Blocks of several inputs or outputs are not observed.
    Without `update_statistics`, training mode computes no gradient.
    """
    blocks = {id(block): (path, block) for path, block in named_blocks(model)}
    # Gluon runs the activation of a Conv2D or Dense as a child; the other frameworks observe the layer without it.
    fused = {id(block.act): id(block) for _, block in blocks.values() if getattr(block, "act", None) is not None}
    inputs: dict[int, mx.np.ndarray] = {}

    def observed_forward(block: HybridBlock, forward: Callable[..., mx.np.ndarray]) -> Callable[..., mx.np.ndarray]:
        def run(*args: mx.np.ndarray) -> mx.np.ndarray:
            if id(block) in fused:
                path, layer = blocks[fused[id(block)]]
                replacement = observe(path, layer, inputs[id(layer)], args[0])
                return forward(args[0] if replacement is None else replacement)
            if id(block) in fused.values():
                inputs[id(block)] = args[0]
                return forward(*args)
            output = forward(*args)
            if len(args) != 1 or not isinstance(output, mx.np.ndarray):
                return output
            replacement = observe(blocks[id(block)][0], block, args[0], output)
            return output if replacement is None else replacement

        return run

    active, flags = model._active, dict(model._flags)
    # A hybridized block runs its recorded graph and does not call its children.
    model.hybridize(active=False)
    # Gluon's forward hooks cannot replace an output. Each block's own `forward` is wrapped, no class is changed.
    for _, block in blocks.values():
        block.forward = observed_forward(block, block.forward)
    try:
        if update_statistics:
            return _run(model, x, training)
        with autograd.train_mode() if training else autograd.predict_mode():
            return model(x)
    finally:
        for _, block in blocks.values():
            del block.forward
        model.hybridize(active, **flags)


class Backend:
    """MXNet's implementation of `common.backends.protocol.Backend`."""

    container = "HybridSequential"

    def __init__(self, device: str = "cpu") -> None:
        if device == "gpu" and not mx.context.num_gpus():
            raise no_device("MXNet")
        # MXNet has no switch for TF32; NVIDIA's libraries read this variable at their first use.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        self._context = mx.gpu() if device == "gpu" else mx.cpu()

    def build(self, network: Network, dtype: DTypeName) -> HybridBlock:
        # A Gluon block and its scope refer to each other, so an unused model stays in memory until a collection.
        gc.collect()
        model = uninitialized(network)
        model.cast(dtype)
        # Gluon allocates a gradient for every weight that may have one, which doubles the memory.
        model.collect_params().setattr("grad_req", "null")
        return model

    def initial(self, network: Network, dtype: DTypeName, seed: int) -> dict[str, np.ndarray]:
        mx.random.seed(seed)
        return to_canonical(build(network.name, dtype=dtype, **network.settings()))

    def load(self, model: HybridBlock, tensors: Mapping[str, np.ndarray]) -> None:
        from_canonical(model, tensors, self._context)

    def weights(self, model: HybridBlock) -> dict[str, np.ndarray]:
        return to_canonical(model)

    def run(self, model: HybridBlock, x: np.ndarray, training: bool = False) -> np.ndarray:
        return _run(model, self._input(model, x), training).asnumpy()

    def trace(
        self, model: HybridBlock, x: np.ndarray, training: bool = False, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        taps = reference.describe(model.network).taps
        outputs: dict[str, np.ndarray] = {}
        ran = set()

        def observe(path: str, _: HybridBlock, __: mx.np.ndarray, output: mx.np.ndarray) -> mx.np.ndarray | None:
            ran.add(path)
            if path in taps:
                outputs[path] = output.asnumpy()
            return self._input(model, given[path]) if given and path in given else None

        logits = _observed(model, self._input(model, x), training, observe, update_statistics=given is None)
        outputs["logits"] = logits.asnumpy()
        check_all_ran(model.network, (path for path, _ in named_blocks(model)), ran)
        return {tap: outputs[tap] for tap in taps}

    def calls(self, model: HybridBlock, x: np.ndarray, training: bool = False) -> Calls:
        calls: Calls = {}

        def observe(path: str, _: HybridBlock, block_input: mx.np.ndarray, output: mx.np.ndarray) -> None:
            calls[path] = block_input.asnumpy(), output.asnumpy()

        _observed(model, self._input(model, x), training, observe, update_statistics=False)
        return calls

    def summary(self, model: HybridBlock) -> list[Call]:
        calls: list[Call] = []

        def observe(path: str, block: HybridBlock, _: mx.np.ndarray, output: mx.np.ndarray) -> None:
            kind = kind_of(block, "mxnet_impl", (HybridBlock, Block))
            calls.append(Call(path, kind, output.shape, own=type(block).__name__))

        image = np.zeros((1, *model.network.input_shape))
        _observed(model, self._input(model, image), training=False, observe=observe)
        return calls

    def gradients(self, model: HybridBlock, x: np.ndarray, labels: np.ndarray) -> Gradients:
        y = mx.np.array(labels, ctx=self._context)
        loss, parameter_gradients, input_gradient = gradients(model, self._input(model, x), y)
        arrays = {name: gradient.asnumpy() for name, gradient in parameter_gradients.items()}
        return Gradients(loss.item(), arrays, input_gradient.asnumpy())

    def trainer(self, model: HybridBlock, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        return Trainer(model, optimizer, seed)

    def _input(self, model: HybridBlock, x: np.ndarray) -> mx.np.ndarray:
        return mx.np.array(x, dtype=next(iter(model.collect_params().values())).dtype, ctx=self._context)
