"""PyTorch's artifacts: a `torch.export` program and ONNX, both of the deploy form."""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from common.catalog import Network
from common.deploy.formats import Export, Signature
from common.deploy.sizes import check_any_size
from common.errors import ConfigError, unknown
from torch_impl.deploy import deployed

__all__ = ["export"]

_AXES = ("batch", "channels", "height", "width")
_LARGEST_ONNX = 2**31
"""Bytes that a message of protobuf, which an ONNX file is, stays below."""


def _any_axes(request: Export) -> list[int]:
    return [0] * (request.batch is None) + [2, 3] * (request.size is None)


def _save_program(model: nn.Module, example: Tensor, request: Export) -> Signature:
    """Write a `.pt2`: the graph that `torch.export` finds, its weights beside it.

    A program's weights lie in memory as the model's did, so each convolution finds them channels last, as its images.
    """
    axes = dict.fromkeys(_any_axes(request), Dim.DYNAMIC)
    model = model.to(memory_format=torch.channels_last)
    program = torch.export.export(model, (example.to(memory_format=torch.channels_last),), dynamic_shapes=(axes,))
    for node in program.graph.nodes:
        # Where in which file of this machine it came from.
        node.meta.pop("stack_trace", None)
    with warnings.catch_warnings():
        # That such weights are not contiguous: their strides are saved with them.
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, request.path)
    (images,), (logits,) = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    return Signature(images, logits, "NCHW", {"torch": torch.__version__})


def _save_onnx(model: nn.Module, example: Tensor, request: Export) -> Signature:
    """Write a single `.onnx`. Raises ConfigError where its weights do not fit into one."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size >= _LARGEST_ONNX:
        raise ConfigError(
            f"ONNX keeps at most {_LARGEST_ONNX:,} bytes in a file, and these weights have {size:,}; "
            "export to torch-export in its place"
        )
    # It warns of torchvision, which is not needed, and of what torch itself does.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({axis: _AXES[axis] for axis in _any_axes(request)},),
            verbose=False,
        )
    for node in program.model.graph:
        # Where in which file of this machine it came from.
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    program.save(request.path, external_data=False)
    makers = ("torch", "onnx", "onnxscript")
    return Signature("images", "logits", "NCHW", {maker: importlib.metadata.version(maker) for maker in makers})


_SAVE = {"torch-export": _save_program, "onnx": _save_onnx}


def export(network: Network, tensors: Mapping[str, np.ndarray], request: Export) -> Signature:
    """Write a network's deploy form as an artifact; see `common.deploy.formats.Export`.

    Raises ConfigError for a format that is not torch's, and where the network cannot take what is asked for.
    """
    if request.format not in _SAVE:
        raise unknown("format of torch's", request.format, _SAVE)
    if request.size is None:
        check_any_size(network)
    # Export takes an axis with one entry for one that never has more.
    shape = (request.batch or 2, network.config.in_channels, *(request.size or network.config.input_size))
    model = deployed(network, tensors)
    return _SAVE[request.format](model, torch.zeros(shape, dtype=next(model.parameters()).dtype), request)
