"""MXNet behind the Backend protocol."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping

import mxnet as mx
import numpy as np
from mxnet import autograd, npx
from mxnet.gluon import Block, HybridBlock

from common import reference
from common.backends import kind_of
from common.catalog import Network
from common.reference import Call
from common.weights import DTypeName
from mxnet_impl import uninitialised
from mxnet_impl.weights import from_canonical, to_canonical

__all__ = ["Backend"]

Observer = Callable[[str, HybridBlock, mx.np.ndarray], None]


def _named_blocks(block: HybridBlock, prefix: str = "") -> Iterator[tuple[str, HybridBlock]]:
    """Iterate over the blocks below a block, with their paths."""
    for name, child in block._children.items():
        yield prefix + name, child
        yield from _named_blocks(child, f"{prefix}{name}.")


def _run(model: HybridBlock, x: mx.np.ndarray, training: bool) -> mx.np.ndarray:
    if not training:
        return model(x)
    # MXNet moves the running statistics in the backward pass, so there must be one, and something to differentiate by.
    # Hybridized with static memory, it does not make whoever reads them wait for that.
    x.attach_grad()
    with autograd.record():
        logits = model(x)
    logits.backward()
    npx.waitall()
    return logits


def _observed(model: HybridBlock, x: mx.np.ndarray, training: bool, observe: Observer) -> mx.np.ndarray:
    """Run the model and call `observe(path, block, output)` after each block below it."""
    # A hybridized block runs its recorded graph, in which its children's hooks do not take part.
    model.hybridize(active=False)
    handles = [
        block.register_forward_hook(lambda block, _, output, path=path: observe(path, block, output))
        for path, block in _named_blocks(model)
    ]
    try:
        return _run(model, x, training)
    finally:
        for handle in handles:
            handle.detach()


class Backend:
    """mxnet; see `common.backends.Backend`."""

    container = "HybridSequential"

    def build(self, network: Network, dtype: DTypeName) -> HybridBlock:
        # A Gluon block and its scope refer to each other: a model that nobody holds any more stays until this.
        gc.collect()
        model = uninitialised(network)
        model.cast(dtype)
        # Gluon keeps a gradient beside every weight that may have one, which doubles the memory.
        model.collect_params().setattr("grad_req", "null")
        return model

    def load(self, model: HybridBlock, tensors: Mapping[str, np.ndarray]) -> None:
        from_canonical(model, tensors)

    def weights(self, model: HybridBlock) -> dict[str, np.ndarray]:
        return to_canonical(model)

    def run(self, model: HybridBlock, x: np.ndarray, training: bool = False) -> np.ndarray:
        return _run(model, self._input(model, x), training).asnumpy()

    def trace(self, model: HybridBlock, x: np.ndarray, training: bool = False) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = {}

        def observe(path: str, _: HybridBlock, output: mx.np.ndarray) -> None:
            outputs[path] = output.asnumpy()

        outputs["logits"] = _observed(model, self._input(model, x), training, observe).asnumpy()
        return {tap: outputs[tap] for tap in reference.describe(model.network).taps}

    def summary(self, model: HybridBlock) -> list[Call]:
        calls: list[Call] = []

        def observe(path: str, block: HybridBlock, output: mx.np.ndarray) -> None:
            calls.append(Call(path, kind_of(block, "mxnet_impl", (HybridBlock, Block)), output.shape))

        image = np.zeros((1, *model.network.input_shape))
        _observed(model, self._input(model, image), training=False, observe=observe)
        return calls

    @staticmethod
    def _input(model: HybridBlock, x: np.ndarray) -> mx.np.ndarray:
        return mx.np.array(x, dtype=next(iter(model.collect_params().values())).dtype)
