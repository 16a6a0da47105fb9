"""Serve an ONNX file with ONNX Runtime on the CPU. Needs NumPy and onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import onnxruntime

__all__ = ["Session", "load"]


class Session:
    """A loaded file: images (N, C, H, W) -> logits (N, num_classes)."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Mapping[str, Any]) -> None:
        self._session = session
        self._input = manifest["input"]["name"]
        self._output = manifest["output"]["name"]
        self._dtype = manifest["input"]["dtype"]

    def prepare(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return images by the input's name, in its dtype."""
        return {self._input: np.ascontiguousarray(x, self._dtype)}

    def run(self, prepared: dict[str, np.ndarray]) -> np.ndarray:
        """Return the logits."""
        (output,) = self._session.run([self._output], prepared)
        return output

    def logits(self, output: np.ndarray) -> np.ndarray:
        """Return the logits as an array (N, num_classes)."""
        return output


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a file to run on `threads` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Session(session, manifest)
