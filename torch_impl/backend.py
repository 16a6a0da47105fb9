"""PyTorch behind the Backend protocol."""

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


def _observed(model: nn.Module, x: Tensor, observe: Observer) -> Tensor:
    """Run the model and call `observe(path, module, input, output)` after each module below it.

    What it returns goes on in place of the output. Modules that do not make one tensor of another are left out.
    """

    def hook(path: str) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        def call(module: nn.Module, given: tuple, output: Tensor) -> Tensor | None:
            single = len(given) == 1 and isinstance(given[0], Tensor) and isinstance(output, Tensor)
            return observe(path, module, given[0], output) if single else None

        return call

    handles = [module.register_forward_hook(hook(path)) for path, module in model.named_modules() if path]
    try:
        return model(x)
    finally:
        for handle in handles:
            handle.remove()


def _allocate(model: nn.Module, device: str) -> nn.Module:
    """Give a model that was made on the meta device memory on another, its values undefined; and return it.

    `to_empty` is Python on a meta tensor: what it imports takes half a second, a quarter of a process's start.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            module.register_parameter(name, nn.Parameter(empty))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.zeros(buffer.shape, dtype=buffer.dtype, device=device))
    return model


class Backend:
    """torch; see `common.backends.protocol.Backend`."""

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
                # A copy: an activation may be computed in place.
                outputs[path] = output.numpy(force=True).copy()
            return torch.from_numpy(given[path]).to(output) if given and path in given else None

        outputs["logits"] = _observed(model.train(training), self._input(model, x), observe).numpy(force=True)
        check_all_ran(model.network, (path for path, _ in model.named_modules() if path), ran)
        return {tap: outputs[tap] for tap in taps}

    @torch.no_grad()
    def calls(self, model: nn.Module, x: np.ndarray, training: bool = False) -> Calls:
        inputs: dict[str, np.ndarray] = {}
        found: Calls = {}

        def remember(path: str) -> Callable[[nn.Module, tuple], None]:
            def hook(_: nn.Module, given: tuple) -> None:
                if given and isinstance(given[0], Tensor):
                    # An activation in place leaves nothing of what it was given.
                    inputs[path] = given[0].numpy(force=True).copy()

            return hook

        def observe(path: str, _: nn.Module, __: Tensor, output: Tensor) -> None:
            found[path] = inputs[path], output.numpy(force=True).copy()

        handles = [module.register_forward_pre_hook(remember(path)) for path, module in model.named_modules()]
        try:
            _observed(model.train(training), self._input(model, x), observe)
        finally:
            for handle in handles:
                handle.remove()
        return found

    @torch.no_grad()
    def summary(self, model: nn.Module) -> list[Call]:
        calls: list[Call] = []

        def observe(path: str, module: nn.Module, _: Tensor, output: Tensor) -> None:
            kind = kind_of(module, "torch_impl", (nn.Module,))
            calls.append(Call(path, kind, tuple(output.shape), own=type(module).__name__))

        image = np.zeros((1, *model.network.input_shape))
        _observed(model.eval(), self._input(model, image), observe)
        return calls

    def gradients(self, model: nn.Module, x: np.ndarray, labels: np.ndarray) -> Gradients:
        y = torch.from_numpy(labels).to(self._device)
        loss, by_parameter, by_images = gradients(model, self._input(model, x), y)
        arrays = {name: gradient.numpy(force=True) for name, gradient in by_parameter.items()}
        return Gradients(loss.item(), arrays, by_images.numpy(force=True))

    def trainer(self, model: nn.Module, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        return Trainer(model, optimizer, seed)

    @staticmethod
    def _input(model: nn.Module, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(next(model.parameters()))
