"""Serve a `torch.export` program, or what AOTInductor compiled one to (both .pt2): all it takes is NumPy and torch."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch

__all__ = ["Session", "load"]


_VECTORS = ("DEFAULT", "AVX2", "AVX512")
"""Of x86-64's processors, each having what comes before; by torch's names."""


class Session:
    """A program that answers images (N, C, H, W) with logits (N, num_classes)."""

    def __init__(
        self, model: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, memory_format: torch.memory_format
    ) -> None:
        self._model = model
        self._dtype = dtype
        self._memory_format = memory_format

    def prepare(self, x: np.ndarray) -> torch.Tensor:
        """Return images as the program takes them."""
        images = torch.from_numpy(np.ascontiguousarray(x)).to(self._dtype)
        return images.contiguous(memory_format=self._memory_format)

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        with torch.inference_mode():
            return self._model(prepared)

    def logits(self, answer: torch.Tensor) -> np.ndarray:
        """Return the logits as an array."""
        return answer.numpy()


def keep_freed_memory() -> None:
    """Have glibc keep what torch frees for its next pass, in place of giving it back to the system each time.

    As `common.system` of rosetta does, which this folder goes without.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes


def _check_processor(needed: Mapping[str, str]) -> None:
    """Raise RuntimeError where a package was compiled for another processor, which would be killed by it."""
    machine, vectors = platform.machine(), torch.backends.cpu.get_cpu_capability()
    known = _VECTORS[: _VECTORS.index(vectors) + 1] if vectors in _VECTORS else (vectors,)
    if machine != needed["machine"] or needed["vectors"] not in known:
        raise RuntimeError(
            f"it was compiled for {needed['machine']} with {needed['vectors']}, and this is {machine} with {vectors}; "
            "export it again here"
        )


def _compiled(path: str | PathLike[str]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what a package computes, by the class that C++ loads it with.

    `torch._inductor.aoti_load_package` is the same, once it has imported the compiler.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)

    def run(images: torch.Tensor) -> torch.Tensor:
        (logits,) = loader.boxed_run([images])
        return logits

    return run


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a program and the manifest beside it, to run on so many threads.

    Raises RuntimeError for one that was compiled for another processor.
    """
    dtype = getattr(torch, manifest["input"]["dtype"])
    processor = manifest.get("processor")
    if processor:
        _check_processor(processor)
    keep_freed_memory()
    torch.set_num_threads(threads)
    if processor:
        return Session(_compiled(path), dtype, torch.contiguous_format)
    # Convolutions are fastest where the channels of a pixel lie side by side.
    return Session(torch.export.load(path).module(), dtype, torch.channels_last)
