"""Tolerances of execution paths: the largest error of their output, by the dtype of the weights.

Rounding errors were measured for each network in units of one rounding (`common.parity.tolerances`), so that the same
measurement holds for every dtype. float64 and float32 have the tolerances of the parity checks. float16 has 11
significant bits; int8 has 256 steps over a layer's range, so that one rounding is at most 1/512 of it. Both may use
the measured number of such roundings, without a safety factor: LiteRT stores only weights in float16, which leaves
ample room, and an int8 export whose calibration range is too narrow must fail.
"""

from __future__ import annotations

from collections.abc import Mapping

from common.catalog import Network
from common.parity.tolerances import ROUNDING, Limits

__all__ = ["ROUNDINGS", "loss_tolerance", "tolerance"]

ROUNDINGS: Mapping[str, float] = {
    "float64": ROUNDING["float64"],
    "float32": ROUNDING["float32"],
    "float16": 2.0**-11,
    "int8": 2.0**-9,
}
"""The largest error of one rounding: relative to the value for floats, to the layer's range for int8."""


def tolerance(network: Network, images: int, dtype: str) -> float:
    """Return the largest error allowed for logits of this dtype, relative to the reference's largest logit."""
    limits = Limits("forward", network, images)
    if dtype in ROUNDING:
        return limits.tap("logits", dtype).tolerance  # type: ignore[arg-type]  # it is one of the two
    return limits.tap("logits", "float32").budget * ROUNDINGS[dtype] / ROUNDING["float32"]


def loss_tolerance(network: Network, images: int, dtype: str) -> float:
    """Return the largest error allowed for a training step's loss, relative to the reference's largest logit.

    Cross-entropy changes by at most twice the largest change of a logit.
    """
    return 2 * Limits("gradients", network, images).tap("logits", dtype).tolerance  # type: ignore[arg-type]
