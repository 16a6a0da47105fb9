"""A user's function of NumPy arrays as a Backend."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from common import reference
from common.backends.protocol import Calls, Gradients, Trainer
from common.catalog import Network
from common.errors import ConfigError
from common.optimizers import OptimizerConfig
from common.reference import Call
from common.weights import DTypeName

__all__ = ["Backend", "Function"]


class Function:
    """A function `compute(x, weights)` together with its weights.

    It returns the output, or a mapping of taps whose last entry is the output. A parameter `training` is set if it has
    one.
    """

    network: Network

    def __init__(self, compute: Callable[..., Any], dtype: DTypeName) -> None:
        self.compute = compute
        self.dtype = dtype
        self.tensors: dict[str, np.ndarray] = {}
        self.knows_training = "training" in inspect.signature(compute).parameters

    def __call__(self, x: np.ndarray, training: bool = False) -> dict[str, np.ndarray]:
        """Return the taps by name, the output as `logits`."""
        options = {"training": training} if self.knows_training else {}
        found = self.compute(np.asarray(x, self.dtype), self.tensors, **options)
        taps = dict(found) if isinstance(found, Mapping) else {"logits": found}
        if not taps:
            raise ConfigError("the function returned an empty mapping; expected taps by name, the output last")
        taps["logits"] = taps.pop("logits") if "logits" in taps else taps.pop(list(taps)[-1])
        return {name: np.asarray(values) for name, values in taps.items()}


class Backend:
    """A `common.backends.protocol.Backend` of functions, which have a forward pass only and no layers."""

    container = "function"

    def build(self, compute: Callable[..., Any], dtype: DTypeName) -> Function:
        """Return the function as a model."""
        return Function(compute, dtype)

    def load(self, model: Function, tensors: Mapping[str, np.ndarray]) -> None:
        model.tensors = {name: np.asarray(array, model.dtype) for name, array in tensors.items()}

    def weights(self, model: Function) -> dict[str, np.ndarray]:
        return model.tensors

    def run(self, model: Function, x: np.ndarray, training: bool = False) -> np.ndarray:
        return model(x, training)["logits"]

    def trace(
        self, model: Function, x: np.ndarray, training: bool = False, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        if given is not None:
            raise ConfigError("a function of arrays cannot be run layer by layer")
        taps = model(x, training)
        return {tap: taps[tap] for tap in reference.describe(model.network).taps}

    def calls(self, model: Function, x: np.ndarray, training: bool = False) -> Calls:
        return {}

    def summary(self, model: Function) -> list[Call]:
        taps = model(np.zeros((1, *model.network.input_shape)))
        return [Call(tap, "array", values.shape) for tap, values in taps.items() if tap != "logits"]

    def gradients(self, model: Function, x: np.ndarray, labels: np.ndarray) -> Gradients:
        raise _forward_only()

    def trainer(self, model: Function, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        raise _forward_only()


def _forward_only() -> ConfigError:
    return ConfigError("a function of arrays computes forward only; request `checks=['forward']`")
