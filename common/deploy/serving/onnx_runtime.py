"""Serve an ONNX file through ONNX Runtime on the CPU: all it takes is NumPy and onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import onnxruntime

__all__ = ["Session", "load"]


class Session:
    """A file that answers images (N, C, H, W) with logits (N, num_classes)."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Mapping[str, Any]) -> None:
        self._session = session
        self._input = manifest["input"]["name"]
        self._output = manifest["output"]["name"]
        self._dtype = manifest["input"]["dtype"]

    def prepare(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return images as the file takes them."""
        return {self._input: np.ascontiguousarray(x, self._dtype)}

    def run(self, prepared: dict[str, np.ndarray]) -> np.ndarray:
        """Return the logits."""
        (answer,) = self._session.run([self._output], prepared)
        return answer

    def logits(self, answer: np.ndarray) -> np.ndarray:
        """Return the logits as an array."""
        return answer


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a file and the manifest beside it, to run on so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Session(session, manifest)
