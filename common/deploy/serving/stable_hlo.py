"""Serve a StableHLO program of `jax.export`. Needs NumPy, jax and flatbuffers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

__all__ = ["Session", "load"]


class Session:
    """A loaded program: images (N, C, H, W) -> logits (N, num_classes)."""

    def __init__(self, program: export.Exported, manifest: Mapping[str, Any]) -> None:
        self._call = jax.jit(program.call)  # compiles once for each shape
        self._layout = manifest["input"]["layout"]
        self._dtype = manifest["input"]["dtype"]

    def prepare(self, x: np.ndarray) -> jax.Array:
        """Return images in the program's layout and dtype, on the device."""
        images = x.transpose(0, 2, 3, 1) if self._layout == "NHWC" else x
        return jax.device_put(np.ascontiguousarray(images, self._dtype)).block_until_ready()

    def run(self, prepared: jax.Array) -> jax.Array:
        """Return the logits, once they are computed."""
        return self._call(prepared).block_until_ready()

    def logits(self, output: jax.Array) -> np.ndarray:
        """Return the logits as an array (N, num_classes)."""
        return np.asarray(output)


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a program to run on `threads` threads.

    XLA starts one thread per processor that the process may use, so this limits those processors.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if manifest["input"]["dtype"] == "float64":
        jax.config.update("jax_enable_x64", True)
    return Session(export.deserialize(bytearray(Path(path).read_bytes())), manifest)
