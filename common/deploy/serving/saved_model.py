"""Serve a SavedModel with TensorFlow. Needs NumPy and tensorflow."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Session", "load"]


class Session:
    """A loaded model's signature: images (N, C, H, W) -> logits (N, num_classes)."""

    def __init__(self, model: Any, manifest: Mapping[str, Any]) -> None:
        self._model = model  # keeps the signature's variables alive
        self._signature = model.signatures["serving_default"]
        self._input = manifest["input"]
        self._output = manifest["output"]["name"]

    def prepare(self, x: np.ndarray) -> dict[str, tf.Tensor]:
        """Return images by the input's name, in its layout and dtype."""
        images = x.transpose(0, 2, 3, 1) if self._input["layout"] == "NHWC" else x
        return {self._input["name"]: tf.constant(images, self._input["dtype"])}

    def run(self, prepared: dict[str, tf.Tensor]) -> np.ndarray:
        """Return the logits, copied to the host."""
        return self._signature(**prepared)[self._output].numpy()

    def logits(self, output: np.ndarray) -> np.ndarray:
        """Return the logits as an array (N, num_classes)."""
        return output


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a folder to run on `threads` threads, which TensorFlow accepts only before its first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return Session(tf.saved_model.load(path), manifest)
