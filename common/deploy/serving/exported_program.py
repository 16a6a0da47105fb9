"""Serve a `torch.export` program (.pt2): all it takes is NumPy and torch."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch

__all__ = ["Session", "load"]


class Session:
    """A program that answers images (N, C, H, W) with logits (N, num_classes)."""

    def __init__(self, model: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> None:
        self._model = model
        self._dtype = dtype

    def prepare(self, x: np.ndarray) -> torch.Tensor:
        """Return images as the program takes them."""
        images = torch.from_numpy(np.ascontiguousarray(x)).to(self._dtype)
        # Convolutions are fastest where the channels of a pixel lie side by side.
        return images.contiguous(memory_format=torch.channels_last)

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        with torch.inference_mode():
            return self._model(prepared)

    def logits(self, answer: torch.Tensor) -> np.ndarray:
        """Return the logits as an array."""
        return answer.numpy()


def keep_freed_memory() -> None:
    """Have glibc keep what torch frees for its next pass, in place of giving it back to the system each time.

    As `common.memory` of rosetta does, which this folder goes without.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a program and the manifest beside it, to run on so many threads."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    return Session(torch.export.load(path).module(), getattr(torch, manifest["input"]["dtype"]))
