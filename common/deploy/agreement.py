"""How far from the reference what an execution path computes may be, by dtype."""

from __future__ import annotations

from collections.abc import Mapping

from common.catalog import Network
from common.parity.comparison import Limit
from common.parity.tolerances import Limits

__all__ = ["REDUCED", "loss_tolerance", "tolerance"]

REDUCED: Mapping[str, float] = {
    # Weights rounded to 11 bits, activations in float32. It is 2^13 float32 roundings of every weight, most of which
    # cancel: a few thousandths of the largest logit are seen, and one wrong constant is far beyond.
    "float16": 0.02,
    # 8 bits for each weight and activation: up to half of 1/127 of a tensor's range is lost in every layer, and the
    # layers' losses add as a random walk does. What was wrongly wired or calibrated is off by its own size.
    "int8": 0.25,
}
"""How far artifacts with fewer bits may be from the reference. Rounding to them is a choice and no mistake, so the
budgets of parity, which count roundings of all arithmetic, do not hold them."""


def tolerance(network: Network, images: int, dtype: str) -> float:
    """Return how far logits of a dtype may be from the reference's, relative to the largest of these."""
    if dtype in REDUCED:
        return REDUCED[dtype]
    limit: Limit = Limits("forward", network, images).tap("logits", dtype)  # type: ignore[arg-type]
    return limit.tolerance


def loss_tolerance(network: Network, images: int, dtype: str) -> float:
    """Return how far a training step's loss may be from the reference's, relative to the largest logit.

    Cross-entropy moves by at most twice what the logits do, in whatever direction.
    """
    return 2 * Limits("gradients", network, images).tap("logits", dtype).tolerance  # type: ignore[arg-type]
