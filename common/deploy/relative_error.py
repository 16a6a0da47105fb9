"""The error measure that benchmarks and exports share."""

from __future__ import annotations

import numpy as np

__all__ = ["relative_error"]


def relative_error(output: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest absolute difference divided by the largest absolute reference value.

    Infinite where the shapes differ or the output is not finite.
    """
    if output.shape != reference.shape:
        return float("inf")
    error = float(np.max(np.abs(output.astype(np.float64) - reference)) / np.max(np.abs(reference)))
    return error if np.isfinite(error) else float("inf")
