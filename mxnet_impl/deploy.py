"""MXNet's fast execution paths: folded batch normalization, static memory, operators fused by oneDNN."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping
from operator import attrgetter

import mxnet as mx
import numpy as np
from mxnet import npx
from mxnet.base import _LIB, check_call
from mxnet.gluon import HybridBlock
from mxnet.gluon.contrib.nn import Identity

from common.catalog import Network
from common.deploy.export.fold_batch_norm import fold, folded_layers
from common.errors import unknown
from common.optimizers import OptimizerConfig
from mxnet_impl.backend import Backend
from mxnet_impl.training import make_optimizer, train_step

__all__ = ["deployed", "hybridize", "session", "set_threads", "training_step"]

_PATHS = ("mxnet-imperative", "mxnet-hybrid", "mxnet-onednn")
"""The execution paths that run this package's code."""


def set_threads(count: int) -> None:
    """Set the number of threads that MXNet computes on.

    OpenMP uses the setting of the thread that enters a loop: MXNet's worker thread for the CPU. That thread starts with
    the value of OMP_NUM_THREADS at import, so the new number is set from a function that runs on it.
    """
    set_count = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: _LIB.MXSetNumOMPThreads(count))
    cpu = (ctypes.c_int * 2)(mx.cpu().device_typeid, 0)
    check_call(_LIB.MXEnginePushSync(set_count, None, None, cpu, None, 0, None, 0, None, 0, b"set_threads"))
    # Python must keep the function alive until the worker has called it.
    npx.waitall()


def _in_older_operators(graph: mx.symbol.Symbol, images: tuple[int, ...], trains: bool) -> mx.symbol.Symbol:
    """Return the same graph with additions and concatenations as operators of MXNet's older interface.

    oneDNN does not implement the NumPy operators: it converts its arrays to NCHW for them and fuses none with a
    convolution. Nor does the ONNX exporter know them. `images` is the shape of the input. With `trains`, global average
    pools become means.
    """
    internals = graph.get_internals()
    shapes = dict(zip(internals.list_outputs(), internals.infer_shape(data=images)[1], strict=True))
    definition = json.loads(graph.tojson())
    nodes = definition["nodes"]
    for node in nodes:
        if node["op"] == "_npi_concatenate":
            node["op"] = "Concat"
            node["attrs"] = {"dim": node["attrs"]["axis"], "num_args": node["attrs"]["num_args"]}
        elif node["op"] == "_npi_add":
            operand_shapes = {shapes.get(f"{nodes[i]['name']}_output") for i, *_ in node["inputs"]}
            # The older operator does not broadcast; batch normalization from scratch needs that.
            if len(operand_shapes) == 1 and None not in operand_shapes:
                node["op"] = "elemwise_add"
        elif trains and node["op"] == "Pooling" and node["attrs"]["global_pool"] == "True":
            # The gradient of oneDNN's global pool has a memory layout for which oneDNN has slow code only.
            node["op"] = "mean"
            node["attrs"] = {"axis": "(2, 3)", "keepdims": "True"}
    return mx.symbol.load_json(json.dumps(definition)).as_np_ndarray()


def hybridize(model: HybridBlock, images: mx.np.ndarray, backend: str | None = None, *, trains: bool = False) -> None:
    """Record a model's graph from images (N, C, H, W) and run it with static memory.

    If `backend` is given, the graph is partitioned for it. Input of another shape makes MXNet plan memory again.
    `trains` selects operators with fast gradients.
    """
    model.hybridize(backend=backend, static_alloc=True, static_shape=True)
    inputs, graph = model._get_graph(images)
    model._cached_graph = inputs, _in_older_operators(graph, images.shape, trains)


def _built(network: Network, tensors: Mapping[str, np.ndarray], device: str) -> HybridBlock:
    """Return the unmodified model with its weights, in their dtype."""
    backend = Backend(device)
    model = backend.build(network, next(iter(tensors.values())).dtype.name)
    backend.load(model, tensors)
    return model


def deployed(network: Network, tensors: Mapping[str, np.ndarray], device: str = "cpu") -> HybridBlock:
    """Return the deploy form of a model: batch normalizations that are folded into weights become `Identity`.

    Raises BackendError if MXNet finds no such device.
    """
    backend = Backend(device)
    model = backend.build(network, next(iter(tensors.values())).dtype.name)
    for path in folded_layers(network):
        parent, _, name = path.rpartition(".")
        block = attrgetter(parent)(model) if parent else model
        # Assigning to the attribute fails: Gluon lets no block of another class replace one.
        block.register_child(Identity(), name)
        vars(block)[name] = block._children[name]
    backend.load(model, fold(network, tensors))
    return model


def _images(model: HybridBlock, x: np.ndarray) -> mx.np.ndarray:
    weight = next(iter(model.collect_params().values())).data()
    return mx.np.array(x, dtype=weight.dtype, ctx=weight.ctx)


class _Session:
    """A model ready for inference; see `common.backends.sessions.Session`."""

    def __init__(self, model: HybridBlock) -> None:
        self._model = model

    def prepare(self, x: np.ndarray) -> mx.np.ndarray:
        return _images(self._model, x)

    def run(self, prepared: mx.np.ndarray) -> mx.np.ndarray:
        answer = self._model(prepared)
        answer.wait_to_read()
        return answer

    def logits(self, answer: mx.np.ndarray) -> np.ndarray:
        return answer.asnumpy()


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> _Session:
    """Return a session; see `common.backends.sessions`.

    Raises ConfigError for an execution path of another package, BackendError if MXNet finds no such device.
    """
    if path not in _PATHS:
        raise unknown("execution path of MXNet's own", path, _PATHS)
    if path == "mxnet-imperative":
        return _Session(_built(network, tensors, device))
    model = deployed(network, tensors, device)
    image = _images(model, np.zeros((1, *network.input_shape)))
    hybridize(model, image, backend="MKLDNN" if path == "mxnet-onednn" else None)
    return _Session(model)


def training_step(
    network: Network,
    tensors: Mapping[str, np.ndarray],
    path: str,
    device: str,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
) -> Callable[[], float]:
    """Return a training step; see `common.backends.sessions`. Raises what `session` does."""
    if path not in _PATHS[:2]:
        raise unknown("execution path of MXNet's own that trains", path, _PATHS[:2])
    model = _built(network, tensors, device)
    optimizer = make_optimizer(OptimizerConfig("sgd"), model)
    optimizer.set_learning_rate(learning_rate)
    x = _images(model, images)
    y = mx.np.array(labels, ctx=x.ctx)
    if path == "mxnet-hybrid":
        hybridize(model, x, trains=True)

    def step() -> float:
        loss, _ = train_step(model, optimizer, x, y)
        # MXNet updates the weights in the background, after the loss.
        npx.waitall()
        return loss.item()

    return step
