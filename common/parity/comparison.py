"""Comparing two traces, tap by tap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Limit", "TapError", "compare", "first_divergence", "spread", "worst"]


@dataclass(frozen=True)
class Limit:
    """How far from the truth rounding was measured to go (`budget`), and how far anything may be (`tolerance`)."""

    budget: float
    tolerance: float

    def __mul__(self, factor: float) -> Limit:
        return Limit(self.budget * factor, self.tolerance * factor)


@dataclass(frozen=True)
class TapError:
    """What a comparison found at one tap.

    `error` is the largest absolute difference divided by the largest absolute reference value; it is infinite where
    there is nothing to compare, and `note` then says why. `input` names the batch.
    """

    input: str
    tap: str
    error: float
    limit: Limit
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the error is within its tolerance; what is no finite number never is."""
        return math.isfinite(self.error) and self.error <= self.limit.tolerance

    @property
    def share(self) -> float:
        """The error as a share of its budget: above 1, rounding was never seen to go so far."""
        return self.error / self.limit.budget


def _difference(reference: np.ndarray, candidate: np.ndarray | None, dtype: np.dtype) -> tuple[float, str]:
    """Return the error of one tap and, where it is infinite, the reason."""
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
    """Compare a trace, which should be of `dtype`, with the reference's, tap by tap in the reference's order.

    Taps that only one of the two has are errors, never passed over.
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
    """Return the first tap that disagrees, or None; `errors` are in network order."""
    return next((error for error in errors if not error.agrees), None)


def worst(errors: Iterable[TapError]) -> TapError:
    """Return the tap that has used most of its budget; one that disagrees comes before all that do not."""
    return max(errors, key=lambda error: (not error.agrees, error.share))


def spread(values: np.ndarray) -> float:
    """Return how much a tap varies over its batch, as a share of its largest value.

    A batch of one is measured over its own entries instead. Where this is 0 a comparison could not have failed: a
    network that ignores its input would pass it. A single number cannot vary, and counts as varying unless it is 0.
    """
    largest = float(np.max(np.abs(values)))
    if largest == 0:
        return 0.0
    if values.size == 1:
        return 1.0
    varying = values if len(values) > 1 else values.reshape(-1)
    return float(np.max(np.abs(varying - varying[0]))) / largest
