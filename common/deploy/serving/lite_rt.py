"""Serve a LiteRT (TFLite) file on the CPU with XNNPACK. Needs NumPy and ai-edge-litert."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

__all__ = ["Session", "load"]


class Session:
    """A loaded file: images (N, C, H, W) -> logits (N, num_classes)."""

    def __init__(self, interpreter: Interpreter, manifest: Mapping[str, Any]) -> None:
        self._interpreter = interpreter
        self._layout = manifest["input"]["layout"]
        (images,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
        self._input, self._dtype, self._output = images["index"], images["dtype"], logits["index"]
        self._shape: tuple[int, ...] = ()

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """Return images in the file's layout and dtype."""
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1) if self._layout == "NHWC" else x, self._dtype)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        """Return the logits. Images of a new shape reallocate the tensors."""
        if prepared.shape != self._shape:
            self._interpreter.resize_tensor_input(self._input, prepared.shape, strict=True)
            self._interpreter.allocate_tensors()
            self._shape = prepared.shape
        self._interpreter.set_tensor(self._input, prepared)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)

    def logits(self, output: np.ndarray) -> np.ndarray:
        """Return the logits as an array (N, num_classes)."""
        return output


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a file to run on `threads` threads."""
    return Session(Interpreter(fspath(path), num_threads=threads), manifest)
