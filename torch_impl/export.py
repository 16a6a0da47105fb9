"""PyTorch's export formats: a `torch.export` program, AOTInductor packages and ONNX, all of the deployed model."""

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
from torch_impl.deploy import check_compiler, deployed, with_winograd

__all__ = ["export"]

_AXES = ("batch", "channels", "height", "width")

_MAX_ONNX_BYTES = 2**31
"""A protobuf message, and so an ONNX file, must be smaller."""


def _dynamic_axes(request: Export) -> list[int]:
    return [0] * (request.batch is None) + [2, 3] * (request.size is None)


def _program(model: nn.Module, example: Tensor, request: Export) -> ExportedProgram:
    """Return the program of `torch.export`, without the stack traces that name files of this machine."""
    axes = dict.fromkeys(_dynamic_axes(request), Dim.DYNAMIC)
    program = torch.export.export(model, (example,), dynamic_shapes=(axes,))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _signature(program: ExportedProgram, **processor: str) -> Signature:
    (images,), (logits,) = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    return Signature(images, logits, "NCHW", {"torch": torch.__version__}, processor)


def _save_program(model: nn.Module, example: Tensor, request: Export) -> Signature:
    """Write a `.pt2` with the graph and its weights.

    The file keeps the strides of the weights. In channels-last memory, as here, convolutions read them directly.
    """
    model = model.to(memory_format=torch.channels_last)
    program = _program(model, example.to(memory_format=torch.channels_last), request)
    with warnings.catch_warnings():
        # torch warns of weights that are not contiguous, although it saves their strides.
        warnings.filterwarnings("ignore", "No complete tensor found in the group")
        torch.export.save(program, request.path)
    return _signature(program)


def _save_package(model: nn.Module, example: Tensor, request: Export) -> Signature:
    """Write a `.pt2` with a compiled library, for processors with the vector instructions of this one.

    As in `torch_impl.deploy`, weights are packed in float32 only. Raises BackendError if there is no C++ compiler.
    """
    check_compiler()
    program = _program(model, example, request)
    # inductor freezes weights only where no gradients are recorded.
    with tempfile.TemporaryDirectory(prefix="rosetta-") as folder, torch.no_grad(), warnings.catch_warnings():
        options = {
            "freezing": request.dtype == "float32",
            # The number of threads is chosen where the package runs.
            "cpp.dynamic_threads": True,
            # Compile for any processor with these vector instructions, not for this very model. What torch may use
            # beside AVX-512 (VNNI, AMX, bfloat16) serves neither float32 nor float64.
            "cpp.march": "",
            # Otherwise all weights would stay in torch's cache.
            "aot_inductor.output_path": folder,
        }
        # torch warns of its own code.
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)
        with inductor.patch(options):
            aoti_compile_and_package(program, package_path=str(request.path))
    return _signature(program, machine=platform.machine(), vectors=torch.backends.cpu.get_cpu_capability())


def _save_winograd_package(model: nn.Module, example: Tensor, request: Export) -> Signature:
    """Write the same with Winograd's convolutions. Raises ConfigError unless batch and size are fixed."""
    if _dynamic_axes(request):
        raise ConfigError(
            "Winograd's algorithm chooses its tiles by the number and the size of the images; "
            "give --batch and --size, or export to torch-aot"
        )
    return _save_package(with_winograd(model), example, request)


def _save_onnx(model: nn.Module, example: Tensor, request: Export) -> Signature:
    """Write a single `.onnx`. Raises ConfigError if the weights are too large for one file."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size >= _MAX_ONNX_BYTES:
        raise ConfigError(
            f"the weights have {size:,} bytes, and an ONNX file has less than {_MAX_ONNX_BYTES:,}; "
            "export to torch-export instead"
        )
    # The exporter logs that torchvision is missing, which is not needed, and warns of torch's own code.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({axis: _AXES[axis] for axis in _dynamic_axes(request)},),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    for node in program.model.graph:
        # It names files of this machine.
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    program.save(request.path, external_data=False)
    packages = ("torch", "onnx", "onnxscript")
    return Signature("images", "logits", "NCHW", {name: importlib.metadata.version(name) for name in packages})


_SAVE = {
    "torch-export": _save_program,
    "torch-aot": _save_package,
    "torch-aot-winograd": _save_winograd_package,
    "onnx": _save_onnx,
}


def export(network: Network, tensors: Mapping[str, np.ndarray], request: Export) -> Signature:
    """Export a network's deployed model; see `common.deploy.export.formats.Export`.

    Raises ConfigError for a format that PyTorch does not have, or a request that the network cannot meet; BackendError
    if a needed compiler is missing.
    """
    if request.format not in _SAVE:
        raise unknown("PyTorch export format", request.format, _SAVE)
    if request.size is None:
        check_any_size(network)
    # From an example of one image, torch.export would infer a batch that is always one.
    shape = (request.batch or 2, network.config.in_channels, *(request.size or network.config.input_size))
    model = deployed(network, tensors)
    return _SAVE[request.format](model, torch.zeros(shape, dtype=next(model.parameters()).dtype), request)
