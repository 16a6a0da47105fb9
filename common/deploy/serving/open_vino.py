"""Serve an ONNX file through OpenVINO on the CPU: all it takes is NumPy and openvino."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import openvino
from openvino import properties

__all__ = ["Session", "load"]


class Session:
    """A file that answers images (N, C, H, W) with logits (N, num_classes)."""

    def __init__(self, model: openvino.CompiledModel, manifest: Mapping[str, Any]) -> None:
        self._request = model.create_infer_request()
        self._dtype = manifest["input"]["dtype"]

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Return images as the file takes them."""
        return np.ascontiguousarray(x, self._dtype)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        """Return the logits."""
        return self._request.infer([prepared], share_inputs=True)[0]

    def logits(self, answer: np.ndarray) -> np.ndarray:
        """Return the logits as an array."""
        return answer


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a file and the manifest beside it, to run on so many threads."""
    config = {
        properties.inference_num_threads(): threads,
        properties.num_streams(): 1,
        properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
        # A processor with units for it would otherwise compute in bfloat16 or float16.
        properties.hint.inference_precision(): openvino.Type.f32,
        properties.hint.execution_mode(): properties.hint.ExecutionMode.ACCURACY,
    }
    return Session(openvino.Core().compile_model(path, "CPU", config), manifest)
