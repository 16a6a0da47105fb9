"""Serve an ONNX file with OpenVINO on the CPU. Needs NumPy and openvino."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import openvino
from openvino import properties

__all__ = ["Session", "load"]


class Session:
    """A loaded file: images (N, C, H, W) -> logits (N, num_classes)."""

    def __init__(self, model: openvino.CompiledModel, manifest: Mapping[str, Any]) -> None:
        self._request = model.create_infer_request()
        self._dtype = manifest["input"]["dtype"]

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Return images in the input's dtype."""
        return np.ascontiguousarray(x, self._dtype)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        """Return the logits."""
        return self._request.infer([prepared], share_inputs=True)[0]

    def logits(self, output: np.ndarray) -> np.ndarray:
        """Return the logits as an array (N, num_classes)."""
        return output


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a file to run on `threads` threads."""
    config = {
        properties.inference_num_threads(): threads,
        properties.num_streams(): 1,
        properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
        # By default, processors with bfloat16 or float16 instructions would compute in these.
        properties.hint.inference_precision(): openvino.Type.f32,
        properties.hint.execution_mode(): properties.hint.ExecutionMode.ACCURACY,
    }
    return Session(openvino.Core().compile_model(path, "CPU", config), manifest)
