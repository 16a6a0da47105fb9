"""PyTorch's artifacts, all of the deploy form: a `torch.export` program, the same compiled by AOTInductor, and ONNX."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import tempfile
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor import aoti_compile_and_package
from torch._inductor import config as inductor
from torch.export import Dim, ExportedProgram

from common.catalog import Network
from common.deploy.export.formats import Export, Signature, check_any_size
from common.errors import ConfigError, unknown
from torch_impl.deploy import by_winograd, check_compiler, deployed

__all__ = ["export"]

_AXES = ("batch", "channels", "height", "width")
_LARGEST_ONNX = 2**31
"""Bytes that a message of protobuf, which an ONNX file is, stays below."""


def _any_axes(request: Export) -> list[int]:
    return [0] * (request.batch is None) + [2, 3] * (request.size is None)


def _program(model: nn.Module, example: Tensor, request: Export) -> ExportedProgram:
    """Return the graph that `torch.export` finds, without where in which file of this machine it came from."""
    axes = dict.fromkeys(_any_axes(request), Dim.DYNAMIC)
    program = torch.export.export(model, (example,), dynamic_shapes=(axes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _signature(program: ExportedProgram, **processor: str) -> Signature:
    (images,), (logits,) = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    return Signature(images, logits, "NCHW", {"torch": torch.__version__}, processor)


def _save_program(model: nn.Module, example: Tensor, request: Export) -> Signature:
    """Write a `.pt2`: the graph, its weights beside it.

    A program's weights lie in memory as the model's did, so each convolution finds them channels last, as its images.
    """
    model = model.to(memory_format=torch.channels_last)
    program = _program(model, example.to(memory_format=torch.channels_last), request)
    with warnings.catch_warnings():
        # That such weights are not contiguous: their strides are saved with them.
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, request.path)
    return _signature(program)


def _save_package(model: nn.Module, example: Tensor, request: Export) -> Signature:
    """Write a `.pt2`: a library compiled for processors with the vectors of this one, its weights packed within it.

    As in `torch_impl.deploy`, weights are packed in float32 alone. Raises BackendError where there is no compiler.
    """
    check_compiler()
    program = _program(model, example, request)
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder, torch.no_grad(), warnings.catch_warnings():
        options = {
            # Which inductor does only without gradients.
            "freezing": request.dtype == "float32",
            # Whoever serves it says on how many threads.
            "cpp.dynamic_threads": True,
            # Of the processor at hand nothing but its vectors, so that other kinds with the same can run it. What torch
            # permits beside AVX-512 (VNNI, AMX, bfloat16) is not for float32 or float64, and is not in what it makes.
            "cpp.march": "",
            # In torch's cache all weights would stay.
            "aot_inductor.output_path": folder,
        }
        # Of torch about itself.
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)
        with inductor.patch(options):
            aoti_compile_and_package(program, package_path=str(request.path))
    return _signature(program, machine=platform.machine(), vectors=torch.backends.cpu.get_cpu_capability())


def _save_winograd_package(model: nn.Module, example: Tensor, request: Export) -> Signature:
    """Write the same, wide 3x3 convolutions by Winograd's algorithm. Raises ConfigError for a batch or size of any."""
    if _any_axes(request):
        raise ConfigError(
            "which layers are computed in tiles depends on how many images there are and how large they are; give "
            "--batch and --size, or export to torch-aot"
        )
    return _save_package(by_winograd(model), example, request)


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


_SAVE = {
    "torch-export": _save_program,
    "torch-aot": _save_package,
    "torch-aot-winograd": _save_winograd_package,
    "onnx": _save_onnx,
}


def export(network: Network, tensors: Mapping[str, np.ndarray], request: Export) -> Signature:
    """Write a network's deploy form as an artifact; see `common.deploy.export.formats.Export`.

    Raises ConfigError for a format that is not torch's, and where the network cannot take what is asked for;
    BackendError where a compiler is needed and there is none.
    """
    if request.format not in _SAVE:
        raise unknown("format of torch's", request.format, _SAVE)
    if request.size is None:
        check_any_size(network)
    # Export takes an axis with one entry for one that never has more.
    shape = (request.batch or 2, network.config.in_channels, *(request.size or network.config.input_size))
    model = deployed(network, tensors)
    return _SAVE[request.format](model, torch.zeros(shape, dtype=next(model.parameters()).dtype), request)
