"""Compare two sets of activations, tap by tap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["CLOSE", "Limit", "TapError", "compare", "first_divergence", "spread", "worst"]

CLOSE = 0.5
"""The share of its tolerance above which an error is shown in yellow, though it passes.

Half of the tolerance is four times the largest error that was measured. No processor tried so far uses more than a
third, and most cells use about an eighth, so that losing one decimal digit crosses it.
"""


@dataclass(frozen=True)
class Limit:
    """Bounds on an error: the largest that rounding was measured to cause (`budget`) and the largest allowed."""

    budget: float
    tolerance: float

    def __mul__(self, factor: float) -> Limit:
        return Limit(self.budget * factor, self.tolerance * factor)


@dataclass(frozen=True)
class TapError:
    """The error at one tap on the batch named `input`.

    `error` is the largest absolute difference divided by the largest absolute reference value. It is infinite if the
    two cannot be compared; `note` then gives the reason.
    """

    input: str
    tap: str
    error: float
    limit: Limit
    note: str = ""

    @property
    def agrees(self) -> bool:
        """True if the error is finite and within its tolerance."""
        return math.isfinite(self.error) and self.error <= self.limit.tolerance

    @property
    def tolerance_used(self) -> float:
        """The error as a share of its tolerance."""
        return self.error / self.limit.tolerance

    @property
    def close(self) -> bool:
        """True if the error passes but uses more than half of its tolerance."""
        return self.agrees and self.tolerance_used > CLOSE


def _difference(reference: np.ndarray, candidate: np.ndarray | None, dtype: np.dtype) -> tuple[float, str]:
    """Return the error at one tap and, if it is infinite, the reason."""
    if candidate is None:
        return math.inf, "this tap is missing"
    if candidate.shape != reference.shape:
        return math.inf, f"shape {candidate.shape}, expected {reference.shape}"
    if candidate.dtype != dtype:
        return math.inf, f"{candidate.dtype}, expected {dtype}"
    scale = float(np.max(np.abs(reference)))
    difference = float(np.max(np.abs(np.subtract(candidate, reference, dtype=np.float64))))
    if not math.isfinite(difference):
        return math.inf, "not finite"
    if difference == 0:
        return 0.0, ""
    return (difference / scale, "") if scale else (math.inf, "zero in the reference")


def compare(
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    dtype: str,
    limit: Callable[[str], Limit],
    input_name: str = "",
) -> list[TapError]:
    """Compare a trace of the given dtype with the reference's, tap by tap in the reference's order.

    A tap that only one of them has is an infinite error.
    """
    expected = np.dtype(dtype)
    errors = []
    for tap, values in reference.items():
        error, note = _difference(values, candidate.get(tap), expected)
        errors.append(TapError(input_name, tap, error, limit(tap), note))
    for tap in candidate:
        if tap not in reference:
            errors.append(TapError(input_name, tap, math.inf, limit("logits"), "this tap is not in the reference"))
    return errors


def first_divergence(errors: Iterable[TapError]) -> TapError | None:
    """Return the first error above its tolerance, or None. `errors` are in network order."""
    return next((error for error in errors if not error.agrees), None)


def worst(errors: Iterable[TapError]) -> TapError:
    """Return the error that uses the largest share of its tolerance."""
    return max(errors, key=lambda error: (not error.agrees, error.tolerance_used))


def spread(values: np.ndarray) -> float:
    """Return how much a tap varies over the batch, as a share of its largest value.

    At 0 the comparison proves nothing: a network that ignores its input would pass. In a batch of one, the entries of
    the example are compared instead. A single number counts as varying unless it is 0.
    """
    largest = float(np.max(np.abs(values)))
    if largest == 0:
        return 0.0
    if values.size == 1:
        return 1.0
    varying = values if len(values) > 1 else values.reshape(-1)
    return float(np.max(np.abs(varying - varying[0]))) / largest
