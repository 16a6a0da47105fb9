"""The reference behind the Backend protocol. It computes in float64, whatever dtype is asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common import reference
from common.catalog import Network
from common.reference import Call
from common.reference.layers import Sequential
from common.weights import DTypeName

__all__ = ["Backend"]


class Backend:
    """NumPy; see `common.backends.Backend`."""

    container = "Sequential"

    def build(self, network: Network, dtype: DTypeName) -> Sequential:
        return reference.build(network)

    def load(self, model: Sequential, tensors: Mapping[str, np.ndarray]) -> None:
        reference.load(model, tensors)

    def weights(self, model: Sequential) -> dict[str, np.ndarray]:
        return reference.weights(model)

    def run(self, model: Sequential, x: np.ndarray, training: bool = False) -> np.ndarray:
        model.train(training)
        return model(np.asarray(x, dtype=np.float64))

    def trace(self, model: Sequential, x: np.ndarray, training: bool = False) -> dict[str, np.ndarray]:
        model.train(training)
        return reference.trace(model, x)

    def summary(self, model: Sequential) -> list[Call]:
        return list(reference.describe(model.network).calls)
