"""PyTorch's execution paths: eager, and with folded batch norm, channels-last memory, compiled and frozen.

torch allocates and frees the output of each layer within a pass. All paths keep the freed memory for the next pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from common.catalog import Network
from common.deploy.export.fold_batch_norm import fold, folded_layers
from common.errors import BackendError, unknown
from common.optimizers import OptimizerConfig
from common.system import keep_freed_memory
from torch_impl.backend import Backend
from torch_impl.training import make_optimizer, train_step
from torch_impl.weights import from_canonical
from torch_impl.winograd import WinogradConv2d

__all__ = ["check_compiler", "deployed", "session", "set_threads", "training_step", "with_winograd"]

_TRAINING_PATHS = ("torch-eager", "torch-channels-last", "torch-compile")

_PATHS = (*_TRAINING_PATHS, "torch-winograd")
"""The execution paths that run this package's code."""


def set_threads(count: int) -> None:
    """Set the number of threads that torch computes on."""
    torch.set_num_threads(count)


def _loaded(network: Network, tensors: Mapping[str, np.ndarray], device: str) -> nn.Module:
    """Return the model with these weights, in their dtype and in evaluation mode."""
    backend = Backend(device)
    model = backend.build(network, next(iter(tensors.values())).dtype.name)
    backend.load(model, tensors)
    return model


def deployed(network: Network, tensors: Mapping[str, np.ndarray], device: str = "cpu") -> nn.Module:
    """Return the model for deployment: batch norm folded into convolutions, activations in place, no gradients.

    Folded batch norms become `nn.Identity`. Raises BackendError if torch has no such device.
    """
    model = Backend(device).build(network, next(iter(tensors.values())).dtype.name)
    for path in folded_layers(network):
        model.set_submodule(path, nn.Identity())
    from_canonical(model, fold(network, tensors))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            # Its input is the output of a convolution, dense layer, normalization or sum, which nothing else reads.
            module.inplace = True
    return model.requires_grad_(False)


def with_winograd(model: nn.Module) -> nn.Module:
    """Replace the 3x3 convolutions of a deployed model that have enough channels by `WinogradConv2d`, in place."""
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and WinogradConv2d.applies_to(module):
            model.set_submodule(path, WinogradConv2d(module).requires_grad_(False))
    return model


def check_compiler() -> None:
    """Raise BackendError if torch finds no C++ compiler."""
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise BackendError("torch finds no C++ compiler; install g++ or set the variable CXX to one") from None


def _compiled(model: nn.Module) -> nn.Module:
    """Compile a model to one graph for each shape of its input.

    Without `isolate_recompiles`, torch counts the compilations of all models of a class together, and silently runs
    the ninth model without compiling it.
    """
    check_compiler()
    return torch.compile(model, fullgraph=True, dynamic=False, isolate_recompiles=True)


def _frozen(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compile a model for each shape of its input, with weights as constants that oneDNN may repack.

    In float64, which oneDNN does not support, the weights stay parameters.
    """
    compiled = _compiled(model)
    freezing = next(model.parameters()).dtype == torch.float32
    compiled_shapes: set[torch.Size] = set()

    def run(x: Tensor) -> Tensor:
        if x.shape in compiled_shapes:
            return compiled(x)
        compiled_shapes.add(x.shape)
        # As an option of `torch.compile`, freezing has no effect, since the tracing of the model does not see it.
        with inductor.patch(freezing=freezing):
            return compiled(x)

    return run


class _Session:
    """A model, or its compiled function, ready to run; see `common.backends.sessions.Session`."""

    def __init__(self, model: nn.Module, function: Callable[[Tensor], Tensor], memory_format: torch.memory_format):
        self._parameter = next(model.parameters())
        self._function = function
        self._memory_format = memory_format

    def prepare(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(self._parameter).to(memory_format=self._memory_format)

    @torch.inference_mode()
    def run(self, prepared: Tensor) -> Tensor:
        answer = self._function(prepared)
        if answer.is_cuda:
            torch.cuda.synchronize()
        return answer

    def logits(self, answer: Tensor) -> np.ndarray:
        return answer.numpy(force=True)


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str) -> _Session:
    """Return a session; see `common.backends.sessions`.

    Raises ConfigError for an unknown path, BackendError if the device or a needed compiler is missing.
    """
    keep_freed_memory()
    match path:
        case "torch-eager":
            model = _loaded(network, tensors, device)
            return _Session(model, model, torch.contiguous_format)
        case "torch-channels-last":
            model = deployed(network, tensors, device).to(memory_format=torch.channels_last)
            return _Session(model, model, torch.channels_last)
        case "torch-compile":
            model = deployed(network, tensors, device)
            return _Session(model, _frozen(model), torch.channels_last)
        case "torch-winograd":
            model = with_winograd(deployed(network, tensors, device))
            return _Session(model, _frozen(model), torch.channels_last)
    raise unknown("PyTorch execution path", path, _PATHS)


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
    if path not in _TRAINING_PATHS:
        raise unknown("PyTorch execution path that trains", path, _TRAINING_PATHS)
    keep_freed_memory()
    model = _loaded(network, tensors, device).train()
    memory_format = torch.contiguous_format if path == "torch-eager" else torch.channels_last
    model = model.to(memory_format=memory_format)
    optimizer = make_optimizer(OptimizerConfig("sgd"), model)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    x = torch.from_numpy(images).to(next(model.parameters())).to(memory_format=memory_format)
    y = torch.from_numpy(labels).to(x.device)
    function = _compiled(model) if path == "torch-compile" else model

    def step() -> float:
        loss, _ = train_step(function, optimizer, x, y)
        return loss.item()

    return step
