"""How far from the reference an activation may be: one table, each value with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from common.reference import Description
from common.weights import DTypeName

__all__ = ["TOLERANCES", "Check", "Tolerance", "depths"]

Check = Literal["forward"]


@dataclass(frozen=True)
class Tolerance:
    """The largest error allowed at a tap: `base + per_layer * depth`, relative to the tap's largest value."""

    base: float
    per_layer: float
    reason: str

    def at(self, depth: int) -> float:
        """Return the tolerance behind `depth` layers with weights."""
        return self.base + self.per_layer * depth


TOLERANCES: Mapping[tuple[Check, DTypeName], Tolerance] = {
    ("forward", "float64"): Tolerance(
        1e-11,
        0.0,
        "Rounding in float64 stays below 1e-13 in every network; the smallest mistake worth the name, another epsilon "
        "in one batch normalisation, makes more than 1e-6.",
    ),
    ("forward", "float32"): Tolerance(1e-5, 0.0, "to be measured"),
}


def depths(description: Description) -> dict[str, int]:
    """Return how many layers with weights have run when each tap is computed, itself included."""
    depth, result = 0, {}
    for call in description.calls:
        depth += call.parameters > 0
        if call.path in description.taps:
            result[call.path] = depth
    result["logits"] = depth
    return result
