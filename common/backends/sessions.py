"""Interface of the `deploy` modules of the ports and of the modules in `common.deploy.serving`.

Every port's `deploy` has the same three functions; importing it imports the framework.

    set_threads(count)                                          call before any other use of the framework
    session(network, tensors, path, device)        -> Session   runs the port's code in the way that `path` names
    training_step(network, tensors, path, device, images, labels, learning_rate)  -> TrainingStep   SGD on one batch

`tensors` are canonical weights, float32 for benchmarks and float64 for checks; the session computes in their dtype.
A module of `serving` is copied next to exported artifacts, so it imports nothing of this project:

    load(path, manifest, threads)                               -> Session
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = ["Session", "TrainingStep"]


class Session(Protocol):
    """A network ready for inference. Benchmarks time only `run`."""

    def prepare(self, x: np.ndarray) -> Any:
        """Return images (N, C, H, W) in the runtime's layout, type and memory."""

    def run(self, prepared: Any) -> Any:
        """Return the runtime's output after all computation on the device has finished."""

    def logits(self, answer: Any) -> np.ndarray:
        """Return an output of `run` as an array (N, num_classes)."""


class TrainingStep(Protocol):
    """SGD on one batch that is already on the device."""

    def __call__(self) -> float:
        """Take one step and return the loss before it, after all computation on the device has finished."""
