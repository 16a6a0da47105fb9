"""Serve a `torch.export` program or an AOTInductor package (both .pt2). Needs NumPy and torch."""

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
"""Vector instructions of x86-64 by torch's names; each processor also has those before its own."""


class Session:
    """A loaded program: images (N, C, H, W) -> logits (N, num_classes)."""

    def __init__(
        self, model: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, memory_format: torch.memory_format
    ) -> None:
        self._model = model
        self._dtype = dtype
        self._memory_format = memory_format

    def prepare(self, x: np.ndarray) -> torch.Tensor:
        """Return images in the program's dtype and memory format."""
        images = torch.from_numpy(np.ascontiguousarray(x)).to(self._dtype)
        return images.contiguous(memory_format=self._memory_format)

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        with torch.inference_mode():
            return self._model(prepared)

    def logits(self, output: torch.Tensor) -> np.ndarray:
        """Return the logits as an array (N, num_classes)."""
        return output.numpy()


def keep_freed_memory() -> None:
    """Let glibc keep the memory that torch frees, to reuse it in the next call and not return it to the system."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD, bytes


def _check_processor(needed: Mapping[str, str]) -> None:
    """Raise RuntimeError if a package was compiled for instructions that this processor lacks; they would crash it."""
    machine, vectors = platform.machine(), torch.backends.cpu.get_cpu_capability()
    supported = _VECTORS[: _VECTORS.index(vectors) + 1] if vectors in _VECTORS else (vectors,)
    if machine != needed["machine"] or needed["vectors"] not in supported:
        raise RuntimeError(
            f"it was compiled for {needed['machine']} with {needed['vectors']}, and this processor is {machine} with "
            f"{vectors}; "
            "export it again here"
        )


def _compiled(path: str | PathLike[str]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a package as a function, loaded by the class that C++ uses too.

    `torch._inductor.aoti_load_package` does the same, but imports the compiler first.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)

    def run(images: torch.Tensor) -> torch.Tensor:
        (logits,) = loader.boxed_run([images])
        return logits

    return run


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a program to run on `threads` threads. Raises RuntimeError if it was compiled for another processor."""
    dtype = getattr(torch, manifest["input"]["dtype"])
    processor = manifest.get("processor")
    if processor:
        _check_processor(processor)
    keep_freed_memory()
    torch.set_num_threads(threads)
    if processor:
        return Session(_compiled(path), dtype, torch.contiguous_format)
    # Convolutions are fastest with channels last in memory.
    return Session(torch.export.load(path).module(), dtype, torch.channels_last)
