"""The PyTorch implementation of `common.backends.protocol.Backend`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from common import reference
from common.backends.protocol import Calls, Gradients, check_all_ran, kind_of
from common.catalog import Network
from common.errors import no_device
from common.optimizers import OptimizerConfig
from common.reference import Call
from common.weights import DTypeName
from torch_impl import build
from torch_impl.training import Trainer, gradients
from torch_impl.weights import from_canonical, to_canonical

__all__ = ["Backend"]

Observer = Callable[[str, nn.Module, Tensor, Tensor], Tensor | None]


def _run_observed(model: nn.Module, x: Tensor, observe: Observer) -> Tensor:
    """Run the model, and call `observe(path, module, input, output)` after each of its modules.

    A tensor that `observe` returns replaces the output. Modules whose input or output is not one tensor are skipped.
    """

    def hook(path: str) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        def call(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            single = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            return observe(path, module, inputs[0], output) if single else None

        return call

    handles = [module.register_forward_hook(hook(path)) for path, module in model.named_modules() if path]
    try:
        return model(x)
    finally:
        for handle in handles:
            handle.remove()


def _allocate(model: nn.Module, device: str) -> nn.Module:
    """Replace the tensors of a model on the meta device by tensors on `device`; the weights are undefined.

    This is `nn.Module.to_empty` without its imports, which take a quarter of a process's start.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            module.register_parameter(name, nn.Parameter(empty))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.zeros(buffer.shape, dtype=buffer.dtype, device=device))
    return model


class Backend:
    """PyTorch on the CPU or a GPU; see `common.backends.protocol.Backend`."""

    container = "Sequential"

    def __init__(self, device: str = "cpu") -> None:
        if device == "gpu" and not torch.cuda.is_available():
            raise no_device("PyTorch")
        self._device = "cuda" if device == "gpu" else "cpu"
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False

    def build(self, network: Network, dtype: DTypeName) -> nn.Module:
        with torch.device("meta"):
            model = build(network.name, dtype=dtype, **network.settings())
        return _allocate(model, self._device).eval()

    def initial(self, network: Network, dtype: DTypeName, seed: int) -> dict[str, np.ndarray]:
        torch.manual_seed(seed)
        return to_canonical(build(network.name, dtype=dtype, **network.settings()))

    def load(self, model: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
        from_canonical(model, tensors)

    def weights(self, model: nn.Module) -> dict[str, np.ndarray]:
        return to_canonical(model)

    @torch.no_grad()
    def run(self, model: nn.Module, x: np.ndarray, training: bool = False) -> np.ndarray:
        return model.train(training)(self._input(model, x)).numpy(force=True)

    @torch.no_grad()
    def trace(
        self, model: nn.Module, x: np.ndarray, training: bool = False, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        taps = reference.describe(model.network).taps
        outputs: dict[str, np.ndarray] = {}
        ran = set()

        def observe(path: str, _: nn.Module, __: Tensor, output: Tensor) -> Tensor | None:
            ran.add(path)
            if path in taps:
                # A copy, since an in-place activation may overwrite the output.
                outputs[path] = output.numpy(force=True).copy()
            return torch.from_numpy(given[path]).to(output) if given and path in given else None

        logits = _run_observed(model.train(training), self._input(model, x), observe)
        outputs["logits"] = logits.numpy(force=True)
        check_all_ran(model.network, (path for path, _ in model.named_modules() if path), ran)
        return {tap: outputs[tap] for tap in taps}

    @torch.no_grad()
    def calls(self, model: nn.Module, x: np.ndarray, training: bool = False) -> Calls:
        inputs: dict[str, np.ndarray] = {}
        calls: Calls = {}

        def copy_input(path: str) -> Callable[[nn.Module, tuple], None]:
            def hook(_: nn.Module, args: tuple) -> None:
                if args and isinstance(args[0], Tensor):
                    # Copied before the module runs, since an in-place activation overwrites its input.
                    inputs[path] = args[0].numpy(force=True).copy()

            return hook

        def observe(path: str, _: nn.Module, __: Tensor, output: Tensor) -> None:
            calls[path] = inputs[path], output.numpy(force=True).copy()

        handles = [module.register_forward_pre_hook(copy_input(path)) for path, module in model.named_modules()]
        try:
            _run_observed(model.train(training), self._input(model, x), observe)
        finally:
            for handle in handles:
                handle.remove()
        return calls

    @torch.no_grad()
    def summary(self, model: nn.Module) -> list[Call]:
        calls: list[Call] = []

        def observe(path: str, module: nn.Module, _: Tensor, output: Tensor) -> None:
            kind = kind_of(module, "torch_impl", (nn.Module,))
            calls.append(Call(path, kind, tuple(output.shape), own=type(module).__name__))

        image = np.zeros((1, *model.network.input_shape))
        _run_observed(model.eval(), self._input(model, image), observe)
        return calls

    def gradients(self, model: nn.Module, x: np.ndarray, labels: np.ndarray) -> Gradients:
        y = torch.from_numpy(labels).to(self._device)
        loss, of_parameters, of_images = gradients(model, self._input(model, x), y)
        arrays = {name: gradient.numpy(force=True) for name, gradient in of_parameters.items()}
        return Gradients(loss.item(), arrays, of_images.numpy(force=True))

    def trainer(self, model: nn.Module, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        return Trainer(model, optimizer, seed)

    @staticmethod
    def _input(model: nn.Module, x: np.ndarray) -> Tensor:
        """Return images in the model's dtype and on its device."""
        return torch.from_numpy(np.ascontiguousarray(x)).to(next(model.parameters()))
