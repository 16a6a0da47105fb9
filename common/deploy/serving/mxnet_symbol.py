"""Serve an MXNet symbol and its parameters (a folder): all it takes is NumPy and mxnet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Session", "load"]


class Session:
    """A symbol that answers images (N, C, H, W) with logits (N, num_classes)."""

    def __init__(self, block: Any, dtype: str) -> None:
        self._block = block
        self._dtype = dtype

    def prepare(self, x: np.ndarray) -> Any:
        """Return images as the symbol takes them."""
        import mxnet

        return mxnet.np.array(x, dtype=self._dtype)

    def run(self, prepared: Any) -> Any:
        """Return the logits."""
        answer = self._block(prepared)
        answer.wait_to_read()
        return answer

    def logits(self, answer: Any) -> np.ndarray:
        """Return the logits as an array."""
        return answer.asnumpy()


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a folder and the manifest beside it, to run on so many threads."""
    # MXNet reads this when it is imported, and never again.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import mxnet

    mxnet.npx.set_np()
    files = [str(Path(path) / name) for name in ("model-symbol.json", "model-0000.params")]
    block = mxnet.gluon.SymbolBlock.imports(files[0], [manifest["input"]["name"]], files[1])
    # oneDNN fuses what follows a convolution into it; MXNet calls it by its former name.
    block.hybridize(backend="MKLDNN", static_alloc=True, static_shape=True)
    return Session(block, manifest["input"]["dtype"])
