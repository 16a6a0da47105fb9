"""MXNet's artifacts: a symbol with its parameters, and ONNX, both of the deploy form."""

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
"""The newest set of ONNX's operators that MXNet writes."""
_LARGEST_ONNX = 2**31
"""Bytes that a message of protobuf, which an ONNX file is, stays below."""


def _save_symbol(model: HybridBlock, example: mx.np.ndarray, request: Export) -> Signature:
    """Write a folder of `model-symbol.json` and `model-0000.params`.

    MXNet works out shapes when it is given images: it takes any batch, and any size that the weights do.
    """
    model(example)
    request.path.mkdir()
    model.export(str(request.path / "model"))
    (images,), graph = model._cached_graph
    return Signature(images.name, graph.list_outputs()[0], "NCHW", {"mxnet": mx.__version__})


def _save_onnx(model: HybridBlock, example: mx.np.ndarray, request: Export) -> Signature:
    """Write a single `.onnx`. Raises BackendError without onnx, ConfigError where the weights do not fit into one."""
    try:
        import onnx
    except ImportError:
        hint = install_hint("mxnet")
        raise BackendError(f"MXNet writes ONNX through onnx, which is not installed; install it {hint}") from None
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    arrays = {name: each.data().as_nd_ndarray() for name, each in model.collect_params().items()}
    size = sum(array.size * 4 for array in arrays.values())
    if size >= _LARGEST_ONNX:
        raise ConfigError(
            f"ONNX keeps at most {_LARGEST_ONNX:,} bytes in a file, and these weights have {size:,}; "
            "export to mxnet-symbol in its place"
        )
    axes = (request.batch, example.shape[1], *(request.size or (None, None)))
    # `mx.onnx.export_model` would call these operators those of the newest set that onnx knows.
    graph = MXNetGraph().create_onnx_graph_proto(
        model._cached_graph[1],
        arrays,
        [example.shape],
        [onnx.TensorProto.FLOAT],
        opset_version=_OPSET,
        dynamic=True,
        dynamic_input_shapes=[axes],
    )
    # MXNet lists the weights as inputs too, where no runtime may take them for constants.
    images = next(each for each in graph.input if each.name == model._cached_graph[0][0].name)
    del graph.input[:]
    graph.input.append(images)
    written = onnx.helper.make_model_gen_version(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)])
    onnx.checker.check_model(written)
    onnx.save(written, request.path)
    makers = {"mxnet": mx.__version__, "onnx": onnx.__version__}
    return Signature(images.name, graph.output[0].name, "NCHW", makers)


_SAVE = {"mxnet-symbol": _save_symbol, "onnx": _save_onnx}


def export(network: Network, tensors: Mapping[str, np.ndarray], request: Export) -> Signature:
    """Write a network's deploy form as an artifact; see `common.deploy.export.formats.Export`.

    Raises ConfigError for a format that is not MXNet's, and where the network cannot take what is asked for.
    """
    if request.format not in _SAVE:
        raise unknown("format of MXNet's", request.format, _SAVE)
    if request.size is None:
        check_any_size(network)
    # Gluon counts its layers to name them; an artifact is not to say what was made before it.
    with mx.name.NameManager():
        model = deployed(network, tensors)
        shape = (request.batch or 1, network.config.in_channels, *(request.size or network.config.input_size))
        example = mx.np.zeros(shape, dtype=next(iter(tensors.values())).dtype)
        hybridize(model, example)
        return _SAVE[request.format](model, example, request)
