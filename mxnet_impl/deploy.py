"""How MXNet runs a network fast: batch norm folded away, static memory, and what oneDNN computes and fuses."""

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
    """Compute on so many threads.

    OpenMP takes the number from the thread that enters a loop. That is MXNet's one worker for the CPU, which starts
    with what OMP_NUM_THREADS said when MXNet was imported, so the worker is told.
    """
    tell = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: _LIB.MXSetNumOMPThreads(count))
    cpu = (ctypes.c_int * 2)(mx.cpu().device_typeid, 0)
    check_call(_LIB.MXEnginePushSync(tell, None, None, cpu, None, 0, None, 0, None, 0, b"set_threads"))
    # The worker calls what Python must not have forgotten by then.
    npx.waitall()


def _in_older_operators(graph: mx.symbol.Symbol, images: tuple[int, ...], trains: bool) -> mx.symbol.Symbol:
    """Return a graph with its sums and concatenations as MXNet's older operators: the same function.

    NumPy's are none that oneDNN computes, so that its arrays are brought back to NCHW for them, none that a convolution
    is fused with, and none that the exporter to ONNX knows. `images`: the shape of the input. One that `trains` has its
    global pool as a mean.
    """
    internals = graph.get_internals()
    shapes = dict(zip(internals.list_outputs(), internals.infer_shape(data=images)[1], strict=True))
    written = json.loads(graph.tojson())
    nodes = written["nodes"]
    for node in nodes:
        if node["op"] == "_npi_concatenate":
            node["op"] = "Concat"
            node["attrs"] = {"dim": node["attrs"]["axis"], "num_args": node["attrs"]["num_args"]}
        elif node["op"] == "_npi_add":
            added = {shapes.get(f"{nodes[i]['name']}_output") for i, *_ in node["inputs"]}
            # The older one does not broadcast, as batch normalization from scratch does.
            if len(added) == 1 and None not in added:
                node["op"] = "elemwise_add"
        elif trains and node["op"] == "Pooling" and node["attrs"]["global_pool"] == "True":
            # oneDNN's gradient of one comes in an order of its own, for which it has slow code alone from there on.
            node["op"] = "mean"
            node["attrs"] = {"axis": "(2, 3)", "keepdims": "True"}
    return mx.symbol.load_json(json.dumps(written)).as_np_ndarray()


def hybridize(model: HybridBlock, images: mx.np.ndarray, backend: str | None = None, *, trains: bool = False) -> None:
    """Record a model's graph from images (N, C, H, W), to run with static memory, partitioned for a backend if named.

    Other batches and sizes may follow; memory is then planned anew. `trains`: whether gradients are to be fast too.
    """
    model.hybridize(backend=backend, static_alloc=True, static_shape=True)
    inputs, graph = model._get_graph(images)
    model._cached_graph = inputs, _in_older_operators(graph, images.shape, trains)


def _built(network: Network, tensors: Mapping[str, np.ndarray], device: str) -> HybridBlock:
    """Return the port as it is written, with its weights and in their dtype."""
    backend = Backend(device)
    model = backend.build(network, next(iter(tensors.values())).dtype.name)
    backend.load(model, tensors)
    return model


def deployed(network: Network, tensors: Mapping[str, np.ndarray], device: str = "cpu") -> HybridBlock:
    """Return the port's deploy form: folded normalizations hand on what they are given.

    Raises BackendError where MXNet sees no such device.
    """
    backend = Backend(device)
    model = backend.build(network, next(iter(tensors.values())).dtype.name)
    for path in folded_layers(network):
        parent, _, name = path.rpartition(".")
        block = attrgetter(parent)(model) if parent else model
        # Gluon lets no block take the place of another that it does not derive from.
        delattr(block, name)
        setattr(block, name, Identity())
    backend.load(model, fold(network, tensors))
    return model


def _images(model: HybridBlock, x: np.ndarray) -> mx.np.ndarray:
    weight = next(iter(model.collect_params().values())).data()
    return mx.np.array(x, dtype=weight.dtype, ctx=weight.ctx)


class _Session:
    """A model that answers; see `common.backends.sessions.Session`."""

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

    Raises ConfigError for a path that is not this package's, BackendError without the device.
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
        # The new weights are computed behind the loss.
        npx.waitall()
        return loss.item()

    return step
