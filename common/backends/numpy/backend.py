"""The NumPy reference as a Backend; it always computes in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common import reference, weights
from common.backends.protocol import Calls, Gradients, Trainer
from common.catalog import Network
from common.errors import ConfigError, no_device
from common.optimizers import OptimizerConfig
from common.reference import Call
from common.reference.layers import Sequential
from common.weights import DTypeName

__all__ = ["Backend"]


class Backend:
    """NumPy; see `common.backends.protocol.Backend`."""

    container = "Sequential"

    def __init__(self, device: str = "cpu") -> None:
        if device != "cpu":
            raise no_device("NumPy")

    def build(self, network: Network, dtype: DTypeName) -> Sequential:
        return reference.build(network)

    def initial(self, network: Network, dtype: DTypeName, seed: int) -> dict[str, np.ndarray]:
        return weights.initialize(network, "xavier", seed, dtype)

    def load(self, model: Sequential, tensors: Mapping[str, np.ndarray]) -> None:
        reference.load(model, tensors)

    def weights(self, model: Sequential) -> dict[str, np.ndarray]:
        return reference.weights(model)

    def run(self, model: Sequential, x: np.ndarray, training: bool = False) -> np.ndarray:
        model.train(training)
        return model(np.asarray(x, dtype=np.float64))

    def trace(
        self, model: Sequential, x: np.ndarray, training: bool = False, given: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        model.train(training)
        return reference.trace(model, x, given)

    def calls(self, model: Sequential, x: np.ndarray, training: bool = False) -> Calls:
        model.train(training)
        return reference.calls(model, x)

    def summary(self, model: Sequential) -> list[Call]:
        return list(reference.describe(model.network).calls)

    def gradients(self, model: Sequential, x: np.ndarray, labels: np.ndarray) -> Gradients:
        raise _forward_only()

    def trainer(self, model: Sequential, optimizer: OptimizerConfig, seed: int = 0) -> Trainer:
        raise _forward_only()


def _forward_only() -> ConfigError:
    return ConfigError("the NumPy reference computes forward only; train with one of torch, jax, tf, mxnet")
