"""What each port's `deploy` module and each module of `common.deploy.serving` gives: sessions and training steps.

A port's `deploy` has the same three functions everywhere. Importing it imports the framework.

    set_threads(count)                                          before anything else is asked of the framework
    session(network, tensors, path, device)        -> Session   of an execution path that runs the port's own code
    training_step(network, tensors, path, device, images, labels, learning_rate)  -> TrainingStep   SGD on one batch

`tensors` are canonical weights, float32 for speed and float64 for proof; a session computes in their dtype. A module of
`serving` imports nothing of this project, for it is what a user copies:

    load(path, manifest, threads)                               -> Session
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = ["Session", "TrainingStep"]


class Session(Protocol):
    """A network that is ready to answer. Only `run` is timed."""

    def prepare(self, x: np.ndarray) -> Any:
        """Return images (N, C, H, W) as the runtime takes them: in its layout, type and memory."""

    def run(self, prepared: Any) -> Any:
        """Return the runtime's own answer, once it is computed; a device has then finished."""

    def logits(self, answer: Any) -> np.ndarray:
        """Return an answer as an array (N, num_classes)."""


class TrainingStep(Protocol):
    """Steps of SGD on one batch that is where it is needed already."""

    def __call__(self) -> float:
        """Take one step and return the loss before it; a device has then finished."""
