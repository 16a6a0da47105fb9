"""How PyTorch runs a network fast: batch norm folded away, channels last in memory, compiled and frozen.

torch allocates what each layer makes and frees it within the pass; every path keeps that memory from pass to pass.
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

__all__ = ["by_winograd", "check_compiler", "deployed", "session", "set_threads", "training_step"]

_PATHS = ("torch-eager", "torch-channels-last", "torch-compile", "torch-winograd")
"""The execution paths that run this package's code; the last does not learn."""


def set_threads(count: int) -> None:
    """Compute on so many threads."""
    torch.set_num_threads(count)


def _built(network: Network, tensors: Mapping[str, np.ndarray], device: str) -> nn.Module:
    """Return the port as it is written, with its weights and in their dtype, in evaluation mode."""
    backend = Backend(device)
    model = backend.build(network, next(iter(tensors.values())).dtype.name)
    backend.load(model, tensors)
    return model


def deployed(network: Network, tensors: Mapping[str, np.ndarray], device: str = "cpu") -> nn.Module:
    """Return the port's deploy form: folded normalizations do nothing, and activations overwrite what they are given.

    Raises BackendError where torch sees no such device.
    """
    model = Backend(device).build(network, next(iter(tensors.values())).dtype.name)
    for path in folded_layers(network):
        model.set_submodule(path, nn.Identity())
    from_canonical(model, fold(network, tensors))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            # What comes before is a convolution, a dense layer, a normalization or a sum, and nothing else reads it.
            module.inplace = True
    return model.requires_grad_(False)


def by_winograd(model: nn.Module) -> nn.Module:
    """Have a deploy form's wide 3x3 convolutions take fewer products."""
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and WinogradConv2d.suits(module):
            model.set_submodule(path, WinogradConv2d(module).requires_grad_(False))
    return model


def check_compiler() -> None:
    """Raise BackendError where torch finds nothing to compile with."""
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise BackendError("torch finds no C++ compiler; install g++, or name one in the variable CXX") from None


def _compiled(model: nn.Module) -> nn.Module:
    """Compile a model, whole, for each shape of image that comes.

    Without isolation torch counts all models of a class together, and silently runs the ninth as it is written.
    """
    check_compiler()
    return torch.compile(model, fullgraph=True, dynamic=False, isolate_recompiles=True)


def _frozen(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compile a model for each shape when images of it first come, its weights being constants and packed.

    In float64, in which oneDNN does not compute and so cannot pack, weights stay as they are.
    """
    compiled = _compiled(model)
    frozen = next(model.parameters()).dtype == torch.float32
    known: set[torch.Size] = set()

    def run(x: Tensor) -> Tensor:
        if x.shape in known:
            return compiled(x)
        known.add(x.shape)
        # As an option of `compile` it would not be seen by what traces the model, and have no effect.
        with inductor.patch(freezing=frozen):
            return compiled(x)

    return run


class _Session:
    """A model that answers; see `common.backends.sessions.Session`."""

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

    Raises ConfigError for a path that is not this package's, BackendError without the device or a compiler.
    """
    keep_freed_memory()
    match path:
        case "torch-eager":
            model = _built(network, tensors, device)
            return _Session(model, model, torch.contiguous_format)
        case "torch-channels-last":
            model = deployed(network, tensors, device).to(memory_format=torch.channels_last)
            return _Session(model, model, torch.channels_last)
        case "torch-compile":
            model = deployed(network, tensors, device)
            return _Session(model, _frozen(model), torch.channels_last)
        case "torch-winograd":
            model = by_winograd(deployed(network, tensors, device))
            return _Session(model, _frozen(model), torch.channels_last)
    raise unknown("execution path of torch's own", path, _PATHS)


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
    if path not in _PATHS[:3]:
        raise unknown("execution path of torch's own that trains", path, _PATHS[:3])
    keep_freed_memory()
    model = _built(network, tensors, device).train()
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
