"""The NumPy reference as an execution path for benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import numpy as np
from threadpoolctl import threadpool_limits

from common import reference
from common.catalog import Network
from common.errors import ConfigError, no_device, unknown
from common.reference.layers import Sequential

__all__ = ["session", "set_threads", "training_step"]


def set_threads(count: int) -> None:
    """Set the number of threads of matrix products."""
    threadpool_limits(count)


class _Session:
    """A `common.backends.sessions.Session` of the reference, in float64."""

    def __init__(self, model: Sequential) -> None:
        self._model = model

    def prepare(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x, np.float64)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        return self._model(prepared)

    def logits(self, answer: np.ndarray) -> np.ndarray:
        return answer


def session(network: Network, tensors: Mapping[str, np.ndarray], path: str, device: str = "cpu") -> _Session:
    """Return a session. Raises ConfigError for an unknown path, BackendError for a device other than the CPU."""
    if path != "numpy":
        raise unknown("execution path of NumPy", path, ("numpy",))
    if device != "cpu":
        raise no_device("NumPy")
    model = reference.build(network)
    reference.load(model, tensors)
    return _Session(model)


def training_step(*_: object) -> NoReturn:
    """Raise ConfigError: the reference has no backward pass."""
    raise ConfigError("the NumPy reference computes forward only; train with one of torch, jax, tf, mxnet")
