"""How far from the reference what an execution path computes may be, by what its numbers are kept in.

What a network does to roundings was measured (`common.parity.tolerances`), and is the same whatever the size of one: so
many roundings on the way to the logits. Of float64 and float32 a path has the tolerance of parity. A float16 has 11
bits, and one of 256 steps over a layer's range is half a step off, a 512th: those get what was measured, in such
roundings, and no room beside it. For float16 that is ample, since LiteRT keeps only weights in it; whole numbers have
no bits to spare, and a range that calibration cut too narrow must not pass.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.catalog import Network
from common.parity.tolerances import ROUNDING, Limits

__all__ = ["ROUNDINGS", "error", "loss_tolerance", "tolerance"]

ROUNDINGS: Mapping[str, float] = {
    "float64": ROUNDING["float64"],
    "float32": ROUNDING["float32"],
    "float16": 2.0**-11,
    "int8": 2.0**-9,
}
"""The largest error of one rounding: of a float relative to itself, of a whole number to the largest of its range."""


def tolerance(network: Network, images: int, dtype: str) -> float:
    """Return how far logits of a dtype may be from the reference's, relative to the largest of these."""
    limits = Limits("forward", network, images)
    if dtype in ROUNDING:
        return limits.tap("logits", dtype).tolerance  # type: ignore[arg-type]  # it is one of the two
    return limits.tap("logits", "float32").budget * ROUNDINGS[dtype] / ROUNDING["float32"]


def loss_tolerance(network: Network, images: int, dtype: str) -> float:
    """Return how far a training step's loss may be from the reference's, relative to the largest logit.

    Cross-entropy moves by at most twice what the logits do, in whatever direction.
    """
    return 2 * Limits("gradients", network, images).tap("logits", dtype).tolerance  # type: ignore[arg-type]


def error(logits: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest difference, relative to the reference's largest logit; infinite where there is no answer."""
    if logits.shape != reference.shape:
        return float("inf")
    found = float(np.max(np.abs(logits.astype(np.float64) - reference)) / np.max(np.abs(reference)))
    return found if np.isfinite(found) else float("inf")
