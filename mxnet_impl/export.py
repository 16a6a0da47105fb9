"""Export of the deploy form by MXNet: a symbol with its parameters, or ONNX."""

from __future__ import annotations

from collections.abc import Mapping

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from common.backends.environments import install_hint
from common.catalog import Network
from common.deploy.export.formats import Export, Signature, check_any_size
from common.errors import BackendError, ConfigError, unknown
from mxnet_impl.deploy import deployed, hybridize

__all__ = ["export"]

_OPSET = 13
"""The newest ONNX operator set that MXNet supports."""
_LARGEST_ONNX = 2**31
"""Bytes; a protobuf message, and so an ONNX file, must be smaller."""


def _save_symbol(model: HybridBlock, example: mx.np.ndarray, request: Export) -> Signature:
    """Write a folder of `model-symbol.json` and `model-0000.params`.

    MXNet infers shapes at run time, so the artifact accepts any batch size, and any image size that the weights allow.
    """
    model(example)
    request.path.mkdir()
    model.export(str(request.path / "model"))
    (images,), graph = model._cached_graph
    return Signature(images.name, graph.list_outputs()[0], "NCHW", {"mxnet": mx.__version__})


def _save_onnx(model: HybridBlock, example: mx.np.ndarray, request: Export) -> Signature:
    """Write an `.onnx` file. Raises BackendError without the package onnx, ConfigError if the weights are too large."""
    try:
        import onnx
    except ImportError:
        hint = install_hint("mxnet")
        raise BackendError(f"MXNet needs the package onnx to write ONNX; install it {hint}") from None
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    arrays = {name: each.data().as_nd_ndarray() for name, each in model.collect_params().items()}
    size = sum(array.size * 4 for array in arrays.values())
    if size >= _LARGEST_ONNX:
        raise ConfigError(
            f"an ONNX file must be smaller than {_LARGEST_ONNX:,} bytes, and these weights have {size:,}; "
            "export to mxnet-symbol instead"
        )
    axes = (request.batch, example.shape[1], *(request.size or (None, None)))
    # `mx.onnx.export_model` would label the graph with the newest operator set of the package onnx.
    graph = MXNetGraph().create_onnx_graph_proto(
        model._cached_graph[1],
        arrays,
        [example.shape],
        [onnx.TensorProto.FLOAT],
        opset_version=_OPSET,
        dynamic=True,
        dynamic_input_shapes=[axes],
    )
    # MXNet lists the weights as inputs too, and runtimes then cannot treat them as constants.
    images = next(each for each in graph.input if each.name == model._cached_graph[0][0].name)
    del graph.input[:]
    graph.input.append(images)
    onnx_model = onnx.helper.make_model_gen_version(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)])
    onnx.checker.check_model(onnx_model)
    onnx.save(onnx_model, request.path)
    versions = {"mxnet": mx.__version__, "onnx": onnx.__version__}
    return Signature(images.name, graph.output[0].name, "NCHW", versions)


_SAVE = {"mxnet-symbol": _save_symbol, "onnx": _save_onnx}


def export(network: Network, tensors: Mapping[str, np.ndarray], request: Export) -> Signature:
    """Export the deploy form of a network; see `common.deploy.export.formats.Export`.

    Raises ConfigError for a format that MXNet does not write, or if the network does not allow the requested size.
    """
    if request.format not in _SAVE:
        raise unknown("format of MXNet's", request.format, _SAVE)
    if request.size is None:
        check_any_size(network)
    # Gluon names layers by global counters; new counters make the artifact independent of models built before.
    with mx.name.NameManager():
        model = deployed(network, tensors)
        shape = (request.batch or 1, network.config.in_channels, *(request.size or network.config.input_size))
        example = mx.np.zeros(shape, dtype=next(iter(tensors.values())).dtype)
        hybridize(model, example)
        return _SAVE[request.format](model, example, request)
