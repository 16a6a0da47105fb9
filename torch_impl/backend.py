"""PyTorch behind the Backend protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from common import reference
from common.backends import kind_of
from common.catalog import Network
from common.reference import Call
from common.weights import DTypeName
from torch_impl import build
from torch_impl.weights import from_canonical, to_canonical

__all__ = ["Backend"]

Observer = Callable[[str, nn.Module, Tensor], None]


def _observed(model: nn.Module, x: Tensor, observe: Observer) -> Tensor:
    """Run the model and call `observe(path, module, output)` after each module below it."""
    handles = [
        module.register_forward_hook(lambda module, _, output, path=path: observe(path, module, output))
        for path, module in model.named_modules()
        if path
    ]
    try:
        return model(x)
    finally:
        for handle in handles:
            handle.remove()


class Backend:
    """torch; see `common.backends.Backend`."""

    container = "Sequential"

    def __init__(self) -> None:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False

    def build(self, network: Network, dtype: DTypeName) -> nn.Module:
        with torch.device("meta"):
            model = build(network.name, dtype=dtype, **network.settings())
        return model.to_empty(device="cpu").eval()

    def load(self, model: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
        from_canonical(model, tensors)

    def weights(self, model: nn.Module) -> dict[str, np.ndarray]:
        return to_canonical(model)

    @torch.no_grad()
    def run(self, model: nn.Module, x: np.ndarray, training: bool = False) -> np.ndarray:
        return model.train(training)(self._input(model, x)).numpy()

    @torch.no_grad()
    def trace(self, model: nn.Module, x: np.ndarray, training: bool = False) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = {}

        def observe(path: str, _: nn.Module, output: Tensor) -> None:
            outputs[path] = output.numpy()

        outputs["logits"] = _observed(model.train(training), self._input(model, x), observe).numpy()
        return {tap: outputs[tap] for tap in reference.describe(model.network).taps}

    @torch.no_grad()
    def summary(self, model: nn.Module) -> list[Call]:
        calls: list[Call] = []

        def observe(path: str, module: nn.Module, output: Tensor) -> None:
            calls.append(Call(path, kind_of(module, "torch_impl", (nn.Module,)), tuple(output.shape)))

        image = np.zeros((1, *model.network.input_shape))
        _observed(model.eval(), self._input(model, image), observe)
        return calls

    @staticmethod
    def _input(model: nn.Module, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(next(model.parameters()).dtype)
