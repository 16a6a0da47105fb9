"""Serve an MXNet symbol and its parameters (a folder). Needs NumPy and mxnet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Session", "load"]


class Session:
    """A loaded symbol: images (N, C, H, W) -> logits (N, num_classes)."""

    def __init__(self, block: Any, dtype: str) -> None:
        self._block = block
        self._dtype = dtype

    def prepare(self, x: np.ndarray) -> Any:
        """Return images as an MXNet array of the symbol's dtype."""
        import mxnet

        return mxnet.np.array(x, dtype=self._dtype)

    def run(self, prepared: Any) -> Any:
        """Return the logits, once they are computed."""
        output = self._block(prepared)
        output.wait_to_read()
        return output

    def logits(self, output: Any) -> np.ndarray:
        """Return the logits as an array (N, num_classes)."""
        return output.asnumpy()


def load(path: str | PathLike[str], manifest: Mapping[str, Any], threads: int) -> Session:
    """Load a folder to run on `threads` threads."""
    # MXNet reads this only when it is imported.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import mxnet

    mxnet.npx.set_np()
    files = [str(Path(path) / name) for name in ("model-symbol.json", "model-0000.params")]
    block = mxnet.gluon.SymbolBlock.imports(files[0], [manifest["input"]["name"]], files[1])
    # oneDNN fuses layers into the convolution before them; MKLDNN is its former name.
    block.hybridize(backend="MKLDNN", static_alloc=True, static_shape=True)
    return Session(block, manifest["input"]["dtype"])
